"""What a network's shapes say: which weight is the classifier, which image size a state_dict is for."""

import functools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from elth_dist.errors import UserError
from elth_dist.models.build import blank_model
from elth_dist.models.family import Architecture

Shapes = Mapping[str, tuple[int, ...]]


@functools.lru_cache(maxsize=256)
def classifier(network: Architecture) -> str:
    """The last weight, of two dimensions or more, whose first one is the number of classes. UserError without one."""
    some, more = (_shapes(network, classes, network.published.image_size) for classes in (11, 13))
    dependent = [name for name, shape in some.items() if len(shape) > 1 and (shape[0], more[name][0]) == (11, 13)]
    if not dependent:
        raise UserError(f"{network.name}: no weight has one row per class: it is not a classifier")
    return dependent[-1]


def image_size(network: Architecture, weights: Mapping[str, Tensor]) -> int | None:
    """The image size whose network has the shapes of `weights`; None where none depends on it, or where they fit none.

    Dimensions are taken to grow linearly with the image's side, or with its square and a constant (patches and class
    tokens).
    """
    small = network.published.image_size
    for name, dimension, length, longer in _sized(network):
        if name not in weights or weights[name].ndim <= dimension:
            return None
        here = weights[name].shape[dimension]
        if longer == 2 * length:
            size = here * small // length
        else:  # length = small^2 / patch^2 + constant
            patches = (longer - length) // 3
            constant = length - patches
            size = math.isqrt(max(here - constant, 0) * small * small // patches) if patches > 0 else 0
        if size < 1 or size > 16384:
            return None
        try:
            shapes = _shapes(network, 11, size)
        except UserError:
            return None
        return size if shapes[name] == tuple(weights[name].shape) else None
    return None


@functools.lru_cache(maxsize=256)
def _sized(network: Architecture) -> tuple[tuple[str, int, int, int], ...]:
    """Of the shapes that depend on the image size: name, dimension, its length at the published size and at twice."""
    size = network.published.image_size
    try:
        small, large = _shapes(network, 11, size), _shapes(network, 11, 2 * size)
    except UserError:  # of one size only
        return ()
    if small.keys() != large.keys():
        return ()
    return tuple(
        (name, dimension, *lengths)
        for name in small
        if len(small[name]) == len(large[name])
        for dimension, lengths in enumerate(zip(small[name], large[name], strict=True))
        if lengths[0] != lengths[1]
    )


@functools.lru_cache(maxsize=64)
def _shapes(network: Architecture, num_classes: int, image_size: int) -> Shapes:
    with torch.no_grad():
        state = blank_model(network.name, num_classes, image_size).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
