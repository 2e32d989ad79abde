"""SNIP: |w g| (Lee et al. 2019)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from elth_dist.registry import criteria
from elth_dist.sparsity.criteria.base import Batches, Criterion, Evidence, Variant

if TYPE_CHECKING:
    from torch import Tensor


@criteria.add
class Snip(Criterion):
    """SNIP: |w g|, with the gradient g of the loss (Lee et al. 2019)."""

    label: ClassVar[str] = "SNIP"
    name: Literal["snip"] = "snip"
    variant: Variant = Field(
        default="published",
        description="elth_code: g summed over an epoch, BatchNorm with running statistics, as in E-LTH's code",
    )
    batches: Batches = Field(
        default=None, description="number of global batches that g is averaged over; null: 1 (elth_code: one epoch)"
    )

    @property
    def details(self) -> list[str]:
        return super().details + (["ELTH code"] if self.variant == "elth_code" else [])

    def scores(self, evidence: Evidence) -> "dict[str, Tensor]":
        published = self.variant == "published"
        batches = self.batches or (1 if published else None)
        return snip_scores(evidence.weights, evidence.mean_gradients(batches=batches, training=published))


def snip_scores(weights: "Mapping[str, Tensor]", gradients: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Compute |w g|, the first-order change of the loss if w is removed (Lee et al. 2019, equation 6, unnormalised)."""
    from elth_dist.sparsity.scores import comparable, products

    return comparable(products(weights, gradients), absolute=True)
