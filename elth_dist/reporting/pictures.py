"""Pictures of a ticket for TensorBoard: where weights are kept, and their magnitudes."""

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

_LONGEST = 128  # largest side in points; more would bloat the event files of a 50-layer network
_SHORTEST = 256  # wanted length of the longer side, in pixels
_NARROWEST = 64  # least length of the shorter side, in pixels
_FEW = 4  # up to so many input channels, each weight of a kernel is a point: the first layer


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
    """Compute the histogram of |w| over the kept, finite entries of `weight`; None if there are none.

    Args:
        weight: of any floating type, on any device.
        mask: bool, of the same shape; True: kept.
    """
    # numpy, because torch.histc has no deterministic form on CUDA
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
    """Draw the kept fraction as a heat map [height, width, 3]: output channels down, input channels across.

    The kernel of a convolution is one point; with few input channels, each weight of the kernel is one. Large layers
    are averaged over squares until no side exceeds 128 points, 256 with few input channels. Points are magnified until
    the picture is easily seen and its sides do not differ too much. The colour follows the square root of the fraction,
    from 0 (dark) to 1 (bright) in every picture. One kept weight in a hundred is visible; pictures of different levels
    can be compared.
    """
    weights = mask.float().reshape(mask.shape[0], mask.shape[1], -1) if mask.dim() > 1 else mask.float().view(-1, 1, 1)
    few = weights.shape[1] <= _FEW
    fraction = weights.flatten(1) if few else weights.mean(dim=2)
    rows, columns = fraction.shape
    side = -(-max(rows, columns) // (_SHORTEST if few else _LONGEST))
    size = (-(-rows // side), -(-columns // side))
    points = F.adaptive_avg_pool2d(fraction[None, None], size)[0, 0].cpu()
    magnified = max(1, _SHORTEST // max(size))
    for dim, length in enumerate(size):
        times = max(magnified, -(-_NARROWEST // length))
        points = points.repeat_interleave(times, dim=dim)
    colours: npt.NDArray[Any] = matplotlib.colormaps["viridis"](torch.sqrt(points).numpy(), bytes=True)
    return np.ascontiguousarray(colours[..., :3], dtype=np.uint8)
