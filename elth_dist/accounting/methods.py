"""What training by a method costs a sample, from the dense and the sparse forward cost (RigL, appendix H).

A training step is a forward pass, a backward pass to the activations and one to the weights, and each of them costs
what the forward pass does. Costs are in any unit, that of the forward costs which are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from elth_dist.accounting.conventions import ConventionName
from elth_dist.sparsity.updates.schedules import cubic_density

#: Methods whose cost can be told without training; `snip` stands for any other pruning at initialisation too.
MethodName = Literal["dense", "static", "snip", "set", "snfs", "gradual", "rigl", "dpf"]


@dataclass(frozen=True)
class Ramp:
    """The cubic ramp of gradual pruning (Zhu & Gupta 2017): from dense at `begin` to the final density at `end`."""

    begin: int
    end: int
    total: int  # steps of the training, 0 <= begin < end <= total
    every: int = 1  # steps between two changes of the masks

    def mean_share(self) -> float:
        """The share of the final sparsity that is reached, in the mean over t = 0, every, 2 every, ..., as in RigL."""
        points = range(0, self.total + 1, self.every)
        return sum(1 - cubic_density(step, 0.0, self.begin, self.end) for step in points) / len(points)


#: As in RigL's experiments on ImageNet, and in DPF's on CIFAR-10 (up to epoch 225 of 300).
RAMPS = {"gradual": Ramp(10_000, 25_000, 32_000, 1000), "dpf": Ramp(0, 225 * 390, 300 * 390, 16)}

#: What scoring all weights by a criterion costs, in dense forward passes of each sample: a gradient is 3; GraSP takes
#: one, and its product with the Hessian, which is another and a backward pass through that (twice its cost).
SCORING = {"magnitude": 0, "random": 0, "snip": 3, "synflow": 3, "grasp": 3 + 3 + 6}


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
