"""A term of the loss that pushes weights away from earlier optima, or pulls them there."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from elth_dist.sparsity.masks import Masks


class Repulsion:
    """strength x the mean squared cosine between the kept weights and each earlier optimum, masked alike.

    Maene et al. 2021, "Towards understanding iterative magnitude pruning": a positive strength repels (2 there), a
    negative one attracts (-1). One cosine is over all prunable weights together.
    """

    def __init__(self, strength: float, optima: Sequence[Mapping[str, Tensor]], masks: Masks) -> None:
        """
        Args:
            strength: lambda; not 0.
            optima: state_dicts of earlier trainings of the same network; at least one.
            masks: of the network that trains.
        """
        assert optima, "no earlier optimum"
        self._strength = strength
        self._directions = {
            name: torch.stack([optimum[name].float() * mask.to(optimum[name].device) for optimum in optima])
            for name, mask in masks.items()
        }  # [optima, *shape] of each weight
        squares = sum((each.square().flatten(1).sum(1) for each in self._directions.values()), torch.zeros(len(optima)))
        for each in self._directions.values():
            each.div_(squares.sqrt().clamp_min(torch.finfo(torch.float32).tiny).view(-1, *[1] * (each.ndim - 1)))

    def __call__(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the term, 0-d fp32, differentiable in the weights.

        Args:
            weights: the masked weights by name, exactly 0 where pruned.
        """
        products, square = [], []
        for name, directions in self._directions.items():
            weight = weights[name]
            if directions.device != weight.device:
                directions = self._directions[name] = directions.to(weight.device)
            products.append(directions.flatten(1) @ weight.reshape(-1))
            square.append(weight.square().sum())
        cosines = torch.stack(products).sum(0) / torch.stack(square).sum().sqrt()
        return self._strength * cosines.square().mean()
