"""What training by a method costs a sample, from the dense and the sparse forward cost (RigL, appendix H).

A training step is a forward pass, a backward pass to the activations and one to the weights, and each of them costs
what the forward pass does. Costs are in any unit, that of the forward costs which are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from elth_dist.accounting.conventions import ConventionName

#: Methods whose cost can be told without training; `snip` stands for any other pruning at initialisation too.
MethodName = Literal["dense", "static", "snip", "set", "snfs", "gradual", "rigl", "dpf"]


@dataclass(frozen=True)
class Ramp:
    """The cubic ramp of gradual pruning (Zhu & Gupta 2017): from dense at `begin` to the final density at `end`."""

    begin: float
    end: float  # both as fractions of the training, 0 <= begin < end <= 1

    def share(self, at: float) -> float:
        """The share of the final sparsity that is reached at a fraction `at` of the training."""
        done = min(1.0, max(0.0, (at - self.begin) / (self.end - self.begin)))
        return 1 - (1 - done) ** 3

    def mean_share(self, points: int = 33) -> float:
        """Its mean over evenly spaced points, both ends among them (RigL: t = 0, 1000, ..., 32000)."""
        return sum(self.share(point / (points - 1)) for point in range(points)) / points


#: As in RigL's experiments on ImageNet (10k-25k of 32k steps), and in DPF's on CIFAR-10 (225 of 300 epochs).
RAMPS = {"gradual": Ramp(10 / 32, 25 / 32), "dpf": Ramp(0, 225 / 300)}


_Number = TypeVar("_Number", int, float)


def step_cost(sparse: _Number, dense: _Number, dense_gradient: bool = False) -> _Number:
    """One training step on one sample: 3 f_S, or 2 f_S + f_D where the gradient of all weights is taken."""
    return 2 * sparse + (dense if dense_gradient else sparse)


def training_cost(
    method: MethodName,
    sparse: float,
    dense: float,
    *,
    interval: int = 100,
    ramp: Ramp | None = None,
    convention: ConventionName = "exact",
) -> float:
    """The mean cost of a training step on one sample, as planned; a run's history tells it as it was (see meter).

    Args:
        method: how masks change while training.
        sparse: forward cost at the final density.
        dense: forward cost of the dense network.
        interval: RigL's dT, steps between two updates; the formula's dense updates go on to the end.
        ramp: of gradual pruning and DPF; None: as in their papers.
        convention: `elth_paper` leaves out RigL's updates, and counts DPF as f_S + 2 f_D.
    """
    paper = convention == "elth_paper"
    match method:
        case "dense":
            return step_cost(dense, dense)
        case "static" | "snip" | "set":
            return step_cost(sparse, dense)
        case "snfs":
            return step_cost(sparse, dense, dense_gradient=True)
        case "rigl":
            update = step_cost(sparse, dense, dense_gradient=not paper)
            return (interval * step_cost(sparse, dense) + update) / (interval + 1)
        case "dpf" if paper:
            return sparse + 2 * dense
        case "gradual" | "dpf":
            mean = dense - (ramp or RAMPS[method]).mean_share() * (dense - sparse)
            return step_cost(mean, dense, dense_gradient=method == "dpf")


def imp_cost(forward: Sequence[float], rewind: float, *, found: bool = False) -> float:
    """Iterative magnitude pruning with rewinding, in samples of one whole training times cost a sample.

    Args:
        forward: forward cost at each level, 0 (dense) to N.
        rewind: the rewind step as a fraction of the training.
        found: the cost of finding the last mask only: without the training of the last level.
    """
    levels = forward[:-1] if found else forward
    return 3 * (rewind * forward[0] + (1 - rewind) * sum(levels))
