"""Reports of finished work: what `python -m elth_dist.reporting` does."""

import argparse
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from elth_dist.commandline.parser import Parser, add_plugins, take_plugins
from elth_dist.errors import UserError, tell
from elth_dist.registry import paper_figures
from elth_dist.reporting.papers import PaperFigure, figures_named
from elth_dist.reporting.records import Results
from elth_dist.reporting.tables import MISSING, Table, aligned, fitted, percent

_PROGRAM = "python -m elth_dist.reporting"
_EXAMPLES = """
RUN is a run directory or a sweep's folder; several are reported together, and runs that differ in seeds alone are put
together.

  python -m elth_dist.reporting runs/quickstart -o report/             everything that its records allow
  python -m elth_dist.reporting runs/sweeps/imagenet_table1 -f elth_table1 -o report/
  python -m elth_dist.reporting list runs                              one line per run
  python -m elth_dist.reporting compare runs/a runs/b                  options and results in which they differ
  python -m elth_dist.reporting compare runs/a/level-03 runs/a/level-04
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of a command line; returns the exit status: 2 after a user's mistake, which is one line."""
    try:
        logging.basicConfig(level=logging.WARNING, format="elth_dist: warning: %(message)s")
        _, given = take_plugins(sys.argv[1:] if arguments is None else arguments)
        commands = {"list": _list, "compare": _compare}
        if given and given[0] in commands and not Path(given[0]).is_dir():
            return commands[given[0]](given[1:])
        return _report(given)
    except UserError as error:
        return tell(error, 0)


def _report(arguments: Sequence[str]) -> int:
    names = "\n".join(f"  {name:24} {kind.where}: {kind.shows}" for name, kind in paper_figures.items())
    parser = Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} RUN [RUN ...] [-o FOLDER] [-f NAME ...] | list FOLDER ... | compare A B",
        description="Write the report of runs and sweeps: HTML, Markdown, CSV, JSON, PNG and SVG.",
        epilog=f"{_EXAMPLES}\ntables and figures of papers, for -f:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories and sweeps' folders")
    parser.add_argument("-o", "--output", type=Path, default=Path("report"), help="folder of the report")
    parser.add_argument(
        "-f",
        "--figure",
        action="append",
        default=[],
        metavar="NAME",
        help="a table or figure of a paper, also several times (default: those that the sweep names, else all whose "
        "data are there)",
    )
    parser.add_argument("--no-weights", action="store_true", help="do not read trained weights: no histograms")
    add_plugins(parser)
    options = parser.parse_args(arguments)
    from elth_dist.runs import load_results

    papers = figures_named(options.figure)
    if options.output.exists() and not options.output.is_dir():
        raise UserError(f"--output: {options.output} is a file; give a folder")
    results = together([load_results(path) for path in options.runs])
    if not results.records:
        why = f": {results.notes[0]}" if results.notes else ""
        raise UserError(f"{options.runs[0]}: nothing has trained to the end yet{why}")
    from elth_dist.reporting.page import sections_of, write_pages

    if not papers:
        papers = _usual_papers(results, options.runs)
    sections = sections_of(results, papers, weights=not options.no_weights)
    try:
        write_pages(results, sections, options.output)
    except OSError as error:
        raise UserError(f"--output: {options.output}: cannot be written: {error.strerror}") from error
    for note in results.notes:
        print(f"note: {note}")
    for section in sections:
        print(f"{section.title}: {_count(section.tables, 'table')}, {_count(section.drawings, 'figure')}")
    print(f"{len(results.records)} networks; open {options.output / 'index.html'}")
    return 0


def together(results: Sequence[Results]) -> Results:
    """Put the results of several runs together."""
    titles = dict.fromkeys(found.title for found in results)
    return Results(
        ", ".join(titles),
        tuple(record for found in results for record in found.records),
        tuple(line for found in results for line in found.lines),
        tuple(distance for found in results for distance in found.distances),
        tuple(note for found in results for note in found.notes),
    )


def _usual_papers(results: Results, paths: Iterable[Path]) -> list[PaperFigure]:
    """The figures that the sweeps name; else all of the paper's dataset whose records are there."""
    from elth_dist.sweeps.folder import SweepFolder

    named = [name for path in paths for name in SweepFolder(path).about()[1]]
    if named:
        return figures_named(named)
    every = figures_named(paper_figures)
    return [figure for figure in every if figure.fits(results) and figure.draw(results) is not None]


def _list(arguments: Sequence[str]) -> int:
    parser = Parser(prog=f"{_PROGRAM} list", description="List the runs and sweeps below folders, one line each.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folders that hold runs, or runs")
    add_plugins(parser)
    options = parser.parse_args(arguments)
    from elth_dist.runs import Run, load_run

    def line(path: Path, run: Run) -> tuple[str, ...]:
        methods = {str(config.get("method", {}).get("name", MISSING)): None for config in _configs(run)}
        archs = {str(config.get("model", {}).get("arch", MISSING)): None for config in _configs(run)}
        accuracies = [job.metrics["top1"] for job in run.jobs.values() if "top1" in job.metrics]
        best = max((value for value in accuracies if math.isfinite(value)), default=None)
        total = len(run.jobs) + len(run.unfinished)
        return str(path), ", ".join(methods), ", ".join(archs), f"{len(run.jobs)}/{total}", percent(best)

    rows = [line(path, load_run(path)) for folder in options.folders for path in runs_below(folder)]
    if not rows:
        raise UserError(f"{options.folders[0]}: no run and no sweep is below it")
    table = Table(
        "",
        ("run", "method", "network", "jobs", "best top-1 %"),
        tuple(rows),
        left=("run", "method", "network"),
    )
    print(fitted(table, 120), end="")
    return 0


def runs_below(folder: Path) -> Iterator[Path]:
    """Find run directories and sweeps' folders: `folder` itself, or those below it. UserError if it is no folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: {'is a file' if folder.exists() else 'no such folder'}")
    if (folder / "config.yaml").is_file() or ((folder / "jobs").is_dir() and (folder / "logs").is_dir()):
        yield folder
        return
    for below in sorted(folder.iterdir()):
        if below.is_dir() and not below.name.startswith(".") and not below.is_symlink():
            yield from runs_below(below)


def _configs(run: Any) -> list[Mapping[str, Any]]:
    return [run.config] if run.config else [job.config for job in run.jobs.values()]


def _compare(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog=f"{_PROGRAM} compare",
        description="Show the options and the results in which two runs, or two jobs, differ.",
    )
    for name in ("a", "b"):
        parser.add_argument(name, type=Path, metavar=name.upper(), help="a run directory, or the folder of a job")
    add_plugins(parser)
    options = parser.parse_args(arguments)
    one, other = _subject(options.a), _subject(options.b)
    for title, ours, theirs in zip(("options", "results"), one, other, strict=True):
        names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        print(f"{title}: {'no difference' if not names else f'{len(names)} of {len({**ours, **theirs})} differ'}")
        if names:
            rows = [
                [name, ours.get(name, MISSING), theirs.get(name, MISSING), _change(ours, theirs, name)]
                for name in names
            ]
            print(aligned(("", str(options.a), str(options.b), "B - A"), rows, left=("",)))
    return 0


def _subject(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Options and results, by dotted names, of a run or of one job."""
    from elth_dist.jobs.report import flat
    from elth_dist.runs import job_of, load_run

    job = job_of(path / "result.json") if (path / "result.json").is_file() else None
    if job is not None:
        metrics = {name: value for name, value in job.metrics.items() if name not in ("layer_densities", "line")}
        part = {name.removeprefix("setting."): value for name, value in flat(job.options)}
        resolved = dict(flat({section: job.config.get(section, {}) for section in ("data", "train", "model")}))
        return {**resolved, **part}, dict(flat(metrics))
    run = load_run(path)
    results = {
        f"{name} {figure}": value
        for name, found in run.jobs.items()
        for figure, value in flat({key: found.metrics.get(key) for key in _SHOWN if key in found.metrics})
    }
    return dict(flat({key: value for key, value in run.config.items() if key != "run"})), results


_SHOWN = ("top1", "reestimated_top1", "val_loss", "density", "train_flops", "diverged")


def _change(ours: Mapping[str, str], theirs: Mapping[str, str], name: str) -> str:
    try:
        return f"{float(theirs[name]) - float(ours[name]):+.4g}"
    except (KeyError, ValueError):
        return ""


def _count(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"
