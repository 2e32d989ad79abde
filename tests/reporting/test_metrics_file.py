import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elth_dist.errors import UserError
from elth_dist.reporting.metrics_file import MetricsFile, read


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def write(path: Path, job: str, steps: range, *, keep_rows: int = 0) -> None:
    with MetricsFile(path) as metrics:
        metrics.restart(job, keep_rows)
        for step in steps:
            metrics.append({"job": job, "step": step, "epoch": step / 8, "train/loss": 1 / (step + 1)})


def test_rows_are_read_back_as_they_were_written(path):
    rows = [
        {"job": "a", "step": 3, "epoch": 0.375, "train/loss": 0.1, "train/lr": 1e-5},
        {"job": "a", "step": 8, "epoch": 1.0, "val/loss": math.inf, "val/top1": 1.0, "worst": -math.inf},
    ]
    with MetricsFile(path) as metrics:
        metrics.restart("a", 0)
        for row in rows:
            metrics.append(row)
        assert read(path) == rows  # also while it is being written
        assert metrics.rows("a") == 2
        assert metrics.rows("b") == 0


def test_the_order_of_scalars_and_their_types_do_not_change_the_bytes(path):
    with MetricsFile(path) as metrics:
        metrics.restart("a", 0)
        metrics.append({"job": "a", "step": 1, "epoch": 1, "x": 2, "val/b": 0.5, "val/a": 1})
        metrics.append({"val/a": 1.0, "val/b": 0.5, "x": 2.0, "epoch": 1.0, "step": 1, "job": "a"})
    first, second = path.read_text().splitlines()
    assert first == second
    assert first == '{"job": "a", "step": 1, "epoch": 1.0, "val/a": 1.0, "val/b": 0.5, "x": 2.0}'


def test_non_finite_numbers_are_valid_json(path):
    with MetricsFile(path) as metrics:
        metrics.restart("NaN", 0)  # a job may be called anything
        metrics.append({"job": "NaN", "step": 1, "epoch": 0.0, "a": math.nan, "b": math.inf, "c": -math.inf})

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    strict = json.loads(path.read_text(), parse_constant=refuse)
    assert (strict["a"], strict["b"], strict["c"]) == ("NaN", "Infinity", "-Infinity")
    (row,) = read(path)
    assert row["job"] == "NaN"
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


@given(st.dictionaries(st.text(min_size=1), st.floats(), max_size=5), st.text(), st.integers(0, 2**60))
@settings(max_examples=60, deadline=None)
def test_any_name_and_number_survives(tmp_path_factory, scalars, job, step):
    path = tmp_path_factory.mktemp("any") / "metrics.jsonl"
    row = {**scalars, "job": job, "step": step, "epoch": 0.5}
    with MetricsFile(path) as metrics:
        metrics.restart(job, 0)
        metrics.append(row)
    (found,) = read(path)
    assert found.keys() == row.keys()
    for name, value in row.items():
        assert found[name] == value or (math.isnan(value) and math.isnan(found[name]))


@given(st.integers(0, 6), st.integers(0, 6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path_factory, checkpoint, lost, torn):
    folder = tmp_path_factory.mktemp("resumed")
    once, twice = folder / "once.jsonl", folder / "twice.jsonl"
    for path in (once, twice):
        write(path, "before", range(3))
    write(once, "job", range(12))
    write(twice, "job", range(checkpoint + lost))
    if torn:
        with twice.open("ab") as file:
            file.write(b'{"job": "job", "step": 7, "epo')
    write(twice, "job", range(checkpoint, 12), keep_rows=checkpoint)
    assert twice.read_bytes() == once.read_bytes()
    assert not list(folder.glob(".*"))
    assert not list(folder.glob("*.tmp"))


def test_restart_returns_what_it_keeps_and_leaves_other_jobs_alone(path):
    for job in ("a", "b"):
        write(path, job, range(3))
    write(path, "a", range(3, 5), keep_rows=3)
    before = [row for row in read(path) if row["job"] == "b"]
    with MetricsFile(path) as metrics:
        kept = metrics.restart("a", 4)
        assert [row["step"] for row in kept] == [0, 1, 2, 3]
        assert (metrics.rows("a"), metrics.rows("b")) == (4, 3)
        assert len(metrics.restart("a", 9)) == 4  # fewer than asked for: what there is
    assert [row for row in read(path) if row["job"] == "b"] == before
    assert [row["job"] for row in read(path)] == ["a"] * 3 + ["b"] * 3 + ["a"]


def test_restart_rewrites_only_where_something_must_go(path):
    write(path, "a", range(3))
    inode = path.stat().st_ino
    with MetricsFile(path) as metrics:
        metrics.restart("b", 0)
        metrics.restart("a", 3)
        assert path.stat().st_ino == inode
        metrics.restart("a", 2)
        assert path.stat().st_ino != inode


@pytest.mark.parametrize("tail", [b"\0\0\0", b"{", b'{"job": "a", "step": 1, "epoch": 0.0}', b"[1]\n"])
def test_a_torn_last_line_is_dropped(path, tail):
    write(path, "a", range(2))
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert len(read(path)) == 2
    with MetricsFile(path) as metrics:
        metrics.restart("b", 0)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"job": 1, "step": 1, "epoch": 1}', '{"job": "a"}'])
def test_a_line_that_is_no_row_is_named(path, line):
    write(path, "a", range(2))
    path.write_text(line + "\n" + path.read_text())
    for use in (read, lambda path: MetricsFile(path).restart("a", 2)):
        with pytest.raises(UserError, match=r"metrics\.jsonl: line 1 is not a row"):
            use(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(UserError, match=r"metrics\.jsonl: there is no such metrics file"):
        read(path)


def test_rows_outlive_a_kill(path):
    script = """
import os, signal, sys
from pathlib import Path
from elth_dist.reporting.metrics_file import MetricsFile
metrics = MetricsFile(Path(sys.argv[1]))
metrics.restart("job", 0)
for step in range(100):
    metrics.append({"job": "job", "step": step, "epoch": 0.0, "train/loss": 1.0})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row["step"] for row in read(path)] == list(range(100))
