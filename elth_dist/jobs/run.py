"""Do one job of a graph, from its inputs' folders to a verified result in its own."""

import time
from collections.abc import Mapping

from elth_dist.errors import UserError
from elth_dist.jobs.context import JobContext
from elth_dist.jobs.graph import Job
from elth_dist.jobs.report import described
from elth_dist.runtime.checkpoints import Checkpoints
from elth_dist.runtime.job_folder import JobFolder
from elth_dist.runtime.run_directory import RunDirectory
from elth_dist.training.context import Context


def run_job(job: Job, jobs: Mapping[str, Job], run: RunDirectory, context: Context) -> bool:
    """Do a job unless its result exists, complete and verified. Collective.

    Args:
        job: the job; the jobs that it needs are finished.
        jobs: by name, at least the jobs that it needs.
        run: the run directory.
        context: what all trainings share.

    Returns:
        Whether the job had to be done.

    Raises:
        UserError: on all ranks; an input is missing or damaged, or the job raised it.
        Stopped: a signal asked to stop.
    """
    ranks, folder = context.ranks, run.job(job.name)
    if ranks.broadcast_json(ranks.is_main and folder.finished(job.identity)):
        _require_same_data(job, folder, context)
        return False
    inputs = {role: run.job(name) for role, name in job.inputs.items()}
    with ranks.together():
        for role, name in job.inputs.items():
            if ranks.is_main and not inputs[role].finished(jobs[name].identity):
                raise UserError(f"{job.name}: its input {name} is missing or damaged in {inputs[role].path}")
    about = described(job, jobs, run) if ranks.is_main and job.options.network_setting is not None else {}
    start = time.monotonic()
    folder.path.mkdir(parents=True, exist_ok=True)
    metrics = job.options.run(JobContext(job.name, job.identity, folder, inputs, context, about))
    metrics["dataset"] = context.dataset.fingerprint
    metrics["seconds"] = round(time.monotonic() - start, 3)
    with ranks.together():
        if ranks.is_main:
            played = {role: jobs[name].identity for role, name in job.inputs.items()}
            folder.commit(job.identity, job.part, played, metrics)
    Checkpoints(folder.checkpoints, ranks).clear()
    return True


def _require_same_data(job: Job, folder: JobFolder, context: Context) -> None:
    """Refuse another dataset than the job was made with: contents count, not the path. UserError."""
    if folder.read().metrics["dataset"] != context.dataset.fingerprint:
        raise UserError(
            f"data.root: holds another dataset than {job.name} in {folder.path.parent} was made with; "
            "choose another run.dir (or run.name), or go back to that dataset"
        )
