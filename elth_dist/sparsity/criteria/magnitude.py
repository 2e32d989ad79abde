"""Magnitude: |w|."""

from typing import TYPE_CHECKING, ClassVar, Literal

from elth_dist.registry import criteria
from elth_dist.sparsity.criteria.base import Criterion, Evidence

if TYPE_CHECKING:
    from torch import Tensor


@criteria.add
class Magnitude(Criterion):
    """One-shot magnitude pruning: |w|."""

    label: ClassVar[str] = "magnitude"
    name: Literal["magnitude"] = "magnitude"

    def scores(self, evidence: Evidence) -> "dict[str, Tensor]":
        from elth_dist.sparsity.scores import magnitude

        return magnitude(evidence.weights)
