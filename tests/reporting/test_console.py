import io
import os
import re
import time

import pytest

from elth_dist.reporting.console import (
    LINE_SECONDS,
    Extent,
    PlainConsole,
    TerminalConsole,
    describe,
    is_terminal,
    open_console,
)

LINE = re.compile(r"\d\d:\d\d:\d\d (.*)")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines(stream: io.StringIO) -> list[str]:
    found = []
    for line in stream.getvalue().splitlines():
        match = LINE.fullmatch(line)
        assert match, f"{line!r} has no time of day"
        found.append(match[1])
    return found


def test_plain_lines_are_rare_but_for_evaluations():
    stream, clock = io.StringIO(), Clock()
    console = PlainConsole(stream, clock)
    console.start("level-01", "IMP, level 1", Extent(100, 500, 100))
    for step in range(101, 501):
        clock.now += LINE_SECONDS / 80
        console.progress(step, {"train/loss": 0.25, "time/images_per_second": 1234.4})
        if step % 250 == 0:
            console.progress(step, {"val/loss": 0.5, "val/top1": 0.70224, "val/top5": 0.9})
    clock.now += 5
    console.finish()
    speed = "loss 0.2500 | 1234 images/s"
    evaluation = "val loss 0.5000 | val top-1 70.22 % | val top-5 90.00 %"
    assert lines(stream) == [
        "level-01: IMP, level 1 | steps 100 to 500",
        f"level-01 | epoch 1.80/5 | step 180/500 | {speed} | 0:00:40 left",
        f"level-01 | epoch 2.50/5 | step 250/500 | {evaluation} | 0:00:31 left",
        f"level-01 | epoch 3.30/5 | step 330/500 | {speed} | 0:00:21 left",
        f"level-01 | epoch 4.10/5 | step 410/500 | {speed} | 0:00:11 left",
        f"level-01 | epoch 4.90/5 | step 490/500 | {speed} | 0:00:01 left",
        f"level-01 | epoch 5.00/5 | step 500/500 | {evaluation}",
        "level-01: done in 0:00:55",
    ]


def test_plain_lines_hold_no_control_characters():
    stream = io.StringIO()
    console = PlainConsole(stream)
    console.say("red \x1b[31m, bell \a, return \r.")
    console.warn("two\nlines")
    text = stream.getvalue()
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "warning: two\nlines\n" in text


def test_plain_lines_fit_any_encoding():
    raw = io.BytesIO()
    console = PlainConsole(io.TextIOWrapper(raw, encoding="ascii"))
    console.say("runs/Größe")
    assert raw.getvalue().endswith(b"runs/Gr\\xf6\\xdfe\n")


def test_a_job_that_trains_nothing_has_no_progress():
    stream = io.StringIO()
    for console in (PlainConsole(stream), TerminalConsole(stream)):
        console.start("mask-01", "prunes 20 %", Extent(0, 0, 0))
        console.finish()
    assert "mask-01: prunes 20 %" in stream.getvalue()
    assert "steps" not in stream.getvalue()
    assert "\x1b[?25l" not in stream.getvalue()  # the cursor was never hidden: no bar


@pytest.mark.parametrize("columns", [80, 140])
def test_the_bar_shows_the_job_and_its_figures(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = io.StringIO()
    console = TerminalConsole(stream)
    console.start("level-03", "IMP [level] 3", Extent(0, 100, 10))
    console.progress(50, {"train/loss": 0.5, "train/top1": 0.25, "time/images_per_second": 321.0})
    console.progress(60, {"val/top1": 0.75})
    console.say("saved [a checkpoint] in " + "long/" * 40)
    console.finish()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "IMP [level] 3" in plain
    assert "saved [a checkpoint] in " + "long/" * 40 in plain  # one line, as it was said
    last = [line for line in re.split(r"[\r\n]", plain) if line.startswith("level-03 ")][-1]
    assert "epoch 6.00/10  loss 0.5000  val top-1 75.00 %" in last
    assert columns == 80 or "321 images/s" in last
    assert len(last) <= columns


def test_what_is_shown_has_a_settled_order():
    values = {"val/top1": 0.5, "train/grad_norm": 1.0, "time/data_wait_fraction": 0.125, "train/loss": float("nan")}
    assert describe(values) == ["loss nan", "val top-1 50.00 %", "data wait 12 %"]


def test_a_terminal_gets_a_bar_and_a_file_lines(monkeypatch, tmp_path):
    with (tmp_path / "log").open("w") as log:
        assert not is_terminal(log)
        assert isinstance(open_console(log), PlainConsole)
        assert isinstance(open_console(log, interactive=True), TerminalConsole)
    main, other = os.openpty()
    with os.fdopen(main, "w"), os.fdopen(other, "w") as terminal:
        monkeypatch.setenv("TERM", "xterm")
        assert isinstance(open_console(terminal), TerminalConsole)
        assert isinstance(open_console(terminal, interactive=False), PlainConsole)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(open_console(terminal), PlainConsole)


def test_progress_is_cheap():
    stream = io.StringIO()
    for console in (PlainConsole(stream), TerminalConsole(stream)):
        console.start("job", "many calls", Extent(0, 10_000, 100))
        began = time.process_time()
        for step in range(1000):
            console.progress(step, {"train/loss": 0.5})
        took = time.process_time() - began
        console.finish()
        assert took < 1.0, f"{took:.3f} ms a call"
