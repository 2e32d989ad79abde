"""`python -m elth_dist.accounting`: FLOPs of networks and methods; see elth_dist.flops_command."""

import sys

from elth_dist.flops_command import main

if __name__ == "__main__":
    sys.exit(main())
