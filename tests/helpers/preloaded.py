"""DeepSpeed, in the process that test ranks are forked from."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"  # it looks for its accelerator when it is imported
import deepspeed  # noqa: F401
