"""What criteria compute scores with. The lower the score, the earlier a weight is pruned.

Scores of one criterion are compared with each other only. Products are formed in float64 and, where they may leave the
range of fp32, divided by their largest magnitude, which changes no comparison.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def magnitude(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|w| in fp32, by name and of the weight's shape and strides: what IMP prunes by (Frankle & Carbin 2019)."""
    return {name: weight.detach().float().abs() for name, weight in weights.items()}


@torch.no_grad()
def products(weights: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights times factors of the same names, in float64."""
    return {name: weight.double() * factors[name] for name, weight in weights.items()}


@torch.no_grad()
def comparable(scores: Mapping[str, Tensor], *, absolute: bool = False) -> dict[str, Tensor]:
    """fp32 scores in the order of the given ones, the largest magnitude being 1 (all 0 if they are).

    Args:
        scores: of any floating dtype.
        absolute: compare magnitudes.
    """
    if absolute:
        scores = {name: score.abs() for name, score in scores.items()}
    largest = torch.stack([score.abs().max() for score in scores.values()]).max()
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    return {name: (score / scale).float() for name, score in scores.items()}
