"""The entry `python -m elth_dist.evaluate FILE`. Never imported: `elth_dist.evaluate` is the function."""

import sys

from elth_dist.evaluate_file import main

if __name__ == "__main__":
    sys.exit(main())
