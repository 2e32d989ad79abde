"""How this process computes: kernels and the precision of fp32 products. One place, since torch keeps it globally."""

from dataclasses import dataclass

import torch

#: Type that forward and backward compute in under torch.autocast; None: fp32, without autocast.
AUTOCAST = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Numerics:
    """How forward and backward compute, whichever engine executes them; as in `TrainOptions`."""

    precision: str = "fp32"  # a key of AUTOCAST
    sync_bn: bool = False
    compile: bool = False
    deterministic: bool = False

    @property
    def autocast(self) -> torch.dtype | None:
        """See AUTOCAST."""
        return AUTOCAST[self.precision]

    def apply(self) -> None:
        """From now on: TF32 products under "tf32" alone, and bit-reproducible kernels only if `deterministic`."""
        torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.cudnn.benchmark = not self.deterministic
        tf32 = "tf32" if self.precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = tf32
        torch.backends.cudnn.conv.fp32_precision = tf32  # type: ignore[attr-defined]  # missing in torch's stubs
