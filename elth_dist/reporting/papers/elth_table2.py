"""E-LTH, Table 2 and section 4.5: transferred tickets and RigL, with their training FLOPs."""

from typing import ClassVar

from elth_dist.registry import paper_figures
from elth_dist.reporting.papers.base import (
    ELTH,
    ELTH_IMAGENET,
    Drawn,
    PaperFigure,
    cell,
    departures,
    levels_with,
    natural,
)
from elth_dist.reporting.papers.elth_table1 import PUBLISHED as TABLE1
from elth_dist.reporting.records import Experiment, Results, experiments
from elth_dist.reporting.tables import MISSING, Table, multiple

_NETS = ("resnet18", "resnet26", "resnet34")
#: Top-1 of RigL-5x; training FLOPs of RigL-5x and of one ticket, in dense trainings of ResNet-34.
_RIGL = (69.59, 72.66, 73.88)
_RIGL_FLOPS = ("0.69", "1.0", "1.30")
_TICKET_FLOPS = ("0.14", "0.20", "0.26")


@paper_figures.add
class ElthTable2(PaperFigure):
    """One row per network and method."""

    name: ClassVar[str] = "elth_table2"
    paper: ClassVar[str] = ELTH
    where: ClassVar[str] = "Table 2 and section 4.5"
    shows: ClassVar[str] = "Transferred tickets beside RigL, with the FLOPs of their training."
    datasets: ClassVar[tuple[str, ...]] = ("imagenet",)

    def draw(self, results: Results) -> Drawn | None:
        levels = levels_with(results.records, lambda record: record.method == "ett")
        if not levels or not any(record.method == "rigl" for record in results.records):
            return None
        level = 6 if 6 in levels else levels[0]
        found = [
            entry
            for entry in experiments(results.records)
            if (entry.first.method in ("ett", "imp") and entry.first.level == level) or entry.first.method == "rigl"
        ]
        found.sort(key=lambda entry: (natural(entry.first.arch), entry.first.method != "rigl", natural(entry.label)))
        unit = max(entry.first.dense_train_flops for entry in found)
        largest = next(entry.first.arch for entry in found if entry.first.dense_train_flops == unit)
        rows = tuple(self._row(entry, unit) for entry in found)
        apart = dict.fromkeys(text for entry in found for text in departures(entry.first, ELTH_IMAGENET))
        notes = [f"Not the published setting, so not compared with it: {'; '.join(apart)}."] if apart else []
        table = Table(
            f"E-LTH, Table 2: top-1 (%) and training FLOPs at level {level}",
            (
                *("network", "method", "top-1 % (ours)", "published", "difference", "density"),
                *("training FLOPs", "with history", "published FLOPs"),
            ),
            rows,
            caption=f"1x is one dense training of {largest}, from real layer densities. The published FLOPs are ratios "
            "of depths times 0.26, of one training: finding the ticket is 2.77 more (`python -m elth_dist.accounting "
            "--paper`).",
            notes=tuple(notes),
            left=("network", "method"),
            name=self.name,
        )
        return Drawn((table,))

    @staticmethod
    def _row(entry: Experiment, unit: int) -> tuple[str, ...]:
        first = entry.first
        place = _NETS.index(first.arch) if first.arch in _NETS else None
        published, flops = None, MISSING
        if place is not None and first.method == "rigl" and first.option("update.multiplier") == "5":
            published, flops = _RIGL[place], _RIGL_FLOPS[place]
        elif place is not None and first.method in ("ett", "imp"):
            published = TABLE1.get(first.what if first.method == "ett" else "imp", (None,) * 3)[place]
            flops = _TICKET_FLOPS[place]
        found = cell(entry, published, ELTH_IMAGENET)
        shown = published is not None and found.same
        return (
            first.arch,
            entry.label,
            found.ours,
            f"{published:.2f}" if shown else MISSING,
            found.difference,
            f"{entry.density:.4f}",
            multiple(entry.mean(lambda record: record.train_flops / unit)),
            multiple(entry.mean(lambda record: None if record.history_flops is None else record.history_flops / unit)),
            flops if shown else MISSING,
        )
