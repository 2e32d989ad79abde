import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elth_dist.training.schedule import learning_rate

STEPS = st.integers(0, 1000)


def test_the_papers_imagenet_recipe() -> None:
    """0.4, warm-up over 5 of 90 epochs, x0.1 at 30, 60 and 80; here with 100 steps an epoch."""

    def rate(epoch: float) -> float:
        return learning_rate(
            round(epoch * 100), base=0.4, total_steps=9000, warmup_steps=500, milestones=(3000, 6000, 8000), gamma=0.1
        )

    expected = {
        0: 0.0,
        0.01: 0.0008,
        2.5: 0.2,
        4.99: 0.3992,
        5: 0.4,
        29.99: 0.4,
        30: 0.04,
        60: 0.004,
        80: 0.0004,
        90: 0.0004,
    }
    for epoch, value in expected.items():
        assert rate(epoch) == pytest.approx(value, rel=1e-12)


@given(STEPS, st.integers(1, 1000), STEPS)
def test_a_cosine_falls_from_base_after_the_warmup_to_zero_at_the_end(step: int, total: int, warmup: int) -> None:
    rate = learning_rate(step, base=2.0, total_steps=total, warmup_steps=warmup, kind="cosine")
    if step < warmup:
        assert rate == 2.0 * step / warmup
    elif step == warmup < total:
        assert rate == 2.0
    elif warmup < step < total:
        assert rate == pytest.approx(1 + math.cos(math.pi * (step - warmup) / (total - warmup)), abs=1e-12)
    elif warmup < total <= step:
        assert rate == pytest.approx(0, abs=1e-12)


@given(STEPS, STEPS, st.lists(STEPS), st.floats(0.01, 1), st.sampled_from(["step", "cosine"]))
def test_rates_lie_between_zero_and_base_and_never_rise_after_the_warmup(
    step: int, warmup: int, milestones: list[int], gamma: float, kind: str
) -> None:
    def rate(at: int) -> float:
        return learning_rate(
            at, base=0.3, total_steps=500, warmup_steps=warmup, kind=kind, milestones=milestones, gamma=gamma
        )

    assert 0 <= rate(step) <= 0.3
    if step >= warmup:
        assert rate(step + 1) <= rate(step)


@given(STEPS, st.lists(STEPS), st.lists(st.integers(1001, 10**9)))
def test_milestones_past_the_end_and_their_order_do_not_matter(step: int, within: list[int], past: list[int]) -> None:
    def rate(milestones: list[int]) -> float:
        return learning_rate(step, base=0.1, total_steps=1000, milestones=milestones, gamma=0.5)

    assert rate(within + past) == rate(past + within[::-1]) == 0.1 * 0.5 ** sum(step >= m for m in within)


def test_a_warmup_longer_than_the_training_is_cut_off() -> None:
    for kind in ("step", "cosine"):
        rates = [
            learning_rate(s, base=1.0, total_steps=4, warmup_steps=8, kind=kind, milestones=(90,)) for s in range(4)
        ]
        assert rates == [0.0, 0.125, 0.25, 0.375]
