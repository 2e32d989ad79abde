"""The layers of a network and how often each weight is used, from one pass on the meta device."""

import contextlib
import copy
import functools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from elth_dist.accounting import operations
from elth_dist.errors import UserError
from elth_dist.models.build import blank_model
from elth_dist.sparsity.masks import prunable_names

#: Kept fraction of each weight, by name; weights without an entry are dense.
Densities = Mapping[str, float]


@dataclass(frozen=True)
class Layer:
    """A weight that activations are multiplied with (convolution, linear layer), and its use per sample."""

    weight: str  # the weight's name, as in masks
    shape: tuple[int, ...]  # of the weight
    positions: int  # how often a sample uses each weight: output positions of a convolution, 1 for a classifier
    outputs: int  # output elements per sample

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample, all weights kept."""
        return self.size * self.positions


@dataclass(frozen=True)
class Network:
    """The layers and other operations of a network at one image size."""

    layers: tuple[Layer, ...]  # in the order of the parameters
    elementwise: int
    """Operations per sample: normalisation (2 per element), activation functions (1) and pooling (1 per element of
    each window)."""
    matmuls: int = 0
    """Multiply-accumulates per sample that no mask saves: products of activations (attention), and products with
    values computed from weights in which a pruned weight is not zero (weight standardisation)."""
    arch: str | None = None  # only for our networks
    excluded: tuple[str, ...] = ()  # weights that are never pruned

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a dense forward pass of one sample."""
        return sum(layer.macs for layer in self.layers) + self.matmuls

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the prunable weights, by name."""
        return {layer.weight: layer.shape for layer in self.layers if layer.weight not in self.excluded}

    def density(self, densities: Densities) -> float:
        """Compute the kept fraction of all prunable weights together."""
        sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        return sum(densities.get(name, 1.0) * size for name, size in sizes.items()) / sum(sizes.values())


@functools.lru_cache(maxsize=64)
def network(arch: str, image_size: int, num_classes: int) -> Network:
    """A network of a family on images of `image_size` pixels.

    UserError if there is none, or if its FLOPs cannot be counted (see count_layers).
    """
    model = blank_model(arch, num_classes, image_size)
    try:
        return count_layers(model, (3, image_size, image_size))
    except ValueError as error:
        raise UserError(f"model.arch: {arch}: {error}") from None


def count_layers(model: nn.Module, image_shape: Sequence[int]) -> Network:
    """Count the layers of any module, and its other products.

    Runs one forward pass of a copy on the meta device and observes every tensor operation: no memory, no arithmetic,
    and the model is unchanged. Multiply-accumulates belong to the multiplied parameter of two or more dimensions (or a
    view, copy or multiple of it); products of two activations belong to no layer. A weight counts each time it is
    used, and an unused weight counts nothing.

    Args:
        model: on any device; called with one tensor.
        image_shape: of one sample, without the batch dimension.

    Raises:
        ValueError: the cost of an operation is unknown (register a formula with
            `torch.utils.flop_counter.register_flop_formula`); or parts of a weight are used unequally often, so that
            the savings of pruning it are undefined.
    """
    blank = _on_meta(model)
    prunable = prunable_names(blank)
    counter = _Counter(blank, prunable)
    with _quietly(), counter, torch.inference_mode(False), torch.no_grad():
        blank.eval()(torch.empty(1, *image_shape, device="meta", dtype=next(blank.parameters()).dtype))
    layers = tuple(
        Layer(name, tuple(parameter.shape), counter.positions(name, parameter.numel()), counter.outputs[name])
        for name, parameter in blank.named_parameters()
        if name in prunable or name in counter.outputs
    )
    described = getattr(model, "architecture", None)
    never_pruned = [layer.weight for layer in layers if layer.weight not in prunable]
    excluded = (*getattr(described, "excluded", ()), *never_pruned)
    return Network(layers, counter.elementwise, counter.matmuls, getattr(described, "name", None), excluded)


def _on_meta(model: nn.Module) -> nn.Module:
    """Copy a model to the meta device: parameters and buffers with shapes only, each with its own storage."""
    blank: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()
    }
    blank |= {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    return copy.deepcopy(model, blank)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Disable the fused inference kernels of nn.MultiheadAttention, and preserve the random state."""
    fused = torch.backends.mha.get_fastpath_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)


class _Part(NamedTuple):
    """A part of a parameter: all of it, or a chunk of rows."""

    weight: str
    start: int
    size: int


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operation of one forward pass."""

    def __init__(self, model: nn.Module, prunable: Collection[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elementwise = 0
        self.matmuls = 0
        self.outputs: Counter[str] = Counter()  # elements, by weight
        self._macs: Counter[_Part] = Counter()
        self._prunable = prunable
        self._weights = {_storage(p): name for name, p in model.named_parameters() if p.ndim > 1}
        self._copies: dict[int, tuple[Tensor, _Part]] = {}  # by storage; kept, so that no other tensor gets it
        self._inside: list[str] = []  # the modules whose forward pass is running
        for name, module in model.named_modules():
            module.register_forward_pre_hook(functools.partial(self._enter, f"{name} ({type(module).__name__})"))
            module.register_forward_hook(self._leave)

    def _enter(self, name: str, *_: Any) -> None:
        self._inside.append(name.strip())

    def _leave(self, *_: Any) -> None:
        self._inside.pop()

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        if not isinstance(operation, OpOverload):
            raise ValueError(self._unknown(operation))
        output = operation(*arguments, **options)
        macs = operations.macs(operation, arguments, options, output)
        if macs is not None:
            self._multiplied(operation, arguments, output, macs)
        elif operations.is_free(operation):
            self._computed(operation, arguments, output)
        else:
            raise ValueError(self._unknown(operation))
        return output

    def _unknown(self, operation: object) -> str:
        return f"{self._inside[-1] if self._inside else 'the network'}: the FLOPs of {operation} are not known"

    def _multiplied(self, operation: OpOverload, arguments: Sequence[Any], output: Any, macs: int) -> None:
        parts = [part for factor in operations.factors(operation, arguments) if (part := self._part(factor))]
        if not parts:
            self.matmuls += macs
            return
        part = min(parts, key=lambda part: part.weight not in self._prunable)
        self._macs[part] += macs
        self.outputs[part.weight] += output.numel()

    def _computed(self, operation: OpOverload, arguments: Sequence[Any], output: Any) -> None:
        tensors = {number: value for number, value in enumerate(arguments) if isinstance(value, Tensor)}
        parts = {number: part for number, value in tensors.items() if (part := self._part(value))}
        if 0 not in parts:  # operations on weights alone are not a cost per sample
            self.elementwise += operations.elementwise(operation, arguments, output)
        result = operations.result(output)
        if operation.is_view or not isinstance(result, Tensor) or _storage(result) in self._weights:
            return
        kept = (part for number, part in parts.items() if operations.keeps_zeros(operation, number))
        same = next((part for part in kept if part.size == result.numel()), None)
        if same is None:
            self._copies.pop(_storage(result), None)
        else:
            self._copies[_storage(result)] = result, same

    def _part(self, tensor: Tensor) -> _Part | None:
        """Return the part of a parameter that a tensor holds; None for an activation."""
        if (name := self._weights.get(_storage(tensor))) is not None:
            held = math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
            return _Part(name, int(tensor.storage_offset()), held)
        copied = self._copies.get(_storage(tensor))
        return None if copied is None else copied[1]

    def positions(self, weight: str, size: int) -> int:
        """Return how often each element of a weight is used. ValueError if elements are used unequally often."""
        uses = {part: macs for part, macs in self._macs.items() if part.weight == weight}
        chunks = {part: macs for part, macs in uses.items() if part.size < size}
        rates = {Fraction(macs, part.size) for part, macs in chunks.items()}
        if len(rates) > 1 or (chunks and sum(part.size for part in chunks) != size):
            raise ValueError(
                f"{weight}: its parts are used unequally often, so that the savings of pruning are unknown"
            )
        return sum(uses.values()) // size


def _storage(tensor: Tensor) -> int:
    """Return a key that all views of a tensor share, and no other tensor."""
    identity: int = tensor.untyped_storage()._cdata
    return identity
