"""The cost of one tensor operation, from the shapes of its operands.

Operations are those of torch's dispatcher (aten), to which every module and function reduces.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten

#: Multiply-accumulates of what torch's registry leaves out.
_PRODUCTS: dict[Any, Callable[..., int]] = {
    _aten.mv: lambda matrix, *_, **__: matrix.numel(),
    _aten.addmv: lambda _, matrix, *__, **___: matrix.numel(),
    _aten.dot: lambda vector, *_, **__: vector.numel(),
    _aten.vdot: lambda vector, *_, **__: vector.numel(),
    _aten.addbmm: lambda _, first, second, **__: first.numel() * second.shape[-1],
}

#: Products whose first operand is added to the result.
_ADDED_TO = (_aten.addmm, _aten.baddbmm, _aten.addbmm, _aten.addmv)


def macs(operation: OpOverload, arguments: Sequence[Any], options: dict[str, Any], output: Any) -> int | None:
    """Count multiply-accumulates by torch's formulas (torch.utils.flop_counter); None if there is no formula."""
    packet = operation.overloadpacket
    if packet in _PRODUCTS:
        return _PRODUCTS[packet](*arguments, **options)
    if packet in flop_registry:
        flops: int = flop_registry[packet](*arguments, **options, out_val=output)
        return flops // 2
    return None


def factors(operation: OpOverload, arguments: Sequence[Any]) -> list[Tensor]:
    """List the tensors that a product multiplies; empty for fused attention, which multiplies activations twice."""
    if "attention" in _name(operation):
        return []
    multiplied = arguments[1:] if operation.overloadpacket in _ADDED_TO else arguments
    return [factor for factor in multiplied if isinstance(factor, Tensor)]


def elementwise(operation: OpOverload, arguments: Sequence[Any], output: Any) -> int:
    """Count normalisation 2 per element, an activation function 1, pooling 1 per element of each window, else 0."""
    name = _name(operation)
    computed = result(output)
    if name in _NORMALISATIONS:
        return 2 * int(computed.numel())
    if name in _ACTIVATIONS:
        return int(computed.numel())
    if name in _WINDOWED:
        window: Sequence[int] = arguments[1]
        sides = int(name.partition("pool")[2][0])  # max_pool2d: 2
        return int(computed.numel()) * (window[0] ** sides if len(window) == 1 else math.prod(window))
    return int(arguments[0].numel()) if name in _POOLED_WHOLE else 0


def result(output: Any) -> Any:
    """Return the first of several outputs, which is the result; the others are statistics or indices."""
    return output[0] if isinstance(output, tuple | list) and output else output


def is_free(operation: OpOverload) -> bool:
    """Tell whether an operation is known to have no multiply-accumulates: views, copies, pointwise, reductions, ..."""
    if operation.namespace != "aten":
        return False
    return operation.is_view or torch.Tag.pointwise in operation.tags or _name(operation) in _FREE


def keeps_zeros(operation: OpOverload, number: int) -> bool:
    """Tell whether the result is zero wherever operand `number` is: a copy, a cast, a multiple."""
    return _name(operation) in _COPIES or (_name(operation), number) in _MULTIPLES


def _name(operation: OpOverload) -> str:
    """Return the operation's name, without the underscore of an in-place operation."""
    name: str = operation.overloadpacket.__name__
    return name.removesuffix("_")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COPIES = _words("clone _to_copy _unsafe_view neg")
_MULTIPLES = frozenset({("mul", 0), ("mul", 1), ("div", 0), ("_weight_norm_interface", 0)})

_NORMALISATIONS = _words("""
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_no_update
    cudnn_batch_norm native_layer_norm native_group_norm _fused_rms_norm
""")
_ACTIVATIONS = _words("""
    relu hardtanh leaky_relu elu gelu silu mish softplus sigmoid tanh hardswish hardsigmoid hardshrink softshrink
    log_sigmoid_forward glu _prelu_kernel rrelu_with_noise threshold
""")
_WINDOWED = _words("avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices")
_POOLED_WHOLE = _words("""
    mean amax _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d
""")

#: Neither views nor tagged as pointwise.
_FREE = (
    _NORMALISATIONS
    | _ACTIVATIONS
    | _WINDOWED
    | _POOLED_WHOLE
    | _COPIES
    | _words("""
    _softmax _log_softmax _safe_softmax _weight_norm_interface
    sum prod max min amin argmax argmin aminmax any all var var_mean std std_mean logsumexp norm linalg_vector_norm
    cumsum cumprod sort topk count_nonzero
    cat stack repeat repeat_interleave roll flip rot90 unsafe_split unsafe_chunk copy as_strided resize tril triu
    constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im
    index index_put _unsafe_index index_select index_add index_copy index_fill gather scatter scatter_add
    slice_scatter select_scatter take embedding masked_scatter
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d
    upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like new_zeros ones ones_like new_ones
    full full_like new_full fill zero scalar_tensor arange linspace eye tril_indices triu_indices
    rand rand_like randn randn_like randint randperm bernoulli uniform normal
    """)
)
