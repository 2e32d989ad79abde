"""The helper that other tests trust: that it really sets up ranks, shows logs, and never waits for ever."""

import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from elth_dist.runtime.ranks import Ranks
from tests.helpers.ranks import RanksFailed, run_ranks, run_torchrun, start_ranks


def _add(ranks: Ranks, amount: int) -> dict[str, int]:
    total = ranks.sum_(torch.tensor([ranks.rank + amount]))
    return {"rank": ranks.rank, "total": int(total)}


def _fail_on_one(ranks: Ranks) -> None:
    print(f"hello from {ranks.rank}")
    if ranks.rank == 1:
        raise ValueError("rank one is unwell")
    ranks.barrier()


def _sleep() -> None:
    print("asleep", flush=True)
    time.sleep(600)


def test_functions_run_on_one_group_and_return_values() -> None:
    results = run_ranks(_add, 2, args=[10])
    assert [result.value for result in results] == [{"rank": 0, "total": 21}, {"rank": 1, "total": 21}]
    assert [result.returncode for result in results] == [0, 0]


def test_a_failure_shows_every_log() -> None:
    with pytest.raises(RanksFailed) as failure:
        run_ranks(_fail_on_one, 2)
    text = str(failure.value)
    assert "hello from 0" in text
    assert "hello from 1" in text
    assert "ValueError: rank one is unwell" in text
    assert "rank 1: exit status 1" in text


def test_too_late_is_ended_with_stacks() -> None:
    start = time.monotonic()
    with pytest.raises(RanksFailed, match=r"not done in 4 s") as failure:
        run_ranks(_sleep, 1, join=False, timeout=4)
    assert time.monotonic() - start < 300
    assert "in _sleep" in str(failure.value)
    assert failure.value.results[0].returncode == -signal.SIGABRT


def test_scripts_command_lines_and_signals() -> None:
    results = run_ranks("import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'])", 2)
    assert [result.output for result in results] == ["0 2\n", "1 2\n"]
    results = run_ranks([sys.executable, "-c", "raise SystemExit(3)"], 1, check=False)
    assert results[0].returncode == 3
    with start_ranks(_sleep, 1, join=False) as running:
        running.wait_for_output(0, "asleep")
        running.signal(0, signal.SIGKILL)
        assert running.finish(check=False)[0].returncode == -signal.SIGKILL
    with start_ranks("raise SystemExit('gone')", 1) as running, pytest.raises(RanksFailed, match="ended without"):
        running.wait_for_output(0, "never")


def test_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os; print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])")
    result = run_torchrun([str(script)], 2)
    assert "rank 0 of 2" in result.output
    assert "rank 1 of 2" in result.output
