"""The closing report of a run: a table and a figure of everything it trained."""

from collections.abc import Sequence
from typing import Any

from elth_dist.jobs.costs import cost_columns, history_flops
from elth_dist.jobs.graph import Job
from elth_dist.reporting.plots import plot_top1
from elth_dist.reporting.tables import ResultRow, print_table, render_markdown
from elth_dist.runtime.files import write_atomically
from elth_dist.runtime.run_directory import RunDirectory


class Rows:
    """The jobs of a report, for job kinds to look up metrics and titles."""

    def __init__(self, jobs: Sequence[Job], run: RunDirectory) -> None:
        """`jobs`: finished jobs, with all jobs that they need."""
        self._jobs = {job.name: job for job in jobs}
        self._run = run

    def metrics(self, name: str) -> dict[str, Any]:
        """Read the metrics of a job's result."""
        return self._run.job(name).read().metrics

    def ticket_title(self, name: str) -> str:
        """Name the ticket of a job, for the row of the job that trains it."""
        job = self._jobs[name]
        return job.options.ticket_title(job, self)


def result_rows(jobs: Sequence[Job], run: RunDirectory) -> dict[str, ResultRow]:
    """Make one row per job that trained a network to the end, by the job's name, in the graph's order."""
    rows = Rows(jobs, run)
    table = {}
    for job in jobs:
        title = job.options.title(job, rows)
        if title is None:
            continue
        metrics = rows.metrics(job.name)
        table[job.name] = ResultRow(
            title,
            metrics["arch"],
            job.options.imp_level,
            metrics["density"],
            metrics["top1"],
            metrics["top5"],
            cost_columns(metrics, history_flops(job.name, jobs, run)),
        )
    return table


def write_report(jobs: Sequence[Job], run: RunDirectory, *, title: str) -> None:
    """Print the closing table, write it as markdown with its figure, and print the paths of all results. Rank 0."""
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
