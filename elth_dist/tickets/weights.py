"""Plain state_dicts as safetensors files: what training leaves, loadable by torchvision's networks."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from elth_dist.errors import UserError
from elth_dist.tickets.files import write_file


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a state_dict (contiguous CPU tensors), whole or not at all. UserError if that is impossible."""
    write_file(path, safetensors.torch.save(dict(weights), metadata={"format": "pt"}))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state_dict onto the CPU. UserError naming the file if it is missing, truncated or of another kind."""
    try:
        found: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as weights: {error}") from error
    return found
