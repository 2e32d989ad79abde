from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from elth_dist.errors import UserError
from elth_dist.options import Spacing, Step
from elth_dist.sparsity.updates import AnyMaskUpdate
from elth_dist.sparsity.updates.base import interval_steps, steps_at
from elth_dist.sparsity.updates.dpf import Dpf
from elth_dist.sparsity.updates.drop_and_grow import Replacement
from elth_dist.sparsity.updates.gradual import Gradual
from elth_dist.sparsity.updates.ramp import DensityRamp
from elth_dist.sparsity.updates.rigl import Rigl
from elth_dist.sparsity.updates.set import Set
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


def test_intervals_are_steps_epochs_or_a_share_of_the_training() -> None:
    found = [Rigl.model_validate({"delta_t": value}).delta_t for value in (100, "100", "0.5ep", "2.5%")]
    assert found == [100, 100, Spacing.parse("0.5ep"), Spacing.parse("2.5%")]
    assert [interval_steps(interval, 2000, 31) for interval in found] == [100, 100, 16, 50]
    assert Gradual.model_validate({"every": "1%"}).identity() == {"name": "gradual", "every": "1%"}
    assert Gradual(every=5).identity() == {"name": "gradual", "every": 5}, "as in 0.1.0"
    for wrong in (0, -1, "0%", "101%", "0ep", "100it", 0.01):
        with pytest.raises(ValidationError):
            Rigl.model_validate({"delta_t": wrong})
    stretched = Rigl(multiplier=5, delta_t=Spacing.parse("0.5ep")).stretched()
    assert stretched.delta_t == Spacing.parse("0.5ep"), "points move, intervals do not"


@pytest.mark.parametrize(
    ("update", "steps", "expected"),
    [
        (Rigl(), 132, "delta_t 100 makes 2 mask updates in 132 steps, fewer than 5: set it to 25 or less"),
        (Rigl(delta_t=25), 132, None),
        (Rigl(delta_t=26), 132, "delta_t 26 makes 4 mask updates in 132 steps, fewer than 5: set it to 25 or less"),
        (
            Set(delta_t=Spacing.parse("50%")),
            132,
            "delta_t 50% (66 steps) makes 2 mask updates in 132 steps,",
        ),
        (Rigl(delta_t=1, t_end=0.03), 132, "delta_t 1 makes 4 mask updates in 132 steps, fewer than 5: train for long"),
        (Gradual(), 132, "every 1000 makes 1 mask update in 132 steps, fewer than 5: set it to 15 or less"),
        (Gradual(every=15), 132, None),
        (Gradual(every=16), 132, "every 16 makes 4 mask updates in 132 steps, fewer than 5: set it to 15 or less"),
        (Gradual(), 32_000, None),
        (Dpf(), 132, None),
        (Dpf(every=40), 132, "every 40 makes 4 mask updates in 132 steps, fewer than 5: set it to 32 or less"),
        (Dpf(every=33), 132, "every 33 makes 4"),
    ],
    ids=str,
)
def test_fewer_than_five_updates_are_a_warning(update: Any, steps: int, expected: str | None) -> None:
    found = update.warning(steps, 22)
    assert found is None if expected is None else found is not None and found.startswith(expected)


@pytest.mark.parametrize("every", [3, 5, 7, 9, 11, 14, 20, 40, 70])
def test_a_warning_counts_the_steps_at_which_masks_change(every: int) -> None:
    updates: list[tuple[Any, list[int]]] = []
    ramp = DensityRamp(every, 12, 48, 0.1, 10)
    for update, last in ((Gradual(every=every, begin=0.2, end=0.8), 48), (Dpf(every=every, begin=0.2, end=0.8), 60)):
        updates.append((update, [done for done in range(13, 61) if ramp.due(done, last)]))
    steps = Replacement(every, 0.3, 48).steps
    updates.append((Rigl(delta_t=every, t_end=0.8), [step for step in range(60) if step in steps]))
    for update, changes in updates:
        found = update.warning(60, 6)
        assert (found is None) == (len(changes) >= 5)
        assert found is None or f"makes {len(changes)} mask update" in found


def test_only_drop_and_grow_changed_its_meaning() -> None:
    assert Rigl().identity() == {"name": "rigl", "meaning": 2}
    assert Set(dense_layers=()).identity() == {"name": "set", "dense_layers": [], "meaning": 2}
    assert Gradual().identity() == {"name": "gradual"}
    assert Dpf(dense_layers=("first",)).identity() == {"name": "dpf", "dense_layers": ["first"]}


def test_layers_kept_dense_are_an_option() -> None:
    shapes = {"a": (4, 5), "b": (10, 20), "c": (10, 10)}
    assert Rigl().layer_densities(shapes, 0.5) == {"a": 1.0, "b": 0.5, "c": 0.5}
    assert Rigl(dense_layers=()).layer_densities(shapes, 0.5) == dict.fromkeys(shapes, 0.5)
    assert Rigl(dense_layers=("last",)).layer_counts(shapes, 0.5, None) == {"a": 10, "b": 100, "c": 100}
    assert Rigl(dense_layers=("last",)).layer_counts(shapes, 0.5, 160) == {"a": 5, "b": 55, "c": 100}
    assert Dpf().layer_densities(shapes, 0.5) == dict.fromkeys(shapes, 0.5)
    assert Dpf(dense_layers=("a",)).layer_densities(shapes, 0.5)["b"] == pytest.approx(140 / 300)
    assert Rigl(dense_layers=()).title == "RigL, dense: none"
    assert Dpf(dense_layers=("first", "fc")).title == "DPF, dense: first, fc"
    with pytest.raises(UserError, match="no prunable weight"):
        Rigl(dense_layers=("d",)).layer_densities(shapes, 0.5)
