"""Random: scores drawn at random."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from elth_dist.registry import criteria
from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity.criteria.base import Criterion, Evidence, Matched, Variant

if TYPE_CHECKING:
    from torch import Tensor


@criteria.add
class Random(Criterion):
    """Random masks: scores drawn at random."""

    label: ClassVar[str] = "random masks"
    as_control: ClassVar[bool] = False  # the control `random` permutes the ticket's own masks

    name: Literal["random"] = "random"
    matched: Matched = Field(
        default="layerwise",
        description="what has the given density: layerwise: each layer its density in the ticket (the paper's Random); "
        "global: all layers together",
    )

    variant: Variant = Field(
        default="published",
        description="elth_code: theta_r is first masked with the ticket of `like`, as in E-LTH's code, so that only "
        "weights in both masks start from a value other than zero",
    )

    @property
    def details(self) -> list[str]:
        return super().details + (["ELTH code"] if self.variant == "elth_code" else [])

    @property
    def premasked(self) -> bool:
        return self.variant == "elth_code"

    def scores(self, evidence: Evidence) -> "dict[str, Tensor]":
        return random_scores(evidence.weights, derive_seed(evidence.seed, "random scores"))


def random_scores(weights: "Mapping[str, Tensor]", seed: int) -> "dict[str, Tensor]":
    """Draw uniform numbers that depend only on seed and name; the global random state is neither read nor changed."""
    import torch

    scores = {}
    for name, weight in weights.items():
        generator = torch.Generator().manual_seed(derive_seed(seed, "random scores", name))
        scores[name] = torch.rand(weight.shape, generator=generator).to(weight.device)
    return scores
