"""Do jobs one after the other, with all ranks of the environment."""

import json
from collections.abc import Callable, Mapping, Sequence

from elth_dist.data.dataset import open_dataset
from elth_dist.engines.create import image_dtype
from elth_dist.errors import UserError
from elth_dist.jobs.graph import Job
from elth_dist.jobs.plan import Plan
from elth_dist.jobs.run import run_job
from elth_dist.models.build import blank_model, check_model
from elth_dist.models.families import architecture
from elth_dist.reporting.reporter import Reporter
from elth_dist.runtime.environment import environment
from elth_dist.runtime.ranks import open_ranks
from elth_dist.runtime.run_directory import RunDirectory
from elth_dist.runtime.signals import StopSignals
from elth_dist.runtime.watchdog import Watchdog
from elth_dist.sparsity.masks import prunable_weights
from elth_dist.training.context import Context
from elth_dist.training.loop import Stopped


def walk(
    plan: Plan,
    jobs: Sequence[Job],
    known: Mapping[str, Job],
    directory: RunDirectory,
    config_yaml: str,
    *,
    finish: Callable[[], None] | None = None,
) -> list[str] | None:
    """Open ranks, dataset and report, and do jobs one after the other.

    Args:
        plan: the run that the jobs belong to.
        jobs: the jobs to do, inputs first.
        known: these jobs and all jobs that they need, by name.
        directory: the run directory; locked until this function returns.
        config_yaml: the resolved configuration, to write to the run directory.
        finish: called on rank 0 after the last job.

    Returns:
        None if all jobs are done; else the names of the signals that stopped the run, equal on all ranks: the state is
        saved, and the same call continues.

    Raises:
        UserError, DisagreementError: as the jobs raise them.
    """
    setting = plan.setting
    engine = setting.engine
    with (
        directory,
        open_ranks(engine.device, engine.timeout_minutes) as ranks,
        StopSignals(ranks) as stop,
        Watchdog(engine.timeout_minutes, ranks.rank) as watchdog,
    ):
        dtype = image_dtype(setting.train.precision)
        dataset = open_dataset(setting.data, ranks, default_root=directory.digits, dtype=dtype, cache=directory.decoded)
        plan.check_size(dataset.num_train, ranks.rank, ranks.world_size)
        if plan.ticket is not None:
            plan.method.check_classes(plan.ticket, dataset.num_classes)
        for arch in sorted({job.options.arch for job in jobs if job.options.arch is not None}):
            check_model(arch, dataset.num_classes, dataset.image_size)
        _check_layers(jobs, known)
        surroundings = environment(ranks)
        directory.prepare(ranks, config_yaml, surroundings, jobs)
        texts = {"config": _code(config_yaml), "environment": _code(json.dumps(surroundings, indent=1))}
        with Reporter(
            directory.metrics, directory.tensorboard, enabled=ranks.is_main, texts=texts, run=directory.root.name
        ) as reporter:
            context = Context(ranks, dataset, reporter, stop, watchdog)
            try:
                for job in jobs:
                    if not run_job(job, known, directory, context):
                        reporter.say(f"{job.name}: finished already")
            except Stopped as stopped:
                reporter.say(f"{stopped}: the same command continues from there")
                received = ranks.gather_json(stop.received.name if stop.received else None)
                return sorted({name for name in received if name})
            if finish is not None and ranks.is_main:
                finish()
            ranks.barrier()
    return None


def _check_layers(jobs: Sequence[Job], known: Mapping[str, Job]) -> None:
    """Refuse jobs whose options name layers that their network does not have. UserError."""
    for job in jobs:
        source = job
        while source.options.arch is None and "ticket" in source.inputs:  # a light job: its ticket's network
            source = known[source.inputs["ticket"]]
        arch = source.options.arch
        if arch is not None:
            try:
                job.options.check_layers(list(prunable_weights(blank_model(arch, 2), architecture(arch).excluded)))
            except UserError as error:
                raise UserError(f"{job.name} ({arch}): {error}") from None


def _code(text: str) -> str:
    """Format text as a code block in markdown."""
    return f"```\n{text}\n```"
