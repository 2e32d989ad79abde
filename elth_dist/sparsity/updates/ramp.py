"""The base of gradual pruning and DPF: masks by magnitude, at a density that follows a cubic ramp."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from elth_dist.errors import UserError
from elth_dist.sparsity.distributions import Distribution
from elth_dist.sparsity.updates import base
from elth_dist.sparsity.updates.schedules import Interval, cubic_density, mean_cubic_share
from elth_dist.sparsity.updates.updater import Agree, PeriodicUpdater

if TYPE_CHECKING:
    from elth_dist.sparsity.masks import Masks


class RampedUpdate(base.LayerwiseUpdate):
    """Lowers the density from 1 to its final value while the network trains."""

    distribution: Distribution | Literal["global"] = Field(
        default="uniform",
        description="uniform, erk: each layer is pruned to its own density; global: all layers compete",
    )
    every: base.Interval = Field(
        default=1000, description="from one pruning to the next: optimizer steps, epochs (0.5ep) or a share (1%)"
    )
    begin: base.Point = Field(default=0.0, description="end of the dense phase: a fraction of the training or a step")
    end: base.Point = Field(
        default=0.75, description="step that reaches the final density: a fraction of the training or a step"
    )

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if type(self.begin) is type(self.end) is float and self.begin >= self.end:
            raise ValueError(f"begin {self.begin} is not before end {self.end}")
        return self

    def ramp(self, total_steps: int, steps_per_epoch: int) -> tuple[int, int]:
        """Convert `begin` and `end` to optimizer steps. UserError unless the training reaches them."""
        begin, end = (base.steps_at(point, total_steps, steps_per_epoch) for point in (self.begin, self.end))
        if not begin < end <= total_steps:
            raise UserError(
                f"the ramp goes from begin {self.begin} (step {begin}) to end {self.end} (step {end}), which must be a "
                f"later step, {total_steps} at most, the training's last"
            )
        return begin, end

    def check(self, total_steps: int, steps_per_epoch: int) -> None:
        self.stretched().ramp(total_steps * self.multiplier, steps_per_epoch)

    def last_change(self, total_steps: int, steps_per_epoch: int) -> int:
        """Return after how many steps masks change for the last time."""
        return self.ramp(total_steps, steps_per_epoch)[1]

    def warning(self, total_steps: int, steps_per_epoch: int) -> str | None:
        """Count changes after `begin`, where the density is still 1, up to the last, and the one at `end`."""
        begin, end = self.ramp(total_steps, steps_per_epoch)
        last = self.last_change(total_steps, steps_per_epoch)

        def changes(every: int) -> int:
            return (last - begin) // every + bool((end - begin) % every)

        return base.few_changes("every", self.every, total_steps, steps_per_epoch, changes)

    def mean_forward(self, sparse: float, dense: float, total_steps: int | None, steps_per_epoch: int) -> float:
        """Compute the forward cost of one sample, averaged over the training; arguments as for `cost`."""
        total = total_steps or self.published_steps
        every = base.interval_steps(self.every, total, steps_per_epoch)
        share = mean_cubic_share(*self.ramp(total, steps_per_epoch), total, every)
        return dense - share * (dense - sparse)

    def density_ramp(
        self, dense: "Masks", density: float, kept: int | None, total_steps: int, steps_per_epoch: int
    ) -> "DensityRamp":
        """Return the densities of one training; arguments as for `create`."""
        from elth_dist.sparsity.selection import exact_count

        shapes = {name: tuple(mask.shape) for name, mask in dense.items()}
        steps = (
            base.interval_steps(self.every, total_steps, steps_per_epoch),
            *self.ramp(total_steps, steps_per_epoch),
        )
        densities = self.layer_densities(shapes, density, matched=kept is not None)
        if self.distribution == "global":
            whole = {name: math.prod(shapes[name]) for name in self.dense_names(shapes)}
            counts = (exact_count(density, dense.total) if kept is None else kept) - sum(whole.values())
            return DensityRamp(*steps, density, counts, whole)
        return DensityRamp(*steps, densities, self.layer_counts(shapes, density, kept))


@dataclass(frozen=True)
class DensityRamp:
    """The densities of a training, by the number of optimizer steps done; dense up to `begin`, final from `end` on."""

    every: int  # optimizer steps between two changes
    begin: int
    end: int
    final: float | Mapping[str, float]  # densities of all weights together, or of each
    counts: int | Mapping[str, int]  # numbers of weights kept at the end: of all that compete, or of each
    dense: Mapping[str, int] = field(default_factory=dict)  # sizes of weights that do not compete with all others

    def due(self, done: int, last: int) -> bool:
        """Tell whether masks change after `done` steps: at intervals of `every` up to `last`, and at the ramp's end."""
        return done in Interval(self.every, self.begin, last) or done == self.end

    def kept(self, masks: "Masks", done: int) -> int | dict[str, int]:
        """Compute how many weights of `masks` stay after `done` steps: ceil(density x size), or all, if fewer.

        Of those that compete where all do together; else of each.
        """
        from elth_dist.sparsity.selection import exact_count

        if not isinstance(self.final, Mapping):
            assert isinstance(self.counts, int)
            if done >= self.end:
                return self.counts
            density = cubic_density(done, self.final, self.begin, self.end)
            return min(masks.kept, exact_count(density, masks.total)) - sum(self.dense.values())
        assert isinstance(self.counts, Mapping)
        counts = {}
        for name, count in masks.counts.items():
            density = cubic_density(done, self.final[name], self.begin, self.end)
            wanted = self.counts[name] if done >= self.end else exact_count(density, masks[name].numel())
            counts[name] = min(count, wanted)
        return counts


class RampedUpdater(PeriodicUpdater):
    """Change masks along a density ramp."""

    def __init__(self, masks: "Masks", ramp: DensityRamp, agree: Agree) -> None:
        """`masks`: dense."""
        super().__init__(masks, agree)
        self._ramp = ramp

    def _prune(self, masks: "Masks", done: int) -> None:
        """Prune the smallest weights of `masks`, to the density for `done` steps, and apply the result."""
        competing = {name: mask for name, mask in masks.items() if name not in self._ramp.dense}
        pruned = self._weights.prune(type(masks)(competing), self._ramp.kept(masks, done))
        self._change(type(masks)({**masks, **pruned}))
