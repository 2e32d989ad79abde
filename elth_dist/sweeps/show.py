"""Show a sweep: the plan as a tree with predicted costs, and the live table of its jobs."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import rich.console
import rich.live
import rich.table
import rich.text
import rich.tree

from elth_dist.sweeps.folder import Record, SweepFolder
from elth_dist.sweeps.plan import Sweep, SweepJob
from elth_dist.sweeps.predict import Cost, Predictor, seeds_of
from elth_dist.sweeps.states import State, last_line, progress
from elth_dist.sweeps.titles import titles

_STYLES = {"done": "green", "running": "cyan", "queued": "yellow", "failed": "red", "blocked": "magenta", "open": "dim"}
#: Inputs of a job that its line names, besides the one above it.
_OTHERS = 3
_ORDER: Sequence[State] = ("done", "running", "queued", "open", "blocked", "failed")


def print_plan(sweep: Sweep, state_of: Mapping[str, State], predictor: Predictor) -> None:
    """Print the tree of jobs (seeds on one line, each job below the job whose ticket it takes) and the totals."""
    console = _console()
    title_of = titles(sweep)
    groups: dict[str, list[SweepJob]] = {}
    for job in sweep.jobs.values():
        groups.setdefault(job.group, []).append(job)
    tree = rich.tree.Tree(rich.text.Text(sweep.name, style="bold"))
    branches: dict[str, rich.tree.Tree] = {}
    for group, jobs in groups.items():
        inputs = jobs[0].job.inputs
        parent = inputs.get("ticket") or next(iter(inputs.values()), None)
        above = tree if parent is None else branches[sweep.jobs[parent].group]
        line = rich.text.Text(title_of[jobs[0].name])
        others = [name for role, name in inputs.items() if name != parent and role != "previous"]
        if others:
            shown = [title_of[other] for other in others[:_OTHERS]]
            more = f" and {len(others) - _OTHERS} more" if len(others) > _OTHERS else ""
            line.append(f"  also needs {', '.join(shown)}{more}", style="dim")
        line.append(f"  seeds {', '.join(map(seeds_of, jobs))}" if len(jobs) > 1 else f"  seed {seeds_of(jobs[0])}")
        cost = Cost.total(predictor.cost(job.name) for job in jobs)
        if cost.flops != 0:
            line.append(f"  {_cost(cost)}", style="blue")
        states = Counter(state_of[job.name] for job in jobs)
        if set(states) != {"open"}:
            line.append(f"  {_count(states)}", style="green")
        branches[group] = above.add(line)
    console.print(tree)
    total = Cost.total(predictor.cost(name) for name in sweep.jobs)
    left = Cost.total(predictor.cost(name) for name, state in state_of.items() if state != "done")
    alone = predictor.alone()
    states = Counter(state_of.values())
    networks = len(sweep.finals)
    console.print(f"{len(sweep.jobs)} jobs for {networks} final networks: {_count(states)}")
    console.print(f"whole sweep          {_cost(total)}")
    console.print(f"still to do          {_cost(left)}")
    console.print(f"each network alone   {_cost(alone)}")
    if total.flops and alone.flops:
        hours = (
            ""
            if not total.gpu_hours or not alone.gpu_hours
            else f", {1 - total.gpu_hours / alone.gpu_hours:.0%} of the GPU-hours"
        )
        console.print(f"saved by sharing     {1 - total.flops / alone.flops:.0%} of the FLOPs{hours}")
    groups_warned = {sweep.jobs[name].group: (sweep.jobs[name], text) for name, text in predictor.warnings().items()}
    for job, text in groups_warned.values():
        console.print(f"warning: {title_of[job.name]}: {text}", style="yellow")
    console.print(
        "Predicted FLOPs of sparse networks are global density x dense; those of finished jobs are counted from masks.",
        style="dim",
    )


def print_status(sweep: Sweep, folder: SweepFolder, states: Callable[[], Mapping[str, State]], *, follow: bool) -> None:
    """Print the table of all jobs; with `follow` on a terminal, update it until nothing is queued or running."""
    console = _console()
    if not (follow and console.is_terminal):
        console.print(_table(sweep, folder, states()))
        return
    with rich.live.Live(console=console, refresh_per_second=1) as live:
        while True:
            state_of = states()
            live.update(_table(sweep, folder, state_of))
            if not {"queued", "running"}.intersection(state_of.values()):
                return
            time.sleep(5)


def _table(sweep: Sweep, folder: SweepFolder, state_of: Mapping[str, State]) -> rich.table.Table:
    table = rich.table.Table(title=f"{sweep.name}: {_count(Counter(state_of.values()))}", title_justify="left")
    for heading in ("job", "what", "seed", "state", "details"):
        table.add_column(heading, overflow="fold")
    records, title_of = folder.records(), titles(sweep)
    for name, job in sweep.jobs.items():
        state = state_of[name]
        details = _details(job, folder, state, records.get(name), state_of)
        what = rich.text.Text(title_of[name])  # brackets are no markup
        table.add_row(name, what, seeds_of(job), rich.text.Text(state, style=_STYLES[state]), rich.text.Text(details))
    return table


def _details(
    job: SweepJob, folder: SweepFolder, state: State, record: Record | None, state_of: Mapping[str, State]
) -> str:
    match state:
        case "done":
            top1 = folder.job(job.name).read().metrics.get("top1")
            return "" if top1 is None else f"top-1 {top1:.2%}"
        case "running":
            at = progress(job, folder)
            if at is None:
                return "starting"
            left = "" if at.seconds_left is None else f", {_duration(at.seconds_left)} left"
            top1 = "" if at.top1 is None else f", top-1 {at.top1:.2%}"
            return f"{at.share:.0%}{left}{top1}"
        case "queued":
            return f"SLURM job {record.slurm}" if record else ""
        case "failed":
            assert record is not None
            return f"{last_line(Path(record.log))} ({record.log})"
        case "blocked":
            return f"needs {', '.join(name for name in job.inputs if state_of[name] in ('failed', 'blocked'))}"
        case "open":
            return ""


def _count(states: Mapping[State, int]) -> str:
    return ", ".join(f"{states[state]} {state}" for state in _ORDER if states.get(state))


def _cost(cost: Cost) -> str:
    flops = "? FLOPs" if cost.flops is None else f"{cost.flops:.2e} FLOPs"
    hours = "? GPU-hours" if cost.gpu_hours is None else f"{cost.gpu_hours:,.2f} GPU-hours"
    return f"{flops}, {hours}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _console() -> rich.console.Console:
    console = rich.console.Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # do not break lines in a log
    return console
