"""From options to an open dataset: what is read once per run, and makes the loaders of each job."""

import os
from pathlib import Path

import torch

from elth_dist.data.options import DataOptions
from elth_dist.data.protocol import Dataset
from elth_dist.runtime.ranks import Ranks


def open_dataset(options: DataOptions, ranks: Ranks, *, default_root: Path, dtype: torch.dtype) -> Dataset:
    """Open a dataset. Collective: rank 0 looks (and writes, if the dataset does that), all ranks agree.

    Args:
        options: what to read and how.
        ranks: this process among all.
        default_root: where a dataset goes that writes its own files.
        dtype: compute dtype of the images (float32, bfloat16 or float16).

    Raises:
        UserError: on every rank, for whatever is wrong with the options or the files.
    """
    if options.threads is None:
        options = options.model_copy(update={"threads": _threads()})
    with ranks.together():
        options.check()
    return options.open(ranks, default_root, dtype)


def _threads() -> int:
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(16, max(1, len(os.sched_getaffinity(0)) // local_ranks))
