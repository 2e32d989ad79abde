"""Compare the total cost of K networks: one ticket for all depths, or a search for each."""

from collections.abc import Sequence
from dataclasses import dataclass

from elth_dist.accounting.conventions import Convention
from elth_dist.accounting.layers import Densities, Network
from elth_dist.accounting.methods import imp_cost, training_cost
from elth_dist.sparsity.distributions import DISTRIBUTIONS, Distribution
from elth_dist.sparsity.updates.rigl import Rigl


@dataclass(frozen=True)
class Recipe:
    """How tickets are found. Masks are unknown before training: a distribution of the density is assumed."""

    levels: int = 6
    prune_fraction: float = 0.2
    rewind: float = 5 / 90  # as a fraction of the training
    distribution: Distribution | None = None  # None: the global density in every layer
    multiplier: float = 5  # of RigL's training
    interval: int = 100  # of RigL's updates

    def density(self, level: int) -> float:
        """Compute the global density of a level."""
        return (1 - self.prune_fraction) ** level

    def densities(self, counted: Network, level: int) -> Densities:
        """Compute the layers' densities at a level."""
        if self.distribution is None or level == 0:
            return dict.fromkeys(counted.shapes, self.density(level))
        return DISTRIBUTIONS[self.distribution](counted.shapes, self.density(level))


@dataclass(frozen=True)
class Row:
    """The total cost of the first `count` targets, in dense trainings of the source."""

    count: int
    targets: tuple[str, ...]
    one_for_all: float  # IMP on the source once, then a ticket's training on each target
    imp: float  # IMP on each target
    rigl: float  # on each target
    dpf: float  # on each target


def amortised(
    source: Network, targets: Sequence[tuple[str, Network]], recipe: Recipe, convention: Convention
) -> list[Row]:
    """Compute the total cost after each further target.

    Args:
        source: the network on which IMP finds the ticket.
        targets: names and networks, in order; the source may be one of them.
        recipe: applies to all methods; DPF trains once, to the density of the last level.
        convention: how FLOPs are counted.
    """

    def forward(counted: Network) -> list[float]:
        return [convention.forward(counted, recipe.densities(counted, level)) for level in range(recipe.levels + 1)]

    unit = 3 * convention.forward(source)
    one_for_all = imp_cost(forward(source), recipe.rewind, last_training=False)
    imp = rigl = dpf = 0.0
    rows = []
    for number, (_, target) in enumerate(targets, start=1):
        levels = forward(target)
        dense, sparse = levels[0], levels[-1]
        one_for_all += 3 * (1 - recipe.rewind) * sparse
        imp += imp_cost(levels, recipe.rewind)
        rigl += recipe.multiplier * training_cost(
            Rigl(delta_t=recipe.interval), sparse, dense, convention=convention.name
        )
        dpf += training_cost("dpf", sparse, dense, convention=convention.name)
        names = tuple(name for name, _ in targets[:number])
        rows.append(Row(number, names, one_for_all / unit, imp / unit, rigl / unit, dpf / unit))
    return rows
