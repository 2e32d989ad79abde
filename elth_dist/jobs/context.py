"""The inputs and outputs of a running job."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from elth_dist.runtime.job_folder import JobFolder
from elth_dist.training.context import Context


@dataclass(frozen=True)
class JobContext:
    """What a job needs to run."""

    name: str
    identity: str  # hash of what determines the result
    folder: JobFolder  # where the result goes
    inputs: Mapping[str, JobFolder]  # role -> the folder of the job in that role
    training: Context
    about: Mapping[str, Any] = field(default_factory=dict)  # method, level and so on, for people; rank 0 only

    @property
    def is_main(self) -> bool:
        """Whether this rank writes."""
        return self.training.ranks.is_main


#: The metrics of a job's result, as JSON values by name. Its files are in its folder.
Metrics = dict[str, Any]
