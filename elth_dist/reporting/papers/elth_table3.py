"""E-LTH, Table 3: what CIFAR-10 networks lose against dense ones, by transferred tickets and by DPF."""

from collections.abc import Sequence
from typing import ClassVar

from elth_dist.registry import paper_figures
from elth_dist.reporting.papers.base import ELTH, ELTH_CIFAR10, Drawn, PaperFigure, departures, natural
from elth_dist.reporting.records import Experiment, Results, experiments
from elth_dist.reporting.tables import MISSING, Table, percent, with_deviation

#: Drop in points by network and level: DPF, E-LTH.
_PUBLISHED = {
    ("resnet20_cifar", 10): (1.60, 1.64),
    ("resnet20_cifar", 13): (4.47, 4.48),
    ("resnet32_cifar", 10): (1.41, 0.96),
    ("resnet32_cifar", 13): (2.89, 2.83),
    ("resnet56_cifar", 10): (0.56, 0.50),
    ("resnet56_cifar", 13): (1.77, 1.66),
}
#: Largest ratio of the densities of a DPF result and a ticket in one cell.
_NEAR = 1.25


@paper_figures.add
class ElthTable3(PaperFigure):
    """One row per network, sparsity and method."""

    name: ClassVar[str] = "elth_table3"
    paper: ClassVar[str] = ELTH
    where: ClassVar[str] = "Table 3"
    shows: ClassVar[str] = "Accuracy drop against the dense network: transferred tickets and DPF."
    datasets: ClassVar[tuple[str, ...]] = ("cifar10",)

    def draw(self, results: Results) -> Drawn | None:
        found = experiments(results.records)
        tickets = [entry for entry in found if entry.first.method == "ett"]
        updates = [entry for entry in found if entry.first.method == "dpf"]
        dense = [entry for entry in found if entry.first.method == "dense"]
        if not tickets or not updates or not dense:
            return None
        tickets.sort(key=lambda entry: (natural(entry.first.arch), entry.first.level or 0, natural(entry.label)))
        rows = []
        for ticket in tickets:
            near = [
                entry
                for entry in updates
                if entry.first.arch == ticket.first.arch and 1 / _NEAR < entry.density / ticket.density < _NEAR
            ]
            rows += [self._row(entry, ticket, dense) for entry in (*near, ticket)]
        apart = dict.fromkeys(text for entry in tickets for text in departures(entry.first, ELTH_CIFAR10))
        note = f"Not the published setting, so not compared with it: {'; '.join(apart)}." if apart else ""
        table = Table(
            "E-LTH, Table 3: accuracy drop against dense (points)",
            ("network", "level", "method", "density", "top-1 %", "dense %", "drop", "published", "difference"),
            tuple(dict.fromkeys(rows)),
            caption="Drop: mean top-1 of the dense network trained as long minus that of the sparse one. "
            "The published dense accuracies (92.48, 93.83, 94.51) are probably DPF's own networks, for both columns.",
            notes=(note,) if note else (),
            left=("network", "method"),
            name=self.name,
        )
        return Drawn((table,))

    @staticmethod
    def _row(entry: Experiment, ticket: Experiment, dense: Sequence[Experiment]) -> tuple[str, ...]:
        first, level = entry.first, ticket.first.level
        own = [other for other in dense if other.first.arch == first.arch]
        alike = [other for other in own if _length(other) == _length(entry)]
        reference = next(iter(alike or own), None)
        published = _PUBLISHED.get((first.arch, level or 0))
        value = None if published is None else published[0 if first.method == "dpf" else 1]
        drop = None if reference is None else reference.accuracy - entry.accuracy
        same = first.method == "dpf" or not departures(first, ELTH_CIFAR10)
        shown = value if same and not departures(ticket.first, ELTH_CIFAR10) else None
        return (
            first.arch,
            str(level),
            entry.label,
            f"{entry.density:.4f}",
            with_deviation(entry),
            percent(None if reference is None else reference.accuracy),
            percent(drop),
            MISSING if shown is None else f"{shown:.2f}",
            MISSING if shown is None or drop is None else f"{100 * drop - shown:+.2f}",
        )


def _length(entry: Experiment) -> str | None:
    return entry.first.option("setting.train.epochs")
