"""The cost of a run's results, from their files: of a training with its history."""

from collections.abc import Mapping
from typing import Any

from elth_dist.jobs.graph import Job


def history_flops(name: str, jobs: Mapping[str, Job], metrics: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Sum the training FLOPs of a finished job and of all jobs that it needs, each counted once.

    For a ticket, these are the training to the rewind step, the trainings of all earlier levels, its own, and the
    gradients for scores at theta_r. A ticket that only gives its density (`like`) costs nothing. None if the job
    continues from an external ticket file, whose cost is unknown.

    Args:
        name: of the job.
        jobs: it and all jobs that it needs, by name.
        metrics: of their results, by name.
    """
    needed, waiting = set[str](), [name]
    while waiting:
        current = waiting.pop()
        if current not in needed:
            needed.add(current)
            job = jobs[current]
            waiting += [other for role, other in job.inputs.items() if role not in job.options.looked_at]
    if any(jobs[other].options.builds_on_file(jobs[other].inputs) for other in needed):
        return None
    costs: list[int] = [metrics[other].get("train_flops", 0) for other in needed]
    return sum(costs)
