"""What every process needs to run: ranks and their collectives, checkpoints, signals, the run directory."""
