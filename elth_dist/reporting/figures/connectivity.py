"""How far apart two trained networks are: the error along the line between them, and the distance of their weights."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from elth_dist.reporting.figures.drawing import Curve, Drawing, Point, Scale, new_figure, panels
from elth_dist.reporting.records import Distances, Line, Record, experiments
from elth_dist.reporting.tables import MISSING, Table

WAYS = {
    "val_running": "validation, running BatchNorm statistics",
    "val_reestimated": "validation, re-estimated BatchNorm statistics",
    "train_running": "training, running BatchNorm statistics",
    "train_reestimated": "training, re-estimated BatchNorm statistics",
}
DEFINITIONS = {
    "frankle": "highest minus mean of the ends",
    "elth": "largest drop",
    "maene": "maximal error increase",
}
_MEASURES = {"l2": "L2 distance", "angle": "angle (degrees)"}
EXPLAINED = (
    "frankle: highest error on the line minus the mean of the two ends' (Frankle et al. 2020; stable below 2 points). "
    "elth: the largest drop of the accuracy (E-LTH, figure 8). maene: the maximal increase of the error (Maene et al. "
    "2021). Running: BatchNorm statistics interpolated like the weights."
)


def names_of(pairs: Iterable[Line | Distances]) -> dict[str, str]:
    """A title for each trained network at an end, by its job: method, network, level and what else tells it apart."""
    ends = {end.identity: end for pair in pairs for _, end in _ends(pair) if end is not None}
    names = {}
    for experiment in experiments(ends.values()):
        for record in experiment.records:
            level = "" if record.level is None else f", level {record.level}"
            names[record.identity] = f"{experiment.label}, {record.arch}{level}"
    return names


def title_of(line: Line, names: Mapping[str, str]) -> str:
    """Name two networks: once, if they differ in seeds or data order alone."""
    ends = [job if record is None else names[record.identity] for job, record in _ends(line)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def lines_together(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Put lines that differ in seeds alone together, by title."""
    names = names_of(lines)
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(title_of(line, names), []).append(line)
    return groups


def error_on_lines(lines: Sequence[Line], *, name: str = "lines", title: str = "") -> Drawing | None:
    """Draw the error along each line, one panel per kind of BatchNorm statistics and data."""
    if not lines:
        return None
    groups = lines_together(lines)
    curves = {
        heading: [
            Curve(label, _method(members[0]), _mean_curve(members, way), marked=False)
            for label, members in groups.items()
            if all(way in line.errors for line in members)
        ]
        for way, heading in WAYS.items()
        if any(way in line.errors for line in lines)
    }
    return panels(
        name,
        title or "Error on the line between two trained networks",
        curves,
        x=Scale("alpha (0: one network, 1: the other)"),
        y="top-1 error (%)",
        columns=2,
        clip=False,
        caption="Means over the seeds; bars are one sample standard deviation.",
    )


def barrier_table(lines: Sequence[Line]) -> Table:
    """The barrier of each line by every definition, with running and with re-estimated statistics, in points."""
    ways = ("val_running", "val_reestimated")
    headings = tuple(f"{definition}, {way.split('_')[1]}" for way in ways for definition in DEFINITIONS)

    def cell(members: Sequence[Line], way: str, definition: str) -> str:
        values = [100 * line.barriers[way][definition] for line in members if way in line.barriers]
        if not values:
            return MISSING
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}{spread}"

    rows = tuple(
        (
            label,
            str(len(members)),
            *(cell(members, way, definition) for way in ways for definition in DEFINITIONS),
        )
        for label, members in lines_together(lines).items()
    )
    return Table(
        "Barriers, points of validation error",
        ("networks", "n", *headings),
        rows,
        caption=EXPLAINED,
        left=("networks",),
        name="barriers",
    )


def distances_together(distances: Sequence[Distances]) -> dict[str, list[Distances]]:
    """Put distances that differ in seeds alone together, by title."""
    names = names_of(distances)
    groups: dict[tuple[str, tuple[str, ...]], list[Distances]] = {}
    for found in distances:
        ends = [job if end is None else names[end.identity] for job, end in _ends(found)]
        arch = next((end.arch for end in found.networks if end is not None), found.run)
        title = ends[0] if len(set(ends)) == 1 else f"{arch}, {found.labels[0]} to {found.labels[-1]}"
        groups.setdefault((title, (*found.labels, *ends)), []).append(found)
    titles = [title for title, _ in groups]
    return {
        title if titles.count(title) == 1 else f"{title} ({number + 1})": members
        for number, ((title, _), members) in enumerate(groups.items())
    }


def distance_table(distances: Sequence[Distances]) -> Table:
    """Mean L2 distance and angle between trainings of the same ticket in several data orders."""
    rows = []
    for title, members in distances_together(distances).items():
        values = {
            measure: [
                value for found in members for number, row in enumerate(found.total[measure]) for value in row[:number]
            ]
            for measure in _MEASURES
        }
        cells = (
            f"{statistics.mean(found):.4g}" + (f" ± {statistics.stdev(found):.2g}" if len(found) > 1 else "")
            for found in values.values()
        )
        rows.append((title, str(len(values["l2"])), *cells))
    return Table(
        "Distances between trained networks",
        ("networks", "pairs", *_MEASURES.values()),
        tuple(rows),
        caption="Over the weights that both networks keep; mean ± sample standard deviation over all pairs.",
        left=("networks",),
        name="distances",
    )


def distance_matrices(distances: Sequence[Distances]) -> list[Drawing]:
    """Draw angle and L2 distance between three networks or more, as matrices; means over the seeds."""
    groups = {title: members for title, members in distances_together(distances).items() if len(members[0].labels) > 2}
    return [
        _matrices(f"distances-{place}" if place else "distances", title, members)
        for place, (title, members) in enumerate(groups.items())
    ]


def _matrices(name: str, title: str, members: Sequence[Distances]) -> Drawing:
    labels = members[0].labels
    side = 2.2 + 0.42 * len(labels)
    figure = new_figure(min(16.0, 2 * side + 1.5), min(9.0, side + 0.4))
    grid = figure.subplots(1, 2, squeeze=False)
    for axes, measure in zip(grid[0], _MEASURES, strict=True):
        values = np.full((len(labels), len(labels)), np.nan)
        for row in range(len(labels)):
            for column in range(row):
                mean = statistics.mean(found.total[measure][row][column] for found in members)
                values[row, column] = values[column, row] = mean
        image = axes.imshow(np.ma.masked_invalid(values), cmap="viridis")
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize="x-small")
        axes.set_yticks(range(len(labels)), labels, fontsize="x-small")
        axes.set_title(_MEASURES[measure], fontsize="small")
        if len(labels) <= 12:
            middle = (np.nanmin(values) + np.nanmax(values)) / 2
            for row in range(len(labels)):
                for column in set(range(len(labels))) - {row}:
                    ink = "white" if values[row, column] <= middle else "black"
                    text = f"{values[row, column]:.3g}"
                    axes.text(column, row, text, ha="center", va="center", fontsize=6, color=ink)
        figure.colorbar(image, ax=axes, fraction=0.046)
    figure.suptitle(f"Distance between trained networks: {title}", fontsize="medium")
    seeds = f" Means over {len(members)} seeds." if len(members) > 1 else ""
    return Drawing(name, f"Distances: {title}", figure, f"Over the weights that both networks keep.{seeds}")


def _ends(pair: Line | Distances) -> list[tuple[str, Record | None]]:
    return list(zip(pair.ends, (pair.one, pair.other) if isinstance(pair, Line) else pair.networks, strict=True))


def _method(line: Line) -> str:
    return next((end.method for end in (line.one, line.other) if end is not None), "line")


def _mean_curve(members: Sequence[Line], way: str) -> list[Point]:
    points = []
    for place, alpha in enumerate(members[0].alphas):
        errors = [100 * line.errors[way][place] for line in members if len(line.alphas) == len(members[0].alphas)]
        points.append(Point(alpha, statistics.mean(errors), statistics.stdev(errors) if len(errors) > 1 else None))
    return points
