"""What TensorBoard draws of a ticket: where weights are kept, and how large those are."""

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

_LONGEST = 128  # pixels; more would bloat the event files of a 50-layer network
_SHORTEST = 64  # pixels of the longer side


@dataclass(frozen=True)
class Histogram:
    """Counts of values in [0, max] in bins of equal width; `limits` are the bins' upper ends."""

    min: float
    max: float
    num: int
    sum: float
    sum_squares: float
    limits: list[float]
    counts: list[int]


def kept_magnitudes(weight: Tensor, mask: Tensor, bins: int = 64) -> Histogram | None:
    """Histogram of |w| over the kept, finite entries of `weight`; None where there are none.

    Args:
        weight: of any floating type, on any device.
        mask: bool, of the same shape; True: kept.
    """
    # numpy, not torch.histc: that one has no deterministic form on CUDA
    kept = weight.detach()[mask.to(weight.device)].abs().float().cpu().numpy()
    kept = kept[np.isfinite(kept)]
    if kept.size == 0:
        return None
    largest = float(kept.max())
    counts, edges = np.histogram(kept, bins=bins, range=(0.0, largest or 1.0))
    return Histogram(
        min=float(kept.min()),
        max=largest,
        num=kept.size,
        sum=float(kept.sum(dtype=np.float64)),
        sum_squares=float(np.square(kept, dtype=np.float64).sum()),
        limits=edges[1:].tolist(),
        counts=counts.tolist(),
    )


def mask_picture(mask: Tensor) -> npt.NDArray[np.uint8]:
    """A heat picture [height, width, 3] of the kept fraction: output channels down, input channels across.

    A convolution's kernel counts as one point. Large layers are averaged over squares until no side exceeds 128
    pixels, small ones are magnified. The colour goes with the square root of the fraction, from 0 (dark) to 1 (bright)
    in every picture, so that one kept weight in a hundred is seen and pictures of all levels compare.
    """
    fraction = mask.float().flatten(2).mean(dim=2) if mask.dim() > 2 else mask.float().view(mask.shape[0], -1)
    rows, columns = fraction.shape
    side = -(-max(rows, columns) // _LONGEST)
    size = (-(-rows // side), -(-columns // side))
    points = F.adaptive_avg_pool2d(fraction[None, None], size)[0, 0].cpu()
    magnified = max(1, _SHORTEST // max(size))
    points = points.repeat_interleave(magnified, dim=0).repeat_interleave(magnified, dim=1)
    colours: npt.NDArray[Any] = matplotlib.colormaps["viridis"](torch.sqrt(points).numpy(), bytes=True)
    return np.ascontiguousarray(colours[..., :3], dtype=np.uint8)
