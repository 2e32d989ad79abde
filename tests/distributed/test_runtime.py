"""Checkpoints, stop signals and the run directory between real processes."""

import json
import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elth_dist.errors import UserError
from elth_dist.runtime.checkpoints import Checkpoints
from elth_dist.runtime.environment import environment
from elth_dist.runtime.ranks import Ranks
from elth_dist.runtime.run_directory import RunDirectory
from elth_dist.runtime.signals import StopSignals
from tests.helpers.ranks import RanksFailed, run_ranks, start_ranks

# ------------------------------------------------------------------------------------------------- checkpoints


def _write(ranks: Ranks, step: int) -> Any:
    def write(folder: Path) -> None:
        (folder / f"loop-{ranks.rank:05d}").write_text(f"{ranks.rank} at {step}")
        if ranks.is_main:
            (folder / "weights").write_bytes(os.urandom(1 << 18))

    return write


def _save_and_find(ranks: Ranks, folder: str) -> list[Any]:
    checkpoints = Checkpoints(Path(folder), ranks)
    assert checkpoints.newest() is None
    for step in (10, 20, 30):
        path = checkpoints.save(step, _write(ranks, step))
        assert path == Path(folder, f"step-{step}")
    found = [str(checkpoints.newest())]
    # every rank sees the damage in the file of the last one
    damaged = Path(folder, "step-30", f"loop-{ranks.world_size - 1:05d}")
    if ranks.is_main:
        damaged.write_text(damaged.read_text()[:-1] + "1")
    ranks.barrier()
    found.append(str(checkpoints.newest()))
    # a full disk on one rank fails on all, and harms nothing

    def write(folder: Path) -> None:
        _write(ranks, 40)(folder)
        if ranks.rank == 1:
            with Path("/dev/full").open("wb") as file:
                file.write(bytes(1 << 20))

    with pytest.raises(UserError) as error:
        checkpoints.save(40, write)
    found += [str(error.value), str(checkpoints.newest())]
    found.append(str(checkpoints.save(40, _write(ranks, 40))))
    found.append(str(checkpoints.newest()))
    return found


@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_save_and_find_the_same(world_size: int, tmp_path: Path) -> None:
    results = run_ranks(_save_and_find, world_size, args=[str(tmp_path)])
    failure = "rank 1 could not write the checkpoint of step 40: No space left on device"
    full = f"{tmp_path}: {failure}; earlier checkpoints are untouched"
    for result in results:
        assert result.value == [
            f"{tmp_path}/step-30",
            f"{tmp_path}/step-20",
            full,
            f"{tmp_path}/step-20",
            f"{tmp_path}/step-40",
            f"{tmp_path}/step-40",
        ]
    assert f"loop-{world_size - 1:05d} does not match its SHA-256: trying an older checkpoint" in results[0].output
    assert all("SHA-256" not in result.output for result in results[1:]), "rank 0 alone speaks"
    manifest = json.loads((tmp_path / "step-40" / "manifest.json").read_text())
    assert sorted(manifest["files"]) == [*(f"loop-{rank:05d}" for rank in range(world_size)), "weights"]
    with pytest.raises(UserError, match=rf"step-40: made by {world_size} ranks, this run has 1: continue with"):
        Checkpoints(tmp_path, Ranks()).newest()


def _look_elsewhere(ranks: Ranks, folder: str) -> str:
    checkpoints = Checkpoints(Path(folder), ranks)
    checkpoints.save(10, _write(ranks, 10))
    own = Path(folder) if ranks.is_main else Path(folder, "of another node")
    with pytest.raises(UserError) as error:
        Checkpoints(own, ranks).newest()
    return str(error.value)


def test_a_folder_that_not_all_nodes_share_is_named(tmp_path: Path) -> None:
    results = run_ranks(_look_elsewhere, 2, args=[str(tmp_path)])
    for result in results:
        expected = f"run.dir: rank 1 on {os.uname().nodename} does not see {tmp_path}/of another node/step-10"
        assert result.value.startswith(expected)


def _save_until_killed(ranks: Ranks, folder: str) -> None:
    checkpoints = Checkpoints(Path(folder), ranks)
    newest = checkpoints.newest()
    step = 0 if newest is None else int((newest / f"loop-{ranks.rank:05d}").read_text().split(" at ")[1])
    print("found", step, flush=True)
    while True:
        step += 1
        checkpoints.save(step, _write(ranks, step))
        print("saved", step, flush=True)


def test_two_ranks_killed_at_random_always_find_what_they_saved(tmp_path: Path) -> None:
    chance = random.Random(0)
    committed = 0
    for round_number in range(8):
        with start_ranks(_save_until_killed, 2, args=[str(tmp_path)]) as running:
            running.wait_for_output(1, "saved")
            time.sleep(chance.uniform(0, 0.15))
            victims = [(0,), (1,), (0, 1)][round_number % 3]
            for rank in victims:
                running.signal(rank, signal.SIGKILL)
            for rank in {0, 1} - set(victims):
                running.signal(rank, signal.SIGTERM)
            results = running.finish(check=False)
        for result in results:
            steps = [int(line.split()[1]) for line in result.output.splitlines() if line.startswith(("found", "saved"))]
            assert steps[0] in (committed, committed + 1), "it goes on from the last save, announced or not"
            assert steps == list(range(steps[0], steps[0] + len(steps)))
        committed = max(
            int(line.split()[1])
            for result in results
            for line in result.output.splitlines()
            if line.startswith("saved")
        )


# ----------------------------------------------------------------------------------------------------- signals


def _poll_until_stopped(ranks: Ranks, polls: int) -> list[Any]:
    """Polls at which this rank stopped, and the state of the handlers afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    stopped_at = None
    with StopSignals(ranks) as stop:
        print("ready", flush=True)
        for poll in range(polls):
            time.sleep(0.0005 * ((poll + ranks.rank) % 3))  # ranks are never quite in step
            if stop.poll():
                stopped_at = poll
                assert stop.poll(), "once agreed, agreed"
                break
        requested = stop.requested
        received = None if stop.received is None else stop.received.name
    assert signal.getsignal(signal.SIGTERM) is before
    ranks.barrier()
    return [stopped_at, requested, received]


@pytest.mark.parametrize(
    ("world_size", "number"),
    [(2, signal.SIGTERM), (2, signal.SIGUSR1), (4, signal.SIGUSR2), (4, signal.SIGINT)],
)
def test_a_signal_to_one_rank_stops_all_at_the_same_step(world_size: int, number: signal.Signals) -> None:
    chance = random.Random(int(number))
    for _ in range(3):
        target = chance.randrange(world_size)
        with start_ranks(_poll_until_stopped, world_size, args=[100_000]) as running:
            for rank in range(world_size):
                running.wait_for_output(rank, "ready")
            time.sleep(chance.uniform(0, 0.1))
            running.signal(target, number)
            results = running.finish()
        polls = {result.value[0] for result in results}
        assert len(polls) == 1
        assert polls != {None}
        assert [result.rank for result in results if result.value[1]] == [target]
        assert results[target].value[2] == number.name


def test_signals_to_all_ranks_and_none(tmp_path: Path) -> None:
    results = run_ranks(_poll_until_stopped, 2, args=[50])
    assert [result.value for result in results] == [[None, False, None]] * 2, "the reduction under way is drained"
    with start_ranks(_poll_until_stopped, 2, args=[100_000]) as running:
        for rank in range(2):
            running.wait_for_output(rank, "ready")
            running.signal(rank, signal.SIGTERM)
            running.signal(rank, signal.SIGTERM)
            running.signal(rank, signal.SIGUSR1)
        results = running.finish()
    assert results[0].value[0] == results[1].value[0]
    assert all(result.value[1] for result in results)


def _crash_between_polls(ranks: Ranks) -> None:
    with StopSignals(ranks) as stop:
        for poll in range(100):
            stop.poll()
            if poll == 10 and ranks.rank == 1:
                raise ValueError("a bug on rank 1")


def test_nobody_waits_for_the_poll_of_a_rank_that_crashed() -> None:
    start = time.monotonic()
    with pytest.raises(RanksFailed, match="a bug on rank 1") as failure:
        run_ranks(_crash_between_polls, 2)
    assert time.monotonic() - start < 110, "the group's own limit is two minutes"
    assert [result.returncode for result in failure.value.results] == [1, 1]


def _poll_twice_one_after_the_other(ranks: Ranks, folder: str) -> None:
    """Rank 1 begins its second poll when rank 0 has come back from its own."""
    returned = Path(folder) / "returned"
    with StopSignals(ranks) as stop:
        stop.poll()
        ranks.barrier()
        while ranks.rank == 1 and not returned.exists():
            time.sleep(0.01)
        stop.poll()
        if ranks.rank == 0:
            returned.touch()


def test_a_poll_does_not_wait_for_ranks_that_are_behind(tmp_path: Path) -> None:
    run_ranks(_poll_twice_one_after_the_other, 2, args=[str(tmp_path)], timeout=110)


# ----------------------------------------------------------------------------------------------- run directory


def _prepare(ranks: Ranks, root: str, identity: str) -> list[Any]:
    run = RunDirectory(Path(root))
    surroundings = environment(ranks)
    planned = SimpleNamespace(name="pretrain", identity=identity, part={"seed": identity})
    try:
        run.prepare(ranks, f"seed: {identity}\n", surroundings, [planned])
    except UserError as error:
        return [str(error)]
    assert run.config.read_text() == f"seed: {identity}\n"
    if ranks.is_main:
        job = run.job("pretrain")
        job.path.mkdir(exist_ok=True)
        job.ticket.write_text("ticket")
        job.commit(identity, {"seed": identity}, {}, {"top1": 0.5})
    ranks.barrier()
    run.close()
    return [
        surroundings["world_size"],
        len(surroundings["devices"]),
        json.loads(run.environment.read_text()) == surroundings,
    ]


def test_all_ranks_prepare_or_refuse_together(tmp_path: Path) -> None:
    root = tmp_path / "run"
    results = run_ranks(_prepare, 2, args=[str(root), "1"])
    assert [result.value for result in results] == [[2, 2, True]] * 2
    results = run_ranks(_prepare, 2, args=[str(root), "2"])
    for result in results:
        assert "finished job pretrain" in result.value[0]
        assert 'seed was "1", now "2"' in result.value[0]
