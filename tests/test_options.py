"""What every part's options share."""

import copy
import json
import subprocess
import sys
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from elth_dist.options import NO_EFFECT, Options, Spacing, Step


class _Inner(Options):
    rate: float = 0.1
    start: Step = Step.parse("5ep")
    verbose: int = Field(default=1, json_schema_extra=NO_EFFECT)


class _Circle(Options):
    kind: Literal["circle"] = "circle"
    radius: float = 1.0


class _Square(Options):
    kind: Literal["square"] = "square"
    side: float = 1.0


_Shape = Annotated[_Circle | _Square, Field(discriminator="kind")]


class _Outer(Options):
    seed: int = 0
    inner: _Inner = _Inner()
    maybe: _Inner | None = None
    many: tuple[_Inner, ...] = ()
    named: dict[str, _Inner] = Field(default_factory=dict)
    shape: _Shape = _Circle()
    points: tuple[Step, ...] = (Step.parse("80ep"),)
    needed: str


def test_defaults_and_what_has_no_effect_are_left_out() -> None:
    assert _Outer(needed="x").identity() == {"needed": "x"}
    assert _Outer(needed="x", inner=_Inner(verbose=9)).identity() == {"needed": "x"}
    assert _Outer(needed="x", inner=_Inner(rate=0.1)).identity() == {"needed": "x"}, "given, but the default"


@pytest.mark.parametrize(
    ("changed", "identity"),
    [
        ({"seed": 3}, {"seed": 3}),
        ({"inner": _Inner(rate=0.2, verbose=9)}, {"inner": {"rate": 0.2}}),
        ({"maybe": _Inner(verbose=9)}, {"maybe": {}}),
        ({"many": (_Inner(), _Inner(rate=0.2, verbose=9))}, {"many": [{}, {"rate": 0.2}]}),
        ({"named": {"a": _Inner(verbose=9)}}, {"named": {"a": {}}}),
        ({"shape": _Circle(radius=2)}, {"shape": {"kind": "circle", "radius": 2.0}}),
        ({"shape": _Square()}, {"shape": {"kind": "square"}}),
        ({"points": ("80ep", 0)}, {"points": ["80ep", "0"]}),
        ({"inner": {"start": "5.0ep"}}, {}),
        ({"inner": {"start": "1000it"}}, {"inner": {"start": "1000it"}}),
    ],
)
def test_what_differs_from_a_default_is_there(changed: dict[str, Any], identity: dict[str, Any]) -> None:
    found = _Outer(**{"needed": "x", **changed}).identity()
    assert found == {"needed": "x", **identity}
    assert json.loads(json.dumps(found)) == found


def test_the_order_of_writing_does_not_matter() -> None:
    first = _Outer.model_validate({"needed": "x", "seed": 1, "inner": {"rate": 0.5, "start": 0}})
    second = _Outer.model_validate({"inner": {"start": "0it", "rate": 0.5}, "seed": 1, "needed": "x"})
    assert json.dumps(first.identity()) == json.dumps(second.identity())


def test_an_option_added_later_changes_no_identity() -> None:
    class Inner(_Inner):
        added: int = 7

    class Later(Options):
        seed: int = 0
        inner: Inner = Inner()
        added: float = 0.5

    class Before(Options):
        seed: int = 0
        inner: _Inner = _Inner()

    for values in ({}, {"seed": 1}, {"inner": {"rate": 0.3}}):
        assert Later.model_validate(values).identity() == Before.model_validate(values).identity()


def test_options_are_strict_and_do_not_change() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        _Inner.model_validate({"rat": 1})
    with pytest.raises(ValidationError, match="frozen"):
        _Inner().rate = 3


@pytest.mark.parametrize(
    ("text", "iterations", "canonical"),
    [
        ("5ep", 500, "5ep"),
        (" 2.5 ep ", 250, "2.5ep"),
        ("1.0ep", 100, "1ep"),
        ("100ep", 10_000, "100ep"),
        ("0.005ep", 1, "0.005ep"),
        ("1000it", 1000, "1000it"),
        ("7.0it", 7, "7it"),
        (0, 0, "0"),
        ("0", 0, "0"),
        ("0ep", 0, "0"),
    ],
)
def test_steps(text: str | int, iterations: int, canonical: str) -> None:
    step = Step.parse(text)
    assert step.iterations(100) == iterations
    assert str(step) == canonical
    assert Step.parse(str(step)) == step
    assert hash(Step.parse(str(step))) == hash(step)
    assert copy.deepcopy(step) == step
    assert repr(step) == f"Step('{canonical}')"


def test_equal_points_are_equal_and_others_not() -> None:
    assert Step.parse("0ep") == Step.parse(0)
    assert Step.parse("1.50ep") == Step.parse("1.5ep")
    assert Step.parse("5ep") != Step.parse("5it")


@pytest.mark.parametrize(
    "value", [1000, -1, "1000", "5 epochs", "-5ep", "1.5it", "", "ep", "1e3it", None, False, True, [0], "٣ep"]
)
def test_what_is_no_step_says_how_to_write_one(value: Any) -> None:
    with pytest.raises(ValueError, match=r"not a step: write '5ep'|whole numbers"):
        Step.parse(value)
    with pytest.raises(ValidationError):
        _Inner.model_validate({"start": value})


@given(amount=st.integers(0, 10**9), unit=st.sampled_from(["ep", "it"]), per_epoch=st.integers(1, 10**6))
def test_whole_steps_are_exact(amount: int, unit: str, per_epoch: int) -> None:
    step = Step.parse(f"{amount}{unit}")
    assert step.iterations(per_epoch) == amount * (per_epoch if unit == "ep" else 1)


@given(amount=st.decimals(0, 1000, places=3), per_epoch=st.integers(1, 10**6))
def test_fractions_of_epochs_round_to_the_nearest(amount: Decimal, per_epoch: int) -> None:
    step = Step.parse(f"{amount:f}ep")
    assert abs(step.iterations(per_epoch) - amount * per_epoch) <= Decimal("0.5")
    assert Step.parse(str(step)) == step


def test_steps_have_a_json_schema_and_survive_json() -> None:
    schema = TypeAdapter(_Inner).json_schema()
    assert schema["properties"]["start"]["anyOf"][0]["examples"] == ["5ep", "1000it"]
    assert schema["properties"]["start"]["default"] == "5ep"
    options = _Inner(start=Step.parse("7it"))
    assert _Inner.model_validate_json(options.model_dump_json()) == options


def test_no_torch_is_needed() -> None:
    code = "import sys, elth_dist.options, elth_dist.runtime.options; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("written", "plain", "steps"),
    [("0.5ep", "0.5ep", 11), ("2.50 %", "2.5%", 25), ("100%", "100%", 1000), ("0.01%", "0.01%", 1), ("1ep", "1ep", 22)],
)
def test_spacings_in_epochs_and_percent(written: str, plain: str, steps: int) -> None:
    found = Spacing.parse(written)
    assert str(found) == plain
    assert found == Spacing.parse(plain)
    assert hash(found) == hash(Spacing.parse(plain))
    assert found.steps(1000, 22) == steps


@pytest.mark.parametrize("wrong", ["0%", "0ep", "101%", "100it", "five", "-1ep", 5])
def test_other_spacings_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="interval"):
        Spacing.parse(wrong)
