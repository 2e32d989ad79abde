"""SET: grow at random (Mocanu et al. 2018)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from elth_dist.registry import updates
from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity.updates.drop_and_grow import DropAndGrow, DropAndGrowUpdater, Replacement
from elth_dist.sparsity.updates.updater import Agree, Updater

if TYPE_CHECKING:
    from torch import Tensor

    from elth_dist.sparsity.masks import Masks


@updates.add
class Set(DropAndGrow):
    """SET: drop by magnitude, grow at random, after the optimizer's step (Mocanu et al. 2018, as in RigL's code)."""

    label: ClassVar[str] = "SET"
    name: Literal["set"] = "set"

    def updater(self, masks: "Masks", replacement: Replacement, agree: Agree, seed: int) -> Updater:
        return SetUpdater(masks, replacement, agree, seed)


class SetUpdater(DropAndGrowUpdater):
    """Grow at random, after the optimizer's step."""

    def __init__(self, masks: "Masks", replacement: Replacement, agree: Agree, seed: int) -> None:
        super().__init__(masks, replacement, agree)
        self._seed = seed

    def after_step(self, step: int, finite: "Tensor | bool") -> None:
        if self._updates(step, finite):
            self._rewire(step, lambda name: self._random(step, name))

    def _random(self, step: int, name: str) -> "Tensor":
        """Draw uniform scores that depend only on (seed, step, layer) and the kind of device, equal on all ranks."""
        import torch

        mask = self._masks[name]
        generator = torch.Generator(mask.device).manual_seed(derive_seed(self._seed, "grow", str(step), name))
        return torch.rand(mask.shape, generator=generator, device=mask.device)
