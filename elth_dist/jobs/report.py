"""What a run says at its end: a table and a figure of everything it trained."""

from collections.abc import Mapping, Sequence

from elth_dist.jobs.costs import cost_columns, history_flops
from elth_dist.jobs.graph import Job
from elth_dist.jobs.options import DynamicJob, LevelJob, PruneJob, TrainJob
from elth_dist.reporting.plots import plot_top1
from elth_dist.reporting.tables import ResultRow, print_table, render_markdown
from elth_dist.runtime.files import write_atomically
from elth_dist.runtime.run_directory import RunDirectory


def result_rows(jobs: Sequence[Job], run: RunDirectory) -> dict[str, ResultRow]:
    """One row for each job that trained a network to the end, by its name, in the graph's order."""
    rows = {}
    by_name = {job.name: job for job in jobs}
    for job in jobs:
        match job.options:
            case LevelJob():
                what = "IMP"
            case TrainJob():
                what = _what(job, by_name, run)
            case DynamicJob():
                what = _changing(job.options)
            case _:
                continue
        found = run.job(job.name).read().metrics
        level = job.options.level if isinstance(job.options, LevelJob) else None
        costs = cost_columns(found, history_flops(job.name, jobs, run))
        rows[job.name] = ResultRow(what, found["arch"], level, found["density"], found["top1"], found["top5"], costs)
    return rows


def write_report(jobs: Sequence[Job], run: RunDirectory, *, title: str) -> None:
    """Print the closing table, write it as markdown with its figure, and say where everything lies. Rank 0."""
    rows = list(result_rows(jobs, run).values())
    print_table(rows, title=title)
    write_atomically(run.report, f"# {title}\n\n{render_markdown(rows)}\n![]({run.figure.name})\n".encode())
    plot_top1(rows, run.figure, title=title)
    print(
        f"\nReport       {run.report} and {run.figure}\n"
        f"Tickets      {run.root}/*/ticket.safetensors   (python -m elth_dist.tickets show FILE)\n"
        f"Metrics      {run.metrics}\n"
        f"TensorBoard  tensorboard --logdir {run.root.parent}",
        flush=True,
    )


_CRITERIA = {
    "magnitude": "magnitude",
    "snip": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
    "random": "random masks",
}
_UPDATES = {"rigl": "RigL", "set": "SET", "snfs": "SNFS", "gradual": "gradual", "dpf": "DPF"}
_CONTROLS = {
    "random": "random masks",
    "reinit": "reinit",
    "random_reinit": "random masks, reinit",
    "shuffled_copies": "shuffled copies",
}


def _what(job: Job, jobs: Mapping[str, Job], run: RunDirectory) -> str:
    """What a `train` job trained."""
    assert isinstance(job.options, TrainJob)
    control = job.options.control
    if control == "dense":
        return "dense"
    source = jobs[job.inputs["ticket"]] if "ticket" in job.inputs else None
    if source is not None and isinstance(source.options, PruneJob):
        pruned = _pruned(source.options)
        if not source.options.copies or "ticket" not in source.inputs:
            return pruned
        return f"{pruned} ({_origin(jobs[source.inputs['ticket']], run)})"
    origin = _origin(source, run)
    return origin if control is None else f"{_CONTROLS[control]} ({origin})"


def _changing(options: DynamicJob) -> str:
    update = options.update
    longer = "" if update.multiplier == 1 else f"-{update.multiplier}x"
    usual = update.distribution == type(update).model_fields["distribution"].default
    spread = update.distribution.upper() if update.distribution == "erk" else update.distribution
    return f"{_UPDATES[update.name]}{longer}" + ("" if usual else f", {spread}")


def _pruned(options: PruneJob) -> str:
    criterion = options.criterion
    details = ["layer-wise"] if criterion.matched == "layerwise" and not options.copies else []
    details += ["ELTH code"] if getattr(criterion, "variant", None) == "elth_code" else []
    name = f"{_CRITERIA[criterion.name]} in the copies" if options.copies else _CRITERIA[criterion.name]
    return f"{name}, {', '.join(details)}" if details else name


def _origin(source: Job | None, run: RunDirectory) -> str:
    made = {} if source is None else run.job(source.name).read().metrics
    return f"ETT <- {made['source_arch']}" if "source_arch" in made else "ticket"
