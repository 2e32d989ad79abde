"""Plans: every published example, and what must hold for all of them."""

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from elth_dist.errors import UserError
from elth_dist.models.families import architecture
from elth_dist.tickets.options import TransferOptions
from elth_dist.tickets.plans import Order, Squeeze, TransferPlan, parse_plan, plan_transfer

ORDERS: tuple[Order, ...] = ("interpolate", "append")
SQUEEZES: tuple[Squeeze, ...] = ("first", "strided", "last")


@pytest.mark.parametrize(
    ("source", "target", "rules", "stages"),
    [
        ("resnet26", "resnet34", {}, ([0, 1, 1], [0, 1, 1, 2], [0, 1, 1, 2, 2, 3], [0, 1, 2])),
        ("resnet26", "resnet34", {"order": "append"}, ([0, 1, 1], [0, 1, 1, 2], [0, 1, 2, 1, 2, 3], [0, 1, 2])),
        ("resnet18", "resnet26", {}, ([0, 1], [0, 1, 1], [0, 1, 1, 1], [0, 1, 1])),
        ("resnet34", "resnet18", {}, ([0, 1],) * 4),
        ("resnet34", "resnet26", {"squeeze": "last"}, ([0, 2], [0, 2, 3], [0, 3, 4, 5], [0, 1, 2])),
        ("resnet50", "resnet101", {}, ([0, 1, 2], [0, 1, 2, 3], [0, *sorted([1, 2, 3, 4, 5] * 4 + [1, 2])], [0, 1, 2])),
    ],
)
def test_imagenet_examples(source: str, target: str, rules: dict[str, Any], stages: tuple[list[int], ...]) -> None:
    assert plan_transfer(source, target, **rules).stages == tuple(tuple(stage) for stage in stages)


@pytest.mark.parametrize(
    ("source", "target", "rules", "stage"),
    [
        (20, 44, {}, [0, 1, 1, 1, 2, 2, 2]),
        (20, 32, {"order": "append"}, [0, 1, 2, 1, 2]),
        (32, 56, {"order": "append"}, [0, 1, 2, 3, 4, 1, 2, 3, 4]),
        (44, 20, {}, [0, 1, 2]),
        (32, 20, {"squeeze": "strided"}, [0, 1, 3]),
        (56, 32, {"squeeze": "strided"}, [0, 1, 3, 5, 7]),
        (56, 20, {"squeeze": "strided"}, [0, 1, 5]),
        (44, 26, {"squeeze": "strided"}, [0, 1, 3, 5]),
        (38, 20, {"squeeze": "strided"}, [0, 1, 3]),  # runs [1, 2] and [3, 4, 5]: the last one is longer
        (44, 20, {"squeeze": "last"}, [0, 5, 6]),
        (32, 56, {"units": (1, 2)}, [0, 1, 1, 1, 2, 2, 2, 3, 4]),
        (32, 56, {"units": (1, 2), "order": "append"}, [0, 1, 2, 1, 2, 1, 2, 3, 4]),
        (32, 56, {"units": (1,)}, [0, 1, 1, 1, 1, 1, 2, 3, 4]),
        (32, 56, {"units": (3, 4)}, [0, 1, 2, 3, 3, 3, 4, 4, 4]),
        (32, 56, {"units": (3, 4), "order": "append"}, [0, 1, 2, 3, 4, 3, 4, 3, 4]),
        (32, 44, {"units": (1, 3), "order": "append"}, [0, 1, 2, 3, 1, 3, 4]),
        (14, 8, {"squeeze": "strided"}, [0]),
        (20, 20, {"order": "append", "squeeze": "last"}, [0, 1, 2]),
    ],
)
def test_cifar_examples(source: int, target: int, rules: dict[str, Any], stage: list[int]) -> None:
    made = plan_transfer(f"resnet{source}_cifar", f"resnet{target}_cifar", **rules)
    assert made.stages == (tuple(stage),) * 3


def test_vgg_keeps_its_first_two_stages() -> None:
    assert plan_transfer("vgg13", "vgg16").stages == ((0, 1), (0, 1), (0, 1, 1), (0, 1, 1), (0, 1, 1))
    assert plan_transfer("vgg19", "vgg13", squeeze="last").stages == ((0, 1), (0, 1), (0, 3), (0, 3), (0, 3))
    with pytest.raises(UserError, match=r"stage 2: \[1, 0\]: unit 0"):
        plan_transfer("vgg16", "vgg13", plan=[(0, 1), (1, 0), (0, 1), (0, 1), (0, 1)])
    with pytest.raises(UserError, match="stage 2: no source unit 2"):
        plan_transfer("vgg16", "vgg13", plan=[(0, 1), (0, 2), (0, 1), (0, 1), (0, 1)])


@st.composite
def _cifar(draw: st.DrawFn, least: int = 1) -> str:
    return f"resnet{6 * draw(st.integers(least, 24)) + 2}_cifar"


_related = st.one_of(
    st.tuples(_cifar(least=2), _cifar()),
    *(
        st.tuples(st.sampled_from(group), st.sampled_from(group))
        for group in (
            ["resnet18", "resnet26", "resnet34"],
            ["resnet50", "resnet101", "resnet152"],
            ["vgg13", "vgg16", "vgg19"],
        )
    ),
)


@settings(deadline=None)
@given(_related, st.sampled_from(ORDERS), st.sampled_from(SQUEEZES))
def test_rules_of_every_plan(names: tuple[str, str], order: Order, squeeze: Squeeze) -> None:
    source, target = map(architecture, names)
    made = plan_transfer(*names, order=order, squeeze=squeeze)
    for have, need, stage in zip(source.units, target.units, made.stages, strict=True):
        assert len(stage) == need, "every target unit is filled"
        assert stage[0] == 0, "the first unit is fixed"
        assert all(1 <= unit < have for unit in stage[1:]), "sources are in range"
        copies = [stage.count(unit) for unit in range(1, have)]
        if have == need:
            assert stage == tuple(range(need)), "an equal stage stays as it is"
        elif need < have:
            assert list(stage) == sorted(set(stage)), "squeezing keeps units once, in order"
        else:
            assert min(copies) >= 1, "stretching loses no unit"
            assert max(copies) - min(copies) <= 1, "units are copied equally often"
            assert copies == sorted(copies, reverse=True), "the first ones once more"
            if order == "interpolate":
                assert list(stage) == sorted(stage), "copies stand in place"
            else:
                first_run = [unit for i, unit in enumerate(stage) if unit not in stage[:i]]
                assert first_run == list(range(have)), "units appear in order"
                assert list(stage[len(stage) - have + 1 :])[-1] == have - 1, "a whole run ends the stage"


@settings(deadline=None)
@given(st.data())
def test_only_chosen_units_are_copied(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    more = data.draw(st.integers(1, 20))
    units = data.draw(st.sets(st.integers(1, n), min_size=1))
    order = data.draw(st.sampled_from(ORDERS))
    names = f"resnet{6 * (n + 1) + 2}_cifar", f"resnet{6 * (n + 1 + more) + 2}_cifar"
    stage = plan_transfer(*names, order=order, units=units).stages[0]
    counts = {unit: stage.count(unit) for unit in range(1, n + 1)}
    assert all(counts[unit] == 1 for unit in counts if unit not in units)
    chosen = [counts[unit] for unit in sorted(units)]
    assert chosen == sorted(chosen, reverse=True)
    assert max(chosen) - min(chosen) <= 1
    firsts = list(dict.fromkeys(stage))
    assert firsts == sorted(firsts)
    assert units != set(range(1, n + 1)) or stage == plan_transfer(*names, order=order).stages[0]


@settings(deadline=None)
@given(_related, st.sampled_from(ORDERS), st.sampled_from(SQUEEZES))
def test_text_form_says_the_same(names: tuple[str, str], order: Order, squeeze: Squeeze) -> None:
    made = plan_transfer(*names, order=order, squeeze=squeeze)
    assert parse_plan(made.text) == made.stages
    assert plan_transfer(*names, plan=made.text) == made
    assert plan_transfer(*names, plan=[list(stage) for stage in made.stages]) == made


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 6))
def test_stretching_by_whole_runs_and_back_is_identity(n: int, times: int) -> None:
    small, large = f"resnet{6 * (n + 1) + 2}_cifar", f"resnet{6 * (n * times + 1) + 2}_cifar"
    pairs: tuple[tuple[Order, Squeeze], ...] = (("interpolate", "strided"), ("append", "first"), ("append", "last"))
    for order, squeeze in pairs:
        there = plan_transfer(small, large, order=order).stages[0]
        back = plan_transfer(large, small, squeeze=squeeze).stages[0]
        assert tuple(there[unit] for unit in back) == tuple(range(n + 1)), (order, squeeze)


@settings(deadline=None)
@given(st.text(alphabet="0123456789:;,| x", max_size=30))
def test_any_text_parses_or_is_a_users_mistake(text: str) -> None:
    stages: tuple[tuple[int, ...], ...] = ()
    with contextlib.suppress(UserError):
        stages = parse_plan(text)
    assert all(len(stage) >= 1 for stage in stages)


def test_text_form() -> None:
    assert parse_plan("0:0;1:1,2;2:3,4") == ((0, 1, 1, 2, 2),)
    assert parse_plan(" 0 : 0 ; 2:1 ; 1 : 3 , 2 | 0:0") == ((0, 2, 1, 1), (0,))
    one_for_all = plan_transfer("resnet20_cifar", "resnet32_cifar", plan="0:0;1:1,2;2:3,4")
    assert one_for_all.stages == ((0, 1, 1, 2, 2),) * 3
    assert plan_transfer("resnet20_cifar", "resnet32_cifar", plan=[[0, 1, 1, 2, 2]]) == one_for_all
    made = plan_transfer("resnet26", "resnet34")
    assert made.text == "0:0;1:1,2|0:0;1:1,2;2:3|0:0;1:1,2;2:3,4;3:5|0:0;1:1;2:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not source:targets"),
        ("0:0;1:1,2;", "'' is not source:targets"),
        ("0:0;1:1,1", "unit 1 is filled twice"),
        ("0:0;1:1;2:1", "unit 1 is filled twice"),
        ("0:0;1:2", "unit 1 is not filled"),
        ("0:0|0:1", "stage 2: target unit 0 is not filled"),
        ("0:0;1", "'1' is not source:targets"),
        ("0:0;1:-1", "is not source:targets"),
        ("0:0;1:١", "is not source:targets"),
    ],
)
def test_wrong_texts(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_plan(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "resnet26", "target": "resnet43"}, "unknown architecture 'resnet43'"),
        ({"source": "resnet26", "target": "resnet50"}, "one family only; resnet26 is of family resnet with basic"),
        ({"source": "resnet20_cifar", "target": "resnet34"}, "one family only"),
        ({"source": "vgg13", "target": "resnet34"}, "one family only"),
        (
            {"source": "resnet8_cifar", "target": "resnet14_cifar"},
            "stage 1 grows from 1 to 2 units and has none to copy",
        ),
        ({"source": "resnet18", "target": "resnet34", "order": "reverse"}, "valid are interpolate, append"),
        ({"source": "resnet18", "target": "resnet34", "squeeze": "middle"}, "valid are first, strided, last"),
        ({"source": "resnet18", "target": "resnet34", "units": [0]}, "has a unit 0 to copy; valid are 1 to 1"),
        ({"source": "resnet18", "target": "resnet34", "units": [2]}, "has a unit 2 to copy; valid are 1 to 1"),
        ({"source": "resnet26", "target": "resnet34", "units": [2, 3]}, "stage 1 grows .* among units .2, 3."),
        ({"source": "resnet26", "target": "resnet34", "units": []}, "stage 1 grows .* among units .."),
        ({"source": "resnet34", "target": "resnet18", "units": [1]}, "no stage of resnet34 -> resnet18 grows"),
        ({"source": "resnet26", "target": "resnet34", "units": [1], "plan": "0:0"}, "give one of the two"),
        ({"source": "resnet26", "target": "resnet34", "plan": "0:0;1:1"}, "1 stages given, the networks have 4"),
        (
            {"source": "resnet20_cifar", "target": "resnet32_cifar", "plan": "0:0;1:1"},
            "fills 2 units, the target has 5",
        ),
        (
            {"source": "resnet20_cifar", "target": "resnet26_cifar", "plan": [[0, 1, 2, 3]]},
            "no source unit 3; valid are 0",
        ),
        ({"source": "resnet20_cifar", "target": "resnet26_cifar", "plan": [[0, 1, 2, -1]]}, "no source unit -1"),
        (
            {"source": "resnet20_cifar", "target": "resnet26_cifar", "plan": [[1, 1, 2, 2]]},
            "unit 0 is filled from unit 0",
        ),
        (
            {"source": "resnet20_cifar", "target": "resnet26_cifar", "plan": [[0, 0, 1, 2]]},
            "unit 0 is filled from unit 0",
        ),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_transfer(**arguments)


def test_no_plan_can_be_invalid() -> None:
    identity = plan_transfer("resnet18", "resnet18").stages
    for stages in (identity[:3], ((0, 1, 1), *identity[1:]), ((1, 0), *identity[1:]), ((0, 2), *identity[1:])):
        with pytest.raises(UserError):
            TransferPlan("resnet18", "resnet18", stages)


def test_options() -> None:
    for order, squeeze in itertools.product(ORDERS, SQUEEZES):
        options = TransferOptions(to="resnet26", order=order, squeeze=squeeze)
        assert options.plan_from("resnet34") == plan_transfer("resnet34", "resnet26", order, squeeze)
    chosen = TransferOptions.model_validate({"to": "resnet56_cifar", "units": [1, 2]})
    assert chosen.plan_from("resnet32_cifar").stages[0] == (0, 1, 1, 1, 2, 2, 2, 3, 4)
    explicit = TransferOptions.model_validate({"to": "resnet32_cifar", "plan": [[0, 1, 1, 2, 2]]})
    assert explicit.plan_from("resnet20_cifar") == plan_transfer("resnet20_cifar", "resnet32_cifar")
    assert explicit.identity() == {"to": "resnet32_cifar", "plan": [[0, 1, 1, 2, 2]]}
    text = TransferOptions(to="resnet32_cifar", plan="0:0;1:1,2;2:3,4")
    assert TransferOptions.model_validate(text.model_dump()) == text, "a printed config is a config"
    assert text.plan_from("resnet20_cifar") == explicit.plan_from("resnet20_cifar")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"to": "resnet35"}, "did you mean 'resnet34'"),
        ({"to": "resnet34", "units": []}, "units"),
        ({"to": "resnet34", "units": [0]}, "greater than or equal to 1"),
        ({"to": "resnet34", "order": "middle"}, "order"),
        ({"to": "resnet34", "plan": "0:0", "squeeze": "last"}, "leave out squeeze"),
        ({"to": "resnet34", "plan": [[0, -1]]}, "greater than or equal to 0"),
    ],
)
def test_wrong_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TransferOptions.model_validate(values)


@pytest.mark.parametrize(
    ("source", "target", "order", "copies"),
    [
        ("resnet26", "resnet34", "interpolate", ((2,), (2,), (2, 4), ())),
        ("resnet26", "resnet34", "append", ((2,), (2,), (3, 4), ())),
        ("resnet34", "resnet18", "interpolate", ((), (), (), ())),
        ("resnet20_cifar", "resnet44_cifar", "append", ((3, 4, 5, 6),) * 3),
    ],
)
def test_copies_are_all_but_the_first_from_a_source(
    source: str, target: str, order: Order, copies: tuple[tuple[int, ...], ...]
) -> None:
    assert plan_transfer(source, target, order).copies == copies
