"""Accuracy over density, and accuracy over what it cost."""

from collections.abc import Callable, Iterable, Sequence

from elth_dist.reporting.figures.drawing import DENSITY, Curve, Drawing, Point, Scale, panels
from elth_dist.reporting.records import Experiment, Record, experiments


def curves_of(
    records: Sequence[Record], x: Callable[[Experiment], float | None] = lambda experiment: experiment.density
) -> list[Curve]:
    """Make one curve per method and its options, over all densities; means over the seeds.

    Args:
        records: of one network.
        x: where an experiment lies; those without are left out.
    """
    found = experiments(record for record in records if record.density > 0)
    groups: dict[tuple[str, str], list[Experiment]] = {}
    for experiment in found:
        groups.setdefault((experiment.first.method, experiment.label), []).append(experiment)
    return [
        Curve(label, method, _points(members, x), joined=len(members) > 1)
        for (method, label), members in groups.items()
    ]


def by_network(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by network, and by dataset where there are several."""
    members = list(records)
    several = len({record.dataset for record in members}) > 1
    groups: dict[str, list[Record]] = {}
    for record in members:
        groups.setdefault(f"{record.arch} ({record.dataset})" if several else record.arch, []).append(record)
    return groups


def accuracy_over_density(records: Sequence[Record], *, name: str = "accuracy", title: str = "") -> Drawing:
    """Draw top-1 over density, one panel per network."""
    return panels(
        name,
        title or "Accuracy over density",
        {arch: curves_of(members) for arch, members in by_network(records).items()},
        x=DENSITY,
        caption="Means over the seeds; bars are one sample standard deviation, where there are several seeds.",
    )


def accuracy_over_flops(records: Sequence[Record], *, name: str = "flops") -> Drawing:
    """Draw top-1 over training FLOPs with history, one panel per network."""
    return panels(
        name,
        "Accuracy over training FLOPs",
        {arch: curves_of(members, _history) for arch, members in by_network(records).items()},
        x=Scale("FLOPs with history (1 = one dense training of the network)", log=True),
        caption="With history: the FLOPs of every training that a result depends on, each once; a ticket's search is "
        "part of it.",
    )


def _history(experiment: Experiment) -> float | None:
    return experiment.mean(lambda record: record.relative_history)


def _points(members: Sequence[Experiment], x: Callable[[Experiment], float | None]) -> list[Point]:
    points = []
    for experiment in members:
        at, deviation = x(experiment), experiment.deviation
        if at is not None and at > 0:
            spread = None if deviation is None else 100 * deviation
            points.append(Point(at, 100 * experiment.accuracy, spread, experiment.failed))
    return points
