"""A mask update from outside: AC/DC (Peste et al. 2021), phases of sparse and of dense training in turn.

    python -m elth_dist.train --plugins examples/mask_update.py --config configs/quickstart.yaml \
        --method '{name: acdc, density: 0.1, phase: 11}'

The loop calls `after_step` on every rank with equal weights; whoever changes masks calls `_change`, which puts them in
force and proves that all ranks hold the same.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from elth_dist import MaskUpdate, Updater, updates
from elth_dist.sparsity.updates.base import Interval, interval_steps, step_cost
from elth_dist.sparsity.updates.updater import Agree, PeriodicUpdater

if TYPE_CHECKING:
    from torch import Tensor

    from elth_dist.sparsity.masks import Masks


@updates.add
class AcDc(MaskUpdate):
    """AC/DC: dense and sparse phases in turn; the last phase is sparse (Peste et al. 2021, algorithm 1)."""

    label: ClassVar[str] = "AC/DC"
    name: Literal["acdc"] = "acdc"
    distribution: Literal["global"] = Field(default="global", description="prune by global magnitude")
    phase: Interval = Field(default=100, description="length of a phase: optimizer steps, epochs or a share")

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
        phase = interval_steps(self.phase, total_steps, steps_per_epoch)
        return AcDcUpdater(dense, phase, round(density * dense.total) if kept is None else kept, total_steps, agree)

    def cost(
        self,
        sparse: float,
        dense: float,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int = 1,
        convention: str = "exact",
    ) -> float:
        """Half of the steps cost 3 f_D, half 3 f_S."""
        return (step_cost(sparse, dense) + step_cost(dense, dense)) / 2


class AcDcUpdater(PeriodicUpdater):
    """Keep all weights in even phases and the largest ones in odd phases."""

    def __init__(self, dense: "Masks", phase: int, kept: int, total_steps: int, agree: Agree) -> None:
        super().__init__(dense, agree)
        self._dense, self._phase, self._kept = dense, phase, kept
        self._last = (total_steps - 1) // phase * phase  # where the last phase begins

    def after_step(self, step: int, finite: "Tensor | bool") -> None:
        done = step + 1
        if not self._comes(done % self._phase == 0 or done == self._last, finite):
            return
        dense = self._dense.to(self._weights.device)
        compressed = done // self._phase % 2 == 1 or done >= self._last
        self._change(self._weights.prune(dense, self._kept) if compressed else dense)
