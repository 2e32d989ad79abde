"""Run many runs as one graph of jobs, on a cluster, on one machine, or in this process."""
