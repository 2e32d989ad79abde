"""Pruning a network once, to an exact density."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.sparsity.scores import magnitude
from elth_dist.sparsity.selection import exact_count, prune_to


@torch.no_grad()
def prune(
    model_or_weights: nn.Module | Mapping[str, Tensor],
    density: float,
    *,
    scores: Mapping[str, Tensor] | None = None,
    masks: Masks | None = None,
) -> Masks:
    """Masks of the weights with the highest scores over all layers together (global pruning). The model stays as it is.

    Exactly ceil(density x number of weights) are kept. Of weights with equal scores, the first by position go.

    >>> from elth_dist import build_model, prunable_weights, prune
    >>> model = build_model("resnet20_cifar", 10, seed=0)
    >>> masks = prune(model, density=0.2)
    >>> masks
    Masks(22 tensors, 54,180 of 270,896 weights kept)
    >>> masks.apply_(prunable_weights(model))  # now set the pruned weights to zero
    >>> prune(model, density=0.1, masks=masks).kept  # and prune further
    27090

    Args:
        model_or_weights: a model, whose Conv2d and Linear weights compete (without those that its family never prunes);
            or the weights that compete, by name.
        density: kept fraction of these weights, in [0, 1]; taken as the decimal number it is written as.
        scores: of each weight, of its shape: the lowest go. None: |w|.
        masks: what has been pruned already and stays pruned; weights without a mask do not compete.

    Returns:
        Masks on the weights' device.

    Raises:
        ValueError: names, shapes or the density do not fit, or a score is NaN.
    """
    if isinstance(model_or_weights, nn.Module):
        described = getattr(model_or_weights, "architecture", None)
        weights: Mapping[str, Tensor] = prunable_weights(model_or_weights, getattr(described, "excluded", ()))
    else:
        weights = model_or_weights
    if masks is not None:
        if missing := masks.keys() - weights.keys():
            raise ValueError(f"a mask for {min(missing)!r}, which is no prunable weight")
        weights = {name: weights[name] for name in masks}
    for name, weight in weights.items():
        if weight.ndim < 2:
            raise ValueError(
                f"{name!r} has {weight.ndim} dimension(s): give the weights that compete, such as "
                "prunable_weights(model), or `masks` of them"
            )
    if scores is not None and (missing := weights.keys() - scores.keys()):
        raise ValueError(f"no scores for {min(missing)!r}")
    start = Masks.dense({name: weight.shape for name, weight in weights.items()}) if masks is None else masks
    start = Masks({name: mask.to(weights[name].device) for name, mask in start.items()})
    kept = exact_count(density, start.total)
    if kept > start.kept:
        raise ValueError(f"a density of {density} keeps {kept:,} weights, but `masks` keep {start.kept:,} only")
    if scores is None:
        values = magnitude(weights)
    else:
        values = {name: scores[name].detach().to(weight.device, torch.float32) for name, weight in weights.items()}
    return prune_to(start, values, kept)
