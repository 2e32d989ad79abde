"""GraSP: w (H g), signed (Wang et al. 2020)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

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
    sample: Literal["stream", "balanced"] = Field(
        default="stream",
        description="which samples: stream: whole global batches; balanced: the first ten of each class, as in the "
        "code of Wang et al.",
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        default=200.0, description="temperature that logits are divided by"
    )

    @model_validator(mode="after")
    def _one_sample(self) -> Self:
        if self.sample == "balanced" and (self.batches is not None or self.variant == "elth_code"):
            other = "variant: elth_code, which takes an epoch" if self.batches is None else f"batches: {self.batches}"
            raise ValueError(
                f"sample: balanced takes {SAMPLES_PER_CLASS} samples per class, and cannot be combined with {other}"
            )
        return self

    @property
    def details(self) -> list[str]:
        balanced = ["balanced sample"] if self.sample == "balanced" else []
        return super().details + (["ELTH code"] if self.variant == "elth_code" else []) + balanced

    def scores(self, evidence: Evidence) -> "dict[str, Tensor]":
        published, temperature = self.variant == "published", self.temperature
        balanced = self.sample == "balanced"
        enough = -(-SAMPLES_PER_CLASS * evidence.num_classes // evidence.global_batch)
        batches = self.batches or (enough if published and not balanced else None)
        per_class = SAMPLES_PER_CLASS if balanced else None
        gradients = evidence.mean_gradients(
            batches=batches, training=published, temperature=temperature, per_class=per_class
        )
        along = evidence.hessian_gradient_products(
            gradients, batches=batches, training=published, temperature=temperature, per_class=per_class
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
