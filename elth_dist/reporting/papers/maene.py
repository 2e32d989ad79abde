"""Towards Understanding IMP: accuracy over density by batch and warm-up, and how close the optima of levels are."""

from typing import ClassVar

from elth_dist.registry import paper_figures
from elth_dist.reporting.papers.base import MAENE, Drawn, PaperFigure
from elth_dist.reporting.papers.stabilizing import recipes_of
from elth_dist.reporting.records import Results


@paper_figures.add
class MaeneAccuracy(PaperFigure):
    """One panel per method, one curve per batch and warm-up."""

    name: ClassVar[str] = "maene_accuracy"
    paper: ClassVar[str] = MAENE
    where: ClassVar[str] = "Figures 1 to 4"
    shows: ClassVar[str] = "Whether larger batches and longer warm-ups let IMP start from initialisation."
    datasets: ClassVar[tuple[str, ...]] = ("cifar10",)

    def draw(self, results: Results) -> Drawn | None:
        from elth_dist.reporting.figures.accuracy import curves_of
        from elth_dist.reporting.figures.drawing import DENSITY, panels

        records = [r for r in results.records if r.method in ("imp", "reinit", "random") and r.source is None]
        if len(recipes_of([record for record in records if record.method == "imp"])) < 2:
            return None
        methods = dict.fromkeys(record.method for record in records)
        archs = dict.fromkeys(record.arch for record in records)
        curves = {
            f"{arch}, {method}": curves_of([r for r in records if (r.arch, r.method) == (arch, method)])
            for arch in archs
            for method in methods
        }
        drawing = panels(
            self.name,
            "Towards understanding IMP: accuracy over density",
            {title: members for title, members in curves.items() if members},
            x=DENSITY,
            caption="One curve per batch and warm-up. Means over the seeds; bars are one sample standard deviation.",
        )
        return Drawn(drawings=(drawing,))


@paper_figures.add
class MaeneMatrices(PaperFigure):
    """Levels down and across."""

    name: ClassVar[str] = "maene_matrices"
    paper: ClassVar[str] = MAENE
    where: ClassVar[str] = "Figures 5 to 8, 13 and 14"
    shows: ClassVar[str] = (
        "Angle and L2 distance between the optima that IMP's levels reach, and the barriers between them."
    )
    datasets: ClassVar[tuple[str, ...]] = ("cifar10",)

    def draw(self, results: Results) -> Drawn | None:
        from elth_dist.reporting.figures.connectivity import barrier_table, distance_matrices

        distances = [
            distance
            for distance in results.distances
            if len({end.level for end in distance.networks if end is not None and end.method == "imp"}) > 1
        ]
        if not distances:
            return None
        lines = [
            line
            for line in results.lines
            if line.one is not None and line.other is not None and line.one.level != line.other.level
        ]
        matrices = tuple(
            drawing.renamed(f"{self.name}-{place}" if place else self.name)
            for place, drawing in enumerate(distance_matrices(distances))
        )
        tables = (barrier_table(lines),) if lines else ()
        note = "Maene et al. print the angle times 2 / pi (1: orthogonal): divide these degrees by 90."
        return Drawn(tables, matrices, (note,))
