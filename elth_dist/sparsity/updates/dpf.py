"""DPF: dynamic model pruning with feedback (Lin et al. 2020)."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from elth_dist.registry import updates
from elth_dist.sparsity.distributions import Distribution
from elth_dist.sparsity.updates.base import Interval, step_cost
from elth_dist.sparsity.updates.ramp import DensityRamp, RampedUpdate, RampedUpdater
from elth_dist.sparsity.updates.updater import Agree, Updater

if TYPE_CHECKING:
    from torch import Tensor

    from elth_dist.sparsity.masks import Masks


@updates.add
class Dpf(RampedUpdate):
    """DPF: dense weights train on the gradient at the pruned ones; masks follow their magnitude (Lin et al. 2020)."""

    label: ClassVar[str] = "DPF"
    published_steps: ClassVar[int] = 300 * 390  # CIFAR-10, 300 epochs at batch 128

    name: Literal["dpf"] = "dpf"
    distribution: Distribution | Literal["global"] = Field(
        default="global",
        description="global: all layers compete; uniform, erk: each layer is pruned to its own density",
    )
    every: Interval = Field(
        default=16, description="from one mask to the next: optimizer steps, epochs (0.5ep) or a share (1%)"
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
        ramp = self.density_ramp(dense, density, kept, total_steps, steps_per_epoch)
        return DpfUpdater(dense, ramp, total_steps, agree)

    def last_change(self, total_steps: int, steps_per_epoch: int) -> int:
        return total_steps

    def cost(
        self,
        sparse: float,
        dense: float,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int = 1,
        convention: str = "exact",
    ) -> float:
        """Return E_t[2 f_S(t)] + f_D; `elth_paper` counts f_S + 2 f_D."""
        if convention == "elth_paper":
            return sparse + 2 * dense
        return step_cost(self.mean_forward(sparse, dense, total_steps, steps_per_epoch), dense, dense_gradient=True)


class DpfUpdater(RampedUpdater):
    """Train dense weights with the gradient at the pruned ones: w <- w - lr g(mask w).

    The optimizer trains dense weights without masks. Forward and backward compute with pruned weights, so that the
    gradient is the pruned network's, at all positions; it is applied to all dense weights. Masks follow the magnitude
    of the dense weights at regular intervals up to the end of training: weights can grow back with their values.
    """

    def __init__(self, masks: "Masks", ramp: DensityRamp, last: int, agree: Agree) -> None:
        """`masks`: dense. `last`: number of steps of the training."""
        super().__init__(masks, ramp, agree)
        self._last = last

    def computing(self) -> AbstractContextManager[None]:
        return self._weights.computing(self._masks)

    def dense_gradient(self, step: int) -> bool:
        return True

    def after_step(self, step: int, finite: "Tensor | bool") -> None:
        if self._comes(self._ramp.due(step + 1, self._last), finite):
            import torch

            dense = type(self._masks)({name: torch.ones_like(mask) for name, mask in self._masks.items()})
            self._prune(dense, step + 1)

    def finish(self) -> None:
        """Prune the weights for good: the dense weights are no longer needed."""
        self._weights.set_masks(self._masks)
        self.check()

    def _install(self) -> None:
        """Do nothing: `computing` applies the masks to forward and backward."""
