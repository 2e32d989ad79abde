"""Figures: equal results give equal bytes, one colour per method, and failed points do not stretch the axis."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from elth_dist.registry import controls, criteria, updates
from elth_dist.reporting.figures.drawing import DENSITY, Curve, Drawing, Point, Scale, lower_end, panels
from elth_dist.reporting.figures.style import shade, style_of

IMP = Curve("IMP", "imp", [Point(0.8**level, 72 + level / 10, 0.2) for level in range(7)])
RANDOM = Curve("random masks", "random", [Point(0.2621, 63.1)])
GUESS = Curve("DPF", "dpf", [Point(0.2621, 10.0, failed=True)])


def draw(*curves: Curve) -> Drawing:
    return panels("figure", "a figure", {"resnet26": curves}, x=DENSITY)


def pixels(drawing: Drawing, tmp_path) -> np.ndarray:
    drawing.save(tmp_path)
    return np.asarray(Image.open(tmp_path / "figure.png").convert("RGB")).astype(int)


def has(image: np.ndarray, colour: str) -> bool:
    rgb = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((np.abs(image - np.array(rgb)).sum(axis=-1) < 12).sum() > 30)


def test_equal_results_give_equal_bytes() -> None:
    assert draw(IMP, RANDOM).png() == draw(IMP, RANDOM).png()
    assert draw(IMP, RANDOM).svg() == draw(IMP, RANDOM).svg()
    assert draw(IMP).svg() != draw(RANDOM).svg()


def test_a_method_has_its_colour_in_every_figure(tmp_path) -> None:
    both, alone = pixels(draw(IMP, RANDOM), tmp_path), pixels(draw(RANDOM), tmp_path)
    assert has(both, style_of("imp").colour)
    assert not has(alone, style_of("imp").colour)
    assert has(both, style_of("random").colour)
    assert has(alone, style_of("random").colour)


def test_styles_differ_and_curves_of_one_method_too(tmp_path) -> None:
    from elth_dist.jobs.controls import control_kinds

    names = [*control_kinds(), *criteria, *updates, *controls, "imp", "ett", "ticket"]
    styles = {name: style_of(name) for name in names}
    assert len(set(styles.values())) == len(styles), "no two methods look alike"
    assert style_of("somebody's method") == style_of("somebody's method")
    shades = [shade(style_of("ett").colour, variation) for variation in range(4)]
    assert len(set(shades)) == 4
    append = Curve("ETT, append", "ett", [Point(0.2, 70.0), Point(0.3, 71.0)])
    interpolate = Curve("ETT, interpolate", "ett", [Point(0.2, 71.0), Point(0.3, 72.0)])
    image = pixels(draw(interpolate, append), tmp_path)
    assert has(image, shades[0])
    assert has(image, shades[1])


def luminance(colour: str) -> float:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2


def test_every_colour_is_seen_on_white() -> None:
    for name in (*control_names(), "imp", "ett"):
        assert 1.05 / (luminance(style_of(name).colour) + 0.05) > 1.4, name


def control_names() -> Sequence[str]:
    from elth_dist.jobs.controls import control_kinds

    return list(control_kinds())


def test_failed_points_are_cut_off_and_said(tmp_path) -> None:
    assert lower_end([*IMP.points, *GUESS.points]) == 72
    assert lower_end(IMP.points) == -np.inf
    assert lower_end(GUESS.points) == -np.inf, "if all fail, there is nothing better to show"
    assert lower_end([]) == -np.inf
    low = Point(0.2, 20.0)  # a bad result is a result
    assert lower_end([*IMP.points, low]) == -np.inf
    drawing = draw(IMP, GUESS)
    assert "Cut off: 1 point" in drawing.caption
    assert "Cut off" not in draw(IMP, RANDOM).caption
    bottom, top = drawing.figure.axes[0].get_ylim()
    assert bottom > 65
    assert top < 80
    assert has(pixels(drawing, tmp_path), style_of("dpf").colour)


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"resnet26": []},
        {"resnet26": [Curve("IMP", "imp", [])]},
        {"resnet26": [Curve("IMP", "imp", [Point(1.0, float("nan"))])]},
        {
            f"resnet{place}": [
                Curve(f"method {k}, with a long name {k}", f"m{k}", [Point(1e-4, 10.0)]) for k in range(9)
            ]
            for place in range(7)
        },
    ],
)
@pytest.mark.parametrize("scale", [DENSITY, Scale("level")])
def test_odd_results_can_be_drawn(curves, scale) -> None:
    drawing = panels("odd", "odd", curves, x=scale)
    assert drawing.png().startswith(b"\x89PNG")
    assert b"</svg>" in drawing.svg()


def test_the_legend_leaves_the_panels_their_width() -> None:
    drawing = panels(
        "wide",
        "wide",
        {"a": [Curve(f"a method with quite a long name {k}", f"m{k}", [Point(0.1, 50.0 + k)]) for k in range(12)]},
        x=DENSITY,
    )
    drawing.png()  # lays it out
    [axes] = drawing.figure.axes
    assert axes.get_position().width > 0.8
    assert axes.get_position().height > 0.4
    legend = drawing.figure.legends[0].get_window_extent().transformed(drawing.figure.transFigure.inverted())
    assert legend.y1 < axes.get_position().y0, "below the panel"
    assert legend.x0 >= 0
    assert legend.x1 <= 1
    assert all(
        one != other
        for one, other in itertools.combinations([text.get_text() for text in drawing.figure.legends[0].get_texts()], 2)
    )
