"""Distribute a global density over layers: uniform and ERK (Mocanu et al. 2018; RigL, section 3). No torch here."""

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field

from elth_dist.errors import UserError

#: Names of the distributions, for options.
Distribution = Literal["uniform", "erk"]

#: Layers kept dense, for options: "first", "last", or the names of weights.
LayerNames = tuple[Annotated[str, Field(min_length=1)], ...]

Shapes = Mapping[str, Sequence[int]]


def layer_names(chosen: Sequence[str], names: Collection[str]) -> list[str]:
    """Resolve the option `dense_layers` to names of weights.

    Args:
        chosen: "first" and "last" (in the network's order), names of weights, or of the layers that own them.
        names: of the prunable weights, in the network's order.

    Returns:
        The names of the weights, in the network's order. UserError names what is no prunable weight, and what is near.
    """
    known = list(names)
    found = set()
    for name in chosen:
        place = {"first": known[0], "last": known[-1]}.get(name, name)
        weight = next((weight for weight in (place, f"{place}.weight") if weight in known), None)
        if weight is None:
            near = difflib.get_close_matches(name, ["first", "last", *known], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"valid are first, last, {known[0]!r} to {known[-1]!r}"
            raise UserError(f"dense_layers: {name!r} is no prunable weight of the network; {hint}")
        found.add(weight)
    return [name for name in known if name in found]


def left_for_others(shapes: Shapes, density: float, dense: Collection[str]) -> float:
    """Return how many weights `dense` layers leave for the others. UserError if they leave less than one.

    Arguments as for `uniform`.
    """
    total = sum(math.prod(shape) for shape in shapes.values())
    budget = density * total
    if dense:
        whole = sum(math.prod(shapes[name]) for name in dense)
        budget -= whole
        if round(budget) < (1 if len(dense) < len(shapes) else 0):
            raise UserError(
                f"dense_layers: {', '.join(dense)} alone keep {whole:,} of {total:,} weights, a density of "
                f"{whole / total:.3%}, and leave nothing for the other layers at a density of {density:.3%}; keep "
                "other layers dense (or none: []), or choose a higher density"
            )
    return budget


def uniform(shapes: Shapes, density: float, dense: Collection[str] | None = None) -> dict[str, float]:
    """Give every layer the same density, except for those kept dense: the first one, as in RigL, by default.

    The other layers do not compensate for these: RigL's "uniform, 0.8" keeps a little more than 20 %.

    Args:
        shapes: of the weights by name, in the network's order.
        density: kept fraction, 0 < density <= 1.
        dense: weights that stay dense; None: the first.

    Returns:
        The density of each weight. ValueError if `density` is out of range or there are no weights.
    """
    _check(shapes, density)
    whole = [next(iter(shapes))] if dense is None else dense
    return {name: 1.0 if name in whole else density for name in shapes}


def matched_uniform(shapes: Shapes, density: float, dense: Collection[str] | None = None) -> dict[str, float]:
    """Keep `density` in total: `uniform`, but all layers that are not dense share the density that is left for them.

    Arguments and errors as for `uniform`; UserError if the dense layers leave nothing.
    """
    _check(shapes, density)
    whole = [next(iter(shapes))] if dense is None else dense
    if not whole:
        return dict.fromkeys(shapes, density)
    rest = sum(math.prod(shape) for name, shape in shapes.items() if name not in whole)
    budget = left_for_others(shapes, density, whole)
    return {name: 1.0 if name in whole else min(1.0, budget / rest) for name in shapes}


def erk(shapes: Shapes, density: float, dense: Collection[str] | None = None) -> dict[str, float]:
    """Compute Erdos-Renyi-Kernel densities, proportional to sum(shape) / prod(shape), that keep `density` in total.

    A layer whose density would exceed 1 becomes dense, and the common factor of the others is solved for again (RigL,
    appendix A and the authors' code).

    Args:
        shapes: of the weights by name, kernel sizes included, in any order of dimensions.
        density: kept fraction of all weights, 0 < density <= 1.
        dense: weights that stay dense, from which the others are solved for; None: none.

    Returns:
        The density of each weight; their mean, weighted by size, is `density` up to rounding of floats. ValueError as
        for `uniform`; UserError if the dense layers leave nothing for the others.
    """
    _check(shapes, density)
    whole = dense or ()
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    sparse = {name for name in shapes if name not in whole} if density < 1 else set()
    budget, factor = left_for_others(shapes, density, whole), 0.0
    while sparse:
        factor = budget / sum(raw[name] * sizes[name] for name in shapes if name in sparse)
        highest = max(raw[name] for name in sparse)
        if factor * highest <= 1:
            break
        for name in [name for name in sparse if raw[name] == highest]:
            sparse.remove(name)
            budget -= sizes[name]
    return {name: factor * raw[name] if name in sparse else 1.0 for name in shapes}


class _Distribute(Protocol):
    def __call__(self, shapes: Shapes, density: float, dense: Collection[str] | None = None) -> dict[str, float]: ...


#: The distributions by name, with the meaning of RigL's paper: `uniform` keeps more than the density.
DISTRIBUTIONS: Mapping[Distribution, _Distribute] = {"uniform": uniform, "erk": erk}
#: The distributions by name, for a density that all layers together have, as a ticket's.
MATCHED: Mapping[Distribution, _Distribute] = {"uniform": matched_uniform, "erk": erk}


def matched_counts(shapes: Shapes, densities: Mapping[str, float], kept: int) -> dict[str, int]:
    """Round each layer's density to whole weights, `kept` in total (method of largest remainders).

    Dense layers stay dense, and no other layer is left empty if there is a weight for each. Of equal remainders, the
    first layer is rounded up.

    Args:
        shapes: of the weights by name.
        densities: of each, with `kept` weights in total up to rounding.
        kept: number of weights in total; at least those of the dense layers.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    sparse = [name for name in sizes if densities[name] < 1]
    wanted = {name: densities[name] * sizes[name] for name in sparse}
    left = kept - sum(size for name, size in sizes.items() if name not in wanted)
    least = 1 if left >= len(sparse) else 0
    counts = {name: max(least, math.floor(value)) for name, value in wanted.items()}
    surplus = sum(counts.values()) - left
    for _ in range(abs(surplus)):
        change = 1 if surplus < 0 else -1
        able = [name for name in sparse if least <= counts[name] + change <= sizes[name]]
        counts[max(able, key=lambda name: change * (wanted[name] - counts[name]))] += change
    return {name: counts.get(name, size) for name, size in sizes.items()}


def _check(shapes: Shapes, density: float) -> None:
    if not 0 < density <= 1:
        raise ValueError(f"a density of {density} is not above 0 and at most 1")
    if not shapes:
        raise ValueError("no weights to distribute a density over")
