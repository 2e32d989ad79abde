"""When masks change, and by how much. Numbers only."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """The steps from `begin` to `end` (both included) that lie a multiple of `every` after `begin`."""

    every: int
    begin: int
    end: int

    def __contains__(self, step: int) -> bool:
        return self.begin <= step <= self.end and (step - self.begin) % self.every == 0


def cosine_fraction(step: int, alpha: float, end: int) -> float:
    """f(t) = alpha / 2 (1 + cos(pi t / t_end)): the fraction of the kept weights that an update replaces (RigL, 3).

    0 from `end` on.
    """
    return alpha / 2 * (1 + math.cos(math.pi * step / end)) if step < end else 0.0


def cubic_density(step: int, final: float, begin: int, end: int) -> float:
    """1 - s(t) with s(t) = s_f - s_f (1 - (t - begin) / (end - begin))^3 (Zhu & Gupta 2018, eq. 1): from 1 to `final`.

    1 up to `begin`; exactly `final` from `end` on.
    """
    if step <= begin:
        return 1.0
    left = max(0, end - step) / (end - begin)
    return final + (1 - final) * left**3


def mean_cubic_share(begin: int, end: int, total: int, every: int = 1) -> float:
    """The share of the final sparsity that a cubic ramp reaches, averaged over t = 0, every, 2 every, ..., as in RigL.

    Args:
        begin, end: of the ramp, in optimizer steps, 0 <= begin < end <= total.
        total: steps of the training.
        every: steps between two changes of the masks.
    """
    points = range(0, total + 1, every)
    return sum(1 - cubic_density(step, 0.0, begin, end) for step in points) / len(points)
