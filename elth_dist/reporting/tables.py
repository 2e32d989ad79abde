"""The closing table of a run: rich on a terminal, plain text in a log, markdown in the report."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

import rich.box
import rich.console
import rich.table
import rich.text

from elth_dist.reporting.console import is_terminal, write_plain


@dataclass(frozen=True)
class ResultRow:
    """One trained network.

    Args:
        what: how the network was made, for people: "IMP", "resnet26 interpolated", "random masks", ...
        arch: its architecture.
        level: its IMP level; None if it is not a level of an IMP run.
        density: kept fraction of the prunable weights, in [0, 1].
        top1, top5: validation accuracies in [0, 1]; None if there is none yet.
        extra: further columns by heading, formatted; they come last, in the order of their first appearance.
    """

    what: str
    arch: str
    level: int | None
    density: float
    top1: float | None
    top5: float | None
    extra: Mapping[str, str] = field(default_factory=dict)


_TEXT_COLUMNS = ("network", "arch")
_COLUMNS = (*_TEXT_COLUMNS, "level", "density", "sparsity %", "top-1 %", "top-5 %")


def cells(rows: Sequence[ResultRow]) -> tuple[list[str], list[list[str]]]:
    """Return headings and formatted cells; sparsity (1 - density) and accuracies in percent, as the papers do."""
    extra = list(dict.fromkeys(heading for row in rows for heading in row.extra))
    body = [
        [
            row.what,
            row.arch,
            "-" if row.level is None else str(row.level),
            f"{row.density:.5f}",
            _percent(1 - row.density),
            _percent(row.top1),
            _percent(row.top5),
            *(row.extra.get(heading, "-") for heading in extra),
        ]
        for row in rows
    ]
    return [*_COLUMNS, *extra], body


def render_markdown(rows: Sequence[ResultRow]) -> str:
    """Render the table in markdown, one line per row, ending with a newline."""
    headings, body = cells(rows)
    rule = [":---" if heading in _TEXT_COLUMNS else "---:" for heading in headings]
    lines = [headings, rule, *body]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def render_text(rows: Sequence[ResultRow]) -> str:
    """Render the table in plain characters with aligned columns, ending with a newline."""
    return aligned(*cells(rows), left=_TEXT_COLUMNS)


def aligned(headings: Sequence[str], body: Sequence[Sequence[str]], *, left: Collection[str]) -> str:
    """Align any table in plain characters, one line per row: columns named in `left` to the left, others right."""
    widths = [max(map(len, column)) for column in zip(headings, *body, strict=True)]
    lines = [headings, ["-" * width for width in widths], *body]
    return "".join("  ".join(_align(headings, line, widths, left)).rstrip() + "\n" for line in lines)


def print_table(
    rows: Sequence[ResultRow], *, title: str = "", stream: TextIO | None = None, interactive: bool | None = None
) -> None:
    """Print the table to `stream` (None: standard output); `interactive` None: rich if `stream` is a terminal."""
    stream = sys.stdout if stream is None else stream
    if not (is_terminal(stream) if interactive is None else interactive):
        write_plain(stream, (f"{title}\n" if title else "") + render_text(rows).rstrip("\n"))
        return
    headings, body = cells(rows)
    table = rich.table.Table(title=title or None, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _TEXT_COLUMNS else "right", overflow="fold")
    for line in body:
        table.add_row(*map(rich.text.Text, line))
    rich.console.Console(file=stream, force_terminal=True, highlight=False).print(table)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def _align(headings: Sequence[str], line: Sequence[str], widths: Sequence[int], left: Collection[str]) -> list[str]:
    return [
        cell.ljust(width) if heading in left else cell.rjust(width)
        for heading, cell, width in zip(headings, line, widths, strict=True)
    ]
