"""The base of criteria, and the evidence from which they score weights."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, Self

from pydantic import Field, model_validator

from elth_dist.options import Options
from elth_dist.registry import OneOf, criteria
from elth_dist.sparsity.distributions import LayerNames

if TYPE_CHECKING:
    from torch import Tensor, nn

Matched = Literal["global", "layerwise"]
Variant = Literal["published", "elth_code"]

#: How many global batches a criterion uses.
Batches = Annotated[int, Field(ge=1, le=1 << 20)] | None


class Evidence(Protocol):
    """A network at theta_r, and measurements on it. Each measurement counts its own FLOPs.

    Measurements are means over the global batch, for any number of ranks; all ranks call them equally.
    """

    @property
    def model(self) -> "nn.Module":
        """The bare network on this rank's device."""

    @property
    def weights(self) -> "Mapping[str, nn.Parameter]":
        """The prunable weights that compete, by name."""

    @property
    def masks(self) -> "Mapping[str, Tensor]":
        """The masks of the previous round, by the same names; dense in the first round."""

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
        self,
        *,
        batches: int | None,
        training: bool = True,
        temperature: float = 1.0,
        per_class: int | None = None,
    ) -> "dict[str, Tensor]":
        """Compute g, the gradient of the mean cross-entropy with respect to each weight.

        Args:
            batches: number of global batches to average over; None: a whole epoch.
            training: use BatchNorm in training mode; else with its running statistics.
            temperature: divisor of the logits.
            per_class: average over the first samples of each class in `batches` instead, this many of each.
        """

    def hessian_gradient_products(
        self,
        gradients: "Mapping[str, Tensor]",
        *,
        batches: int | None,
        training: bool = True,
        temperature: float = 1.0,
        per_class: int | None = None,
    ) -> "dict[str, Tensor]":
        """Compute H g, with the Hessian H of that loss and the given gradient g; arguments as for mean_gradients()."""

    def input_norms(self, *, batches: int | None, training: bool = False) -> "dict[str, Tensor]":
        """Compute the L2 norm of each input channel over samples and positions, shaped to multiply the weight."""

    def linearised_gradients(self) -> "tuple[dict[str, Tensor], dict[str, Tensor]]":
        """Compute |mask w| and dR/d|mask w| of the linearised network (see LinearisedNetwork), without data."""


class Criterion(Options):
    """Scores every prunable weight at theta_r; the lowest scores are pruned.

    A subclass holds a criterion's options: a field `name` with its default, further fields, `label`, and `scores`.
    """

    #: Its name in tables and figures.
    label: ClassVar[str]
    #: Whether it is also offered as a control next to a ticket.
    as_control: ClassVar[bool] = True

    name: str = Field(description="the criterion")
    matched: Matched = Field(
        default="global",
        description="what has the given density: global: all layers together, whose scores compete; layerwise: each "
        "layer its density in the ticket (without a ticket: all the same)",
    )

    dense_layers: LayerNames = Field(
        default=(),
        description="layers kept dense, which do not compete: first, last, or names of weights; all layers together "
        "have the given density",
    )

    @model_validator(mode="after")
    def _layers_have_no_density_yet(self) -> Self:
        if self.dense_layers and self.matched == "layerwise":
            raise ValueError(
                f"dense_layers: {', '.join(self.dense_layers)} cannot be kept dense under matched: layerwise, which "
                "gives each layer its density; choose matched: global"
            )
        return self

    @property
    def rounds(self) -> int:
        """Number of prunings, which approach the density exponentially; scores are computed again for each."""
        return 1

    @property
    def details(self) -> list[str]:
        """Labels for non-default options in tables, such as "ELTH code"."""
        dense = [f"dense: {', '.join(self.dense_layers)}"] if self.dense_layers else []
        return (["layer-wise"] if self.matched == "layerwise" else []) + dense

    @property
    def premasked(self) -> bool:
        """Whether the matched ticket's masks are applied to theta_r before it is scored and pruned."""
        return False

    @abstractmethod
    def scores(self, evidence: Evidence) -> "dict[str, Tensor]":
        """Compute fp32 scores for each of `evidence.weights`, of its shape; ignored where a mask is False."""


#: A field of any registered criterion.
AnyCriterion = Annotated[Criterion, OneOf("criterion", lambda: criteria)]


def exponential_counts(counts: Mapping[str, int], totals: Mapping[str, int], step: int, steps: int) -> dict[str, int]:
    """Compute how many weights of each group are kept after `step` of `steps` prunings, exact at the end."""
    if step == steps:
        return dict(counts)
    return {
        name: max(counts[name], round(total * (counts[name] / total) ** (step / steps)))
        for name, total in totals.items()
    }
