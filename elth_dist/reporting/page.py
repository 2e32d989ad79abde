"""The whole report: one HTML page that needs nothing else, Markdown, the records as CSV and JSON, figures as files."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elth_dist.reporting.figures.accuracy import accuracy_over_density, accuracy_over_flops
from elth_dist.reporting.figures.connectivity import barrier_table, distance_matrices, distance_table, error_on_lines
from elth_dist.reporting.figures.drawing import Drawing
from elth_dist.reporting.figures.levels import chains, layer_densities, magnitudes, mask_overlap, read_magnitudes
from elth_dist.reporting.papers import PaperFigure
from elth_dist.reporting.records import Results, to_csv, to_json
from elth_dist.reporting.tables import Table, results_table
from elth_dist.runtime.files import write_atomically

#: Runs of IMP whose weights are read for histograms.
_READ = 3

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em } h2 { font-size: 1.25em; margin-top: 2.2em; border-bottom: 1px solid #ccc } h3 { font-size: 1em }
nav a { margin-right: 1.2em } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: 3px 9px; text-align: right; border-bottom: 1px solid #e3e3e3; white-space: nowrap }
th { border-bottom: 2px solid #888; position: sticky; top: 0; background: #fff }
.left { text-align: left } tbody tr:hover { background: #f3f7fb }
figure { margin: 1.2em 0 } img { max-width: 100%; height: auto } figcaption, .note { font-size: 13px; color: #555 }
"""


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    notes: Sequence[str] = ()


def sections_of(results: Results, papers: Sequence[PaperFigure], *, weights: bool = True) -> list[Section]:
    """Draw everything that the records allow.

    Args:
        results: records, lines and distances.
        papers: the tables and figures of papers to draw, in order; those whose records are missing are said to be.
        weights: whether to read the files of trained weights, for histograms of magnitudes.
    """
    records = results.records
    found = [
        Section(
            "Results", tables=[results_table(records, title="All networks")], drawings=[accuracy_over_density(records)]
        ),
        Section("Cost", drawings=[accuracy_over_flops(records)]),
    ]
    of_levels = [mask_overlap(records), layer_densities(records)]
    if weights:
        measured = {title: read_magnitudes(levels) for title, levels in list(chains(records).items())[:_READ]}
        of_levels.append(magnitudes(measured))
    drawn = [drawing for drawing in of_levels if drawing is not None]
    if drawn:
        found.append(Section("Levels", drawings=drawn))
    on_lines = error_on_lines(results.lines)
    if on_lines is not None:
        found.append(Section("Linear mode connectivity", tables=[barrier_table(results.lines)], drawings=[on_lines]))
    if results.distances:
        found.append(
            Section(
                "Distances",
                tables=[distance_table(results.distances)],
                drawings=distance_matrices(results.distances),
            )
        )
    for paper in papers:
        figure = paper.draw(results)
        title, text = f"{paper.name}", f"{paper.paper}: {paper.where}. {paper.shows}"
        if figure is None:
            found.append(Section(title, text, notes=["The records that it needs are not there."]))
        else:
            found.append(Section(title, text, figure.tables, figure.drawings, figure.notes))
    return found


def write_pages(results: Results, sections: Sequence[Section], folder: Path) -> None:
    """Write index.html, report.md, records.csv, records.json, and figures/ and tables/ with a file for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for drawing in section.drawings:
            drawing.save(folder / "figures")
        for table in section.tables:
            (folder / "tables").mkdir(exist_ok=True)
            write_atomically(folder / "tables" / f"{table.name}.md", f"# {table.title}\n\n{table.markdown()}".encode())
    write_atomically(folder / "records.csv", to_csv(results.records).encode())
    write_atomically(folder / "records.json", to_json(results).encode())
    write_atomically(folder / "report.md", markdown(results, sections).encode())
    write_atomically(folder / "index.html", page(results, sections).encode())


def markdown(results: Results, sections: Sequence[Section]) -> str:
    """The report as Markdown, with the figures as PNG files."""
    parts = [f"# {results.title}", *(f"Note: {note}" for note in results.notes)]
    for section in sections:
        parts += [f"## {section.title}", *([section.text] if section.text else [])]
        for table in section.tables:
            parts += [f"### {table.title}", table.markdown().rstrip("\n")]
        for drawing in section.drawings:
            parts += [f"### {drawing.title}", f"![{drawing.title}](figures/{drawing.name}.png)", drawing.caption]
        parts += section.notes
    return "\n\n".join(part for part in parts if part) + "\n"


def page(results: Results, sections: Sequence[Section]) -> str:
    """The report as one HTML page with its figures in it; it asks for no other file."""
    title = html.escape(results.title)
    links = "\n".join(f'<a href="#{_anchor(section)}">{html.escape(section.title)}</a>' for section in sections)
    notes = "".join(f"<p class=note>{html.escape(note)}</p>\n" for note in results.notes)
    body = "\n".join(_section(section) for section in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<nav>{links}</nav>\n{notes}{body}\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = [f'<h2 id="{_anchor(section)}">{html.escape(section.title)}</h2>']
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    for table in section.tables:
        parts += [f"<h3>{html.escape(table.title)}</h3>", table.html()]
    for drawing in section.drawings:
        image = base64.b64encode(drawing.svg()).decode()
        parts.append(
            f"<h3>{html.escape(drawing.title)}</h3>\n<figure>"
            f'<img alt="{html.escape(drawing.title)}" src="data:image/svg+xml;base64,{image}">'
            f"<figcaption>{html.escape(drawing.caption)}</figcaption></figure>"
        )
    parts += [f"<p class=note>{html.escape(note)}</p>" for note in section.notes]
    return "\n".join(parts)


def _anchor(section: Section) -> str:
    return "".join(char if char.isalnum() else "-" for char in section.title.lower())
