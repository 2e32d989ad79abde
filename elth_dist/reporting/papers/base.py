"""The base of papers' tables and figures, and the comparison of ours with published values."""

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elth_dist.reporting.records import Experiment, Record, Results, short
from elth_dist.reporting.tables import MISSING, Table, with_deviation

if TYPE_CHECKING:
    from elth_dist.reporting.figures.drawing import Drawing

ELTH = "Chen et al. 2021, The Elastic Lottery Ticket Hypothesis"
STABILIZING = "Frankle et al. 2019, Stabilizing the Lottery Ticket Hypothesis"
MAENE = "Maene et al. 2021, Towards Understanding Iterative Magnitude Pruning"

#: E-LTH's recipes (section 4 and appendix): options of ours by name, as text.
ELTH_IMAGENET = {
    "setting.data.name": "imagenet",
    "setting.train.epochs": "90",
    "setting.train.global_batch": "1024",
    "setting.train.lr": "0.4",
    "setting.train.milestones": "30ep,60ep,80ep",
    "setting.train.warmup": "5ep",
    "setting.train.weight_decay": "0.0001",
    "setting.train.optimizer.name": "sgd",
}
ELTH_CIFAR10 = {
    "setting.data.name": "cifar10",
    "setting.train.epochs": "160",
    "setting.train.global_batch": "128",
    "setting.train.lr": "0.1",
    "setting.train.milestones": "80ep,120ep",
    "setting.train.warmup": "0",
    "setting.train.weight_decay": "0.0001",
    "setting.train.optimizer.name": "sgd",
}


@dataclass(frozen=True)
class Drawn:
    """What a figure of a paper becomes with our records."""

    tables: "tuple[Table, ...]" = ()
    drawings: "tuple[Drawing, ...]" = ()
    notes: tuple[str, ...] = ()


class PaperFigure:
    """A table or figure of a paper. A subclass registers itself with `@paper_figures.add`."""

    #: As it is chosen: `elth_table1`.
    name: ClassVar[str]
    #: The paper, and which of its tables or figures.
    paper: ClassVar[str]
    where: ClassVar[str]
    #: What it shows, one sentence.
    shows: ClassVar[str]
    #: Datasets that it is drawn for without being chosen by name; empty: any.
    datasets: ClassVar[tuple[str, ...]] = ()

    def fits(self, results: Results) -> bool:
        """Tell whether the records are of the paper's dataset."""
        return not self.datasets or any(record.dataset in self.datasets for record in results.records)

    @abstractmethod
    def draw(self, results: Results) -> Drawn | None:
        """Draw it; None if the records that it needs are not there."""


def departures(record: Record, recipe: Mapping[str, str]) -> list[str]:
    """The options in which a record departs from a published recipe: "train.epochs 4 (published: 90)"."""
    found = [(name, record.option(name), value) for name, value in recipe.items()]
    return [f"{short(name)} {ours} (published: {value})" for name, ours, value in found if ours not in (None, value)]


@dataclass(frozen=True)
class Cell:
    """Ours and the published value of one cell, top-1 in percent."""

    experiment: Experiment | None
    published: float | None
    same: bool
    """Whether ours was made by the published recipe."""

    @property
    def ours(self) -> str:
        """Mean, deviation and number of seeds."""
        if self.experiment is None:
            return MISSING
        return f"{with_deviation(self.experiment)} (n {len(self.experiment.records)})"

    @property
    def difference(self) -> str:
        """Ours minus published, in points."""
        if self.experiment is None or self.published is None or not self.same:
            return MISSING
        return f"{100 * self.experiment.accuracy - self.published:+.2f}"


def cell(experiment: Experiment | None, published: float | None, recipe: Mapping[str, str]) -> Cell:
    """Compare an experiment with a published value."""
    return Cell(experiment, published, experiment is not None and not departures(experiment.first, recipe))


def compared(
    name: str,
    title: str,
    corner: str,
    cells: Mapping[str, Mapping[str, Cell]],
    *,
    recipe: Mapping[str, str],
    caption: str,
    notes: Iterable[str] = (),
) -> Table:
    """Lay out cells by row and column: ours, and below, where the recipe is the same, theirs and the difference.

    Args:
        name: of the table's file.
        title: of the table.
        corner: heading of the first column.
        cells: by row and column; a missing column of a row is a missing cell.
        recipe: the published one, for the note where ours departs from it.
        caption: what the cells are.
        notes: more to say.
    """
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    rows: list[tuple[str, ...]] = []
    for heading, row in cells.items():
        rows.append((heading, "ours", *(row[column].ours if column in row else MISSING for column in columns)))
        if any(found.same and found.published is not None for found in row.values()):
            published = [row[column].published if column in row else None for column in columns]
            rows.append((heading, "published", *(MISSING if value is None else f"{value:.2f}" for value in published)))
            difference = [row[column].difference if column in row else MISSING for column in columns]
            rows.append((heading, "difference", *difference))
    firsts = [found.experiment.first for row in cells.values() for found in row.values() if found.experiment]
    apart = list(dict.fromkeys(text for first in firsts for text in departures(first, recipe)))
    if apart:
        notes = (*notes, f"Not the published setting, so not compared with it: {'; '.join(apart)}.")
    return Table(title, (corner, "", *columns), tuple(rows), caption, tuple(notes), left=(corner, ""), name=name)


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts resnet9 before resnet18."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def levels_with(records: Sequence[Record], chosen: Callable[[Record], bool]) -> list[int]:
    """The IMP levels at which there are chosen records, those with most records first."""
    counts: dict[int, int] = {}
    for record in records:
        if record.level is not None and chosen(record):
            counts[record.level] = counts.get(record.level, 0) + 1
    return sorted(counts, key=lambda level: (-counts[level], -level))
