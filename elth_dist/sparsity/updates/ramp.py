"""The base of gradual pruning and DPF: masks by magnitude, at a density that follows a cubic ramp."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from elth_dist.errors import UserError
from elth_dist.sparsity.distributions import Distribution
from elth_dist.sparsity.updates import base
from elth_dist.sparsity.updates.schedules import Interval, cubic_density, mean_cubic_share
from elth_dist.sparsity.updates.updater import Agree, PeriodicUpdater

if TYPE_CHECKING:
    from elth_dist.sparsity.masks import Masks


class RampedUpdate(base.MaskUpdate):
    """Lowers the density from 1 to its final value while the network trains."""

    distribution: Distribution | Literal["global"] = Field(
        default="uniform",
        description="uniform, erk: each layer is pruned to its own density; global: all layers compete",
    )
    every: base.Interval = Field(default=1000, description="optimizer steps from one pruning to the next")
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

    def mean_forward(self, sparse: float, dense: float, total_steps: int | None, steps_per_epoch: int) -> float:
        """Compute the forward cost of one sample, averaged over the training; arguments as for `cost`."""
        total = total_steps or self.published_steps
        share = mean_cubic_share(*self.ramp(total, steps_per_epoch), total, self.every)
        return dense - share * (dense - sparse)

    def density_ramp(self, dense: "Masks", density: float, total_steps: int, steps_per_epoch: int) -> "DensityRamp":
        """Return the densities of one training; arguments as for `create`."""
        shapes = {name: tuple(mask.shape) for name, mask in dense.items()}
        final = density if self.distribution == "global" else self.layer_densities(shapes, density)
        return DensityRamp(self.every, *self.ramp(total_steps, steps_per_epoch), final)


@dataclass(frozen=True)
class DensityRamp:
    """The densities of a training, by the number of optimizer steps done; dense up to `begin`, final from `end` on."""

    every: int  # optimizer steps between two changes
    begin: int
    end: int
    final: float | Mapping[str, float]  # of all weights together, or of each

    def due(self, done: int, last: int) -> bool:
        """Tell whether masks change after `done` steps: at intervals of `every` up to `last`, and at the ramp's end."""
        return done in Interval(self.every, self.begin, last) or done == self.end

    def kept(self, masks: "Masks", done: int) -> int | dict[str, int]:
        """Compute how many weights of `masks` stay after `done` steps: ceil(density x size), or all, if fewer."""
        from elth_dist.sparsity.selection import exact_count

        if not isinstance(self.final, Mapping):
            density = cubic_density(done, self.final, self.begin, self.end)
            return min(masks.kept, exact_count(density, masks.total))
        counts = {}
        for name, count in masks.counts.items():
            density = cubic_density(done, self.final[name], self.begin, self.end)
            counts[name] = min(count, exact_count(density, masks[name].numel()))
        return counts


class RampedUpdater(PeriodicUpdater):
    """Change masks along a density ramp."""

    def __init__(self, masks: "Masks", ramp: DensityRamp, agree: Agree) -> None:
        """`masks`: dense."""
        super().__init__(masks, agree)
        self._ramp = ramp

    def _prune(self, masks: "Masks", done: int) -> None:
        """Prune the smallest weights of `masks`, to the density for `done` steps, and apply the result."""
        self._change(self._weights.prune(masks, self._ramp.kept(masks, done)))
