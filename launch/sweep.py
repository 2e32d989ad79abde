"""`python launch/sweep.py configs/sweeps/NAME.yaml --cluster slurm|local|debug`: see elth_dist/sweeps/command.py."""

import sys

from elth_dist.sweeps.command import main

if __name__ == "__main__":
    sys.exit(main())
