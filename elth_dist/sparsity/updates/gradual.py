"""Gradual magnitude pruning (Zhu & Gupta 2018)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from elth_dist.registry import updates
from elth_dist.sparsity.updates.base import Point, step_cost
from elth_dist.sparsity.updates.ramp import RampedUpdate, RampedUpdater
from elth_dist.sparsity.updates.updater import Agree, Updater

if TYPE_CHECKING:
    from torch import Tensor

    from elth_dist.sparsity.masks import Masks


@updates.add
class Gradual(RampedUpdate):
    """Gradual magnitude pruning with a cubic schedule (Zhu & Gupta 2018), at the points of RigL's baseline."""

    label: ClassVar[str] = "gradual"
    name: Literal["gradual"] = "gradual"
    begin: Point = Field(
        default=0.3125, description="end of the dense phase: a fraction of the training (10k of 32k steps) or a step"
    )
    end: Point = Field(
        default=0.78125, description="last pruning: a fraction of the training (25k of 32k steps) or a step"
    )

    def create(
        self,
        dense: "Masks",
        *,
        density: float,
        kept: int | None = None,
        seed: int,
        total_steps: int,
        steps_per_epoch: int,
        agree: Agree,
    ) -> Updater:
        return GradualUpdater(dense, self.density_ramp(dense, density, kept, total_steps, steps_per_epoch), agree)

    def cost(
        self,
        sparse: float,
        dense: float,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int = 1,
        convention: str = "exact",
    ) -> float:
        """E_t[3 f(t)]."""
        return step_cost(self.mean_forward(sparse, dense, total_steps, steps_per_epoch), dense)


class GradualUpdater(RampedUpdater):
    """Prune the smallest kept weights, after the optimizer's step; pruned weights stay pruned."""

    def after_step(self, step: int, finite: "Tensor | bool") -> None:
        if self._comes(self._ramp.due(step + 1, self._ramp.end), finite):
            self._prune(self._masks, step + 1)
