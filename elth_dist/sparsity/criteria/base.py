"""What a criterion is, and what it is given to score weights with."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from pydantic import Field

from elth_dist.options import Options
from elth_dist.registry import OneOf, criteria

if TYPE_CHECKING:
    from torch import Tensor, nn

Matched = Literal["global", "layerwise"]
Variant = Literal["published", "elth_code"]

#: How many global batches a criterion looks at.
Batches = Annotated[int, Field(ge=1, le=1 << 20)] | None


class Evidence(Protocol):
    """A network at theta_r, and what can be measured on it. Each measurement counts its own FLOPs.

    Measurements are means over the global batch, whatever the number of ranks; every rank calls them alike.
    """

    @property
    def model(self) -> "nn.Module":
        """The bare network on this rank's device."""

    @property
    def weights(self) -> "Mapping[str, nn.Parameter]":
        """The prunable weights that compete, by name."""

    @property
    def masks(self) -> "Mapping[str, Tensor]":
        """The masks of the round before, of the same names; dense ones in the first round."""

    @property
    def seed(self) -> int:
        """The run's seed."""

    @property
    def num_classes(self) -> int:
        """Classes of the dataset."""

    @property
    def global_batch(self) -> int:
        """Samples per global batch."""

    def mean_gradients(
        self, *, batches: int | None, training: bool = True, temperature: float = 1.0
    ) -> "dict[str, Tensor]":
        """g: the gradient of the mean cross-entropy with respect to each weight.

        Args:
            batches: global batches of the mean; None: a whole epoch's.
            training: BatchNorm in training mode; else with its running statistics.
            temperature: what the logits are divided by.
        """

    def hessian_gradient_products(
        self, gradients: "Mapping[str, Tensor]", *, batches: int | None, training: bool = True, temperature: float = 1.0
    ) -> "dict[str, Tensor]":
        """H g, H being the Hessian of that loss and g the given gradient; arguments as for mean_gradients()."""

    def input_norms(self, *, batches: int | None, training: bool = False) -> "dict[str, Tensor]":
        """The L2 norm of each input channel over all samples and positions, of a shape that multiplies the weight."""

    def linearised_gradients(self) -> "tuple[dict[str, Tensor], dict[str, Tensor]]":
        """|mask w| and dR/d|mask w| of the linearised network (see LinearisedNetwork): no data is looked at."""


class Criterion(Options):
    """Scores every prunable weight at theta_r; the lowest scores are pruned.

    A subclass is a criterion's options: a field `name` with its default, further fields, `label`, and `scores`.
    """

    #: What tables and figures call it.
    label: ClassVar[str]
    #: Whether it is also offered as a control next to a ticket.
    as_control: ClassVar[bool] = True

    name: str = Field(description="the criterion")
    matched: Matched = Field(
        default="global",
        description="what has the given density: global: all layers together, whose scores compete; layerwise: each "
        "layer its density in the ticket (without a ticket: all the same)",
    )

    @property
    def rounds(self) -> int:
        """Prunings that lead to the density exponentially. Scores are computed again for each."""
        return 1

    @property
    def details(self) -> list[str]:
        """What tells options apart in tables, such as "ELTH code"."""
        return ["layer-wise"] if self.matched == "layerwise" else []

    @abstractmethod
    def scores(self, evidence: Evidence) -> "dict[str, Tensor]":
        """fp32 scores of each weight in `evidence.weights`, of its shape. Entries where a mask is False are ignored."""


#: A field of any registered criterion.
AnyCriterion = Annotated[Criterion, OneOf("criterion", lambda: criteria)]


def exponential_counts(counts: Mapping[str, int], totals: Mapping[str, int], step: int, steps: int) -> dict[str, int]:
    """How many weights of each group are kept after `step` of `steps` prunings: exponential, and exact at the end."""
    if step == steps:
        return dict(counts)
    return {
        name: max(counts[name], round(total * (counts[name] / total) ** (step / steps)))
        for name, total in totals.items()
    }
