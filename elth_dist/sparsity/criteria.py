"""How important each weight is: the lower the score, the earlier it is pruned."""

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def magnitude(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|w| in fp32, by name and of the weight's shape and strides: what IMP prunes by (Frankle & Carbin 2019)."""
    return {name: weight.detach().float().abs() for name, weight in weights.items()}
