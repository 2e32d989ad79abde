"""The closing report of a run or sweep: a short table on the terminal; table, figure and records in files."""

from collections.abc import Sequence
from pathlib import Path

from elth_dist.reporting.figures.accuracy import accuracy_over_density
from elth_dist.reporting.records import Record, Results, to_csv, to_json
from elth_dist.reporting.tables import print_table, results_table, short_table
from elth_dist.runtime.files import write_atomically


def print_summary(records: Sequence[Record], *, title: str) -> None:
    """Print the results, 80 columns wide."""
    print_table(short_table(records, title=title))


def write_summary(results: Results, path: Path, *, title: str) -> None:
    """Write the whole table as Markdown to `path`, and next to it the figure (.png), and the records (.csv, .json)."""
    figure = path.with_suffix(".png")
    drawing = accuracy_over_density(results.records, title=title)
    table = results_table(results.records, title=title)
    text = f"# {title}\n\n{table.markdown()}\n![]({figure.name})\n\n{drawing.caption}\n"
    write_atomically(figure, drawing.png())
    write_atomically(path.with_suffix(".csv"), to_csv(results.records).encode())
    write_atomically(path.with_suffix(".json"), to_json(results).encode())
    write_atomically(path, text.encode())
