"""E-LTH, Figures 6 and 7: tickets of all depths on all depths, over sparsity."""

from abc import abstractmethod
from typing import ClassVar

from elth_dist.registry import paper_figures
from elth_dist.reporting.papers.base import ELTH, ELTH_CIFAR10, Cell, Drawn, PaperFigure, cell, compared, natural
from elth_dist.reporting.records import Record, Results, experiments
from elth_dist.reporting.tables import Table

#: Top-1 at level 10 of ResNet-20 and -32 (E-LTH, Table 6), by network and row.
_LEVEL_10 = {
    ("resnet20_cifar", "IMP"): 91.07,
    ("resnet32_cifar", "IMP"): 92.22,
    ("resnet32_cifar", "ETT <- resnet20_cifar"): 91.38,
}
_PUBLISHED_LEVEL = 10


class _Depths(PaperFigure):
    paper: ClassVar[str] = ELTH
    datasets: ClassVar[tuple[str, ...]] = ("cifar10",)

    @staticmethod
    @abstractmethod
    def _is_ours(record: Record) -> bool:
        """Tell whether the figure shows the network."""

    def draw(self, results: Results) -> Drawn | None:
        from elth_dist.reporting.figures.accuracy import by_network, curves_of
        from elth_dist.reporting.figures.drawing import DENSITY, panels

        records = [record for record in results.records if self._is_ours(record)]
        targets = {record.arch for record in records if record.method == "ett"}
        if not targets:
            return None
        # controls of a transferred ticket have a curve for each source: what they are made of is enough
        records = [record for record in records if record.arch in targets and record.method != "dense"]
        groups = sorted(by_network(records).items(), key=lambda group: natural(group[0]))
        drawing = panels(
            self.name,
            f"E-LTH, {self.where}: transferred tickets on each network",
            {arch: curves_of(members) for arch, members in groups},
            x=DENSITY,
            caption="One panel per target. Means over the seeds; bars are one sample standard deviation.",
        )
        return Drawn((self._table(records),), (drawing,))

    def _table(self, records: list[Record]) -> Table:
        found = experiments(record for record in records if record.method in ("imp", "ett") and record.level)
        levels = sorted({entry.first.level or 0 for entry in found if entry.first.method == "ett"})
        cells: dict[str, dict[str, Cell]] = {}
        for entry in sorted(found, key=lambda entry: (natural(entry.first.arch), natural(entry.label))):
            level = entry.first.level or 0
            if level in levels:
                published = _LEVEL_10.get((entry.first.arch, entry.label)) if level == _PUBLISHED_LEVEL else None
                heading = f"{entry.first.arch}: {entry.label}"
                cells.setdefault(heading, {})[f"level {level}"] = cell(entry, published, ELTH_CIFAR10)
        empty = Cell(None, None, same=False)
        whole = {
            row: {f"level {level}": line.get(f"level {level}", empty) for level in levels}
            for row, line in cells.items()
        }
        return compared(
            self.name,
            f"E-LTH, {self.where}: top-1 (%) by level",
            "network: ticket",
            whole,
            recipe=ELTH_CIFAR10,
            caption="Mean ± sample standard deviation over n seeds. Published: Table 6, level 10.",
        )


@paper_figures.add
class ElthFigure6(_Depths):
    """Residual networks."""

    name: ClassVar[str] = "elth_figure6"
    where: ClassVar[str] = "Figure 6"
    shows: ClassVar[str] = "Tickets of CIFAR ResNets moved to every other depth, over sparsity."

    @staticmethod
    def _is_ours(record: Record) -> bool:
        return not record.arch.startswith("vgg")


@paper_figures.add
class ElthFigure7(_Depths):
    """VGGs."""

    name: ClassVar[str] = "elth_figure7"
    where: ClassVar[str] = "Figure 7"
    shows: ClassVar[str] = "Tickets of VGGs moved to every other depth, over sparsity."

    @staticmethod
    def _is_ours(record: Record) -> bool:
        return record.arch.startswith("vgg")
