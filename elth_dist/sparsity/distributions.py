"""Distribute a global density over layers: uniform and ERK (Mocanu et al. 2018; RigL, section 3). No torch here."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

#: Names of the distributions, for options.
Distribution = Literal["uniform", "erk"]


def uniform(shapes: Mapping[str, Sequence[int]], density: float, dense_first: bool = True) -> dict[str, float]:
    """Give every layer the same density, except a dense first layer (as in RigL) if `dense_first`.

    The other layers do not compensate for the first one: RigL's "uniform, 0.8" keeps a little more than 20 %.

    Args:
        shapes: of the weights by name, in the network's order.
        density: kept fraction, 0 < density <= 1.
        dense_first: keep the whole first weight.

    Returns:
        The density of each weight. ValueError if `density` is out of range or there are no weights.
    """
    _check(shapes, density)
    first = next(iter(shapes))
    return {name: 1.0 if dense_first and name == first else density for name in shapes}


def erk(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, float]:
    """Compute Erdos-Renyi-Kernel densities, proportional to sum(shape) / prod(shape), that keep `density` in total.

    A layer whose density would exceed 1 becomes dense, and the common factor of the others is solved for again (RigL,
    appendix A and the authors' code).

    Args:
        shapes: of the weights by name, kernel sizes included, in any order of dimensions.
        density: kept fraction of all weights, 0 < density <= 1.

    Returns:
        The density of each weight; their mean, weighted by size, is `density` up to rounding of floats. ValueError as
        for `uniform`.
    """
    _check(shapes, density)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    budget, sparse = density * sum(sizes.values()), set(shapes) if density < 1 else set()
    factor = 0.0
    while sparse:
        factor = budget / sum(raw[name] * sizes[name] for name in shapes if name in sparse)
        highest = max(raw[name] for name in sparse)
        if factor * highest <= 1:
            break
        for name in [name for name in sparse if raw[name] == highest]:
            sparse.remove(name)
            budget -= sizes[name]
    return {name: factor * raw[name] if name in sparse else 1.0 for name in shapes}


#: The distributions by name; `uniform` with a dense first layer.
DISTRIBUTIONS: Mapping[Distribution, Callable[[Mapping[str, Sequence[int]], float], dict[str, float]]] = {
    "uniform": uniform,
    "erk": erk,
}


def _check(shapes: Mapping[str, Sequence[int]], density: float) -> None:
    if not 0 < density <= 1:
        raise ValueError(f"a density of {density} is not above 0 and at most 1")
    if not shapes:
        raise ValueError("no weights to distribute a density over")
