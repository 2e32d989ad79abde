"""The kinds of jobs: one file each, with options, work, prediction and row in the report. No torch until a job runs."""

from elth_dist.jobs.kinds.base import JobKind, NetworkJob
from elth_dist.registry import load_folder

__all__ = ["JobKind", "NetworkJob"]

load_folder(__name__, __path__)
