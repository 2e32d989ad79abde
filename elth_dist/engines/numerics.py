"""Set the kernels and the precision of fp32 products for the process, since torch keeps them globally."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

#: The type in which forward and backward compute under torch.autocast; None: fp32, without autocast.
AUTOCAST = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Numerics:
    """How forward and backward compute, on any engine; fields as in `TrainOptions`."""

    precision: str = "fp32"  # a key of AUTOCAST
    sync_bn: bool = False
    compile: bool = False
    deterministic: bool = False

    @property
    def autocast(self) -> torch.dtype | None:
        """See AUTOCAST."""
        return AUTOCAST[self.precision]

    def autocasting(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """Return a context in which a forward pass on `device` computes in that type."""
        casting: contextlib.AbstractContextManager[None] = torch.autocast(
            device.type, dtype=self.autocast, enabled=self.autocast is not None
        )
        return casting

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Use TF32 products only under "tf32", and bit-reproducible kernels only if `deterministic`.

        Applies to the whole process until the block ends, which restores all settings.
        """
        with _determinism_restored(), _products_restored():
            torch.use_deterministic_algorithms(self.deterministic)
            torch.backends.cudnn.benchmark = not self.deterministic
            _set_products(tf32=self.precision == "tf32")
            yield


@contextlib.contextmanager
def _determinism_restored() -> Iterator[None]:
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark


# torch has two settings for the precision of fp32 products: flags (`allow_tf32`, `set_float32_matmul_precision`) and
# `fp32_precision`, which decides. Setting a flag also sets `fp32_precision`, but not vice versa, and reading a flag
# that contradicts `fp32_precision` raises. Hence set flags first.
_BACKENDS: Any = torch.backends  # torch's stubs lack some
_ON_GPUS = (_BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn)


def _set_products(tf32: bool) -> None:
    with _flags_without_warning():
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
    for kind in _ON_GPUS:
        kind.fp32_precision = "tf32" if tf32 else "ieee"


@contextlib.contextmanager
def _products_restored() -> Iterator[None]:
    kinds = (*_ON_GPUS, _BACKENDS.mkldnn.matmul)  # the last is set by set_float32_matmul_precision()
    precisions = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    with _flags_without_warning():
        products = torch.get_float32_matmul_precision()
        try:
            convolutions = torch.backends.cudnn.allow_tf32
        except RuntimeError:  # True, which contradicts "ieee"
            convolutions = True
    _BACKENDS.mkldnn.matmul.fp32_precision = precisions[-1]
    try:
        yield
    finally:
        with _flags_without_warning():
            torch.backends.cudnn.allow_tf32 = convolutions
            torch.set_float32_matmul_precision(products)
        for kind, precision in zip(kinds, precisions, strict=True):
            kind.fp32_precision = precision


@contextlib.contextmanager
def _flags_without_warning() -> Iterator[None]:
    """Silence the warning of some torch versions about the flags, even when they are only read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API settings")
        yield
