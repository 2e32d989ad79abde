"""A run that is killed or stopped at any instant continues as if nothing had happened: bit for bit."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.ranks import PATIENCE_SECONDS, RunningRanks
from tests.helpers.runs import IMP, assert_same_science, jobs, run, start

RESIDENT = "--data.loader=resident"
#: (ranks, loader) that the whole matrix of interruptions is shown on
SETTINGS = [(2, "dali"), (2, "resident"), (4, "resident")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], Path]:
    """The folder of a run that nobody interrupted, made once for each setting."""
    made: dict[tuple[int, str], Path] = {}

    def get(world_size: int, loader: str) -> Path:
        if (world_size, loader) not in made:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            run(folder, world_size, f"--data.loader={loader}")
            made[world_size, loader] = folder
        return made[world_size, loader]

    return get


def wait_for(path: Path, running: RunningRanks, timeout: float = PATIENCE_SECONDS) -> None:
    end = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear:\n{running.output(0)}"
        time.sleep(0.002)


@pytest.mark.parametrize(("world_size", "loader"), SETTINGS)
def test_killed_in_mid_epoch_twice(
    world_size: int, loader: str, tmp_path: Path, undisturbed: Callable[[int, str], Path]
) -> None:
    folder = tmp_path / "run"
    # an epoch has 12 steps and a checkpoint comes every 5: both lie within an epoch, one of them after a rewind
    for checkpoint in ("level-00/checkpoints/step-5", "train-resnet8_cifar/checkpoints/step-15"):
        with start(folder, world_size, f"--data.loader={loader}") as running:
            wait_for(folder / checkpoint, running)
            running.kill()
        job = checkpoint.split("/", maxsplit=1)[0]
        assert job not in jobs(folder), "killed too late for the test to show anything"
    results = run(folder, world_size, f"--data.loader={loader}")
    assert "level-00: finished already" in results[0].output
    assert not list(folder.glob("*/checkpoints"))
    assert_same_science(folder, undisturbed(world_size, loader))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_signal_to_one_rank_saves_once_on_all_and_exits_0(
    number: signal.Signals, tmp_path: Path, undisturbed: Callable[[int, str], Path]
) -> None:
    folder = tmp_path / "run"
    more = [RESIDENT, "--train.checkpoint_every=0"]
    with start(folder, 2, *more) as running:
        wait_for(folder / "pretrain/result.json", running)
        running.wait_for_output(0, "level-00:.*steps 2 to 24")
        running.signal(1, number)
        results = running.finish()
    assert [result.returncode for result in results] == [0, 0]
    assert "the same command continues from there" in results[0].output
    saved = list(folder.glob("*/checkpoints/step-*"))
    assert len(saved) == 1, "one save, at a step boundary that all ranks agree on"
    assert results[1].output == "", "only rank 0 speaks"
    run(folder, 2, *more)
    assert_same_science(folder, undisturbed(2, "resident"))


def test_another_world_size_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with start(folder, 2, RESIDENT) as running:
        wait_for(folder / "level-00/checkpoints/step-5", running)
        running.kill()
    results = run(folder, 3, RESIDENT, check=False)
    assert {result.returncode for result in results} == {2}
    [line] = [line for line in results[0].output.splitlines() if "elth_dist: error:" in line]
    assert "2" in line
    assert "3" in line
    assert "step-5" in line


def test_finished_run_is_verified_and_left_alone(undisturbed: Callable[[int, str], Path]) -> None:
    folder = undisturbed(2, "resident")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.safetensors")}
    results = run(folder, 2, RESIDENT)
    assert results[0].output.count("finished already") == len(jobs(folder))
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.safetensors")} == before


def test_damaged_result_is_done_again(tmp_path: Path, undisturbed: Callable[[int, str], Path]) -> None:
    folder = tmp_path / "run"
    run(folder, 2, RESIDENT, base=IMP)
    damaged = folder / "level-01/trained.safetensors"
    original = damaged.read_bytes()
    damaged.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    results = run(folder, 2, RESIDENT, base=IMP)
    assert f"{damaged}: does not match its SHA-256" in results[0].output
    assert damaged.read_bytes() == original


def test_changed_config_is_refused_for_finished_jobs(undisturbed: Callable[[int, str], Path]) -> None:
    folder = undisturbed(2, "resident")
    config = (folder / "config.yaml").read_bytes()
    results = run(folder, 2, RESIDENT, "--train.lr=0.05", check=False)
    assert {result.returncode for result in results} == {2}
    assert "train.lr was 0.1, now 0.05" in results[0].output
    assert (folder / "config.yaml").read_bytes() == config
