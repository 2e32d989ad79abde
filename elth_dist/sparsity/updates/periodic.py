"""What all updates that change masks from time to time have in common."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.selection import prune
from elth_dist.sparsity.updates.protocol import MaskedOptimizer, check_pruned

#: Called after each change: raises unless every rank holds the same masks.
Agree = Callable[[Masks], None]


class PeriodicUpdate:
    """Masks that change at some steps, of whose gradients all are finite; where they are not, at the next such step.

    The device is waited for at those steps alone.
    """

    def __init__(self, masks: Masks, agree: Agree) -> None:
        self._masks = masks
        self._agree = agree
        self._deferred = False
        self._weights: Mapping[str, nn.Parameter] = {}
        self._optimizer: MaskedOptimizer | None = None

    @property
    def masks(self) -> Masks:
        return self._masks

    def begin(self, weights: Mapping[str, nn.Parameter], optimizer: MaskedOptimizer) -> None:
        self._weights, self._optimizer = {name: weights[name] for name in self._masks}, optimizer
        self._masks = self._masks.to(next(iter(self._weights.values())).device)
        self._install()

    def before_forward(self, step: int) -> None:
        """Nothing to do."""

    def before_step(self, step: int, finite: Tensor | bool) -> bool:
        return False

    def dense_gradient(self, step: int) -> bool:
        return False

    def after_step(self, step: int, finite: Tensor | bool) -> None:
        """Nothing to do."""

    def check(self) -> None:
        """AssertionError, naming the tensors, unless every pruned weight and its momentum are exactly zero."""
        assert self._optimizer is not None, "check() before begin()"
        check_pruned(self._weights, self._optimizer)

    def finish(self) -> None:
        self.check()

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
        """Put new masks in force. Weights that come back are zero, and so is their momentum: see set_masks()."""
        self._masks = masks
        self._install()
        self._agree(masks)

    def _install(self) -> None:
        assert self._optimizer is not None
        self._optimizer.set_masks({self._weights[name]: mask for name, mask in self._masks.items()})


def keep_largest(mask: Tensor, scores: Tensor, pruned: int) -> Tensor:
    """One layer's `mask` without the `pruned` smallest of its kept scores (fp32); of equal ones the first go."""
    return prune(Masks({"layer": mask}), {"layer": scores}, pruned)["layer"]
