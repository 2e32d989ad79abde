"""Trainings of the same tickets in several data orders, and what lies between the results. No torch here."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from elth_dist.jobs.graph import Graph
from elth_dist.jobs.kinds.distance import DistanceJob
from elth_dist.jobs.kinds.line import LineJob, LineOptions
from elth_dist.jobs.setting import Setting
from elth_dist.options import Options

#: What a training of a ticket itself is called, among the controls of `stability.of`.
TICKET = "ticket"


@dataclass(frozen=True)
class Trained:
    """A job that trains a ticket."""

    name: str
    what: str  # TICKET, or the name of the control
    setting: Setting
    level: int | None  # of IMP; None: another network's ticket


class StabilityOptions(Options):
    """Stability to data order, and linear mode connectivity (Frankle et al. 2019, section 4; 2020)."""

    orders: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="data orders after theta_r, in each of which a ticket is trained; its masks stay"
    )
    levels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, description="levels of the tickets, besides transferred ones; null: the last"
    )
    of: tuple[str, ...] = Field(
        default=(TICKET,),
        description="what is trained in several orders: ticket (levels and transfers), or names of controls",
    )
    line: LineOptions | None = Field(
        default=LineOptions(), description="the lines between trained networks; null: only distances"
    )
    consecutive: bool = Field(
        default=False, description="also draw the line from each level to the next, and measure distances of all levels"
    )

    def plan(self, graph: Graph, trained: Sequence[Trained], last: int) -> None:
        """Add the further trainings, then lines and distances.

        Args:
            graph: has the jobs of `trained`.
            trained: jobs that train tickets in the usual data order.
            last: the last level.
        """
        chosen = (last,) if self.levels is None else self.levels
        for job in trained:
            if job.what in self.of and (job.level is None or job.level in chosen):
                self._plan_orders(graph, job)
        levels = [job for job in trained if job.what == TICKET and job.level is not None]
        if self.consecutive and len(levels) > 1:
            for one, other in itertools.pairwise(levels):
                self._add_line(graph, f"{one.name}-{other.name}", one.setting, one.name, other.name)
            names = [job.name for job in levels]
            options, inputs = _distance(names, names)
            graph.add("distance-levels", options, **inputs)

    def _plan_orders(self, graph: Graph, job: Trained) -> None:
        first = graph[job.name]
        names = [job.name]
        for order in range(1, self.orders):
            options = first.options.model_copy(update={"order": order})
            names.append(graph.add(f"{job.name}-order-{order}", options, **first.inputs))
        pairs = list(itertools.combinations(range(self.orders), 2))
        for one, other in pairs:
            which = "" if len(pairs) == 1 else f"-orders-{one}-{other}"
            self._add_line(graph, f"{job.name}{which}", job.setting, names[one], names[other])
        if pairs:
            options, inputs = _distance([f"order {number}" for number in range(self.orders)], names)
            graph.add(f"distance-{job.name}", options, **inputs)

    def _add_line(self, graph: Graph, name: str, setting: Setting, one: str, other: str) -> None:
        if self.line is not None:
            graph.add(f"line-{name}", LineJob(setting=setting, line=self.line), one=one, other=other)


def _distance(labels: Sequence[str], jobs: Sequence[str]) -> tuple[DistanceJob, dict[str, str]]:
    return DistanceJob(labels=tuple(labels)), {f"network_{number}": name for number, name in enumerate(jobs)}
