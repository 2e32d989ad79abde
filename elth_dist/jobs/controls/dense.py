"""dense: the network without masks."""

from typing import ClassVar, Literal

from elth_dist.jobs.controls.base import Control, Place, add_dense
from elth_dist.jobs.graph import Graph
from elth_dist.registry import controls


@controls.add
class DenseControl(Control):
    """Train without masks, from initialisation to the end."""

    label: ClassVar[str] = "dense"
    name: Literal["dense"] = "dense"

    def plan(self, graph: Graph, place: Place) -> None:
        add_dense(graph, place.setting)
