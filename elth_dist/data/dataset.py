"""Open a dataset from options, once per run; it makes the loaders of each job."""

import os
from pathlib import Path

import torch

from elth_dist.data.options import DataOptions
from elth_dist.data.protocol import Dataset
from elth_dist.runtime.ranks import Ranks


def open_dataset(
    options: DataOptions, ranks: Ranks, *, default_root: Path, dtype: torch.dtype, cache: Path | None = None
) -> Dataset:
    """Open a dataset. Collective: rank 0 checks (and writes, if the dataset writes files), all ranks agree.

    Args:
        options: what to read and how.
        ranks: this process and its collectives.
        default_root: the folder for a dataset that writes its own files.
        dtype: compute dtype of the images (float32, bfloat16 or float16).
        cache: the folder for decoded images if the options name none; None: they are not kept.

    Raises:
        UserError: on every rank, if the options or the files are invalid.
    """
    if options.threads is None:
        options = options.model_copy(update={"threads": _threads()})
    if options.cache is None:
        options = options.model_copy(update={"cache": cache})
    with ranks.together():
        options.check()
    return options.open(ranks, default_root, dtype)


def _threads() -> int:
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(16, max(1, len(os.sched_getaffinity(0)) // local_ranks))
