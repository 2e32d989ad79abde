"""The cost of a run's results, from their files: of a training alone, and with its history."""

from collections.abc import Mapping, Sequence
from typing import Any

from elth_dist.jobs.graph import Job
from elth_dist.runtime.run_directory import RunDirectory


def history_flops(name: str, jobs: Sequence[Job], run: RunDirectory) -> int | None:
    """Sum the training FLOPs of a finished job and of all jobs that it needs, each counted once.

    For a ticket, these are the training to the rewind step, the trainings of all earlier levels, its own, and the
    gradients for scores at theta_r. A ticket that only gives its density (`like`) costs nothing. None if the job
    continues from an external ticket file, whose cost is unknown.
    """
    by_name, needed, waiting = {job.name: job for job in jobs}, set[str](), [name]
    while waiting:
        current = waiting.pop()
        if current not in needed:
            needed.add(current)
            job = by_name[current]
            waiting += [other for role, other in job.inputs.items() if role not in job.options.looked_at]
    if any(by_name[other].options.builds_on_file(by_name[other].inputs) for other in needed):
        return None
    costs: list[int] = [run.job(other).read().metrics.get("train_flops", 0) for other in needed]
    return sum(costs)


def cost_columns(metrics: Mapping[str, Any], history: int | None) -> dict[str, str]:
    """Format the costs in a result's metrics for the closing table, relative to the same network dense.

    Training and history are relative to one dense training, inference to one dense forward pass.
    """
    dense = metrics["dense_train_flops"]
    return {
        "training FLOPs": f"{metrics['train_flops'] / dense:.3f}x",
        "with history": "-" if history is None else f"{history / dense:.3f}x",
        "inference FLOPs": f"{metrics['forward_flops'] / metrics['dense_forward_flops']:.4f}x",
    }
