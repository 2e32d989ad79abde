"""The height of a barrier by each paper's definition, on lines that can be worked out by hand."""

import pytest

from elth_dist.connectivity.barriers import barriers


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.1, 0.5, 0.3], {"frankle": 0.3, "elth": 0.4, "maene": 0.3}),
        ([0.1, 0.2, 0.3], {"frankle": 0.1, "elth": 0.2, "maene": 0.0}),
        ([0.3, 0.2, 0.3], {"frankle": 0.0, "elth": 0.0, "maene": 0.0}),
        ([0.0, 0.6, 0.0, 0.0, 0.4], {"frankle": 0.4, "elth": 0.6, "maene": 0.5}),
    ],
)
def test_by_hand(errors: list[float], expected: dict[str, float]) -> None:
    assert barriers(errors) == pytest.approx(expected)
