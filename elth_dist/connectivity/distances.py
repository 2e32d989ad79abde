"""Distances and angles between the weights of trained networks."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from elth_dist.sparsity.masks import Masks


class Distance(NamedTuple):
    """How far two networks lie apart on the weights that both keep."""

    l2: float  # of the difference
    cosine: float  # of the angle between the two vectors of weights; 1 where one of them is 0
    kept: int  # weights that both keep

    @property
    def angle(self) -> float:
        """The angle, degrees in [0, 180]; Maene et al. 2021 print it times 2 / pi, in radians."""
        return math.degrees(math.acos(max(-1.0, min(1.0, self.cosine))))


def distances(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], one_masks: Masks, other_masks: Masks
) -> tuple[Distance, dict[str, Distance]]:
    """Compare two networks on the prunable weights that both masks keep.

    Frankle et al. 2019, "Stabilizing the lottery ticket hypothesis", section 4 (L2 distance and angle of trained
    weights); Maene et al. 2021 (angle on the intersected mask). Computes in float64.

    Args:
        one, other: state_dicts of the same network.
        one_masks, other_masks: their masks, by weight name.

    Returns:
        The distance of all weights together, and of each layer by name.
    """
    sums = {}
    for name in one_masks:
        both = (one_masks[name] & other_masks[name]).cpu()
        a, b = (weights[name].cpu()[both].double() for weights in (one, other))
        parts = [(a - b).square().sum(), a.dot(b), a.square().sum(), b.square().sum()]
        sums[name] = torch.stack([*parts, both.sum(dtype=torch.float64)])
    layers = {name: _distance(each) for name, each in sums.items()}
    return _distance(torch.stack(list(sums.values())).sum(0)), layers


def _distance(sums: Tensor) -> Distance:
    square, dot, own, theirs, kept = sums.tolist()
    norm = math.sqrt(own * theirs)
    return Distance(math.sqrt(square), dot / norm if norm else 1.0, int(kept))
