"""The ticket - an architecture, its rewinding weights and masks, where it came from - and its file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from elth_dist.errors import UserError
from elth_dist.models.build import blank_model, model_from
from elth_dist.models.families import architecture
from elth_dist.models.options import Init
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.tickets.files import write_file
from elth_dist.tickets.plans import TransferPlan

FORMAT_VERSION: Literal[1] = 1
METADATA_KEY = "elth_dist.ticket"
MASK_PREFIX = "mask/"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Change(_Record):
    """What a control experiment, or another dataset, changed in a ticket (E-LTH, figure 3 and table 6)."""

    kind: str = Field(
        description="'random': masks permuted within layers; 'random_premasked': the same, after theta_r was masked; "
        "'reinit': new initial values; 'shuffled_copies': masks permuted in a transfer's copies; 'new_classifier': a "
        "fresh, dense classifier; 'start': another rewind step, theta_r unchanged; or what a plugin's control does"
    )
    seed: int | None = Field(default=None, description="of what was drawn at random; null: nothing")
    init: Init | None = Field(default=None, description="for 'reinit' and 'new_classifier': which initialisation")


class TicketMeta(_Record):
    """Where a ticket came from. What it *is* - architecture, density, hash - the ticket itself tells."""

    dataset: str = Field(description="data.name of the run that found the masks")
    level: int = Field(ge=0, description="how often IMP has pruned; 0 is dense")
    rewind_step: int = Field(
        ge=0,
        description="step of the schedule at which training begins: the optimizer steps that the weights (theta_r) "
        "have been trained for, unless `controls` has a 'start'",
    )
    criterion: str = Field(default="none", description="what the masks were pruned by, such as 'magnitude'")
    plan: TransferPlan | None = Field(default=None, description="the last transfer")
    parent: str | None = Field(default=None, description="content hash of the ticket that this one was made from")
    config: str | None = Field(default=None, description="hash of the configuration that found the masks")
    controls: tuple[Change, ...] = ()


class _Header(_Record):
    """The one metadata entry of a ticket file."""

    format_version: Literal[1] = FORMAT_VERSION
    arch: str
    num_classes: int = Field(ge=1, le=1_000_000)
    density: float = Field(ge=0, le=1)
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    meta: TicketMeta


class _AnyVersion(BaseModel):
    """As much of a header as every version has."""

    model_config = ConfigDict(extra="ignore", strict=True)
    format_version: int


@dataclass(frozen=True, eq=False, repr=False)
class Ticket:
    """A subnetwork and the weights that it starts from.

    Weights and masks are copied to the CPU and put into the network's own order; they are not to be changed in place.
    ValueError if names, shapes or dtypes are not those of the network.
    """

    arch: str
    weights: dict[str, Tensor]
    """theta_r: the network's whole state_dict (fp32, BatchNorm statistics included), *dense*: never pre-masked."""
    masks: Masks
    meta: TicketMeta

    def __post_init__(self) -> None:
        form = _Form.of(self.arch, self.num_classes, self.image_size)
        if fault := form.fault(self.weights):
            raise ValueError(f"weights of a {self.arch} ticket: {fault}")
        shapes = {name: tuple(mask.shape) for name, mask in self.masks.items()}
        if shapes != form.prunable:
            wrong = next(iter(dict(shapes.items() ^ form.prunable.items())))
            raise ValueError(f"masks of a {self.arch} ticket: {wrong!r} does not fit the network")
        weights = {name: _own(self.weights[name]) for name in form.state}
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "masks", Masks({name: _own(self.masks[name]) for name in form.prunable}))

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier. ValueError if it is missing, in weights that are no ticket's."""
        try:
            return architecture(self.arch).num_classes(self.weights)
        except ValueError as error:
            raise ValueError(f"weights of a {self.arch} ticket: {error}") from None

    @property
    def image_size(self) -> int | None:
        """The image size in pixels that the weights' shapes are for; None where none depends on it."""
        return architecture(self.arch).image_size(self.weights)

    @property
    def density(self) -> float:
        """Kept fraction of the prunable weights."""
        return self.masks.density

    @property
    def stage_densities(self) -> dict[str, float]:
        """Kept fraction of each stage ("stage 1", ...) and of each prunable layer outside of the stages, in order."""
        network = architecture(self.arch)
        kept: dict[str, int] = {}
        total: dict[str, int] = {}
        for name, count in self.masks.counts.items():
            stage = network.stage_of(name)
            part = name.removesuffix(".weight") if stage is None else f"stage {stage + 1}"
            kept[part] = kept.get(part, 0) + count
            total[part] = total.get(part, 0) + self.masks[name].numel()
        return {part: kept[part] / total[part] for part in total}

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything that training from this ticket depends on: network, rewind step, weights and masks.

        Not over where it came from: two runs that find the same ticket find the same hash.
        """
        what = {"arch": self.arch, "num_classes": self.num_classes, "rewind_step": self.meta.rewind_step}
        digest = hashlib.sha256(_sorted_json(what))
        for name, tensor in sorted(_file_tensors(self.weights, self.masks).items()):
            digest.update(_sorted_json([name, str(tensor.dtype), list(tensor.shape)]))
            digest.update(tensor.reshape(-1).numpy().data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        found_by = f"level {self.meta.level}, rewind step {self.meta.rewind_step}"
        return f"Ticket({self.arch}, density {self.density:.2%}, {found_by}, {self.hash[:12]})"

    def model(self, image_size: int | None = None, *, masked: bool = True) -> nn.Module:
        """The subnetwork on the CPU, in training mode: a fresh copy of theta_r, 0 where the mask prunes it.

        Args:
            image_size: in pixels, for networks that depend on it; None: the size that the weights are for.
            masked: False: theta_r whole.

        UserError if the weights are for another image size.
        """
        return model_from(self.arch, self.masked_weights() if masked else self.weights, image_size)

    def masked_weights(self) -> dict[str, Tensor]:
        """A fresh copy of the weights with the pruned ones zero: what training starts from, and what is exported."""
        weights = {name: tensor.clone() for name, tensor in self.weights.items()}
        self.masks.apply_(weights)
        return weights

    def save(self, path: Path | str) -> None:
        """Write the ticket file, whole or not at all; equal tickets give equal bytes.

        One safetensors file: the weights under their state_dict names, each mask bit-packed (uint8, see
        `Masks.packed`) under `mask/` and its weight's name, and one metadata entry of sorted JSON.

        UserError if it cannot be written.
        """
        header = _Header(
            arch=self.arch, num_classes=self.num_classes, density=self.density, hash=self.hash, meta=self.meta
        )
        metadata = {METADATA_KEY: _sorted_json(header.model_dump(mode="json")).decode()}
        tensors = _file_tensors(self.weights, self.masks)
        write_file(Path(path), safetensors.torch.save(tensors, metadata=metadata))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read and verify a ticket file.

        Raises:
            UserError: the file is missing, truncated, damaged, of another kind or of a newer format, or its tensors are
                not exactly those of its architecture.
        """
        path = Path(path)
        try:
            entry, tensors = _read_safetensors(path)
            return cls._from_file(entry, tensors)
        except _NotATicketError as error:
            raise UserError(f"{path}: {error}") from error

    @classmethod
    def _from_file(cls, entry: str | None, tensors: Mapping[str, Tensor]) -> Self:
        header = _parse_header(entry)
        weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(MASK_PREFIX)}
        form = _Form.of(header.arch, header.num_classes, architecture(header.arch).image_size(weights))
        if fault := form.fault(weights):
            raise _NotATicketError(f"is no valid ticket of {header.arch}: {fault}")
        packed = {name.removeprefix(MASK_PREFIX): tensors[name] for name in tensors.keys() - weights.keys()}
        try:
            masks = Masks.unpack(packed, form.prunable)
        except ValueError as error:
            raise _NotATicketError(f"is no valid ticket of {header.arch}: {error}") from error
        ticket = cls(header.arch, weights, masks, header.meta)
        if (ticket.density, ticket.hash) != (header.density, header.hash):
            raise _NotATicketError("is damaged: weights and masks are not those that its content hash was taken of")
        return ticket


@dataclass(frozen=True)
class _Form:
    """What the tensors of a network have to look like."""

    state: dict[str, tuple[tuple[int, ...], torch.dtype]]
    prunable: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, arch: str, num_classes: int, image_size: int | None) -> Self:
        model = blank_model(arch, num_classes, image_size)
        prunable = prunable_weights(model, architecture(arch).excluded)
        return cls(
            {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()},
            {name: tuple(weight.shape) for name, weight in prunable.items()},
        )

    def fault(self, weights: Mapping[str, Tensor]) -> str | None:
        """What is wrong with a state_dict; None if nothing is."""
        if missing := next((name for name in self.state if name not in weights), None):
            return f"{missing!r} is missing"
        for name, tensor in weights.items():
            if name not in self.state:
                return f"{name!r} is none of its tensors"
            shape, dtype = self.state[name]
            if (tuple(tensor.shape), tensor.dtype) != (shape, dtype):
                return f"{name!r} is {tensor.dtype} {list(tensor.shape)}, the network has {dtype} {list(shape)}"
        return None


class _NotATicketError(Exception):
    """What is wrong with a file, without its name."""


def _read_safetensors(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """Our metadata entry (None without one) and all tensors of a file."""
    if not path.is_file():
        raise _NotATicketError("no such file" if not path.exists() else "is a folder, not a ticket file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # cloned: what safetensors returns may be a view of the mapped file
            return metadata.get(METADATA_KEY), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise _NotATicketError(f"is not a ticket file, or is truncated ({error})") from error


def _parse_header(entry: str | None) -> _Header:
    if entry is None:
        raise _NotATicketError("is a safetensors file but not a ticket: it has no elth_dist metadata")
    try:
        version = _AnyVersion.model_validate_json(entry).format_version
        if version != FORMAT_VERSION:
            raise _NotATicketError(
                f"has ticket format version {version}; this elth_dist reads version {FORMAT_VERSION}"
            )
        header = _Header.model_validate_json(entry)
        architecture(header.arch)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "JSON"
        raise _NotATicketError(f"has unreadable ticket metadata ({where}: {first['msg']})") from error
    except UserError as error:
        raise _NotATicketError(f"has unreadable ticket metadata ({error})") from error
    return header


def _file_tensors(weights: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    return {**weights, **{f"{MASK_PREFIX}{name}": bits for name, bits in masks.packed().items()}}


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _sorted_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
