import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from elth_dist.reporting.plots import plot_top1
from elth_dist.reporting.tables import ResultRow, print_table, render_markdown, render_text

ROWS = [
    ResultRow("dense", "resnet26", None, 1.0, 0.7256, 0.912),
    *(ResultRow("IMP", "resnet26", level, 0.8**level, 0.73 + level / 1000, 0.915) for level in (0, 3, 6)),
    ResultRow("26 -> 34 | interpolated", "resnet34", None, 0.2621, 0.7337, None),
    ResultRow("random", "resnet34", None, 0.2621, None, None, {"GFLOPs": "0.96"}),
]


def test_markdown():
    assert render_markdown(ROWS) == (
        "| network | arch | level | density | sparsity % | top-1 % | top-5 % | GFLOPs |\n"
        "| :--- | :--- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| dense | resnet26 | - | 1.00000 | 0.00 | 72.56 | 91.20 | - |\n"
        "| IMP | resnet26 | 0 | 1.00000 | 0.00 | 73.00 | 91.50 | - |\n"
        "| IMP | resnet26 | 3 | 0.51200 | 48.80 | 73.30 | 91.50 | - |\n"
        "| IMP | resnet26 | 6 | 0.26214 | 73.79 | 73.60 | 91.50 | - |\n"  # the paper's 73.79 %
        "| 26 -> 34 \\| interpolated | resnet34 | - | 0.26210 | 73.79 | 73.37 | - | - |\n"
        "| random | resnet34 | - | 0.26210 | 73.79 | - | - | 0.96 |\n"
    )


def test_text():
    assert render_text(ROWS[:3]) == (
        "network  arch      level  density  sparsity %  top-1 %  top-5 %\n"
        "-------  --------  -----  -------  ----------  -------  -------\n"
        "dense    resnet26      -  1.00000        0.00    72.56    91.20\n"
        "IMP      resnet26      0  1.00000        0.00    73.00    91.50\n"
        "IMP      resnet26      3  0.51200       48.80    73.30    91.50\n"
    )
    assert len(render_text([]).splitlines()) == 2


def test_print_table_is_plain_in_a_file_and_rich_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    plain, terminal = io.StringIO(), io.StringIO()
    print_table(ROWS, title="resnet26_imp", stream=plain)
    assert plain.getvalue() == "resnet26_imp\n" + render_text(ROWS)
    print_table(ROWS, title="resnet26_imp", stream=terminal, interactive=True)
    assert "\x1b[" in terminal.getvalue()
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    for row in render_text(ROWS).splitlines()[2:]:
        assert re.sub(r" +", " ", row).strip() in re.sub(r" +", " ", shown)


def test_print_table_goes_to_standard_output(capsys):
    print_table(ROWS)
    assert capsys.readouterr().out == render_text(ROWS)


def test_plot_is_deterministic_and_shows_every_row(tmp_path):
    for name in ("one", "two"):
        plot_top1(ROWS, tmp_path / "report" / f"{name}.png", title="resnet26_imp")
    data = (tmp_path / "report" / "one.png").read_bytes()
    assert data == (tmp_path / "report" / "two.png").read_bytes()
    image = np.asarray(Image.open(tmp_path / "report" / "one.png").convert("RGB")).astype(int)
    assert image.shape[1] >= 1000

    def has(colour):
        return (np.abs(image - np.array(colour)).sum(axis=-1) < 12).sum() > 40

    blue, orange, green, red = (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40)
    assert has(blue)  # dense
    assert has(orange)  # the line of levels
    assert has(green)  # the transfer
    assert not has(red)  # a row without accuracy has nothing to draw


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [dataclasses.replace(ROWS[0], density=0.0)],
        [dataclasses.replace(ROWS[0], top1=float("nan"))],
        [ResultRow("IMP", f"resnet{i}", level, 1e-4**level, 0.1, 0.5) for i in range(12) for level in (0, 1)],
    ],
)
def test_plot_of_odd_results(tmp_path, rows):
    plot_top1(rows, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        image.verify()
