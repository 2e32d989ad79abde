"""E-LTH, Figure 8: linear mode connectivity of tickets."""

from typing import ClassVar

from elth_dist.registry import paper_figures
from elth_dist.reporting.papers.base import ELTH, ELTH_CIFAR10, Drawn, PaperFigure, departures
from elth_dist.reporting.records import Line, Results
from elth_dist.reporting.tables import MISSING, Table

#: Largest accuracy drop on ResNet-32 at level 10, in points, by where the ticket comes from.
_PUBLISHED = {"resnet20_cifar": 8.72, "resnet14_cifar": 69.72}


def _of_one_ticket(line: Line) -> bool:
    """Whether the ends of a line are trainings of the same ticket."""
    ends = [
        None if end is None else (end.method, end.what, end.arch, end.level, end.plan, end.seed, end.group)
        for end in (line.one, line.other)
    ]
    return ends[0] is not None and ends[0] == ends[1]


@paper_figures.add
class ElthFigure8(PaperFigure):
    """Accuracy on the line between two data orders, with both kinds of BatchNorm statistics."""

    name: ClassVar[str] = "elth_figure8"
    paper: ClassVar[str] = ELTH
    where: ClassVar[str] = "Figure 8"
    shows: ClassVar[str] = "Whether two trainings of one ticket, in two data orders, are connected linearly."
    datasets: ClassVar[tuple[str, ...]] = ("cifar10",)

    def draw(self, results: Results) -> Drawn | None:
        from elth_dist.reporting.figures.connectivity import barrier_table, error_on_lines

        lines = [line for line in results.lines if _of_one_ticket(line)]
        drawing = error_on_lines(lines, name=self.name, title="E-LTH, Figure 8: error between two data orders")
        if drawing is None:
            return None
        barriers = barrier_table(lines)
        return Drawn((self._compared(lines), barriers), (drawing,))

    @staticmethod
    def _compared(lines: list[Line]) -> Table:
        from elth_dist.reporting.figures.connectivity import lines_together

        rows = []
        for label, members in lines_together(lines).items():
            first = members[0].one
            assert first is not None
            drops = [100 * line.barriers["val_running"]["elth"] for line in members]
            ours = sum(drops) / len(drops)
            fits = first.arch == "resnet32_cifar" and first.level == 10 and not departures(first, ELTH_CIFAR10)
            published = _PUBLISHED.get(first.source or "") if fits else None
            rows.append(
                (
                    label,
                    str(len(members)),
                    f"{ours:.2f}",
                    MISSING if published is None else f"{published:.2f}",
                    MISSING if published is None else f"{ours - published:+.2f}",
                )
            )
        return Table(
            "E-LTH, Figure 8: largest accuracy drop (points), running BatchNorm statistics",
            ("ticket", "n", "ours", "published", "difference"),
            tuple(rows),
            caption="Published: ResNet-32, level 10; running statistics interpolated, as ours here. Mean over n pairs.",
            left=("ticket",),
            name="elth_figure8",
        )
