"""The `model` section of a config."""

import functools
import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from elth_dist.errors import UserError
from elth_dist.models.families import architecture, name_forms
from elth_dist.options import Options
from elth_dist.plugins import plugin_of

Init = Literal["paper", "torchvision", "glorot"]

#: What weights can be read from: safetensors, and pickles of tensors alone.
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth")


def _known(name: str) -> str:
    try:
        return architecture(name).name
    except UserError as error:
        raise ValueError(str(error)) from None


def _readable(path: str) -> str:
    if Path(path).suffix not in WEIGHTS_SUFFIXES:
        raise ValueError(f"{path}: the suffix says the format; valid are {', '.join(WEIGHTS_SUFFIXES)}")
    return path


#: The name of a network that exists (a type for options). Of a library's, only the form is judged.
ArchName = Annotated[str, AfterValidator(_known)]


class ModelOptions(Options):
    """Which network, and how it is initialised."""

    arch: ArchName = Field(description=f"the network: {', '.join(name_forms())}")
    init: Init = Field(
        default="paper",
        description="paper: Kaiming normal (fan-in) for conv and fc weights, BatchNorm gamma uniform in [0, 1), as in "
        "E-LTH; torchvision: as its constructors do (timm/NAME: as timm's); glorot: Glorot normal, as Frankle & Carbin "
        "2019 for LeNets and Conv-2/4/6",
    )
    weights: Annotated[str, AfterValidator(_readable)] | None = Field(
        default=None,
        description="start from this state_dict (.safetensors; .pt or .pth with tensors alone) instead of `init`; "
        "every tensor has to fit, the classifier too: one of another number of classes is refused",
    )

    @functools.cached_property
    def _content_hash(self) -> str:
        return content_hash(Path(str(self.weights)))

    def identity(self) -> dict[str, Any]:
        """As of all options, with the content of `weights` for their path, and the plugin of a plugin's network.

        UserError if the file of `weights` cannot be read.
        """
        identity = super().identity()
        if self.weights is not None:
            identity["weights"] = self._content_hash
        plugin = plugin_of(type(architecture(self.arch).family).__module__)
        return identity if plugin is None else {**identity, "plugin": plugin.to_json()}


def content_hash(path: Path) -> str:
    """SHA-256 of a file of weights. UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"model.weights: {path} cannot be read: {error.strerror}") from None
