"""Masks: one bool tensor per prunable weight, with their counts, densities, packing and hashes."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# Read as a little-endian int64, eight bools are bytes 0 or 1; times this number, the top byte is their eight bits.
_GATHER_BITS = 0x0102040810204080

#: Modules that own prunable weights, and what they call them.
_PRUNABLE: Mapping[type[nn.Module], str] = {
    nn.Conv2d: "weight",
    nn.Linear: "weight",
    nn.MultiheadAttention: "in_proj_weight",
}


def prunable_weights(model: nn.Module, excluded: Collection[str] = ()) -> dict[str, nn.Parameter]:
    """Every Conv2d and Linear weight of `model` by name, in `named_parameters` order, without those `excluded`.

    `in_proj_weight` of MultiheadAttention is one of them: three Linear weights (query, key, value), stacked.

    ValueError if an excluded name is not a prunable weight of the model, or a weight is computed from others (by
    torch.nn.utils.parametrize, prune or weight_norm), so that it is not a parameter.
    """
    owners = _owners(model)
    for name, module in owners.items():
        if name.rpartition(".")[2] not in module._parameters and name not in excluded:
            raise ValueError(
                f"{name!r} is not a parameter but computed by {_computed_by(module)}; "
                "elth_dist.import_masks(model) reads masks and plain weights off such a model"
            )
    if unknown := set(excluded) - owners.keys():
        raise ValueError(f"{min(unknown)!r} is excluded from pruning but is no prunable weight of the model")
    return {name: p for name, p in model.named_parameters() if name in owners and name not in excluded}


def prunable_names(model: nn.Module) -> set[str]:
    """The names of the prunable weights that are parameters of `model`, whatever else its weights are computed from."""
    return {name for name, module in _owners(model).items() if name.rpartition(".")[2] in module._parameters}


def _owners(model: nn.Module) -> dict[str, nn.Module]:
    """The modules whose weights are prunable, by the weights' names."""
    return {
        f"{name}.{_PRUNABLE[kind]}" if name else _PRUNABLE[kind]: module
        for name, module in model.named_modules()
        for kind in _PRUNABLE
        if isinstance(module, kind)
    }


def _computed_by(module: nn.Module) -> str:
    """What makes a module's weight, for people."""
    if parametrize.is_parametrized(module, "weight"):
        assert isinstance(module.parametrizations, nn.ModuleDict)
        steps = module.parametrizations["weight"]
        assert isinstance(steps, nn.ModuleList)
        return f"torch.nn.utils.parametrize ({', '.join(type(step).__name__ for step in steps)})"
    if "weight_mask" in module._buffers:
        return "torch.nn.utils.prune"
    return "weight_norm" if "weight_g" in module._parameters else "a parametrization"


class Overlap(NamedTuple):
    """Jaccard index |A and B| / |A or B| of two masks' kept weights; 1 where both keep nothing."""

    total: float
    tensors: dict[str, float]


class Masks(Mapping[str, Tensor]):
    """One bool tensor (True: kept) of the weight's shape for each prunable weight, in parameter order.

    The tensors may have any strides; wherever an order matters (packing, hashes, ties) it is the *logical* one, the
    row-major order of the indices (NCHW for a convolution). They are not to be changed in place: make new masks.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        if not tensors:
            raise ValueError("there are no masks")
        for name, tensor in tensors.items():
            if tensor.dtype != torch.bool:
                raise ValueError(f"the mask of {name!r} is {tensor.dtype}, not bool")
            if tensor.numel() == 0:
                raise ValueError(f"the mask of {name!r} is empty")
        self._tensors = dict(tensors)

    @classmethod
    def dense(cls, weights: nn.Module | Mapping[str, Sequence[int]], excluded: Collection[str] = ()) -> Self:
        """Make masks that keep everything, for a model's prunable weights (on their devices) or named shapes (CPU)."""
        if isinstance(weights, nn.Module):
            prunable = prunable_weights(weights, excluded)
            return cls({name: torch.ones(p.shape, dtype=torch.bool, device=p.device) for name, p in prunable.items()})
        shapes = {name: shape for name, shape in weights.items() if name not in excluded}
        return cls({name: torch.ones(tuple(shape), dtype=torch.bool) for name, shape in shapes.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        """Compare names in order, shapes and bits; on any devices."""
        if not isinstance(other, Masks):
            return NotImplemented
        if list(self) != list(other):
            return False
        return all(torch.equal(mask, other[name].to(mask.device)) for name, mask in self.items())

    __hash__ = None  # type: ignore[assignment]  # compared by content, which tensors cannot be hashed by

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, {self.kept:,} of {self.total:,} weights kept)"

    @property
    def counts(self) -> dict[str, int]:
        """Number of kept weights, by name."""
        return dict(zip(self, _read([mask.count_nonzero() for mask in self.values()]), strict=True))

    @property
    def kept(self) -> int:
        """Number of kept weights."""
        return sum(self.counts.values())

    @property
    def total(self) -> int:
        """Number of prunable weights."""
        return sum(mask.numel() for mask in self.values())

    @property
    def density(self) -> float:
        """Kept fraction of all prunable weights, in [0, 1]."""
        return self.kept / self.total

    @property
    def densities(self) -> dict[str, float]:
        """Kept fraction of each weight, by name."""
        return {name: count / self[name].numel() for name, count in self.counts.items()}

    def collapsed(self) -> list[str]:
        """List the fully pruned weights (layer collapse), through which no signal passes."""
        return [name for name, count in self.counts.items() if count == 0]

    def overlap(self, other: "Masks") -> Overlap:
        """Compute the Jaccard index of the kept weights with those of `other` (same names and shapes).

        Per tensor and in total.
        """
        if list(self) != list(other):
            raise ValueError("masks of different weights have no overlap")
        pairs = [(mask, other[name].to(mask.device)) for name, mask in self.items()]
        both = _read([(a & b).count_nonzero() for a, b in pairs])
        either = _read([(a | b).count_nonzero() for a, b in pairs])
        tensors = {name: _ratio(i, u) for name, i, u in zip(self, both, either, strict=True)}
        return Overlap(_ratio(sum(both), sum(either)), tensors)

    def to(self, device: torch.device | str) -> "Masks":
        """Copy the masks to `device`."""
        return Masks({name: mask.to(device) for name, mask in self.items()})

    def packed(self) -> dict[str, Tensor]:
        """Pack to one bit per weight: uint8 tensors [ceil(numel / 8)], on the masks' device.

        Bit i % 8 (least significant first) of byte i // 8 is the weight at logical flat index i; padding bits are 0.
        """
        return {name: _pack(mask) for name, mask in self.items()}

    @classmethod
    def unpack(cls, packed: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> Self:
        """Invert `packed`, in the order of `shapes`.

        ValueError, naming the tensor, if names, dtype, size or padding bits do not fit (a file may hold anything).
        """
        if odd := set(packed) ^ set(shapes):
            raise ValueError(f"the packed masks and the weights differ in {min(odd)!r}")
        return cls({name: _unpack(name, packed[name], tuple(shape)) for name, shape in shapes.items()})

    def hashes(self) -> dict[str, int]:
        """Hash each mask's packed bits to an int64, independent of device and strides."""
        packed = list(self.packed().values())
        data = torch.cat(packed).cpu().numpy().tobytes()
        hashes, start = {}, 0
        for name, bits in zip(self, packed, strict=True):
            digest = hashlib.blake2b(data[start : start + bits.numel()], digest_size=8).digest()
            hashes[name] = int.from_bytes(digest, "little", signed=True)
            start += bits.numel()
        return hashes

    @torch.no_grad()
    def apply_(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the pruned entries of the tensors of these names to exactly +0, in place, even NaN.

        `tensors` may hold more names (a state_dict); KeyError if one is missing.
        """
        for name, mask in self.items():
            tensors[name].masked_fill_(mask.to(tensors[name].device).logical_not(), 0)

    @torch.no_grad()
    def check_zero(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """List the names whose tensor is not zero (NaN included) at a pruned entry. KeyError as in `apply_`."""
        wrong = [
            tensors[name].masked_fill(mask.to(tensors[name].device), 0).count_nonzero() for name, mask in self.items()
        ]
        return [name for name, count in zip(self, _read(wrong), strict=True) if count]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _read(counts: Iterable[Tensor]) -> list[int]:
    """Read many scalars from the device with one synchronisation."""
    values: list[int] = torch.stack(list(counts)).tolist()
    return values


def _pack(mask: Tensor) -> Tensor:
    bits = mask.new_zeros(-(-mask.numel() // 8) * 8)
    bits[: mask.numel()].view(mask.shape).copy_(mask)
    return (bits.view(torch.int64) * _GATHER_BITS >> 56).to(torch.uint8)


def _unpack(name: str, packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    numel = torch.Size(shape).numel()
    if packed.dtype != torch.uint8 or packed.shape != (-(-numel // 8),):
        raise ValueError(
            f"the packed mask of {name!r} is {packed.dtype} {list(packed.shape)}, but {numel} weights take uint8 "
            f"[{-(-numel // 8)}]"
        )
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = (packed.unsqueeze(1) >> shifts).bitwise_and_(1).view(torch.bool).flatten()
    if bits[numel:].any():
        raise ValueError(f"the packed mask of {name!r} has padding bits that are not zero")
    return bits[:numel].view(shape)
