"""dense: train without masks."""

from typing import Literal

from elth_dist.jobs.controls.base import add_dense
from elth_dist.jobs.graph import Graph
from elth_dist.jobs.methods.base import Method
from elth_dist.jobs.setting import Setting
from elth_dist.registry import methods


@methods.add
class DenseMethod(Method):
    """Train without masks, from initialisation to the end."""

    name: Literal["dense"] = "dense"

    def plan(self, graph: Graph, setting: Setting) -> None:
        add_dense(graph, setting)
