"""Tables of results: on a terminal, in a log, in Markdown and in HTML."""

import html
import re
import sys
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TextIO

import rich.box
import rich.console
import rich.table
import rich.text

from elth_dist.reporting.console import is_terminal, write_plain
from elth_dist.reporting.records import Experiment, Record, experiments

#: What a cell without a value shows.
MISSING = "-"


@dataclass(frozen=True)
class Table:
    """A table of formatted cells."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    """What the figures mean, and what they are relative to."""
    notes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    """Columns that are aligned to the left."""
    name: str = "table"
    """Name of its file."""

    def markdown(self) -> str:
        """One line per row, ending with a newline; then caption and notes."""
        rule = [":---" if heading in self.left else "---:" for heading in self.headings]
        lines = [self.headings, rule, *self.rows]
        body = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
        return body + "".join(f"\n{text}\n" for text in (self.caption, *self.notes) if text)

    def html(self) -> str:
        """An HTML table with its caption and notes."""

        def line(tag: str, cells: Sequence[str]) -> str:
            classes = [' class="left"' if heading in self.left else "" for heading in self.headings]
            inner = (f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for kind, cell in zip(classes, cells, strict=True))
            return f"<tr>{''.join(inner)}</tr>\n"

        head, body = line("th", self.headings), "".join(line("td", row) for row in self.rows)
        below = "".join(f"<p class=note>{html.escape(text)}</p>\n" for text in (self.caption, *self.notes) if text)
        return f"<div class=wide><table>\n<thead>{head}</thead>\n<tbody>{body}</tbody>\n</table></div>\n{below}"


def percent(fraction: float | None) -> str:
    """Format a fraction in percent, as the papers do."""
    return MISSING if fraction is None else f"{100 * fraction:.2f}"


def with_deviation(experiment: Experiment) -> str:
    """Format the mean top-1 over the seeds, with the sample standard deviation of two seeds or more, in percent."""
    return percent(experiment.accuracy) + (
        "" if experiment.deviation is None else f" ± {100 * experiment.deviation:.2f}"
    )


def multiple(value: float | None, digits: int = 3) -> str:
    """Format a cost relative to dense."""
    return MISSING if value is None else f"{value:.{digits}f}x"


def results_table(records: Sequence[Record], *, title: str = "results") -> Table:
    """Every experiment with all that is known about it, one row each, in the order of the records."""
    found = experiments(records)
    main, other = accuracy_headings(records)
    headings = (
        *("network", "arch", "level", "density", "sparsity %", main, "n", other, "top-5 %"),
        *("source", "source level", "rule", "plan", "training FLOPs", "with history", "inference FLOPs"),
        *("flags", "seeds", "jobs"),
    )

    def row(experiment: Experiment) -> tuple[str, ...]:
        first = experiment.first
        return (
            experiment.label,
            first.arch,
            _or_missing(first.level),
            f"{experiment.density:.5f}",
            percent(1 - experiment.density),
            with_deviation(experiment),
            str(len(experiment.records)),
            percent(experiment.mean(lambda record: record.other_accuracy)),
            percent(experiment.mean(lambda record: record.accuracy5)),
            _or_missing(first.source),
            _or_missing(first.source_level),
            rule(first),
            _or_missing(first.plan),
            multiple(experiment.mean(lambda record: record.relative_train)),
            multiple(experiment.mean(lambda record: record.relative_history)),
            multiple(experiment.mean(lambda record: record.relative_forward), 4),
            ", ".join(experiment.flags) or MISSING,
            " ".join(record.seeds for record in experiment.records),
            " ".join(record.job for record in experiment.records),
        )

    return Table(
        title,
        headings,
        tuple(map(row, found)),
        caption=explanation(found),
        notes=tuple(footnotes(found)),
        left=("network", "arch", "source", "rule", "plan", "flags", "seeds", "jobs"),
        name="results",
    )


def short_table(records: Sequence[Record], *, title: str = "") -> Table:
    """The results with as many columns as fit on a terminal of 80."""
    found = experiments(records)
    main, other = accuracy_headings(records, short=True)

    def row(experiment: Experiment) -> tuple[str, ...]:
        first = experiment.first
        marks = "!" if experiment.diverged else ""
        return (
            experiment.label,
            first.arch,
            f"{experiment.density:.4f}",
            f"{with_deviation(experiment)}{marks}",
            percent(experiment.mean(lambda record: record.other_accuracy)),
            multiple(experiment.mean(lambda record: record.relative_history), 2),
        )

    notes = tuple(footnotes(found))
    return Table(
        title,
        ("network", "arch", "density", main, other, "FLOPs"),
        tuple(map(row, found)),
        caption="FLOPs: of training with its history, relative to one dense training of the same network.",
        notes=notes,
        left=("network", "arch"),
    )


def accuracy_headings(records: Sequence[Record], *, short: bool = False) -> tuple[str, str]:
    """Headings of the accuracy that counts and of the other one: which BatchNorm statistics each has."""
    counting = {record.bn for record in records} or {"running"}
    if len(counting) > 1:
        return "top-1 %", "other BN %"
    [bn] = counting
    other = {"running": "re-est. %" if short else "top-1 %, BN re-estimated", "reestimated": "running %"}
    return "top-1 %", other[bn]


def explanation(found: Sequence[Experiment]) -> str:
    """What the columns of the results mean."""
    ones = sum(len(experiment.records) == 1 for experiment in found)
    which = {record.bn for experiment in found for record in experiment.records}
    text = {
        frozenset({"running"}): "top-1 counts with running BatchNorm statistics",
        frozenset({"reestimated"}): "top-1 counts with BatchNorm statistics re-estimated on training batches",
    }.get(frozenset(which), "top-1 counts with the BatchNorm statistics that train.bn of each run names")
    seeds = "Means over n seeds or data orders, ± the sample standard deviation in percentage points."
    if ones:
        seeds += f" {ones} of {len(found)} rows are one seed: how much they would move is not known."
    return (
        f"{seeds} {text[0].upper()}{text[1:]}. 1x is one dense training of the same network from step 0 to the end "
        "(training FLOPs, with history), or one dense forward pass (inference FLOPs); `with history` adds every "
        "training that the row depends on, each once."
    )


def footnotes(found: Sequence[Experiment]) -> list[str]:
    """Warnings on single rows."""
    notes = []
    if any(experiment.diverged for experiment in found):
        notes.append("! diverged: the loss or the weights of a seed left all bounds; see its TensorBoard.")
    apart = [experiment for experiment in found if any(record.bn_matters for record in experiment.records)]
    if apart:
        names = "; ".join(f"{experiment.label} ({experiment.first.arch})" for experiment in apart[:3])
        more = f"; and {len(apart) - 3} more" if len(apart) > 3 else ""
        notes.append(f"BN: re-estimating BatchNorm statistics moves top-1 by more than a point: {names}{more}.")
    return notes


def aligned(headings: Sequence[str], body: Sequence[Sequence[str]], *, left: Collection[str]) -> str:
    """Align any table in plain characters, one line per row: columns named in `left` to the left, others right."""
    widths = [max(map(len, column)) for column in zip(headings, *body, strict=True)]
    lines = [headings, ["-" * width for width in widths], *body]
    return "".join("  ".join(_align(headings, line, widths, left)).rstrip() + "\n" for line in lines)


def fitted(table: Table, width: int = 80) -> str:
    """Render a table in plain characters, `width` characters wide; the first columns break into several lines.

    Numbers are never broken: a table whose other columns are wider than that is wider.
    """
    columns = list(zip(table.headings, *table.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    room = width - 2 * (len(widths) - 1)
    broken = [place for place, heading in enumerate(table.headings) if heading in table.left]
    while sum(widths) > room and any(widths[place] > 12 for place in broken):
        widest = max(broken, key=lambda place: widths[place])
        widths[widest] -= 1
    lines: list[Sequence[str]] = []
    for row in table.rows:
        parts = [
            textwrap.wrap(cell, widths[place], subsequent_indent="  " if place == 0 else "") or [""]
            if place in broken
            else [cell]
            for place, cell in enumerate(row)
        ]
        lines += [
            tuple(part[number] if number < len(part) else "" for part in parts)
            for number in range(max(map(len, parts)))
        ]
    return aligned(table.headings, lines, left=table.left)


def print_table(table: Table, *, stream: TextIO | None = None, interactive: bool | None = None) -> None:
    """Print to `stream` (None: standard output), 80 characters wide; `interactive` None: rich if it is a terminal."""
    stream = sys.stdout if stream is None else stream
    below = [text for text in (table.caption, *table.notes) if text]
    if not (is_terminal(stream) if interactive is None else interactive):
        text = fitted(table) + "".join(f"{line}\n" for entry in below for line in textwrap.wrap(entry, 80))
        write_plain(stream, (f"{table.title}\n" if table.title else "") + text.rstrip("\n"))
        return
    shown = rich.table.Table(title=table.title or None, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for heading in table.headings:
        broken = heading in table.left
        shown.add_column(heading, justify="left" if broken else "right", no_wrap=not broken, overflow="fold")
    for row in table.rows:
        shown.add_row(*map(rich.text.Text, row))
    console = rich.console.Console(file=stream, force_terminal=True, highlight=False)
    console.print(shown)
    for entry in below:
        console.print(rich.text.Text(entry, style="dim"))


def rule(record: Record) -> str:
    """How a transfer's plan was made: by which order stages grew, or which units shrinking stages kept."""
    if record.plan is None:
        return MISSING
    if record.option("transfer.plan") not in ("none", None):
        return "given"
    grew = any(len(targets.split(",")) > 1 for targets in re.split("[;|]", record.plan))
    units = "" if record.units in (None, "none") else f", units {record.units}"
    return f"{record.order}{units}" if grew else f"keep {record.squeeze}"


def _or_missing(value: str | int | None) -> str:
    return MISSING if value is None else str(value)


def _align(headings: Sequence[str], line: Sequence[str], widths: Sequence[int], left: Collection[str]) -> list[str]:
    return [
        cell.ljust(width) if heading in left else cell.rjust(width)
        for heading, cell, width in zip(headings, line, widths, strict=True)
    ]
