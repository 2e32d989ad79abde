"""E-LTH, Table 1: ImageNet accuracy at 73.79 % sparsity."""

from collections.abc import Mapping
from typing import ClassVar

from elth_dist.registry import paper_figures
from elth_dist.reporting.papers.base import (
    ELTH,
    ELTH_IMAGENET,
    Cell,
    Drawn,
    PaperFigure,
    cell,
    compared,
    levels_with,
    natural,
)
from elth_dist.reporting.records import Experiment, Results, experiments

_NETS = ("resnet18", "resnet26", "resnet34")
#: Top-1 by column, for ResNet-18, 26 and 34 (E-LTH, Table 1).
PUBLISHED: Mapping[str, tuple[float | None, ...]] = {
    "dense": (69.96, 72.56, 73.77),
    "imp": (70.22, 72.94, 74.20),
    "reinit": (62.88, 66.97, 68.36),
    "random": (63.10, 67.07, 68.68),
    "magnitude": (64.96, 68.51, 69.74),
    "snip": (62.23, 67.51, 69.35),
    "grasp": (62.85, 67.24, 69.23),
    "ETT <- resnet18": (None, 71.29, 71.86),
    "ETT <- resnet26": (68.17, None, 73.37),
    "ETT <- resnet34": (68.08, 72.47, None),
}
#: Rows that the authors' code computed by variants of its own; ours are the same only with `variant: elth_code`.
_OF_THEIR_CODE = ("random", "snip", "grasp")
_VARIANTS = (
    "Published Random, SNIP and GraSP come from variants of the authors' code: compared with `variant: elth_code` only."
)
_METHODS = tuple(name for name in PUBLISHED if not name.startswith("ETT"))


@paper_figures.add
class ElthTable1(PaperFigure):
    """Methods across, networks down."""

    name: ClassVar[str] = "elth_table1"
    paper: ClassVar[str] = ELTH
    where: ClassVar[str] = "Table 1"
    shows: ClassVar[str] = "Transferred tickets beside IMP and pruning at theta_r, on three networks at one sparsity."
    datasets: ClassVar[tuple[str, ...]] = ("imagenet",)

    def draw(self, results: Results) -> Drawn | None:
        levels = levels_with(results.records, lambda record: record.method == "ett")
        if not levels:
            return None
        level = 6 if 6 in levels else levels[0]
        chosen = [
            record
            for record in results.records
            if record.method == "dense" or (record.level == level and record.method in (*_METHODS, "ett"))
            if record.source is None or record.method == "ett"
        ]
        found = experiments(chosen)
        density = next(entry.density for entry in found if entry.first.method == "ett")
        cells: dict[str, dict[str, Cell]] = {}
        for arch in sorted({entry.first.arch for entry in found}, key=natural):
            row = cells.setdefault(arch, {})
            for method in (*_METHODS, "ett"):
                members = [entry for entry in found if (entry.first.arch, entry.first.method) == (arch, method)]
                for entry in sorted(members, key=lambda entry: natural(entry.label)):
                    row[_column(entry)] = self._cell(entry)
        table = compared(
            self.name,
            f"E-LTH, Table 1: top-1 (%) at level {level}",
            "network",
            _in_order(cells),
            recipe=ELTH_IMAGENET,
            caption=f"Density of a transferred ticket: {density:.4f}; the others are in the results. Mean ± sample "
            "standard deviation over n seeds.",
            notes=(_VARIANTS,),
        )
        return Drawn((table,))

    @staticmethod
    def _cell(entry: Experiment) -> Cell:
        first = entry.first
        values = PUBLISHED.get(first.what if first.method == "ett" else first.method)
        variants = (first.option("criterion.variant"), first.option("control.variant"))
        if (
            values is None
            or first.arch not in _NETS
            or (first.method in _OF_THEIR_CODE and "elth_code" not in variants)
        ):
            return cell(entry, None, ELTH_IMAGENET)
        return cell(entry, values[_NETS.index(first.arch)], ELTH_IMAGENET)


def _column(entry: Experiment) -> str:
    """A heading without the ticket that a control is made of, which the row says."""
    what = entry.first.what
    return entry.label.replace(what, what.removesuffix(" (ticket)"))


def _in_order(cells: Mapping[str, Mapping[str, Cell]]) -> dict[str, dict[str, Cell]]:
    """Give all rows the same columns, in the order of the paper; a column that a row lacks is a missing cell."""
    order = [*_METHODS, "ett"]
    methods = {
        column: entry.experiment.first.method
        for row in cells.values()
        for column, entry in row.items()
        if entry.experiment
    }
    columns = sorted(methods, key=lambda column: (order.index(methods[column]), natural(column)))
    empty = Cell(None, None, same=False)
    return {arch: {column: row.get(column, empty) for column in columns} for arch, row in cells.items()}
