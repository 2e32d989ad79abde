"""Helpers of criteria for computing scores. The lower the score, the earlier a weight is pruned.

Only scores of one criterion are compared with each other. Products are computed in float64 and, if they may leave the
range of fp32, divided by their largest magnitude, which changes no comparison.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def magnitude(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute |w| in fp32, by name, of the weight's shape and strides: IMP's scores (Frankle & Carbin 2019)."""
    return {name: weight.detach().float().abs() for name, weight in weights.items()}


@torch.no_grad()
def products(weights: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply weights by factors of the same names, in float64."""
    return {name: weight.double() * factors[name] for name, weight in weights.items()}


@torch.no_grad()
def comparable(scores: Mapping[str, Tensor], *, absolute: bool = False) -> dict[str, Tensor]:
    """Scale scores to fp32 with a largest magnitude of 1, which keeps their order (all 0 stay 0).

    Args:
        scores: of any floating dtype.
        absolute: compare magnitudes.
    """
    if absolute:
        scores = {name: score.abs() for name, score in scores.items()}
    largest = torch.stack([score.abs().max() for score in scores.values()]).max()
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    return {name: (score / scale).float() for name, score in scores.items()}
