"""The watchdog, with real processes that hang."""

import ctypes
import time

import pytest

from elth_dist.runtime.watchdog import Watchdog
from tests.helpers.ranks import RankResult, run_ranks

#: Without a beat until the watchdog acts: a busy machine lets a process wait for some tenths of a second.
SECONDS = 2.0


def _hang_after_beating(beats: int) -> None:
    with Watchdog(minutes=SECONDS / 60, rank=3) as watchdog:
        for _ in range(beats):
            time.sleep(0.1)
            watchdog.beat()
        print("now it hangs")
        time.sleep(600)


def _hang_with_the_lock_held() -> None:
    with Watchdog(minutes=SECONDS / 60, rank=3):
        ctypes.PyDLL(None).sleep(600)  # a C call that keeps the GIL


def _end_well() -> str:
    with Watchdog(minutes=SECONDS / 60, rank=3) as watchdog:
        for _ in range(40):
            time.sleep(0.1)
            watchdog.beat()
    time.sleep(1.5 * SECONDS)
    watchdog.beat()  # after its block: nothing is armed again
    with Watchdog(minutes=0, rank=3) as watchdog:
        watchdog.beat()
        time.sleep(0.3)
    with Watchdog(minutes=SECONDS / 60, rank=3):
        pass
    time.sleep(1.5 * SECONDS)
    return "well"


def _run(function: object, *args: object) -> tuple[RankResult, float]:
    start = time.monotonic()
    assert callable(function)
    result = run_ranks(function, 1, args=args, join=False, check=False)[0]
    return result, time.monotonic() - start


def test_a_hang_names_the_rank_and_shows_all_stacks() -> None:
    result, seconds = _run(_hang_after_beating, 40)
    assert result.returncode == 1
    assert "now it hangs" in result.output, "4 s of beats were within the limit of 2 s each"
    assert "elth_dist: rank 3: no progress for" in result.output
    assert "in _hang_after_beating" in result.output
    assert result.output.index("rank 3") < result.output.index("in _hang_after_beating")
    assert seconds < 300


def test_a_hang_inside_a_library_that_holds_the_lock_ends_too() -> None:
    result, seconds = _run(_hang_with_the_lock_held)
    assert result.returncode == 1
    assert "in _hang_with_the_lock_held" in result.output
    assert seconds < 300


def test_progress_and_the_end_of_the_block_keep_it_quiet() -> None:
    result, _ = _run(_end_well)
    assert (result.returncode, result.value) == (0, "well"), result.output


def test_a_beat_costs_nothing() -> None:
    with Watchdog(minutes=30, rank=0) as watchdog:
        start = time.process_time()
        for _ in range(10_000):
            watchdog.beat()
        assert time.process_time() - start < 1, "less than 0.1 ms a beat"


def test_negative_minutes_are_a_bug() -> None:
    with pytest.raises(AssertionError):
        Watchdog(-1, 0)
