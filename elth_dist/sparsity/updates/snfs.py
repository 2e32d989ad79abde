"""SNFS: grow by the running mean of dense gradients (Dettmers & Zettlemoyer 2019)."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from elth_dist.registry import updates
from elth_dist.sparsity.updates.base import step_cost
from elth_dist.sparsity.updates.drop_and_grow import DropAndGrow, DropAndGrowUpdater, Replacement
from elth_dist.sparsity.updates.updater import Agree, Updater

if TYPE_CHECKING:
    from torch import Tensor

    from elth_dist.sparsity.masked_weights import MaskedWeights
    from elth_dist.sparsity.masks import Masks


@updates.add
class Snfs(DropAndGrow):
    """SNFS: drop by magnitude, grow by the running mean of dense gradients (Dettmers & Zettlemoyer 2019)."""

    label: ClassVar[str] = "SNFS"
    name: Literal["snfs"] = "snfs"
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.9, description="momentum of the running mean of the dense gradient"
    )

    def updater(self, masks: "Masks", replacement: Replacement, agree: Agree, seed: int) -> Updater:
        return SnfsUpdater(masks, replacement, agree, self.momentum)

    def cost(
        self,
        sparse: float,
        dense: float,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int = 1,
        convention: str = "exact",
    ) -> float:
        """Return 2 f_S + f_D: every step takes the dense gradient."""
        return step_cost(sparse, dense, dense_gradient=True)


class SnfsUpdater(DropAndGrowUpdater):
    """Grow where the running mean of dense gradients is largest, after the optimizer's step."""

    def __init__(self, masks: "Masks", replacement: Replacement, agree: Agree, momentum: float) -> None:
        super().__init__(masks, replacement, agree)
        self._momentum = momentum
        self._mean: dict[str, Tensor] = {}

    def begin(self, weights: "MaskedWeights") -> None:
        import torch

        super().begin(weights)
        restored = self._mean
        self._mean = {name: torch.zeros_like(weights.whole(name)) for name in self._masks}
        for name, mean in restored.items():
            self._mean[name].copy_(mean)

    def before_step(self, step: int, finite: "Tensor | bool") -> bool:
        """Update the running mean with every finite gradient, without reading from the device."""
        import torch

        with torch.no_grad():
            for name, mean in self._mean.items():
                usable = torch.as_tensor(finite, device=mean.device)
                mean.lerp_(torch.where(usable, self._weights.gradient(name), mean), 1 - self._momentum)
        return False

    def dense_gradient(self, step: int) -> bool:
        return True

    def after_step(self, step: int, finite: "Tensor | bool") -> None:
        if self._updates(step, finite):
            self._rewire(step, lambda name: self._mean[name].float().abs())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._mean = state["mean"]
