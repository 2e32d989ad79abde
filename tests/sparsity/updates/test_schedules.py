import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elth_dist.sparsity.updates.schedules import Interval, cosine_fraction, cubic_density


def test_an_interval_holds_every_so_many_steps_and_both_ends() -> None:
    assert [step for step in range(-5, 20) if step in Interval(every=3, begin=2, end=11)] == [2, 5, 8, 11]


def test_cosine_fraction_at_golden_points() -> None:
    assert cosine_fraction(0, 0.3, 1000) == pytest.approx(0.3)
    assert cosine_fraction(500, 0.3, 1000) == pytest.approx(0.15)
    assert cosine_fraction(250, 0.3, 1000) == pytest.approx(0.15 * (1 + math.sqrt(0.5)))
    assert [cosine_fraction(step, 0.3, 1000) for step in (1000, 1001)] == [0.0, 0.0]


def test_cubic_density_at_golden_points() -> None:
    assert [cubic_density(step, 0.1, 10, 30) for step in (0, 10)] == [1.0, 1.0]
    assert cubic_density(20, 0.1, 10, 30) == pytest.approx(1 - (0.9 - 0.9 * 0.125))
    assert [cubic_density(step, 0.1, 10, 30) for step in (30, 31, 10**6)] == [0.1, 0.1, 0.1]


@given(final=st.floats(0.001, 1), begin=st.integers(0, 50), length=st.integers(1, 200))
def test_the_ramp_only_falls(final: float, begin: int, length: int) -> None:
    densities = [cubic_density(step, final, begin, begin + length) for step in range(begin + length + 3)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(densities))
    assert densities[-1] == final
