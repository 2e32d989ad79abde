"""What methods cost per sample, from the dense and the sparse forward cost (RigL, appendix H).

Costs are in any unit, that of the forward costs which are given. What a mask update costs, it says itself.
"""

from collections.abc import Sequence

from elth_dist.accounting.conventions import ConventionName
from elth_dist.registry import updates
from elth_dist.sparsity.updates import MaskUpdate
from elth_dist.sparsity.updates.base import step_cost


def method_names() -> tuple[str, ...]:
    """Methods whose cost can be told without training; `snip` stands for any other pruning at initialisation too."""
    return ("dense", "static", "snip", *updates)


def training_cost(
    method: str | MaskUpdate,
    sparse: float,
    dense: float,
    *,
    total_steps: int | None = None,
    convention: ConventionName = "exact",
) -> float:
    """The mean cost of a training step on one sample, as planned; a run's history tells it as it was (see meter).

    Args:
        method: one of method_names(), or a mask update with options; a name stands for its defaults.
        sparse: forward cost at the final density.
        dense: forward cost of the dense network.
        total_steps: optimizer steps of the training; None: as many as in the mask update's paper.
        convention: `elth_paper` leaves out RigL's updates, and counts DPF as f_S + 2 f_D.
    """
    if isinstance(method, str) and method not in updates:
        return step_cost(dense if method == "dense" else sparse, dense)
    update: MaskUpdate = updates[method]() if isinstance(method, str) else method
    return update.cost(sparse, dense, total_steps=total_steps, convention=convention)


def imp_cost(forward: Sequence[float], rewind: float, *, found: bool = False) -> float:
    """Iterative magnitude pruning with rewinding, in samples of one whole training times cost per sample.

    Args:
        forward: forward cost at each level, 0 (dense) to N.
        rewind: the rewind step as a fraction of the training.
        found: the cost of finding the last mask only: without the training of the last level.
    """
    levels = forward[:-1] if found else forward
    return 3 * (rewind * forward[0] + (1 - rewind) * sum(levels))
