"""The base of mask updates: options, cost, and the updater that they create for a training."""

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field

from elth_dist.errors import UserError
from elth_dist.options import Options, Spacing, Step
from elth_dist.registry import OneOf, updates
from elth_dist.sparsity.distributions import (
    DISTRIBUTIONS,
    MATCHED,
    Distribution,
    LayerNames,
    layer_names,
    matched_counts,
    matched_uniform,
)

if TYPE_CHECKING:
    from elth_dist.sparsity.masks import Masks
    from elth_dist.sparsity.updates.updater import Agree, Updater

#: From one change to the next: optimizer steps, epochs, or a share of the training.
Interval = Annotated[int, Field(ge=1, le=1 << 30)] | Spacing

#: A training with fewer mask changes gets a warning.
FEWEST_CHANGES = 5

#: A point of a training: a fraction of its optimizer steps, or a step.
Point = Annotated[float, Field(ge=0, le=1)] | Step

_Number = TypeVar("_Number", int, float)


def steps_at(point: float | Step, total_steps: int, steps_per_epoch: int) -> int:
    """Convert a point to optimizer steps: a fraction of `total_steps`, rounded to the nearest, or a step."""
    return point.iterations(steps_per_epoch) if isinstance(point, Step) else round(point * total_steps)


def interval_steps(interval: int | Spacing, total_steps: int, steps_per_epoch: int) -> int:
    """Convert an interval to optimizer steps, at least 1."""
    return interval if isinstance(interval, int) else interval.steps(total_steps, steps_per_epoch)


def few_changes(
    option: str, interval: int | Spacing, total_steps: int, steps_per_epoch: int, changes: Callable[[int], int]
) -> str | None:
    """Warn, in one line, of an interval that makes fewer than `FEWEST_CHANGES` mask changes; None: it makes enough.

    Args:
        option: that gives the interval.
        interval: its value.
        total_steps: optimizer steps of the training.
        steps_per_epoch: optimizer steps per epoch.
        changes: computes the number of changes at an interval in steps; grows as the interval shrinks.
    """
    steps = interval_steps(interval, total_steps, steps_per_epoch)
    count = changes(steps)
    if count >= FEWEST_CHANGES:
        return None
    written = f"{interval}" if isinstance(interval, int) else f"{interval} ({steps} steps)"
    enough = next((fewer for fewer in range(min(steps, total_steps), 0, -1) if changes(fewer) >= FEWEST_CHANGES), None)
    advice = "train for longer" if enough is None else f"set it to {enough} or less"
    return (
        f"{option} {written} makes {count} mask update{'' if count == 1 else 's'} in {total_steps} steps, "
        f"fewer than {FEWEST_CHANGES}: {advice}"
    )


def step_cost(sparse: _Number, dense: _Number, dense_gradient: bool = False) -> _Number:
    """Compute the cost of one training step on one sample: 3 f_S, or 2 f_S + f_D with the gradient of all weights.

    A step is a forward pass, a backward pass to the activations and one to the weights; each costs what the forward
    pass costs (RigL, appendix H).

    Args:
        sparse: f_S, the forward cost with masks.
        dense: f_D, the forward cost without.
        dense_gradient: whether the step takes the gradient of all weights.
    """
    return 2 * sparse + (dense if dense_gradient else sparse)


class MaskUpdate(Options):
    """Trains one network from initialisation while its masks change.

    A subclass holds an update's options: a field `name` with its default, further fields, `label`, `create`, and `cost`
    where a step costs more than 3 f_S.
    """

    #: Its name in tables and figures.
    label: ClassVar[str]
    #: Length of the training in the update's paper, in optimizer steps: the default of `cost`.
    published_steps: ClassVar[int] = 32_000
    #: Part of the identity of jobs with this update: raised when the meaning of its options changes.
    meaning: ClassVar[int] = 1

    name: str = Field(description="the mask update")
    multiplier: Annotated[int, Field(ge=1, le=100)] = Field(
        default=1,
        description="factor of the training's length: multiplies epochs, milestones, warm-up and the update's own "
        "points, not intervals in steps or epochs (RigL-5x: 5)",
    )
    distribution: Distribution | Literal["global"] = Field(
        default="uniform",
        description="densities of the layers: uniform (the first layer stays dense), erk (Erdos-Renyi-Kernel), or "
        "global (by magnitude over all layers)",
    )

    def identity(self) -> dict[str, Any]:
        parts = super().identity()
        return parts if self.meaning == 1 else {**parts, "meaning": self.meaning}

    @property
    def details(self) -> list[str]:
        """Labels for non-default options in tables, such as "ERK"."""
        usual = type(self).model_fields["distribution"].default
        spread = self.distribution.upper() if self.distribution == "erk" else self.distribution
        return [] if self.distribution == usual else [spread]

    @property
    def title(self) -> str:
        """The update with its options, for tables: "RigL-5x, ERK"."""
        return ", ".join([self.label if self.multiplier == 1 else f"{self.label}-{self.multiplier}x", *self.details])

    def stretched(self) -> Self:
        """Return the update for a training `multiplier` times as long: points given in steps are multiplied."""
        points = {
            name: value.times(self.multiplier)
            for name in type(self).model_fields
            if isinstance(value := getattr(self, name), Step)
        }
        return self.model_copy(update={**points, "multiplier": 1})

    def check(self, total_steps: int, steps_per_epoch: int) -> None:
        """Refuse a training (of `total_steps` times `multiplier`) too short for the update's points. UserError."""

    def warning(self, total_steps: int, steps_per_epoch: int) -> str | None:
        """Return one line about options that hardly do anything in a training, for people; None: nothing to say.

        Called on `stretched()` options.

        Args:
            total_steps: optimizer steps of the training.
            steps_per_epoch: optimizer steps per epoch.
        """
        return None

    def dense_names(self, names: Collection[str]) -> list[str]:
        """Return which of the prunable weights `names` stay dense. UserError if the options name others."""
        return list(names)[:1] if self.distribution == "uniform" else []

    def layer_densities(
        self, shapes: Mapping[str, Sequence[int]], density: float, *, matched: bool = False
    ) -> dict[str, float]:
        """Return the final density of each layer; for "global", known only after training, the same in all others.

        Args:
            shapes: of the prunable weights by name, in the network's order.
            density: kept fraction of all of them, 0 < density <= 1.
            matched: whether all layers together have that density; else `uniform` has the meaning of RigL's paper:
                each layer has it, and layers kept dense come on top.

        Raises:
            UserError: the layers kept dense leave nothing for the others.
        """
        dense = self.dense_names(shapes)
        try:
            if self.distribution == "global":
                return matched_uniform(shapes, density, dense)
            return (MATCHED if matched else DISTRIBUTIONS)[self.distribution](shapes, density, dense)
        except UserError as error:
            raise UserError(f"{self.name}, {self.distribution}: {error}") from None

    def layer_counts(self, shapes: Mapping[str, Sequence[int]], density: float, kept: int | None) -> dict[str, int]:
        """Return how many weights each layer keeps at the end, for a distribution that says so.

        Args:
            shapes: of the prunable weights by name, in the network's order.
            density: see `create`.
            kept: see `create`.

        Raises:
            UserError: as for `layer_densities`.
        """
        if kept is None:
            from elth_dist.sparsity.selection import exact_count

            densities = self.layer_densities(shapes, density)
            return {name: exact_count(densities[name], math.prod(shape)) for name, shape in shapes.items()}
        total = sum(math.prod(shape) for shape in shapes.values())
        return matched_counts(shapes, self.layer_densities(shapes, kept / total, matched=True), kept)

    @abstractmethod
    def create(
        self,
        dense: "Masks",
        *,
        density: float,
        kept: int | None = None,
        seed: int,
        total_steps: int,
        steps_per_epoch: int,
        agree: "Agree",
    ) -> "Updater":
        """Create the updater of one training from initialisation; called on `stretched()` options.

        Args:
            dense: dense masks of the network's prunable weights.
            density: kept fraction at the end, 0 < density <= 1.
            kept: number of weights kept at the end, exactly, where a ticket is matched: `density` is then their share;
                None: `density` decides.
            seed: for initial masks and random growth; equal on every rank.
            total_steps: optimizer steps of the training.
            steps_per_epoch: optimizer steps per epoch.
            agree: called with the masks after each change; raises unless all ranks hold the same.

        Raises:
            UserError: the training does not reach a point that the options name, or the layers kept dense leave nothing
                for the others.
        """

    def cost(
        self,
        sparse: float,
        dense: float,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int = 1,
        convention: str = "exact",
    ) -> float:
        """Compute the planned mean cost of a training step on one sample (the measured cost: accounting.meter).

        Args:
            sparse: f_S, the forward cost at the final density, in any unit.
            dense: f_D, the forward cost of the dense network, in the same unit.
            total_steps: optimizer steps of the training; None: as in the update's paper.
            steps_per_epoch: optimizer steps per epoch, where points are given in epochs.
            convention: how costs are counted (see accounting.conventions); `elth_paper` simplifies some updates.
        """
        return step_cost(sparse, dense)


class LayerwiseUpdate(MaskUpdate):
    """A mask update that can keep chosen layers dense."""

    dense_layers: LayerNames | None = Field(
        default=None,
        description="layers kept dense: first, last, names of weights, or none: []; null: the first under uniform, "
        "else none",
    )

    @property
    def details(self) -> list[str]:
        if self.dense_layers is None:
            return super().details
        return [*super().details, f"dense: {', '.join(self.dense_layers) or 'none'}"]

    def dense_names(self, names: Collection[str]) -> list[str]:
        return super().dense_names(names) if self.dense_layers is None else layer_names(self.dense_layers, names)


#: A field of any registered mask update.
AnyMaskUpdate = Annotated[MaskUpdate, OneOf("mask update", lambda: updates)]
