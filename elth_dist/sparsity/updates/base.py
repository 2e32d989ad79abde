"""The base of mask updates: options, cost, and the updater that they create for a training."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import Field

from elth_dist.options import Options, Step
from elth_dist.registry import OneOf, updates
from elth_dist.sparsity.distributions import DISTRIBUTIONS, Distribution

if TYPE_CHECKING:
    from elth_dist.sparsity.masks import Masks
    from elth_dist.sparsity.updates.updater import Agree, Updater

#: Optimizer steps from one change to the next.
Interval = Annotated[int, Field(ge=1, le=1 << 30)]

#: A point of a training: a fraction of its optimizer steps, or a step.
Point = Annotated[float, Field(ge=0, le=1)] | Step

_Number = TypeVar("_Number", int, float)


def steps_at(point: float | Step, total_steps: int, steps_per_epoch: int) -> int:
    """Convert a point to optimizer steps: a fraction of `total_steps`, rounded to the nearest, or a step."""
    return point.iterations(steps_per_epoch) if isinstance(point, Step) else round(point * total_steps)


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

    name: str = Field(description="the mask update")
    multiplier: Annotated[int, Field(ge=1, le=100)] = Field(
        default=1,
        description="factor of the training's length: multiplies epochs, milestones, warm-up and the update's own "
        "points, not intervals (RigL-5x: 5)",
    )
    distribution: Distribution | Literal["global"] = Field(
        default="uniform",
        description="densities of the layers: uniform (the first layer stays dense), erk (Erdos-Renyi-Kernel), or "
        "global (by magnitude over all layers)",
    )

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

    def layer_densities(self, shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, float]:
        """Return the final density of each layer; for "global", known only after training, `density` everywhere.

        Args:
            shapes: of the prunable weights by name.
            density: kept fraction of all of them, 0 < density <= 1.
        """
        if self.distribution == "global":
            return dict.fromkeys(shapes, density)
        return DISTRIBUTIONS[self.distribution](shapes, density)

    @abstractmethod
    def create(
        self, dense: "Masks", *, density: float, seed: int, total_steps: int, steps_per_epoch: int, agree: "Agree"
    ) -> "Updater":
        """Create the updater of one training from initialisation; called on `stretched()` options.

        Args:
            dense: dense masks of the network's prunable weights.
            density: kept fraction at the end, 0 < density <= 1.
            seed: for initial masks and random growth; equal on every rank.
            total_steps: optimizer steps of the training.
            steps_per_epoch: optimizer steps per epoch.
            agree: called with the masks after each change; raises unless all ranks hold the same.

        Raises:
            UserError: the training does not reach a point that the options name.
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


#: A field of any registered mask update.
AnyMaskUpdate = Annotated[MaskUpdate, OneOf("mask update", lambda: updates)]
