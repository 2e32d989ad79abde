"""What a job is given, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from elth_dist.runtime.job_folder import JobFolder
from elth_dist.training.context import Context


@dataclass(frozen=True)
class JobContext:
    """One job's place in the run."""

    name: str
    identity: str  # hash of what determines the result
    folder: JobFolder  # where the result goes
    inputs: Mapping[str, JobFolder]  # role -> the folder of the job that plays it
    training: Context

    @property
    def is_main(self) -> bool:
        """Whether this rank writes."""
        return self.training.ranks.is_main


#: What a job reports about its result: JSON values by name. Files are found in its folder.
Metrics = dict[str, Any]
