from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from elth_dist.errors import UserError
from elth_dist.options import Step
from elth_dist.sparsity.updates import AnyMaskUpdate
from elth_dist.sparsity.updates.base import steps_at
from elth_dist.sparsity.updates.dpf import Dpf
from elth_dist.sparsity.updates.gradual import Gradual
from elth_dist.sparsity.updates.rigl import Rigl
from elth_dist.training.options import TrainOptions


def test_points_are_fractions_or_steps() -> None:
    assert [Rigl.model_validate({"t_end": point}).t_end for point in (0.5, "0.5", "75ep", "1000it")] == [
        0.5,
        0.5,
        Step.parse("75ep"),
        Step.parse("1000it"),
    ]
    assert steps_at(0.78125, 32_000, 313) == 25_000
    assert steps_at(Step.parse("2ep"), 32_000, 313) == 626
    for wrong in (1.5, -0.1, "5 epochs"):
        with pytest.raises(ValidationError):
            Rigl.model_validate({"t_end": wrong})


def test_a_longer_training_moves_points_and_leaves_intervals() -> None:
    rigl = Rigl(multiplier=5, t_end=Step.parse("75ep")).stretched()
    assert (rigl.t_end, rigl.delta_t, rigl.multiplier) == (Step.parse("375ep"), 100, 1)
    assert Rigl(multiplier=5).stretched().t_end == Rigl().t_end, "a fraction moves by itself"
    points: dict[str, Any] = {"epochs": 90, "milestones": ["30ep", "60ep"], "warmup": "5ep", "eval_every": 2}
    recipe = TrainOptions.model_validate(points)
    longer = recipe.stretched(5)
    assert (longer.epochs, longer.warmup) == (450, Step.parse("25ep"))
    assert longer.milestones == (Step.parse("150ep"), Step.parse("300ep"))
    assert (
        longer.model_copy(update={name: getattr(recipe, name) for name in ("epochs", "milestones", "warmup")}) == recipe
    )


def test_defaults_are_the_papers() -> None:
    adapter = TypeAdapter[Any](AnyMaskUpdate)
    rigl, snfs = adapter.validate_python({"name": "rigl"}), adapter.validate_python({"name": "snfs"})
    assert (rigl.delta_t, rigl.alpha, rigl.distribution) == (100, 0.3, "uniform")
    assert snfs.momentum == 0.9
    assert Gradual().ramp(32_000, 313) == (10_000, 25_000)
    assert (Dpf().every, Dpf().distribution, Dpf().ramp(300 * 390, 390)) == (16, "global", (0, 225 * 390))


def test_a_ramp_must_rise_within_the_training() -> None:
    with pytest.raises(ValidationError, match=r"begin 0\.8 is not before end 0\.75"):
        Dpf(begin=0.8)
    late = Dpf(end=Step.parse("12it"))
    late.check(12, 4)
    with pytest.raises(UserError, match="the ramp goes"):
        late.check(11, 4)
    Dpf(end=Step.parse("12it"), multiplier=2).check(12, 4)
    Rigl(t_end=Step.parse("1000ep")).check(12, 4)
