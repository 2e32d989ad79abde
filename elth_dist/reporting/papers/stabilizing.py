"""Stabilizing the LTH: accuracy over density by recipe and rewind step, and stability over the rewind step."""

import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from elth_dist.registry import paper_figures
from elth_dist.reporting.papers.base import STABILIZING, Drawn, PaperFigure
from elth_dist.reporting.records import Distances, Line, Record, Results, differences

if TYPE_CHECKING:
    from elth_dist.reporting.figures.drawing import Curve

_METHODS = ("imp", "random", "reinit", "random_reinit", "snip", "magnitude")


def recipes_of(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by network and by the options of training in which they differ, as titles of panels."""
    groups: dict[str, list[Record]] = {}
    archs = dict.fromkeys(record.arch for record in records)
    for arch in archs:
        members = [record for record in records if record.arch == arch]
        for record, more in zip(members, differences(members), strict=True):
            told = [f"{name} {value}" for name, value in more.items() if name.startswith("train.")]
            groups.setdefault(", ".join([arch, *told]), []).append(record)
    return groups


@paper_figures.add
class StabilizingAccuracy(PaperFigure):
    """One panel per network and recipe; the rewind step is one of the options that tell curves apart."""

    name: ClassVar[str] = "stabilizing_accuracy"
    paper: ClassVar[str] = STABILIZING
    where: ClassVar[str] = "Figures 1, 7, 8 and 12"
    shows: ClassVar[str] = "Accuracy of IMP's tickets, by rewind step, and of their controls over density."
    datasets: ClassVar[tuple[str, ...]] = ("cifar10", "imagenet")

    def draw(self, results: Results) -> Drawn | None:
        from elth_dist.reporting.figures.accuracy import curves_of
        from elth_dist.reporting.figures.drawing import DENSITY, panels

        records = [record for record in results.records if record.method in _METHODS and record.source is None]
        own = {record.arch for record in records if record.method == "imp"}
        records = [record for record in records if record.arch in own]
        if not any(record.level for record in records) or len({record.method for record in records}) < 2:
            return None
        drawing = panels(
            self.name,
            "Stabilizing the LTH: accuracy over density",
            {title: curves_of(members) for title, members in recipes_of(records).items()},
            x=DENSITY,
            caption="One panel per recipe. The paper calls the density sparsity (the share that remains). Means over "
            "the seeds; bars are one sample standard deviation.",
        )
        return Drawn(drawings=(drawing,))


@paper_figures.add
class StabilizingRewind(PaperFigure):
    """One panel per measure; a curve per method."""

    name: ClassVar[str] = "stability_over_rewind"
    paper: ClassVar[str] = STABILIZING
    where: ClassVar[str] = "Figures 3 to 5 and 9 to 11; barriers as in Frankle et al. 2020"
    shows: ClassVar[str] = "Distance, angle and error barrier between two trainings over the rewind step r."
    datasets: ClassVar[tuple[str, ...]] = ("cifar10", "imagenet")

    def draw(self, results: Results) -> Drawn | None:
        from elth_dist.reporting.figures.drawing import Scale, panels

        ends = [line.one for line in results.lines] + [end for found in results.distances for end in found.networks]
        steps = {end.start_step for end in ends if end is not None}
        if len(steps) < 2:
            return None
        curves = {
            "error barrier, running BN (points)": _over_rewind(_barriers(results.lines, "val_running")),
            "error barrier, re-estimated BN (points)": _over_rewind(_barriers(results.lines, "val_reestimated")),
            "L2 distance": _over_rewind(_pairs(results.distances, "l2")),
            "angle (degrees)": _over_rewind(_pairs(results.distances, "angle")),
        }
        drawing = panels(
            self.name,
            "Stability over the rewind step",
            {heading: members for heading, members in curves.items() if members},
            x=Scale("rewind step r (optimizer steps)"),
            y="see the panel's title",
            columns=2,
            clip=False,
            caption="Barrier: highest error on the line minus the mean of the ends'; stable below 2 points (Frankle et "
            "al. 2020). Means over the pairs; bars are one sample standard deviation.",
        )
        return Drawn(drawings=(drawing,))


_Found = Iterable[tuple[Record | None, Record | None, float]]


def _barriers(lines: Sequence[Line], way: str) -> _Found:
    """The ends of lines with the height of the barrier between them, in points."""
    return [(line.one, line.other, 100 * line.barriers[way]["frankle"]) for line in lines if way in line.barriers]


def _pairs(distances: Sequence[Distances], measure: str) -> _Found:
    """Pairs of networks with their distance."""
    return [
        (found.networks[row], found.networks[column], found.total[measure][row][column])
        for found in distances
        for row in range(len(found.networks))
        for column in range(row)
    ]


def _over_rewind(pairs: _Found) -> "list[Curve]":
    from elth_dist.reporting.figures.drawing import Curve, Point

    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for one, other, value in pairs:
        if one is None or other is None or one.start_step != other.start_step:
            continue
        level = "" if one.level is None else f", level {one.level}"
        if (one.level, one.what) != (other.level, other.what):
            level += f" to {other.what}" + ("" if other.level is None else f", level {other.level}")
        label = f"{one.what}{level} ({one.arch})"
        values.setdefault((one.method, label), {}).setdefault(one.start_step, []).append(value)
    return [
        Curve(
            label,
            method,
            [
                Point(float(step), statistics.mean(found), statistics.stdev(found) if len(found) > 1 else None)
                for step, found in steps.items()
            ],
        )
        for (method, label), steps in values.items()
    ]
