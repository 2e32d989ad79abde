"""What a run says at its end: a table and a figure of everything it trained."""

from collections.abc import Sequence

from elth_dist.jobs.graph import Job
from elth_dist.jobs.options import LevelJob, TrainJob
from elth_dist.reporting.plots import plot_top1
from elth_dist.reporting.tables import ResultRow, print_table, render_markdown
from elth_dist.runtime.files import write_atomically
from elth_dist.runtime.run_directory import JobFolder, RunDirectory


def result_rows(jobs: Sequence[Job], run: RunDirectory) -> list[ResultRow]:
    """One row for each job that trained a network to the end, in the graph's order."""
    rows = []
    for job in jobs:
        match job.options:
            case LevelJob():
                what = "IMP"
            case TrainJob():
                what = _what(job.options, run.job(job.inputs["ticket"]) if "ticket" in job.inputs else None)
            case _:
                continue
        found = run.job(job.name).read().metrics
        level = job.options.level if isinstance(job.options, LevelJob) else None
        rows.append(ResultRow(what, found["arch"], level, found["density"], found["top1"], found["top5"]))
    return rows


def write_report(jobs: Sequence[Job], run: RunDirectory, *, title: str) -> None:
    """Print the closing table, write it as markdown with its figure, and say where everything lies. Rank 0."""
    rows = result_rows(jobs, run)
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


def _what(options: TrainJob, ticket: JobFolder | None) -> str:
    if options.control == "dense":
        return "dense"
    made = {} if ticket is None else ticket.read().metrics
    origin = f"ETT <- {made['source_arch']}" if "source_arch" in made else "ticket"
    match options.control:
        case None:
            return origin
        case "random":
            return f"random masks ({origin})"
        case "reinit":
            return f"reinit ({origin})"
