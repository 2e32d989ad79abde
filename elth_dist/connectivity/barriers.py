"""The height of the error barrier on the line between two trained networks, as three papers define it."""

from collections.abc import Sequence


def frankle(errors: Sequence[float]) -> float:
    """Highest error on the line minus the mean error of its ends ("instability").

    Frankle et al. 2020, "Linear mode connectivity and the lottery ticket hypothesis", section 2 (30 steps; stable below
    0.02).

    Args:
        errors: fractions at equally spaced points, the two networks first and last.
    """
    return max(errors) - (errors[0] + errors[-1]) / 2


def elth(errors: Sequence[float]) -> float:
    """Largest drop of accuracy from the better end of the line.

    Chen et al. 2021, "The elastic lottery ticket hypothesis", figure 8 (21 points). Which end it
    is measured from is inferred.

    Args:
        errors: as in `frankle`.
    """
    return max(errors) - min(errors[0], errors[-1])


def maene(errors: Sequence[float]) -> float:
    """Largest increase of the error over the straight line between the errors of the ends.

    Maene et al. 2021, "Towards understanding iterative magnitude pruning" ("maximal error increase", 20 points). The
    reference is inferred.

    Args:
        errors: as in `frankle`.
    """
    last = len(errors) - 1
    ends = ((errors[0] * (last - n) + errors[-1] * n) / last for n in range(last + 1))
    return max(error - end for error, end in zip(errors, ends, strict=True))


def barriers(errors: Sequence[float]) -> dict[str, float]:
    """Return the barrier by each definition, by the name of its paper's first author or method."""
    assert len(errors) >= 2, errors
    return {"frankle": frankle(errors), "elth": elth(errors), "maene": maene(errors)}
