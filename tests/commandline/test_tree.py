"""Options of kinds that are registered at run time: known to help, conversion, suggestions and locations."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from elth_dist.commandline.mistakes import explain
from elth_dist.commandline.overrides import read_overrides
from elth_dist.commandline.tree import locate, option_names
from elth_dist.errors import UserError
from elth_dist.options import Options, Step
from elth_dist.registry import OneOf, Registry

shapes: Registry[type[Any]] = Registry("shape")
Shape = Annotated[Options, OneOf("shape", lambda: shapes)]


@shapes.add
class Circle(Options):
    """Round."""

    name: Literal["circle"] = "circle"
    radius: float = Field(default=1.0, description="radius, m")


class Part(Options):
    """What has a default kind."""

    shape: Shape = Circle()
    start: float | Step = 0.5


class Whole(Options):
    """All options."""

    part: Part = Part()
    shapes: tuple[Shape, ...] = ()


@pytest.fixture
def square(monkeypatch: pytest.MonkeyPatch) -> type[Options]:
    class Square(Options):
        """Not round."""

        name: Literal["square"] = "square"
        side: int = Field(default=1, description="side, m")

    monkeypatch.setitem(shapes._kinds, "square", Square)
    return Square


def test_a_kind_registered_later_has_its_options(square: type[Options]) -> None:
    assert {"part.shape.radius", "part.shape.side", "shapes.side"} <= set(option_names(Whole))
    chosen = {"part": {"shape": "square"}}
    assert "part.shape.radius" not in set(option_names(Whole, chosen))
    over = read_overrides(["--part.shape", "square", "--part.shape.side", "3"], Whole, {})
    assert over == {"part": {"shape": {"name": "square", "side": 3}}}
    assert isinstance(Whole(**over).part.shape, square)


def test_a_typing_mistake_means_an_option_of_the_chosen_kind(square: type[Options]) -> None:
    for base, meant in (({"part": {"shape": "square"}}, "; did you mean --part.shape.side?"), ({}, "")):
        with pytest.raises(UserError) as caught:
            read_overrides(["--part.shape", "circle" if not base else "square", "--part.shape.sidee", "3"], Whole, base)
        assert str(caught.value) == f"--part.shape.sidee: no such option{meant}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"part": {"shape": {"name": "circle", "side": 3}}},
            "part.shape.side: is not an option of shape 'circle'; valid are",
        ),
        ({"shapes": ["circle", {"name": "square", "side": "x"}]}, "shapes.1.side: needs a whole number, got 'x'"),
        (
            {"shapes": ["squire"]},
            "shapes.0.name: unknown shape 'squire'; valid are circle, square; did you mean square?",
        ),
        ({"part": {"start": "soon"}}, "part.start: needs a number, or a step: 5ep"),
    ],
)
def test_mistakes_are_located_in_kinds_lists_and_unions(
    square: type[Options], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Whole(**given)
    assert explain(caught.value, Whole, given=given).startswith(message)


def test_a_location_loses_the_tags_of_unions() -> None:
    assert locate(("part", "start", "function-plain[parse()]"), Whole, {})[0] == ["part", "start"]
