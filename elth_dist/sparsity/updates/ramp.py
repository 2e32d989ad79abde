"""Gradual pruning and DPF: masks by magnitude, to a density that falls with a cubic ramp (Zhu & Gupta 2018)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from elth_dist.sparsity.criteria import magnitude
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.selection import exact_count, prune
from elth_dist.sparsity.updates.periodic import Agree, PeriodicUpdate, keep_largest
from elth_dist.sparsity.updates.protocol import MaskedOptimizer
from elth_dist.sparsity.updates.schedules import Interval, cubic_density


@dataclass(frozen=True)
class Ramp:
    """The densities of a training, by the number of optimizer steps done; dense up to `begin`, final from `end` on."""

    every: int  # optimizer steps between two changes
    begin: int
    end: int
    final: float | Mapping[str, float]  # of all weights together, or of each

    def due(self, done: int, last: int) -> bool:
        """Whether the masks are made anew when `done` steps are, up to the `last`: every so often, and at the end."""
        return done in Interval(self.every, self.begin, last) or done == self.end

    def prune(self, masks: Masks, scores: Mapping[str, Tensor], done: int) -> Masks:
        """`masks` without their smallest scores, exactly ceil(density x size) weights kept (or all, if fewer)."""
        if not isinstance(self.final, Mapping):
            density = cubic_density(done, self.final, self.begin, self.end)
            return prune(masks, scores, max(0, masks.kept - exact_count(density, masks.total)))
        made = {}
        for name, kept in masks.counts.items():
            density = cubic_density(done, self.final[name], self.begin, self.end)
            surplus = kept - exact_count(density, masks[name].numel())
            made[name] = keep_largest(masks[name], scores[name], surplus) if surplus > 0 else masks[name]
        return Masks(made)


class Gradual(PeriodicUpdate):
    """Prune the smallest kept weights, after the optimizer's step; what is pruned stays so."""

    def __init__(self, masks: Masks, ramp: Ramp, agree: Agree) -> None:
        """`masks`: dense ones."""
        super().__init__(masks, agree)
        self._ramp = ramp

    def after_step(self, step: int, finite: Tensor | bool) -> None:
        if self._comes(self._ramp.due(step + 1, self._ramp.end), finite):
            self._change(self._ramp.prune(self._masks, magnitude(self._weights), step + 1))


class Dpf(PeriodicUpdate):
    """Dynamic pruning with feedback (Lin et al. 2020): w <- w - lr g(mask w).

    The optimizer trains dense weights. A pruned copy takes their place for forward and backward, so that the gradient
    is that of the pruned network, at all positions; it is applied to all dense weights. The masks, of the dense
    weights' magnitude, are made anew every so often, up to the training's end: weights can come back, with their
    values.
    """

    def __init__(self, masks: Masks, ramp: Ramp, last: int, agree: Agree) -> None:
        """`masks`: dense ones. `last`: how many steps the training has."""
        super().__init__(masks, agree)
        self._ramp, self._last = ramp, last
        self._dense: dict[str, Tensor] = {}  # the dense weights, while `_swapped`
        self._swapped = False
        self._multipliers: dict[str, Tensor] = {}

    @torch.no_grad()
    def begin(self, weights: Mapping[str, nn.Parameter], optimizer: MaskedOptimizer) -> None:
        restored = self._dense
        super().begin(weights, optimizer)
        self._dense = {name: torch.empty_like(weight) for name, weight in self._weights.items()}
        for name, dense in restored.items():
            self._dense[name].copy_(dense)

    @torch.no_grad()
    def before_forward(self, step: int) -> None:
        """Put the pruned copy in the dense weights' place."""
        if self._swapped:
            return
        weights: list[Tensor] = list(self._weights.values())
        dense, multipliers = list(self._dense.values()), list(self._multipliers.values())
        torch._foreach_copy_(dense, weights)
        torch._foreach_mul_(weights, multipliers)
        self._swapped = True

    @torch.no_grad()
    def before_step(self, step: int, finite: Tensor | bool) -> bool:
        """Give the optimizer its dense weights back."""
        weights: list[Tensor] = list(self._weights.values())
        torch._foreach_copy_(weights, list(self._dense.values()))
        self._swapped = False
        return False

    def dense_gradient(self, step: int) -> bool:
        return True

    def after_step(self, step: int, finite: Tensor | bool) -> None:
        if self._comes(self._ramp.due(step + 1, self._last), finite):
            dense = Masks({name: torch.ones_like(mask) for name, mask in self._masks.items()})
            self._change(self._ramp.prune(dense, magnitude(self._weights), step + 1))

    def check(self) -> None:
        """AssertionError, naming the tensors, unless the weights to compute with are zero where they are pruned."""
        wrong = self._masks.check_zero(self._weights) if self._swapped else []
        assert not wrong, f"pruned weights are not zero in {', '.join(wrong)}"

    def finish(self) -> None:
        """Leave the pruned network: its dense weights have served."""
        self.before_forward(self._last)
        self._masks.apply_(self._weights)
        self.check()

    def state_dict(self) -> dict[str, Any]:
        """Dense weights are in here while the pruned copy is in their place; else they are the engine's weights."""
        return {**super().state_dict(), "dense": self._dense if self._swapped else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._dense = state["dense"]
        self._swapped = bool(self._dense)

    def _install(self) -> None:
        """The optimizer knows of no masks; forward and backward do."""
        self._multipliers = {
            name: torch.empty_like(weight).copy_(self._masks[name]) for name, weight in self._weights.items()
        }
