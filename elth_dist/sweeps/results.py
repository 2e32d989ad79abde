"""The results of a sweep so far: one row per experiment over all its seeds, as a table, CSV and figure."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from elth_dist.jobs.report import result_rows
from elth_dist.reporting.plots import plot_top1
from elth_dist.reporting.tables import ResultRow, print_table, render_markdown
from elth_dist.runtime.files import write_atomically
from elth_dist.runtime.run_directory import RunDirectory
from elth_dist.sweeps.folder import SweepFolder
from elth_dist.sweeps.plan import Sweep
from elth_dist.sweeps.predict import seeds_of


@dataclass(frozen=True)
class Summary:
    """One experiment over its seeds."""

    row: ResultRow  # means
    seeds: tuple[str, ...]
    top1: tuple[float, ...]  # of each seed
    top5: tuple[float, ...]


def summaries(sweep: Sweep, folder: SweepFolder, done: Sequence[str]) -> list[Summary]:
    """Summarise every job that trained to the end, in the plan's order; one summary for jobs that differ in seeds."""
    directory = RunDirectory(folder.root, folder.jobs)
    whole = set(done)
    # a job's row also depends on the jobs that it needs
    jobs = [name for name in sweep.jobs if whole.issuperset(sweep.with_inputs(name))]
    groups: dict[str, list[tuple[str, ResultRow]]] = {}
    for name, row in result_rows([sweep.jobs[name].job for name in jobs], directory).items():
        groups.setdefault(sweep.jobs[name].group, []).append((seeds_of(sweep.jobs[name]), row))
    return [_summary(group) for group in groups.values()]


def _summary(by_seed: Sequence[tuple[str, ResultRow]]) -> Summary:
    rows = [row for _, row in by_seed]
    top1 = tuple(row.top1 for row in rows if row.top1 is not None)
    top5 = tuple(row.top5 for row in rows if row.top5 is not None)
    extra = {"± top-1": _deviation(top1), "seeds": str(len(rows)), **rows[0].extra}
    mean = replace(
        rows[0],
        density=statistics.mean(row.density for row in rows),
        top1=statistics.mean(top1),
        top5=statistics.mean(top5),
        extra=extra,
    )
    return Summary(mean, tuple(seed for seed, _ in by_seed), top1, top5)


def _deviation(values: Sequence[float]) -> str:
    return f"{100 * statistics.stdev(values):.2f}" if len(values) > 1 else "-"


def write_results(sweep: Sweep, folder: SweepFolder, done: Sequence[str]) -> None:
    """Print the table and write it as Markdown, CSV (with the accuracies of each seed) and PNG."""
    experiments = summaries(sweep, folder, done)
    if not experiments:
        print("nothing has trained to the end yet")
        return
    rows = [summary.row for summary in experiments]
    figure = folder.results.with_suffix(".png")
    print_table(rows, title=sweep.name)
    note = "Accuracies are means over the seeds; ± is the sample standard deviation of top-1, in percentage points."
    text = f"# {sweep.name}\n\n{render_markdown(rows)}\n{note}\n\n![]({figure.name})\n"
    write_atomically(folder.results, text.encode())
    write_atomically(folder.results.with_suffix(".csv"), _csv(experiments).encode())
    plot_top1(rows, figure, title=sweep.name)
    print(f"\nResults  {folder.results}, .csv and .png", flush=True)


def _csv(experiments: Sequence[Summary]) -> str:
    """Write one line per experiment and seed, then its mean and deviation; accuracies as fractions."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["network", "arch", "level", "density", "seeds", "top1_mean", "top1_std", "top5_mean", "top5_std", "top1_each"]
    )
    for summary in experiments:
        row = summary.row
        figures = []
        for values in (summary.top1, summary.top5):
            deviation = statistics.stdev(values) if len(values) > 1 else ""
            figures += [statistics.mean(values), deviation]
        each = " ".join(f"{seed}:{value}" for seed, value in zip(summary.seeds, summary.top1, strict=True))
        level = "" if row.level is None else row.level
        table.writerow([row.what, row.arch, level, row.density, len(summary.seeds), *figures, each])
    return text.getvalue()
