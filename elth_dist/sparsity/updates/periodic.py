"""What all updates that change masks from time to time have in common."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates.base import MaskUpdate

#: Called after each change: raises unless every rank holds the same masks.
Agree = Callable[[Masks], None]


class PeriodicUpdate(MaskUpdate):
    """Masks that change at some steps, of whose gradients all are finite; where they are not, at the next such step.

    The device is waited for at those steps alone.
    """

    def __init__(self, masks: Masks, agree: Agree) -> None:
        super().__init__(masks)
        self._agree = agree
        self._deferred = False

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self._masks.packed(), "deferred": self._deferred}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._masks = Masks.unpack(state["masks"], {name: mask.shape for name, mask in self._masks.items()})
        self._deferred = state["deferred"]

    def _comes(self, due: bool, finite: Tensor | bool) -> bool:
        """Whether the masks change now, given that this step is `due` to."""
        if not (due or self._deferred):
            return False
        self._deferred = not bool(finite)
        return not self._deferred

    def _change(self, masks: Masks) -> None:
        """Put new masks in force."""
        self._masks = masks
        self._install()
        self._agree(masks)
