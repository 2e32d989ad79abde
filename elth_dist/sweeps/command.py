"""The command line of a sweep: `python launch/sweep.py FILE [submit|status|cancel|results] ...`."""

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from elth_dist.commandline.mistakes import explain
from elth_dist.commandline.parser import Parser
from elth_dist.config import read_overrides
from elth_dist.errors import UserError
from elth_dist.runtime.files import reason
from elth_dist.sweeps.folder import SweepFolder
from elth_dist.sweeps.options import Needs, set_elsewhere
from elth_dist.sweeps.plan import Sweep, plan_sweep, plugins_of

_ACTIONS = ("submit", "status", "cancel", "results")
_FLAGS = ("--dry-run", "--retry-failed", "--once")
_NEEDS = ("nodes", "gpus", "tasks", "cpus", "memory", "time", "notice", "partition", "account", "qos", "constraint")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of a command line.

    Returns:
        The exit status: 0 when done (for SLURM: submitted), 1 if jobs failed or were stopped, 2 after a user's mistake.
    """
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except UserError as error:
        print(f"elth_dist: error: {error}", file=sys.stderr, flush=True)
        return 2
    except OSError as error:
        print(f"elth_dist: error: {error.filename or 'a file'}: {reason(error)}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="launch/sweep.py",
        usage="launch/sweep.py FILE [ACTION] [--cluster CLUSTER] [OPTION ...]",
        description="Expand a sweep file to a graph of jobs, each once, and do them.",
        epilog="Options of a run, such as --train.epochs 2, apply to all runs of the sweep; "
        "python -m elth_dist.train --help lists them.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a sweep file, such as configs/sweeps/quickstart.yaml")
    parser.add_argument("action", choices=_ACTIONS, metavar="ACTION", help=f"{', '.join(_ACTIONS)} (default: submit)")
    parser.add_argument(
        "--cluster",
        choices=["slurm", "local", "debug"],
        help="where jobs run; local: processes on this machine; debug: this process",
    )
    parser.add_argument("--dir", type=Path, help="folder that everything is written to (default: runs/sweeps/NAME)")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and its cost; write nothing")
    parser.add_argument("--retry-failed", action="store_true", help="repeat failed jobs and those they blocked")
    parser.add_argument("--max-parallel", type=_positive, help="slurm: jobs per array that run at once")
    parser.add_argument(
        "--workers", type=_positive, help="local: jobs at once (default: one per GPU, or by needs.cpus)"
    )
    parser.add_argument("--images-per-second", type=_rate, help="training speed per GPU, to predict GPU-hours")
    parser.add_argument("--once", action="store_true", help="status: show the table once, also on a terminal")
    needs = parser.add_argument_group("resources of one training, over the file's `needs`")
    for name in _NEEDS:
        described = (Needs.model_fields[name].description or "").replace("%", "%%")
        needs.add_argument(f"--{name}", metavar=name.upper(), help=described)
    return parser


def _with_action(arguments: Sequence[str]) -> list[str]:
    """The command line with its action right after the file, where argparse cannot mistake it for another's value.

    UserError unless a file comes first.
    """
    asks_help = bool({"--help", "-h"} & set(arguments[:1]))
    if not asks_help and (not arguments or arguments[0].startswith("-") or arguments[0] in _ACTIONS):
        raise UserError("FILE: is missing; write launch/sweep.py FILE [ACTION] [--cluster CLUSTER] [OPTION ...]")
    for place, word in enumerate(arguments[1:], start=1):
        before = arguments[place - 1]
        if word in _ACTIONS and (not before.startswith("--") or "=" in before or before in _FLAGS):
            return [arguments[0], word, *arguments[1:place], *arguments[place + 1 :]]
    return [*arguments[:1], *([] if asks_help else ["submit"]), *arguments[1:]]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return rate


def _run(arguments: Sequence[str]) -> int:
    options, rest = _parser().parse_known_args(_with_action(arguments))
    overrides = read_overrides(rest, {"plugins": plugins_of(options.file)})
    for name, advice in set_elsewhere(overrides).items():
        raise UserError(f"--{name}: {advice}")
    folder = SweepFolder(options.dir or Path("runs/sweeps", options.file.stem))
    sweep = plan_sweep(options.file, overrides)
    needs = _needs(sweep, {name: getattr(options, name) for name in _NEEDS if getattr(options, name) is not None})
    if options.dry_run:
        return _dry_run(sweep, folder, options.images_per_second)
    match options.action:
        case "status":
            return _status(sweep, folder, follow=not options.once)
        case "cancel":
            with folder.held() if folder.root.exists() else contextlib.nullcontext():
                return _cancel(sweep, folder)
        case "results":
            return _results(sweep, folder)
        case _:
            if options.cluster is None:
                raise UserError("--cluster: is required; valid are slurm, local, debug")
            where = _where(options, needs)
            _check(sweep, where, options.cluster)
            with folder.held():
                folder.write_about(sweep.name, sweep.options.figures)
                return _submit(sweep, folder, needs, where, options)


def _needs(sweep: Sweep, given: dict[str, str]) -> Needs:
    needs = {**sweep.options.needs.model_dump(), **given}
    try:
        return Needs(**needs)
    except ValidationError as error:
        dashes = "--" if error.errors()[0]["loc"] else ""
        raise UserError(f"{dashes}{explain(error, Needs, given=needs)}") from None


def _dry_run(sweep: Sweep, folder: SweepFolder, given: float | None) -> int:
    from elth_dist.sweeps.predict import Predictor
    from elth_dist.sweeps.show import print_plan
    from elth_dist.sweeps.states import measured, measured_speeds, states

    speeds = {**sweep.options.images_per_second, **measured_speeds(sweep, folder)}
    if given is not None:
        settings = [job.job.options.network_setting for job in sweep.jobs.values()]
        speeds = {setting.model.arch: given for setting in settings if setting is not None}
    print_plan(sweep, states(sweep, folder, verify=True), Predictor(sweep, measured(sweep, folder), speeds))
    return 0


def _status(sweep: Sweep, folder: SweepFolder, *, follow: bool) -> int:
    from elth_dist.sweeps.show import print_status
    from elth_dist.sweeps.states import states

    print_status(sweep, folder, lambda: states(sweep, folder, verify=False), follow=follow)
    return 0


def _cancel(sweep: Sweep, folder: SweepFolder) -> int:
    from elth_dist.sweeps.states import slurm_queue, states
    from elth_dist.sweeps.submit import cancel

    state_of, records = states(sweep, folder, verify=False), folder.records()
    queue = slurm_queue(folder, records)  # also of jobs that the sweep no longer has
    chosen = {
        name: record
        for name, record in records.items()
        if record.slurm and (record.slurm in queue or state_of.get(name) == "blocked")
    }
    cancel(folder, chosen)
    print(f"cancelled {len(chosen)} jobs; finished jobs stay, and a new submission continues from there")
    return 0


def _results(sweep: Sweep, folder: SweepFolder) -> int:
    from elth_dist.sweeps.results import write_results

    write_results(sweep, folder, [name for name in sweep.jobs if folder.job(name).result.exists()])
    return 0


def _check(sweep: Sweep, where: "_Where", cluster: str) -> None:
    """Check every run of the sweep before anything is queued. UserError."""
    from elth_dist.jobs.plan import check

    for config in {id(job.config): job.config for job in sweep.jobs.values()}.values():
        check(config.method, config.setting, 0, where.ranks, elsewhere=cluster == "slurm")


def _submit(sweep: Sweep, folder: SweepFolder, needs: Needs, where: "_Where", options: argparse.Namespace) -> int:
    from elth_dist.sweeps.states import states

    state_of = states(sweep, folder, verify=True)
    wanted = {"open", "failed", "blocked"} if options.retry_failed else {"open"}
    todo = [name for name, state in state_of.items() if state in wanted]
    failed = [name for name, state in state_of.items() if state == "failed" and name not in todo]
    done = sum(state == "done" for state in state_of.values())
    print(f"{len(sweep.jobs)} jobs: {done} done, {len(todo)} to do", flush=True)
    if failed:
        print(f"{len(failed)} have failed ({', '.join(failed[:3])}); --retry-failed does them again", flush=True)
    if options.cluster == "slurm":
        if todo:
            from elth_dist.sweeps.submit import submit

            submit(sweep, folder, todo, needs, options.max_parallel)
        print(f"submitted {len(todo)} jobs; `status` shows them, `results` their accuracies")
        return 0
    ready = {name for name, state in state_of.items() if state == "done"}
    for name in todo:
        if ready.issuperset(sweep.jobs[name].inputs):
            ready.add(name)
    elsewhere = [name for name in todo if name not in ready]
    if elsewhere:
        print(f"{len(elsewhere)} of them wait for jobs that are queued or running elsewhere", flush=True)
    if (
        not _here(sweep, folder, [name for name in todo if name in ready], where, options.cluster)
        or failed
        or elsewhere
    ):
        return 1
    return _results(sweep, folder)


class _Where(NamedTuple):
    """The place and the resources of a job."""

    ranks: int
    gpus: int = 0  # local: per job
    workers: int = 1  # local: jobs at once


def _where(options: argparse.Namespace, needs: Needs) -> _Where:
    match options.cluster:
        case "slurm":
            return _Where(needs.nodes * needs.tasks_per_node)
        case "debug":
            return _Where(1)
    import torch

    gpus = torch.cuda.device_count()
    each = min(1, gpus) if options.gpus is None else int(options.gpus)
    if each > gpus:
        raise UserError(f"--gpus: {each} per job, but this machine has {gpus}")
    room = gpus // each if each else max(1, (os.cpu_count() or 1) // needs.cpus)
    workers = options.workers or room
    if each and workers > room:
        raise UserError(f"--workers: {workers} jobs of {each} GPU(s) do not fit on {gpus}")
    return _Where(each or int(options.tasks or 1), each, workers)


def _here(sweep: Sweep, folder: SweepFolder, todo: Sequence[str], where: _Where, cluster: str) -> bool:
    from elth_dist.sweeps.local import LocalPool, run_in_process

    if cluster == "debug":
        return run_in_process(sweep, folder, todo)
    return LocalPool(sweep, folder, workers=where.workers, gpus=where.gpus, ranks=where.ranks).run(todo)


if __name__ == "__main__":
    sys.exit(main())
