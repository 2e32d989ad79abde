"""The base of RigL, SET and SNFS, which drop small weights and grow others at constant density.

Semantics are those of the RigL authors' code (Evci et al. 2020), without its noise on the magnitudes; the gradient is
the mean over the global batch (the paper's appendix M), so that the number of ranks does not change the masks.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity.distributions import Distribution
from elth_dist.sparsity.updates import base
from elth_dist.sparsity.updates.schedules import Interval, cosine_fraction
from elth_dist.sparsity.updates.updater import Agree, PeriodicUpdater, Updater

if TYPE_CHECKING:
    from torch import Tensor

    from elth_dist.sparsity.masks import Masks


class DropAndGrow(base.LayerwiseUpdate):
    """Replaces a fraction of each layer's kept weights every `delta_t` steps."""

    meaning: ClassVar[int] = 2  # up to 0.1.0, an update also came at t_end itself, where f(t) is 0

    distribution: Distribution = Field(
        default="uniform",
        description="densities of the layers: uniform (the first layer stays dense) or erk (Erdos-Renyi-Kernel)",
    )
    delta_t: base.Interval = Field(
        default=100, description="from one update to the next: optimizer steps, epochs (0.5ep) or a share (1%)"
    )
    alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.3,
        description="fraction of a layer's kept weights that the first update replaces; falls to 0 with a cosine",
    )
    t_end: base.Point = Field(
        default=0.78125,
        description="end of the updates, which come before it: a fraction of the training (RigL: 25k of 32k steps) or "
        "a step",
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
        shapes = {name: tuple(mask.shape) for name, mask in dense.items()}
        masks = random_masks(dense, self.layer_counts(shapes, density, kept), seed)
        t_end = base.steps_at(self.t_end, total_steps, steps_per_epoch)
        delta_t = base.interval_steps(self.delta_t, total_steps, steps_per_epoch)
        return self.updater(masks, Replacement(delta_t, self.alpha, t_end), agree, seed)

    def warning(self, total_steps: int, steps_per_epoch: int) -> str | None:
        end = min(base.steps_at(self.t_end, total_steps, steps_per_epoch), total_steps)
        return base.few_changes("delta_t", self.delta_t, total_steps, steps_per_epoch, lambda steps: -(-end // steps))

    @abstractmethod
    def updater(self, masks: "Masks", replacement: "Replacement", agree: Agree, seed: int) -> Updater:
        """Create the updater that starts from these masks; for the other arguments, see `create`."""


@dataclass(frozen=True)
class Replacement:
    """How much of each layer is replaced, and when."""

    delta_t: int  # optimizer steps between two updates; the first one comes at step 0
    alpha: float  # fraction of the kept weights, at step 0
    t_end: int  # updates come before this step (RigL, algorithm 1)

    @property
    def steps(self) -> Interval:
        """The steps of the updates."""
        return Interval(self.delta_t, 0, self.t_end - 1)

    def count(self, step: int, kept: int) -> int:
        """Compute how many of `kept` weights are replaced at `step`, rounded down as in the authors' code."""
        return math.floor(cosine_fraction(step, self.alpha, self.t_end) * kept)


class DropAndGrowUpdater(PeriodicUpdater):
    """Drop the smallest weights of each layer and grow as many where some score is largest."""

    def __init__(self, masks: "Masks", replacement: Replacement, agree: Agree) -> None:
        super().__init__(masks, agree)
        self._replacement = replacement

    def _updates(self, step: int, finite: "Tensor | bool") -> bool:
        """Tell whether masks change now; an update that was postponed to t_end or later is left out."""
        if step >= self._replacement.t_end:
            self._deferred = False
            return False
        return self._comes(step in self._replacement.steps, finite)

    def _rewire(self, step: int, growth: "Callable[[str], Tensor]") -> None:
        """Drop and grow in every layer that is not dense; `growth`: a layer's fp32 scores."""
        masks = dict(self._masks)
        for name, kept in self._masks.counts.items():
            count = self._replacement.count(step, kept)
            if count and kept < masks[name].numel():
                masks[name] = drop_and_grow(masks[name], self._weights.whole(name), growth(name), count)
        self._change(type(self._masks)(masks))


def random_masks(masks: "Masks", counts: Mapping[str, int], seed: int) -> "Masks":
    """Draw masks that keep exactly `counts` weights per layer; they depend only on the arguments.

    The global random state is neither read nor changed.
    """
    import torch

    made = {}
    for name, mask in masks.items():
        generator = torch.Generator().manual_seed(derive_seed(seed, "masks", name))
        kept = torch.zeros(mask.numel(), dtype=torch.bool)
        order = torch.randperm(mask.numel(), generator=generator)
        kept[order[: counts[name]]] = True
        made[name] = kept.view(mask.shape)
    return type(masks)(made)


def drop_and_grow(mask: "Tensor", weight: "Tensor", growth: "Tensor", count: int) -> "Tensor":
    """Drop a layer's `count` smallest |weight|, then grow as many at free positions.

    Args:
        mask: bool.
        weight: of any floating dtype; ignored where the mask is False.
        growth: fp32 scores of all positions: the largest grow. Weights just dropped are candidates too.
        count: how many to replace, 0 <= count <= kept weights.

    Returns:
        A new mask with as many weights. Of equal scores, the first by position drop first, and grow first.
    """
    kept = _without_smallest(mask, weight.detach().float().abs(), count)
    free = kept.logical_not()
    # of the free positions all but `count` stay free: those with the largest scores are the smallest negative ones
    left = _without_smallest(free, -growth, count)
    return kept | (free & ~left)


def _without_smallest(mask: "Tensor", scores: "Tensor", count: int) -> "Tensor":
    """Drop the `count` smallest kept scores (fp32) from one layer's `mask`; of equal scores, the first."""
    from elth_dist.sparsity.masks import Masks
    from elth_dist.sparsity.selection import prune

    return prune(Masks({"layer": mask}), {"layer": scores}, count)["layer"]
