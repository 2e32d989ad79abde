"""`python -m elth_dist.reporting`: tables and figures of runs and sweeps; see elth_dist.report_command."""

import sys

from elth_dist.report_command import main

if __name__ == "__main__":
    sys.exit(main())
