"""The layers of a network and how often each of their weights is used, from one pass that computes nothing."""

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from elth_dist.models.build import blank_model

#: Kept fraction of each weight, by name; weights without an entry are dense.
Densities = Mapping[str, float]


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, as one sample passes through it."""

    weight: str  # the weight's name, as in masks
    shape: tuple[int, ...]  # of the weight
    positions: int  # how often a sample uses each weight: output positions of a convolution, 1 for a classifier
    outputs: int  # output elements a sample

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates a sample, all weights kept."""
        return self.size * self.positions


@dataclass(frozen=True)
class Network:
    """All that costs FLOPs in a network at one image size."""

    layers: tuple[Layer, ...]  # in the order of the parameters
    elementwise: int  # BatchNorm (2 an element), ReLU (1) and pooling (1 an element of each window) a sample
    arch: str | None = None  # of our networks
    excluded: tuple[str, ...] = ()  # weights that are never pruned

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a dense forward pass of one sample."""
        return sum(layer.macs for layer in self.layers)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the prunable weights, by name."""
        return {layer.weight: layer.shape for layer in self.layers if layer.weight not in self.excluded}

    def density(self, densities: Densities) -> float:
        """The kept fraction of all prunable weights together."""
        sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        return sum(densities.get(name, 1.0) * size for name, size in sizes.items()) / sum(sizes.values())


@functools.lru_cache(maxsize=64)
def network(arch: str, image_size: int, num_classes: int) -> Network:
    """One of our networks (see models.families) on images of `image_size` pixels. UserError if there is none."""
    model = blank_model(arch, num_classes, image_size)
    return count_layers(model, (3, image_size, image_size))


def count_layers(model: nn.Module, image_shape: Sequence[int]) -> Network:
    """The layers of any module made of convolutions (transposed ones too) and linear layers.

    One forward pass of a copy on the meta device: no memory, no arithmetic; the model itself is left alone. A layer
    that is used several times counts each time, one that is not used counts nothing.

    Args:
        model: on any device; called with one tensor.
        image_shape: of one sample, without the batch dimension.

    Raises:
        ValueError: a parameter of two or more dimensions belongs to no such layer (attention, embeddings): what it
            costs would be missing.
    """
    blank = _on_meta(model)
    owned = {id(module.weight) for module in blank.modules() if isinstance(module, _ConvNd | nn.Linear)}
    weights = {name: parameter for name, parameter in blank.named_parameters() if id(parameter) in owned}
    for name, parameter in blank.named_parameters():
        if parameter.ndim > 1 and name not in weights:
            raise ValueError(f"{name} belongs to no convolution or linear layer: its FLOPs are not known")
    uses = {id(weight): [0, 0] for weight in weights.values()}  # of a weight, by whichever layers share it
    elementwise = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal elementwise
        if isinstance(module, _ConvNd | nn.Linear):
            positions, outputs = _uses(module, inputs[0], output)
            uses[id(module.weight)][0] += positions
            uses[id(module.weight)][1] += outputs
        else:
            elementwise += _elementwise(module, inputs[0], output)

    for module in blank.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        blank.eval()(torch.empty(1, *image_shape, device="meta", dtype=next(blank.parameters()).dtype))
    layers = tuple(Layer(name, tuple(weight.shape), *uses[id(weight)]) for name, weight in weights.items())
    described = getattr(model, "architecture", None)
    return Network(layers, elementwise, getattr(described, "name", None), getattr(described, "excluded", ()))


def _on_meta(model: nn.Module) -> nn.Module:
    """A deep copy whose parameters and buffers have shapes only."""
    blank: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    blank |= {id(b): b.detach().to("meta") for b in model.buffers()}
    return copy.deepcopy(model, blank)


def _uses(module: _ConvNd | nn.Linear, image: Tensor, output: Tensor) -> tuple[int, int]:
    """How often each weight is used, and the output's elements."""
    if isinstance(module, _ConvTransposeNd):  # each input element meets its kernel once
        return image.numel() // module.in_channels, output.numel()
    width = module.out_channels if isinstance(module, _ConvNd) else output.shape[-1]
    return output.numel() // width, output.numel()


_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


def _elementwise(module: nn.Module, image: Tensor, output: Tensor) -> int:
    if isinstance(module, _BatchNorm):
        return 2 * output.numel()
    if isinstance(module, nn.ReLU):
        return output.numel()
    if isinstance(module, _POOLS):
        kernel = module.kernel_size
        window = math.prod(kernel) if isinstance(kernel, tuple) else int(kernel) ** (output.ndim - 2)
        return output.numel() * window
    return image.numel() if isinstance(module, _ADAPTIVE) else 0
