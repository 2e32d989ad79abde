"""`python launch/sweep.py configs/sweeps/NAME.yaml --cluster slurm|local|debug`: see elth_dist/sweeps/command.py."""

import sys

try:
    from elth_dist.sweeps.command import main
except ModuleNotFoundError as error:
    print(
        f"elth_dist: error: {sys.executable} has no module {error.name}: use the python of the project's "
        "environment, .venv/bin/python after `make quickstart`",
        file=sys.stderr,
    )
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
