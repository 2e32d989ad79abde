"""Masks that do not change."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates.protocol import MaskedOptimizer, check_pruned


class StaticMask:
    """Masks that stay as they are: every ticket's training, and with dense masks any dense one."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._weights: Mapping[str, nn.Parameter] = {}
        self._optimizer: MaskedOptimizer | None = None

    @property
    def masks(self) -> Masks:
        return self._masks

    def begin(self, weights: Mapping[str, nn.Parameter], optimizer: MaskedOptimizer) -> None:
        self._weights, self._optimizer = weights, optimizer
        optimizer.set_masks({weights[name]: mask for name, mask in self._masks.items()})

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
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, f"static masks have no state, but a checkpoint holds {sorted(state)}"
