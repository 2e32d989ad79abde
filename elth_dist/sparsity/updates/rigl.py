"""RigL: grow where the dense gradient is largest (Evci et al. 2020)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from elth_dist.registry import updates
from elth_dist.sparsity.updates.base import interval_steps, step_cost
from elth_dist.sparsity.updates.drop_and_grow import DropAndGrow, DropAndGrowUpdater, Replacement
from elth_dist.sparsity.updates.updater import Agree, Updater

if TYPE_CHECKING:
    from torch import Tensor

    from elth_dist.sparsity.masks import Masks


@updates.add
class Rigl(DropAndGrow):
    """RigL: drop by magnitude, grow by the dense gradient, in the optimizer step's place (Evci et al. 2020)."""

    label: ClassVar[str] = "RigL"
    name: Literal["rigl"] = "rigl"

    def updater(self, masks: "Masks", replacement: Replacement, agree: Agree, seed: int) -> Updater:
        return RiglUpdater(masks, replacement, agree)

    def cost(
        self,
        sparse: float,
        dense: float,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int = 1,
        convention: str = "exact",
    ) -> float:
        """(3 f_S dT + 2 f_S + f_D) / (dT + 1): the paper's dense updates go on to the end (appendix H).

        `elth_paper` leaves the updates out.
        """
        update = step_cost(sparse, dense, dense_gradient=convention != "elth_paper")
        delta_t = interval_steps(self.delta_t, total_steps or self.published_steps, steps_per_epoch)
        return (delta_t * step_cost(sparse, dense) + update) / (delta_t + 1)


class RiglUpdater(DropAndGrowUpdater):
    """Grow where the dense gradient is largest, in the optimizer step's place."""

    def __init__(self, masks: "Masks", replacement: Replacement, agree: Agree) -> None:
        super().__init__(masks, replacement, agree)
        self._asked = -1  # the last step that was to be an update

    def before_step(self, step: int, finite: "Tensor | bool") -> bool:
        if step in self._replacement.steps or (self._deferred and step < self._replacement.t_end):
            self._asked = step
        if not self._updates(step, finite):
            return False
        self._rewire(step, lambda name: self._weights.gradient(name).float().abs())
        return True

    def dense_gradient(self, step: int) -> bool:
        return step == self._asked
