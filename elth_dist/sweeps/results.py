"""The results of a sweep so far: one row per experiment over all its seeds, as a table, records and figure."""

from collections.abc import Sequence

from elth_dist.jobs.report import Done, read_results
from elth_dist.reporting.records import Results
from elth_dist.reporting.summary import print_summary, write_summary
from elth_dist.sweeps.folder import SweepFolder
from elth_dist.sweeps.plan import Sweep


def sweep_results(sweep: Sweep, folder: SweepFolder, done: Sequence[str]) -> Results:
    """Read the records of a sweep's finished jobs, in the plan's order. UserError if a result is damaged."""
    chosen = set(done)
    found = [
        Done(job.job, job.group, folder.job(name), folder.directory(name).metrics)
        for name, job in sweep.jobs.items()
        if name in chosen
    ]
    return read_results(found, run=sweep.name)


def write_results(sweep: Sweep, folder: SweepFolder, done: Sequence[str]) -> None:
    """Print the table and write it as Markdown, with its figure and the records of each seed."""
    results = sweep_results(sweep, folder, done)
    if not results.records:
        print("nothing has trained to the end yet")
        return
    print_summary(results.records, title=sweep.name)
    write_summary(results, folder.results, title=sweep.name)
    print(
        f"\nResults  {folder.results}, .png, .csv and .json\n"
        f"Pages    python -m elth_dist.reporting {folder.root} -o report/",
        flush=True,
    )
