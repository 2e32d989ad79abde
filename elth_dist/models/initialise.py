"""Initialisations by kind of module, of random numbers of one generator."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from elth_dist.models.options import Init

InitialiseLinear = Callable[[nn.Linear, torch.Generator], None]

#: Parameters that ViTs hold directly, and the standard deviation that they start with.
_EMBEDDINGS = {"class_token": 0.0, "pos_embedding": 0.02}


@torch.no_grad()
def paper(model: nn.Module, generator: torch.Generator, *, others: Literal["refuse", "keep"] = "refuse") -> None:
    """E-LTH: Kaiming normal with fan-in on conv and linear weights, BatchNorm gamma uniform in [0, 1), other biases 0.

    LayerNorm starts as the identity, class tokens at 0, position embeddings with standard deviation 0.02.

    Args:
        model: filled in place.
        generator: of all random numbers.
        others: whether parameters of modules that are not known keep their values or fail an assertion.
    """
    kaiming = functools.partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu")
    _draw(model, generator, kaiming, nn.init.uniform_, others)


@torch.no_grad()
def glorot(model: nn.Module, generator: torch.Generator, *, others: Literal["refuse", "keep"] = "refuse") -> None:
    """Frankle & Carbin 2019: Glorot normal on conv and linear weights, biases 0; BatchNorm starts as the identity.

    Args: as for paper().
    """
    _draw(model, generator, nn.init.xavier_normal_, lambda gamma, **_: nn.init.ones_(gamma), others)


def _draw(
    model: nn.Module,
    generator: torch.Generator,
    weight: Callable[..., Tensor],
    gamma: Callable[..., Tensor],
    others: Literal["refuse", "keep"],
) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            if module.affine:
                gamma(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            weight(module.in_proj_weight, generator=generator)
            _no_bias(module)
        elif others == "refuse":
            _initialise_alike(module, generator)


@torch.no_grad()
def torchvision(model: nn.Module, generator: torch.Generator, *, linear: InitialiseLinear | None = None) -> None:
    """The distributions of the constructors of torchvision's ResNets and of torch's own modules.

    Args:
        model: filled in place.
        generator: of all random numbers.
        linear: fills Linear modules instead.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear is not None:
            linear(module, generator)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if isinstance(module, NonDynamicallyQuantizableLinear):  # the last one of MultiheadAttention
                nn.init.zeros_(module.bias)
            elif module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            nn.init.xavier_uniform_(module.in_proj_weight, generator=generator)
            _no_bias(module)
        else:
            _initialise_alike(module, generator)


INITIALISATIONS: Mapping[Init, Callable[[nn.Module, torch.Generator], None]] = {
    "paper": paper,
    "torchvision": torchvision,
    "glorot": glorot,
}


def normal_linear(module: nn.Linear, generator: torch.Generator) -> None:
    """As torchvision's VGGs."""
    nn.init.normal_(module.weight, 0.0, 0.01, generator=generator)
    nn.init.zeros_(module.bias)


def _no_bias(module: nn.MultiheadAttention) -> None:
    assert module.bias_k is None, "no initialisation is known for bias_k"
    if module.in_proj_bias is not None:
        nn.init.zeros_(module.in_proj_bias)


def _initialise_alike(module: nn.Module, generator: torch.Generator) -> None:
    """What all initialisations do alike. No tensor may be left uninitialised."""
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()
        return
    for name, parameter in module.named_parameters(recurse=False):
        assert name in _EMBEDDINGS, f"no initialisation is known for {name} of {type(module).__name__}"
        if _EMBEDDINGS[name]:
            nn.init.normal_(parameter, std=_EMBEDDINGS[name], generator=generator)
        else:
            nn.init.zeros_(parameter)
    assert not list(module.buffers(recurse=False)), f"no initialisation is known for {type(module).__name__}"
