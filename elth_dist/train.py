"""The entry: `torchrun -m elth_dist.train --config FILE [--section.option value ...]`.

A configuration becomes a graph of jobs; all ranks walk it together, one job after the other. What is finished is
skipped, what was interrupted continues, so that the same command always leads to the same end.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from elth_dist.config import Config, read_config
from elth_dist.data.catalog import check_data
from elth_dist.data.digits import TRAIN_SIZE as DIGITS_TRAIN_SIZE
from elth_dist.data.sampling import TrainPlan
from elth_dist.errors import DisagreementError, OneRankError, UserError
from elth_dist.jobs.graph import Job, identities, parts, plan
from elth_dist.jobs.options import (
    OF_COPIES,
    AtDensity,
    DynamicMethod,
    ImpMethod,
    Method,
    PrunedMethod,
    ReinitMethod,
    TicketMethod,
)
from elth_dist.runtime.launcher import launcher_ranks
from elth_dist.sparsity.updates.options import Dynamic

if TYPE_CHECKING:
    from elth_dist.runtime.run_directory import RunDirectory
    from elth_dist.tickets.ticket import Ticket


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what a command line describes.

    Returns:
        The exit status: 0 when all is done, or safely stopped because a signal asked for it; 2 for a user's mistake;
        1 when ranks disagree.
    """
    rank = 0
    try:
        rank, world_size, _ = launcher_ranks()
        level = logging.WARNING if rank == 0 else logging.ERROR
        logging.basicConfig(level=level, format="elth_dist: warning: %(message)s")
        command = read_config(arguments)
        if not command.print_only:
            check(command.config, rank, world_size)
            run(command.config)
        elif rank == 0:
            print(command.config.to_yaml(), end="")
    except (UserError, DisagreementError) as error:
        return tell(error, rank)
    return 0


def tell(error: UserError | DisagreementError, rank: int) -> int:
    """Say what ends the run, once over all ranks; the exit status that goes with it."""
    if rank == 0 or isinstance(error, OneRankError):
        print(f"elth_dist: error: {error}", file=sys.stderr, flush=True)
    return 2 if isinstance(error, UserError) else 1


def check(config: Config, rank: int, world_size: int, *, elsewhere: bool = False) -> None:
    """Find the mistakes that show before any process waits for another, and before anything is written. UserError.

    `elsewhere`: the ranks will run on other machines, which may see other files and packages.
    """
    train, engine = config.train, config.engine
    engine.check(
        global_batch=train.global_batch,
        accumulate=train.accumulate,
        world_size=world_size,
        precision=train.precision,
        compile_model=train.compile,
    )
    check_data(config.data, elsewhere=elsewhere)
    if config.data.name == "digits":
        check_size(config, DIGITS_TRAIN_SIZE, rank, world_size)
    else:  # the rest once the dataset is counted
        TrainPlan(0, train.global_batch, train.global_batch, train.accumulate, rank, world_size)


def check_size(config: Config, num_train: int, rank: int, world_size: int, rewind_step: int | None = None) -> None:
    """UserError unless `num_train` samples make the steps that the training needs.

    `rewind_step`: of a ticket that is trained; None: what `method.rewind` says.
    """
    train, method = config.train, config.method
    steps = TrainPlan(0, num_train, train.global_batch, train.accumulate, rank, world_size).steps_per_epoch
    where = "the ticket's rewind step"
    if isinstance(method, ImpMethod | PrunedMethod):
        rewind_step = method.rewind.iterations(steps)
        where = f"method.rewind: {method.rewind}"
    if rewind_step is not None and rewind_step >= train.epochs * steps:
        raise UserError(
            f"{where} is step {rewind_step}, but train.epochs {train.epochs} makes {train.epochs * steps} steps "
            f"({steps} an epoch): nothing would be left to train"
        )
    for option, update in _updates(method):
        try:
            update.check(train.epochs * steps, steps)
        except UserError as error:
            raise UserError(f"{option}: {error}") from None


def _updates(method: Method) -> Iterator[tuple[str, Dynamic]]:
    """Every update that a method's trainings make, by the option that asks for it."""
    if isinstance(method, DynamicMethod):
        yield "method", method.update
    elif isinstance(method, ImpMethod):
        places = {"method": method.controls}
        places |= {f"method.transfers.{number}": branch.controls for number, branch in enumerate(method.transfers)}
        for place, controls in places.items():
            for number, control in enumerate(controls):
                if isinstance(control, get_args(Dynamic)):
                    yield f"{place}.controls.{number}", control


def run(config: Config) -> None:
    """Walk the method's graph of jobs with all ranks; report at the end. UserError, DisagreementError."""
    # torch takes seconds to import; most mistakes have been found by now
    from elth_dist.jobs.report import write_report
    from elth_dist.runtime.run_directory import RunDirectory

    given = load_ticket(config)
    files = content_hashes(given)
    jobs = plan(config.method, config.setting)
    directory = RunDirectory(config.run.folder)

    def report() -> None:
        write_report(jobs, directory, title=config.run.name)

    walk(config, given, directory, jobs, identities(jobs, files), parts(jobs, files), finish=report)


def walk(
    config: Config,
    given: "tuple[str, Ticket | None]",
    directory: "RunDirectory",
    jobs: Sequence[Job],
    names: Mapping[str, str],
    options: Mapping[str, Mapping[str, Any]],
    *,
    finish: Callable[[], None] | None = None,
) -> list[str] | None:
    """Open all that trainings need, and do jobs one after the other, with all ranks that the environment names.

    Args:
        config: the run that the jobs are of.
        given: the ticket file that its method names; see load_ticket().
        directory: where results lie; taken for this process group as long as it lasts.
        jobs: what to do, inputs first.
        names, options: identities and parts (see jobs.graph), of the jobs and of their inputs.
        finish: called on rank 0 when all is done.

    Returns:
        None when all is done; else the names of the signals that asked some rank to stop, the same on all ranks: the
        state is safe, and the same call continues from there.

    Raises:
        UserError, DisagreementError: as the jobs do.
    """
    from elth_dist.data.dataset import open_dataset
    from elth_dist.engines.create import image_dtype
    from elth_dist.jobs.run import run_job
    from elth_dist.reporting.reporter import Reporter
    from elth_dist.runtime.environment import environment
    from elth_dist.runtime.ranks import open_ranks
    from elth_dist.runtime.signals import StopSignals
    from elth_dist.runtime.watchdog import Watchdog
    from elth_dist.training.context import Context
    from elth_dist.training.loop import Stopped

    path, ticket = given
    with (
        directory,
        open_ranks(config.engine.device, config.engine.timeout_minutes) as ranks,
        StopSignals(ranks) as stop,
        Watchdog(config.engine.timeout_minutes, ranks.rank) as watchdog,
    ):
        dtype = image_dtype(config.train.precision)
        dataset = open_dataset(config.data, ranks, default_root=directory.digits, dtype=dtype)
        trained = ticket if isinstance(config.method, TicketMethod | ReinitMethod) else None
        rewind_step = None if trained is None else trained.meta.rewind_step
        check_size(config, dataset.num_train, ranks.rank, ranks.world_size, rewind_step)
        if trained is not None and trained.num_classes != dataset.num_classes:
            raise UserError(f"{path}: the ticket has {trained.num_classes} classes, the dataset {dataset.num_classes}")
        surroundings = environment(ranks)
        own = [job.name for job in jobs]
        directory.prepare(
            ranks,
            config.to_yaml(),
            surroundings,
            {name: names[name] for name in own},
            {name: options[name] for name in own},
        )
        texts = {"config": _code(config.to_yaml()), "environment": _code(json.dumps(surroundings, indent=1))}
        with Reporter(directory.metrics, directory.tensorboard, enabled=ranks.is_main, texts=texts) as reporter:
            context = Context(ranks, dataset, reporter, stop, watchdog)
            try:
                for job in jobs:
                    if not run_job(job, directory, names, options, context):
                        reporter.say(f"{job.name}: finished already")
            except Stopped as stopped:
                reporter.say(f"{stopped}: the same command continues from there")
                received = ranks.gather_json(stop.received.name if stop.received else None)
                return sorted({name for name in received if name})
            if finish is not None and ranks.is_main:
                finish()
            ranks.barrier()
    return None


def content_hashes(given: "tuple[str, Ticket | None]") -> dict[str, str]:
    """The hash of the ticket file that a method names, by its path: its content decides, not its name."""
    path, ticket = given
    return {} if ticket is None else {path: ticket.hash}


def load_ticket(config: Config) -> "tuple[str, Ticket | None]":
    """The ticket file that the method names ("" and None if none). UserError if it is no ticket, or does not fit."""
    method, arch = config.method, config.model.arch
    if not isinstance(method, TicketMethod | ReinitMethod | AtDensity):
        return "", None
    path = method.path if isinstance(method, TicketMethod) else method.like
    if path is None:
        return "", None
    from elth_dist.tickets.ticket import Ticket

    ticket = Ticket.load(path)
    if isinstance(method, TicketMethod):
        trained = ticket.arch if method.transfer is None else method.transfer.plan_from(ticket.arch).target
        if trained != arch:
            raise UserError(f"model.arch: is {arch!r}, but method.path and method.transfer make a {trained}")
        plan = ticket.meta.plan if method.transfer is None else method.transfer.plan_from(ticket.arch)
        if method.control in OF_COPIES and (plan is None or not any(plan.copies)):
            raise UserError(f"method.control: {method.control}, but no unit of the {trained} is a transfer's copy")
    elif ticket.arch != arch and (
        isinstance(method, ReinitMethod)
        or (isinstance(method, PrunedMethod) and method.criterion.matched == "layerwise")
    ):
        raise UserError(f"method.like: is a {ticket.arch} ticket, whose layers are not those of {arch!r}")
    return path, ticket


def _code(text: str) -> str:
    """As a block of code in markdown."""
    return f"```\n{text}\n```"


if __name__ == "__main__":
    sys.exit(main())
