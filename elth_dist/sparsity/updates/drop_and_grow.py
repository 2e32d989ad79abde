"""RigL, SET and SNFS: at constant density, weak weights make room for new ones; what grows is the difference.

Semantics are those of the RigL authors' code (Evci et al. 2020), without its noise on the magnitudes; the gradient is
the mean over the global batch (the paper's appendix M: anything else grows other weights on each number of ranks).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.selection import exact_count, prune
from elth_dist.sparsity.updates.periodic import Agree, PeriodicUpdate
from elth_dist.sparsity.updates.schedules import Interval, cosine_fraction
from elth_dist.sparsity.updates.weights import MaskedWeights


def random_masks(masks: Masks, densities: Mapping[str, float], seed: int) -> Masks:
    """Masks like `masks` of exactly ceil(density x size) weights a layer, at random places; the same anywhere.

    The global random state is neither read nor changed.
    """
    made = {}
    for name, mask in masks.items():
        generator = torch.Generator().manual_seed(derive_seed(seed, "masks", name))
        kept = torch.zeros(mask.numel(), dtype=torch.bool)
        order = torch.randperm(mask.numel(), generator=generator)
        kept[order[: exact_count(densities[name], mask.numel())]] = True
        made[name] = kept.view(mask.shape)
    return Masks(made)


def drop_and_grow(mask: Tensor, weight: Tensor, growth: Tensor, count: int) -> Tensor:
    """A layer's mask after dropping the `count` smallest |weight| of it, and growing as many where it keeps none then.

    Args:
        mask: bool.
        weight: of any floating dtype; what it holds where the mask is False does not matter.
        growth: fp32 scores of all positions: the largest grow. Just dropped ones are among the candidates.
        count: how many, 0 <= count <= kept weights.

    Returns:
        A new mask, with as many weights. Ties go by position: the first ones are dropped first, and grow first.
    """
    kept = _without_smallest(mask, weight.detach().float().abs(), count)
    free = kept.logical_not()
    # of the free positions all but `count` stay free: those with the largest scores are the smallest negative ones
    left = _without_smallest(free, -growth, count)
    return kept | (free & ~left)


def _without_smallest(mask: Tensor, scores: Tensor, count: int) -> Tensor:
    """One layer's `mask` without the `count` smallest of its kept scores (fp32); of equal ones the first go."""
    return prune(Masks({"layer": mask}), {"layer": scores}, count)["layer"]


@dataclass(frozen=True)
class Replacement:
    """How much of each layer is replaced, and when."""

    delta_t: int  # optimizer steps between two updates; the first one comes at step 0
    alpha: float  # fraction of the kept weights, at step 0
    t_end: int  # no update after this step

    @property
    def steps(self) -> Interval:
        """The steps of the updates."""
        return Interval(self.delta_t, 0, self.t_end)

    def count(self, step: int, kept: int) -> int:
        """Of `kept` weights, how many are replaced at `step`: rounded down, as in the authors' code."""
        return math.floor(cosine_fraction(step, self.alpha, self.t_end) * kept)


class _DropAndGrow(PeriodicUpdate):
    def __init__(self, masks: Masks, replacement: Replacement, agree: Agree) -> None:
        super().__init__(masks, agree)
        self._replacement = replacement

    def _rewire(self, step: int, growth: Callable[[str], Tensor]) -> None:
        """Drop and grow in every layer that is not dense; `growth`: a layer's fp32 scores."""
        masks = dict(self._masks)
        for name, kept in self._masks.counts.items():
            count = self._replacement.count(step, kept)
            if count and kept < masks[name].numel():
                masks[name] = drop_and_grow(masks[name], self._weights.whole(name), growth(name), count)
        self._change(Masks(masks))


class Rigl(_DropAndGrow):
    """Grow where the dense gradient is largest, in the optimizer step's place."""

    def __init__(self, masks: Masks, replacement: Replacement, agree: Agree) -> None:
        super().__init__(masks, replacement, agree)
        self._asked = -1  # the last step that was to be an update

    def before_step(self, step: int, finite: Tensor | bool) -> bool:
        due = step in self._replacement.steps
        if due or self._deferred:
            self._asked = step
        if not self._comes(due, finite):
            return False
        self._rewire(step, lambda name: self._weights.gradient(name).float().abs())
        return True

    def dense_gradient(self, step: int) -> bool:
        return step == self._asked


class Set(_DropAndGrow):
    """Grow at random, after the optimizer's step."""

    def __init__(self, masks: Masks, replacement: Replacement, agree: Agree, seed: int) -> None:
        super().__init__(masks, replacement, agree)
        self._seed = seed

    def after_step(self, step: int, finite: Tensor | bool) -> None:
        if self._comes(step in self._replacement.steps, finite):
            self._rewire(step, lambda name: self._random(step, name))

    def _random(self, step: int, name: str) -> Tensor:
        """Uniform scores: a function of (seed, step, layer) and the kind of device, which ranks have in common."""
        mask = self._masks[name]
        generator = torch.Generator(mask.device).manual_seed(derive_seed(self._seed, "grow", str(step), name))
        return torch.rand(mask.shape, generator=generator, device=mask.device)


class Snfs(_DropAndGrow):
    """Grow where the running mean of dense gradients is largest, after the optimizer's step."""

    def __init__(self, masks: Masks, replacement: Replacement, agree: Agree, momentum: float) -> None:
        super().__init__(masks, replacement, agree)
        self._momentum = momentum
        self._mean: dict[str, Tensor] = {}

    def begin(self, weights: MaskedWeights) -> None:
        super().begin(weights)
        restored = self._mean
        self._mean = {name: torch.zeros_like(weights.whole(name)) for name in self._masks}
        for name, mean in restored.items():
            self._mean[name].copy_(mean)

    @torch.no_grad()
    def before_step(self, step: int, finite: Tensor | bool) -> bool:
        """The running mean takes in every gradient that is finite; nothing is read from the device."""
        for name, mean in self._mean.items():
            usable = torch.as_tensor(finite, device=mean.device)
            mean.lerp_(torch.where(usable, self._weights.gradient(name), mean), 1 - self._momentum)
        return False

    def dense_gradient(self, step: int) -> bool:
        return True

    def after_step(self, step: int, finite: Tensor | bool) -> None:
        if self._comes(step in self._replacement.steps, finite):
            self._rewire(step, lambda name: self._mean[name].float().abs())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._mean = state["mean"]
