"""Files of weights from elsewhere, as the start of a network."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from elth_dist.errors import UserError
from elth_dist.models.build import architecture_of

#: What DataParallel, DistributedDataParallel and torch.compile put in front of every name.
_WRAPPERS = ("module.", "_orig_mod.")
#: Where training scripts keep the state_dict in their checkpoints (torchvision's references, timm).
_ENTRIES = ("state_dict", "model")


def load_initial(model: nn.Module, file: Path | str) -> None:
    """Fill a network of `build_model` from a file: the start of a training (`model.weights`).

    Prefixes of wrappers are taken off names, floating point tensors are converted to the network's dtype, and missing
    `num_batches_tracked` count as 0. Everything else has to be there, of the network's shapes, and finite.

    Args:
        model: on the CPU; changed in place, and left alone where the file is refused.
        file: .safetensors, or .pt/.pth that hold tensors alone: no code in it is run.

    Raises:
        UserError: the file cannot be read or does not fit; one line that names file and tensor.
    """
    path = Path(file)
    weights = _unwrapped(read_state_dict(path))
    if fault := _fault(model, weights):
        raise UserError(f"model.weights: {path}: {fault}")
    state = model.state_dict()
    for name in state.keys() - weights.keys():
        weights[name] = torch.zeros_like(state[name])
    model.load_state_dict({name: tensor.to(state[name].dtype) for name, tensor in weights.items()})


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pt/.pth file, on the CPU. UserError if it holds anything else."""
    try:
        content: Any = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, safetensors.SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        reason = " ".join(str(error).split(". ")[0].split()) or type(error).__name__
        raise UserError(f"model.weights: {path} cannot be read as weights: {reason}") from None
    for entry in _ENTRIES:
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise UserError(f"model.weights: {path}: holds no state_dict: names and tensors")
    return dict(content)


def _unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = list(weights)
    while names and (wrapper := next((w for w in _WRAPPERS if all(name.startswith(w) for name in names)), None)):
        names = [name.removeprefix(wrapper) for name in names]
    return dict(zip(names, weights.values(), strict=True))


def _fault(model: nn.Module, weights: Mapping[str, Tensor]) -> str | None:
    """What is wrong with weights for this network; None if nothing is."""
    described = architecture_of(model)
    state = model.state_dict()
    if any(name.startswith("mask/") for name in weights):
        return "is a ticket, not weights; train it with method.name ticket"
    for name in state:
        if name not in weights and not name.endswith("num_batches_tracked"):
            return f"{name!r} of {described.name} is missing"
    for name, tensor in weights.items():
        if name not in state:
            return f"{name!r} is not a tensor of {described.name}"
        if tensor.shape != state[name].shape:
            shapes = f"{name!r} is {list(tensor.shape)}, {described.name} has {list(state[name].shape)}"
            if name == described.classifier:
                return (
                    f"{shapes}: the classifier is for {tensor.shape[0]} classes, the data have {state[name].shape[0]}"
                )
            return shapes
        if tensor.is_floating_point() != state[name].is_floating_point() or tensor.is_complex():
            return f"{name!r} is {tensor.dtype}, {described.name} has {state[name].dtype}"
        if not tensor.isfinite().all():
            return f"{name!r} holds values that are not finite"
    return None
