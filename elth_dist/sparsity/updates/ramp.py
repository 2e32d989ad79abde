"""Gradual pruning and DPF: masks by magnitude, to a density that falls with a cubic ramp (Zhu & Gupta 2018)."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.selection import exact_count
from elth_dist.sparsity.updates.periodic import Agree, PeriodicUpdate
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

    def kept(self, masks: Masks, done: int) -> int | dict[str, int]:
        """Of `masks`, how many weights stay when `done` steps are: exactly ceil(density x size), or all, if fewer."""
        if not isinstance(self.final, Mapping):
            density = cubic_density(done, self.final, self.begin, self.end)
            return min(masks.kept, exact_count(density, masks.total))
        found = {}
        for name, count in masks.counts.items():
            density = cubic_density(done, self.final[name], self.begin, self.end)
            found[name] = min(count, exact_count(density, masks[name].numel()))
        return found


class _Ramping(PeriodicUpdate):
    def __init__(self, masks: Masks, ramp: Ramp, agree: Agree) -> None:
        """`masks`: dense ones."""
        super().__init__(masks, agree)
        self._ramp = ramp

    def _prune(self, masks: Masks, done: int) -> None:
        """Put `masks` in force without the smallest weights, at the density for `done` steps."""
        self._change(self._weights.prune(masks, self._ramp.kept(masks, done)))


class Gradual(_Ramping):
    """Prune the smallest kept weights, after the optimizer's step; what is pruned stays so."""

    def after_step(self, step: int, finite: Tensor | bool) -> None:
        if self._comes(self._ramp.due(step + 1, self._ramp.end), finite):
            self._prune(self._masks, step + 1)


class Dpf(_Ramping):
    """Dynamic pruning with feedback (Lin et al. 2020): w <- w - lr g(mask w).

    The optimizer trains dense weights and knows of no masks. Forward and backward see pruned ones, so that the gradient
    is that of the pruned network, at all positions; it is applied to all dense weights. The masks, of the dense
    weights' magnitude, are made anew every so often, up to the training's end: weights can come back, with their
    values.
    """

    def __init__(self, masks: Masks, ramp: Ramp, last: int, agree: Agree) -> None:
        """`masks`: dense ones. `last`: how many steps the training has."""
        super().__init__(masks, ramp, agree)
        self._last = last

    def computing(self) -> AbstractContextManager[None]:
        return self._weights.computing(self._masks)

    def dense_gradient(self, step: int) -> bool:
        return True

    def after_step(self, step: int, finite: Tensor | bool) -> None:
        if self._comes(self._ramp.due(step + 1, self._last), finite):
            self._prune(Masks({name: torch.ones_like(mask) for name, mask in self._masks.items()}), step + 1)

    def finish(self) -> None:
        """Leave the pruned network: its dense weights have served."""
        self._weights.set_masks(self._masks)
        self.check()

    def _install(self) -> None:
        """Nothing to do: forward and backward know the masks, see `computing`."""
