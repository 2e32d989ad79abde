"""GraSP: w (H g), signed (Wang et al. 2020)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from elth_dist.registry import criteria
from elth_dist.sparsity.criteria.base import Batches, Criterion, Evidence, Variant

if TYPE_CHECKING:
    from torch import Tensor

#: Samples per class that GraSP uses unless `batches` is set (Wang et al. 2020 and their code).
SAMPLES_PER_CLASS = 10


@criteria.add
class Grasp(Criterion):
    """GraSP: w (H g), signed, with the Hessian H of the loss: the lowest scores are pruned (Wang et al. 2020)."""

    label: ClassVar[str] = "GraSP"
    name: Literal["grasp"] = "grasp"
    variant: Variant = Field(
        default="published",
        description="elth_code: |w (H g)| over an epoch, BatchNorm with running statistics, as in E-LTH's code",
    )
    batches: Batches = Field(
        default=None,
        description="number of global batches averaged over; null: ten samples per class (elth_code: one epoch)",
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        default=200.0, description="temperature that logits are divided by"
    )

    @property
    def details(self) -> list[str]:
        return super().details + (["ELTH code"] if self.variant == "elth_code" else [])

    def scores(self, evidence: Evidence) -> "dict[str, Tensor]":
        published = self.variant == "published"
        enough = -(-SAMPLES_PER_CLASS * evidence.num_classes // evidence.global_batch)
        batches = self.batches or (enough if published else None)
        gradients = evidence.mean_gradients(batches=batches, training=published, temperature=self.temperature)
        along = evidence.hessian_gradient_products(
            gradients, batches=batches, training=published, temperature=self.temperature
        )
        return grasp_scores(evidence.weights, along, absolute=not published)


def grasp_scores(
    weights: "Mapping[str, Tensor]", hessian_gradients: "Mapping[str, Tensor]", *, absolute: bool = False
) -> "dict[str, Tensor]":
    """Compute w (H g), the share of the gradient's norm that depends on w (negative of Wang et al. 2020, equation 8).

    Signed: weights whose removal improves the gradient flow are pruned first.

    Args:
        weights: by name.
        hessian_gradients: H g of each weight, see training.gradients.
        absolute: compute |w (H g)|, as E-LTH's authors' code.
    """
    from elth_dist.sparsity.scores import comparable, products

    return comparable(products(weights, hessian_gradients), absolute=absolute)
