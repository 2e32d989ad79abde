"""Plain state_dicts as safetensors files: what training leaves, loadable by torchvision's networks."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import safetensors
import safetensors.torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import Tensor

from elth_dist.errors import UserError
from elth_dist.tickets.files import write_file

METADATA_KEY = "elth_dist.weights"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


#: JSON has no NaN and no infinities: None.
_Finite = Annotated[float | None, BeforeValidator(_finite)]


class About(BaseModel):
    """What a file of trained weights says about itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    arch: str
    num_classes: int = Field(ge=1)
    image_size: int = Field(ge=1, description="height and width of the images, in pixels")
    dataset: str = Field(description="data.name")
    data: dict[str, Any] = Field(description="every `data` option that determines the result")
    fingerprint: str | None = Field(default=None, description="of the dataset's contents")
    density: float = Field(ge=0, le=1, description="kept fraction of the prunable weights")
    level: int | None = Field(default=None, description="how often IMP has pruned; None: no ticket was trained")
    job: str = Field(description="identity of the job that trained them")
    top1: _Finite = Field(default=None, description="on the validation set, in [0, 1]")
    top5: _Finite = None
    val_loss: _Finite = None

    @classmethod
    def read(cls, entry: str) -> Self:
        """A file's metadata entry. ValueError saying what is wrong with it."""
        try:
            fields = json.loads(entry)
            version = fields.get("format_version") if isinstance(fields, dict) else None
            if isinstance(version, int) and version != 1:
                raise ValueError(f"has weights of format version {version}; this elth_dist reads version 1")
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "JSON"
            raise ValueError(f"has unreadable metadata ({where}: {first['msg']})") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"has unreadable metadata ({error})") from error


def save_weights(path: Path, weights: Mapping[str, Tensor], about: About | None = None) -> None:
    """Write a state_dict (contiguous CPU tensors), whole or not at all. UserError if that is impossible.

    Equal weights with equal metadata give equal bytes: there is one metadata entry, sorted JSON.
    """
    if about is None:
        metadata = {"format": "pt"}
    else:
        fields = about.model_dump(mode="json")
        metadata = {METADATA_KEY: json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)}
    write_file(path, safetensors.torch.save(dict(weights), metadata=metadata))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state_dict onto the CPU. UserError naming the file if it is missing, truncated or of another kind."""
    try:
        found: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as weights: {error}") from error
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata entries of a safetensors file.

    Raises:
        UserError: the file is missing, truncated or of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'no such file' if not path.exists() else 'is a folder, not a file of weights'}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path}: is not a ticket file, nor weights as safetensors, or is truncated ({error})"
        ) from error


def load_about(path: Path) -> About | None:
    """What a file of trained weights says about itself; None for one of an older version, or of somebody else.

    Raises:
        UserError: the file is missing, truncated, of another kind or of a newer format.
    """
    entry = read_metadata(path).get(METADATA_KEY)
    try:
        return None if entry is None else About.read(entry)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
