"""How far apart two trained networks are: the error along the line between them, and the distance of their weights."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from elth_dist.reporting.figures.drawing import Curve, Drawing, Point, Scale, new_figure, panels
from elth_dist.reporting.records import Distance, Line, Record, experiments
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
EXPLAINED = (
    "frankle: highest error on the line minus the mean of the two ends' (Frankle et al. 2020; stable below 2 points). "
    "elth: the largest drop of the accuracy (E-LTH, figure 8). maene: the maximal increase of the error (Maene et al. "
    "2021). Running: BatchNorm statistics interpolated like the weights."
)


def names_of(pairs: Iterable[Line | Distance]) -> dict[str, str]:
    """A title for each trained network at an end, by its job: method, network, level and what else tells it apart."""
    ends = {end.identity: end for pair in pairs for end in (pair.one, pair.other) if end is not None}
    names = {}
    for experiment in experiments(ends.values()):
        for record in experiment.records:
            level = "" if record.level is None else f", level {record.level}"
            names[record.identity] = f"{experiment.label}, {record.arch}{level}"
    return names


def title_of(pair: Line | Distance, names: Mapping[str, str]) -> str:
    """Name two networks: once, if they differ in seeds or data order alone."""
    ends = [
        job if record is None else names[record.identity]
        for job, record in zip(pair.ends, (pair.one, pair.other), strict=True)
    ]
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


def distance_matrices(distances: Sequence[Distance]) -> list[Drawing]:
    """Draw angle and L2 distance between all networks of a run, as matrices; means over the seeds."""
    groups: dict[str, dict[tuple[str, str], list[Distance]]] = {}
    ordered: dict[str, dict[str, tuple[int, float]]] = {}
    names = names_of(distances)
    for distance in distances:
        ends = [job if end is None else names[end.identity] for job, end in _ends(distance)]
        arch = next((end.arch for end in (distance.one, distance.other) if end is not None), distance.run)
        groups.setdefault(arch, {}).setdefault((ends[0], ends[1]), []).append(distance)
        for name, (_, record) in zip(ends, _ends(distance), strict=True):
            level = -1 if record is None or record.level is None else record.level
            ordered.setdefault(arch, {}).setdefault(name, (level, -1.0 if record is None else -record.density))
    return [
        _matrices(f"distances-{place}" if place else "distances", arch, pairs, ordered[arch])
        for place, (arch, pairs) in enumerate(groups.items())
    ]


def _matrices(
    name: str, arch: str, pairs: Mapping[tuple[str, str], Sequence[Distance]], order: Mapping[str, tuple[int, float]]
) -> Drawing:
    labels = sorted(order, key=lambda label: order[label])
    figures: dict[str, Callable[[Distance], float]] = {
        "angle (degrees)": lambda distance: distance.angle,
        "L2 distance": lambda distance: distance.l2,
    }
    side = 2.2 + 0.42 * len(labels)
    figure = new_figure(min(16.0, 2 * side + 1.5), min(9.0, side + 0.4))
    grid = figure.subplots(1, 2, squeeze=False)
    # a shared end of all labels is said once, in the title
    tails = [f", {arch}"]
    short = [_without(label, tails) for label in labels]
    for axes, (heading, figure_of) in zip(grid[0], figures.items(), strict=True):
        values = np.full((len(labels), len(labels)), np.nan)
        np.fill_diagonal(values, 0.0)
        for (one, other), members in pairs.items():
            mean = statistics.mean(figure_of(distance) for distance in members)
            values[labels.index(one), labels.index(other)] = values[labels.index(other), labels.index(one)] = mean
        image = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0)
        axes.set_xticks(range(len(labels)), short, rotation=45, ha="right", fontsize="x-small")
        axes.set_yticks(range(len(labels)), short, fontsize="x-small")
        axes.set_title(heading, fontsize="small")
        if len(labels) <= 12:
            top = float(np.nanmax(values)) or 1.0
            for row in range(len(labels)):
                for column in range(len(labels)):
                    if np.isfinite(values[row, column]):
                        ink = "white" if values[row, column] < 0.6 * top else "black"
                        text = f"{values[row, column]:.3g}"
                        axes.text(column, row, text, ha="center", va="center", fontsize=6, color=ink)
        figure.colorbar(image, ax=axes, fraction=0.046)
    figure.suptitle(f"Distance between trained networks, {arch}", fontsize="medium")
    caption = "Over the weights that both networks keep; white cells were not measured. Means over the seeds."
    return Drawing(name, f"Distances, {arch}", figure, caption)


def _without(label: str, tails: Sequence[str]) -> str:
    for tail in tails:
        label = label.replace(tail, "")
    return label


def _ends(pair: Line | Distance) -> list[tuple[str, Record | None]]:
    return list(zip(pair.ends, (pair.one, pair.other), strict=True))


def _method(line: Line) -> str:
    return next((end.method for end in (line.one, line.other) if end is not None), "line")


def _mean_curve(members: Sequence[Line], way: str) -> list[Point]:
    points = []
    for place, alpha in enumerate(members[0].alphas):
        errors = [100 * line.errors[way][place] for line in members if len(line.alphas) == len(members[0].alphas)]
        points.append(Point(alpha, statistics.mean(errors), statistics.stdev(errors) if len(errors) > 1 else None))
    return points
