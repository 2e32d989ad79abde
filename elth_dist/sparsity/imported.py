"""Masks and weights of networks that others have pruned."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from elth_dist.sparsity.masks import Masks

#: What wrappers put before every name: DataParallel and DDP; torch.compile.
_PREFIXES = ("module.", "_orig_mod.")
#: Where checkpoints keep the state_dict among other things.
_ENTRIES = ("state_dict", "model_state_dict", "model")
_MASK, _ORIGINAL = "_mask", "_orig"
_COMPUTED = "parametrizations."


class Imported(NamedTuple):
    """A pruned network in this package's form: `Ticket(arch, imported.weights, imported.masks, meta)`."""

    masks: Masks  # of the prunable weights, on the CPU
    weights: dict[str, Tensor]
    """A plain state_dict, fp32 on the CPU: dense where the source had masks, as it was elsewhere."""


@torch.no_grad()
def import_masks(
    source: nn.Module | Mapping[str, Any], *, zeros: bool = False, excluded: Collection[str] | None = None
) -> Imported:
    """Read masks and weights off a network that was pruned elsewhere; the source stays as it is.

    Masks are those of torch.nn.utils.prune (`weight_orig` with `weight_mask`, also in a state_dict). Names lose the
    `module.` and `_orig_mod.` of wrappers, fp16 and other floating types become fp32, and a missing
    `num_batches_tracked` is added as 0. A mask of anything but a prunable weight (a bias) is multiplied into it.

    Args:
        source: a model, whose Conv2d and Linear weights are prunable; or a state_dict (also inside a checkpoint, under
            `state_dict` or `model`), whose `weight` entries of two or four dimensions are.
        zeros: where a weight has no mask, prune what is exactly zero. False: keep all of it.
        excluded: weights that get no mask, by name. None: those that the model's family never prunes.

    Raises:
        ValueError: an entry is no tensor, a mask does not fit its weight, a weight of a state_dict is parametrized (its
            model is needed to compute it), or there are no masks and `zeros` is False.
    """
    if isinstance(source, nn.Module):
        state, prunable = _state_of(source)
        described = getattr(source, "architecture", None)
        prunable -= set(getattr(described, "excluded", ()) if excluded is None else excluded)
        masks, weights = split(state)
    else:
        masks, weights = split(source)
        matrices = {name for name, tensor in weights.items() if tensor.ndim in (2, 4) and _is_weight(name)}
        prunable = matrices - set(excluded or ())
    for name in masks.keys() - prunable:
        weights[name] *= masks[name]
    if not zeros and not masks.keys() & prunable:
        raise ValueError("nothing is masked: there is no weight_mask; zeros=True prunes the weights that are zero")
    whole = {
        name: masks.get(name, tensor != 0 if zeros else torch.ones_like(tensor, dtype=torch.bool))
        for name, tensor in weights.items()
        if name in prunable
    }
    return Imported(Masks(whole), weights)


def split(source: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The masks of a state_dict, and its plain weights; see `import_masks`. ValueError as there."""
    state = _without_prefixes(_tensors(source))
    masks: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _COMPUTED in name:
            raise ValueError(f"{name!r} is a part of a parametrization: give the model instead of its state_dict")
        if name.endswith(_MASK) and name.removesuffix(_MASK) + _ORIGINAL in state:
            continue
        plain = name.removesuffix(_ORIGINAL)
        if plain != name and plain + _MASK in state:
            masks[plain] = _mask(plain, state[plain + _MASK], tensor)
            name = plain
        if name in weights:
            raise ValueError(f"{name!r} is there twice: plain, and as {name + _ORIGINAL!r}")
        weights[name] = _own(tensor)
        steps = name.removesuffix("running_var") + "num_batches_tracked"
        if name.endswith("running_var") and steps not in state:
            weights[steps] = torch.zeros((), dtype=torch.int64)
    return masks, weights


def _state_of(model: nn.Module) -> tuple[dict[str, Tensor], set[str]]:
    """A model's state_dict with parametrized tensors as they are computed, and its prunable weights by plain name."""
    state: dict[str, Tensor] = {}
    computed = {
        f"{name}.{tensor}" if name else tensor: getattr(module, tensor)
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module) and isinstance(module.parametrizations, nn.ModuleDict)
        for tensor in module.parametrizations
    }
    for name, tensor in model.state_dict().items():
        owner, part, inner = name.rpartition(_COMPUTED)
        plain = owner + inner.split(".")[0] if part else name
        state.setdefault(plain, computed.get(plain, tensor))
    prunable = [
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    prefix = _prefix(state)
    return state, {name.removeprefix(prefix) for name in prunable}


def _tensors(source: Mapping[str, Any]) -> dict[str, Tensor]:
    for entry in _ENTRIES:
        if isinstance(source.get(entry), Mapping):
            return _tensors(source[entry])
    if wrong := next((name for name, value in source.items() if not isinstance(value, Tensor)), None):
        raise ValueError(f"{wrong!r} is a {type(source[wrong]).__name__}: a state_dict holds tensors only")
    if not source:
        raise ValueError("the state_dict is empty")
    return dict(source)


def _prefix(names: Collection[str]) -> str:
    """What all names begin with for a wrapper's sake."""
    whole = ""
    while step := next((p for p in _PREFIXES if all(name.startswith(whole + p) for name in names)), ""):
        whole += step
    return whole


def _without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = _prefix(state.keys())
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _mask(name: str, mask: Tensor, weight: Tensor) -> Tensor:
    if mask.shape != weight.shape:
        raise ValueError(f"the mask of {name!r} is {list(mask.shape)}, its weight {list(weight.shape)}")
    kept = mask.detach().cpu() != 0
    if not torch.equal(kept.to(mask.dtype), mask.detach().cpu()):
        raise ValueError(f"the mask of {name!r} holds other values than 0 and 1")
    return kept.contiguous()


def _is_weight(name: str) -> bool:
    return name.rpartition(".")[2] == "weight"


def _own(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
