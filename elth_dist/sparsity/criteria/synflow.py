"""SynFlow: |w dR/dw| of the linearised network, in rounds (Tanaka et al. 2020)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from elth_dist.registry import criteria
from elth_dist.sparsity.criteria.base import Criterion, Evidence, Variant
from elth_dist.sparsity.criteria.snip import Snip

if TYPE_CHECKING:
    from torch import Tensor


@criteria.add
class Synflow(Criterion):
    """SynFlow: |w dR/dw|, where R is the output of the network with absolute weights for an image of ones."""

    label: ClassVar[str] = "SynFlow"
    name: Literal["synflow"] = "synflow"
    variant: Variant = Field(
        default="published",
        description="elth_code: as in E-LTH's code, where it equals its SNIP to the bit",
    )
    steps: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=100, description="number of prunings, with densities that fall exponentially (elth_code: always one)"
    )

    @property
    def rounds(self) -> int:
        return self.steps if self.variant == "published" else 1

    @property
    def details(self) -> list[str]:
        return super().details + (["ELTH code"] if self.variant == "elth_code" else [])

    def scores(self, evidence: Evidence) -> "dict[str, Tensor]":
        if self.variant == "elth_code":
            return Snip(variant="elth_code").scores(evidence)
        return synflow_scores(*evidence.linearised_gradients())


def synflow_scores(weights: "Mapping[str, Tensor]", slopes: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Compute |w dR/dw|, each weight's share of R, which every layer conserves (Tanaka et al. 2020, theorem 1)."""
    from elth_dist.sparsity.scores import comparable, products

    return comparable(products(weights, slopes), absolute=True)
