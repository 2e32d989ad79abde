"""The graph of a run's jobs and their inputs, for a run to walk or a launcher to submit. No torch here."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from elth_dist.jobs.kinds import JobKind

#: Part of every identity: raised when the meaning of an option or of a job changes for all jobs. A change of one kind
#: marks the identities of that kind alone: see MaskUpdate.meaning and DynamicJob.part.
GRAPH_VERSION = 1


@dataclass(frozen=True)
class Job:
    """One piece of work."""

    name: str
    options: JobKind
    inputs: Mapping[str, str]  # role (ticket, trained, ...) -> name of the job in that role
    part: Mapping[str, Any]  # the options that determine the result, apart from the inputs
    identity: str  # hash of the part and of the inputs' identities


class Graph:
    """The jobs of a run, each after those it needs."""

    def __init__(self, files: Mapping[str, str] | None = None) -> None:
        """`files`: content hash of each external ticket file, by its path."""
        self._files = files or {}
        self._jobs: dict[str, Job] = {}

    @property
    def jobs(self) -> list[Job]:
        """The jobs, in the order in which they were added."""
        return list(self._jobs.values())

    def __getitem__(self, name: str) -> Job:
        return self._jobs[name]

    def add(self, name: str, options: JobKind, **inputs: str) -> str:
        """Add a job, unless an equal job has this name. If a different job has it, the new name is `name-2`, ...

        Args:
            name: the wanted name; becomes a folder's name, in which slashes are dashes (timm/convnext_tiny).
            options: what the job does.
            inputs: role -> name of a job of this graph.

        Returns:
            The job's name.
        """
        name, part = name.replace("/", "-"), options.part(self._files)
        text = json.dumps(
            [GRAPH_VERSION, part, {role: self._jobs[other].identity for role, other in inputs.items()}], sort_keys=True
        )
        identity = hashlib.sha256(text.encode()).hexdigest()
        for candidate in itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2))):
            known = self._jobs.get(candidate)
            if known is None:
                self._jobs[candidate] = Job(candidate, options, inputs, part, identity)
                return candidate
            if (known.options, known.inputs) == (options, inputs):
                return candidate
        raise AssertionError
