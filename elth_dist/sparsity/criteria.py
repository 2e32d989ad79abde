"""How important each weight is: the lower the score, the earlier it is pruned.

Scores of one criterion are compared with each other only. Products are formed in float64 and, where they may leave the
range of fp32, divided by their largest magnitude, which changes no comparison.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from elth_dist.runtime.seeds import derive_seed


@torch.no_grad()
def magnitude(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|w| in fp32, by name and of the weight's shape and strides: what IMP prunes by (Frankle & Carbin 2019)."""
    return {name: weight.detach().float().abs() for name, weight in weights.items()}


@torch.no_grad()
def snip(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|w g|: how much the loss is about to change when w goes (Lee et al. 2019, equation 6, without its norm)."""
    return _comparable({name: (weight.double() * gradients[name]).abs() for name, weight in weights.items()})


@torch.no_grad()
def grasp(
    weights: Mapping[str, Tensor], products: Mapping[str, Tensor], *, absolute: bool = False
) -> dict[str, Tensor]:
    """w (H g): how much of the gradient's norm hangs on w (Wang et al. 2020, equation 8, whose score is its negative).

    Signed: weights whose removal makes the gradient flow better go first.

    Args:
        weights: by name.
        products: H g of each weight, see training.gradients.
        absolute: |w (H g)|, as E-LTH's authors' code has it.
    """
    scores = {name: weight.double() * products[name] for name, weight in weights.items()}
    return _comparable({name: score.abs() for name, score in scores.items()} if absolute else scores)


def random(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Uniform numbers, the same for a seed and name anywhere; the global random state is neither read nor changed."""
    scores = {}
    for name, weight in weights.items():
        generator = torch.Generator().manual_seed(derive_seed(seed, "random scores", name))
        scores[name] = torch.rand(weight.shape, generator=generator).to(weight.device)
    return scores


class Synflow:
    """|w dR/dw| of a network made linear: every tensor of its state by its absolute value, BatchNorm in evaluation.

    R is the sum of the outputs for an image of ones (Tanaka et al. 2020, algorithm 1, and their code). No data, and no
    more than a forward and a backward pass of one image in float64, which the numbers of deep networks need.
    """

    def __init__(self, model: nn.Module, image_size: int) -> None:
        """`model` is copied, not changed."""
        self._model = copy.deepcopy(model).double().eval()
        with torch.no_grad():
            for tensor in self._model.state_dict().values():
                tensor.abs_()
        self._size = image_size

    def __call__(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores, on the model's device, of the network that these masks leave."""
        parameters = dict(self._model.named_parameters())
        with torch.no_grad():
            masked = {name: parameters[name] * mask for name, mask in masks.items()}
        for weight in masked.values():
            weight.requires_grad_()
        device = next(iter(masked.values())).device
        image = torch.ones(1, 3, self._size, self._size, dtype=torch.float64, device=device)
        output: Tensor = torch.func.functional_call(self._model, masked, (image,))
        slopes = torch.autograd.grad(output.sum(), list(masked.values()), materialize_grads=True)
        with torch.no_grad():
            return _comparable(
                {name: (weight * slope).abs() for (name, weight), slope in zip(masked.items(), slopes, strict=True)}
            )


def synflow_counts(counts: Mapping[str, int], totals: Mapping[str, int], step: int, steps: int) -> dict[str, int]:
    """How many weights of each group are kept after `step` of `steps` prunings: exponential, and exact at the end."""
    if step == steps:
        return dict(counts)
    return {
        name: max(counts[name], round(total * (counts[name] / total) ** (step / steps)))
        for name, total in totals.items()
    }


def _comparable(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """fp32 scores in the order of the given ones, the largest magnitude being 1 (all 0 if they are)."""
    largest = torch.stack([score.abs().max() for score in scores.values()]).max()
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    return {name: (score / scale).float() for name, score in scores.items()}
