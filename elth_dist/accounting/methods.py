"""The cost of methods per sample, from the dense and the sparse forward cost (RigL, appendix H).

Costs have the unit of the given forward costs. Each mask update defines its own cost.
"""

from collections.abc import Sequence

from elth_dist.accounting.conventions import ConventionName
from elth_dist.registry import updates
from elth_dist.sparsity.updates import MaskUpdate
from elth_dist.sparsity.updates.base import step_cost


def method_names() -> tuple[str, ...]:
    """List methods whose cost is known without training; `snip` represents all pruning at initialisation."""
    return ("dense", "static", "snip", *updates)


def training_cost(
    method: str | MaskUpdate,
    sparse: float,
    dense: float,
    *,
    total_steps: int | None = None,
    convention: ConventionName = "exact",
) -> float:
    """Compute the planned mean cost of a training step on one sample; see meter for the measured cost.

    Args:
        method: one of method_names(), or a mask update with options; a name means its defaults.
        sparse: forward cost at the final density.
        dense: forward cost of the dense network.
        total_steps: optimizer steps of the training; None: as many as in the mask update's paper.
        convention: `elth_paper` leaves out RigL's updates, and counts DPF as f_S + 2 f_D.
    """
    if isinstance(method, str) and method not in updates:
        return step_cost(dense if method == "dense" else sparse, dense)
    update: MaskUpdate = updates[method]() if isinstance(method, str) else method
    return update.cost(sparse, dense, total_steps=total_steps, convention=convention)


def imp_cost(forward: Sequence[float], rewind: float, *, last_training: bool = True) -> float:
    """Compute the cost of iterative magnitude pruning with rewinding: cost per sample, times one training's samples.

    Args:
        forward: forward cost at each level, 0 (dense) to N.
        rewind: the rewind step as a fraction of the training.
        last_training: whether the training of the last level counts; without it, the last mask is found but not used.
    """
    levels = forward if last_training else forward[:-1]
    return 3 * (rewind * forward[0] + (1 - rewind) * sum(levels))
