"""snip_copies: SNIP's masks in what a transfer copied (E-LTH, figure 3)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from elth_dist.jobs.controls.base import Control, Place, train_job
from elth_dist.jobs.graph import Graph
from elth_dist.jobs.kinds.prune import PruneJob
from elth_dist.jobs.setting import Setting
from elth_dist.registry import controls
from elth_dist.sparsity.criteria.base import Batches
from elth_dist.sparsity.criteria.snip import Snip


@controls.add
class SnipCopies(Control):
    """SNIP's masks in what the transfer copied, at each layer's density; elsewhere the ticket's."""

    label: ClassVar[str] = "SNIP in the copies"
    of_copies: ClassVar[bool] = True
    of_files: ClassVar[bool] = True
    name: Literal["snip_copies"] = "snip_copies"
    batches: Batches = Field(default=None, description="global batches that SNIP's gradient is averaged over; null: 1")

    def plan(self, graph: Graph, place: Place) -> str:
        name = f"{self.name}-{place.name}"
        mask = graph.add(f"mask-{name}", self._prune(place.setting), ticket=place.ticket, like=place.ticket)
        return graph.add(name, train_job(place.setting), ticket=mask)

    def plan_file(self, graph: Graph, setting: Setting, path: str | None, inputs: Mapping[str, str]) -> None:
        likes = {"like": inputs["ticket"]} if inputs else {}
        mask = graph.add("mask", self._prune(setting, path), **inputs, **likes)
        graph.add("train", train_job(setting), ticket=mask)

    def _prune(self, setting: Setting, path: str | None = None) -> PruneJob:
        criterion = Snip(matched="layerwise", batches=self.batches)
        return PruneJob(setting=setting, criterion=criterion, path=path, copies=True)
