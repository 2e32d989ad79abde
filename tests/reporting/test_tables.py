"""Tables in every form, and the terminal's 80 columns."""

import html.parser
import io
import re

import pytest

from elth_dist.reporting.tables import Table, fitted, print_table

TABLE = Table(
    "resnet26_imp",
    ("network", "arch", "density", "top-1 %"),
    (
        ("dense", "resnet26", "1.0000", "72.56"),
        ("IMP", "resnet26", "0.2621", "72.94 ± 0.11"),
        ("26 -> 34 | interpolated", "resnet34", "0.2621", "-"),
    ),
    caption="1x is one dense training.",
    notes=("<one> note",),
    left=("network", "arch"),
)
LONG = Table(
    "",
    TABLE.headings,
    (*TABLE.rows, ("random masks (ETT <- resnet26, order interpolate, units 1,2) " * 2, "x" * 30, "0.26", "1.0")),
    left=TABLE.left,
)


def test_markdown() -> None:
    assert TABLE.markdown() == (
        "| network | arch | density | top-1 % |\n"
        "| :--- | :--- | ---: | ---: |\n"
        "| dense | resnet26 | 1.0000 | 72.56 |\n"
        "| IMP | resnet26 | 0.2621 | 72.94 ± 0.11 |\n"
        "| 26 -> 34 \\| interpolated | resnet34 | 0.2621 | - |\n"
        "\n1x is one dense training.\n\n<one> note\n"
    )


def test_html_is_well_formed_and_escaped() -> None:
    open_tags: list[str] = []
    cells: list[str] = []

    class Checker(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_data(self, data: str) -> None:
            if open_tags and open_tags[-1] in ("td", "p"):
                cells.append(data)

    checker = Checker()
    checker.feed(TABLE.html())
    assert not open_tags
    assert cells == [*(cell for row in TABLE.rows for cell in row), "1x is one dense training.", "<one> note"]


def test_text_breaks_words_and_never_numbers() -> None:
    assert fitted(TABLE) == (
        "network                  arch      density       top-1 %\n"
        "-----------------------  --------  -------  ------------\n"
        "dense                    resnet26   1.0000         72.56\n"
        "IMP                      resnet26   0.2621  72.94 ± 0.11\n"
        "26 -> 34 | interpolated  resnet34   0.2621             -\n"
    )
    lines = fitted(LONG).splitlines()
    assert max(map(len, lines)) <= 80
    assert "".join("".join(lines).split()).count("x" * 3) >= 1
    assert any(line.endswith("0.26           1.0") for line in lines)
    assert len(fitted(Table("", TABLE.headings, ()))) > 0


@pytest.mark.parametrize("width", ["80", "200"])
def test_print_table_is_plain_in_a_file_and_rich_on_a_terminal(monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    plain, terminal = io.StringIO(), io.StringIO()
    print_table(TABLE, stream=plain)
    assert plain.getvalue() == f"resnet26_imp\n{fitted(TABLE)}1x is one dense training.\n<one> note\n"
    print_table(TABLE, stream=terminal, interactive=True)
    assert "\x1b[" in terminal.getvalue()
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    for row in fitted(TABLE).splitlines()[2:]:
        assert re.sub(r" +", " ", row).strip() in re.sub(r" +", " ", shown)
    narrow = io.StringIO()
    print_table(LONG, stream=narrow, interactive=True)
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", narrow.getvalue()).splitlines())) <= int(width)
