"""Checkpoints of one process: committed or not there, whatever happens. For more see distributed/test_runtime.py."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elth_dist.errors import UserError
from elth_dist.runtime.checkpoints import Checkpoints
from elth_dist.runtime.ranks import Ranks
from tests.helpers.ranks import run_ranks


def _write(step: int) -> Any:
    """Writes three files, one in a folder of its own, that all say `step`."""

    def write(folder: Path) -> None:
        (folder / "engine").mkdir()
        for name in ("weights", "loop-00000", "engine/optimizer"):
            (folder / name).write_text(f"{name} at {step}")

    return write


def _save(folder: Path, *steps: int, keep: int = 2) -> Path:
    for step in steps:
        path = Checkpoints(folder, Ranks(), keep).save(step, _write(step))
    return path


def _newest(folder: Path) -> Path | None:
    return Checkpoints(folder, Ranks()).newest()


def _step_in(path: Path) -> int:
    """The step that all files of a checkpoint agree on."""
    steps = {(path / name).read_text().split(" at ")[1] for name in ("weights", "loop-00000", "engine/optimizer")}
    assert len(steps) == 1
    return int(steps.pop())


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    assert _newest(tmp_path / "none") is None
    Checkpoints(tmp_path / "none", Ranks()).clear()
    assert not (tmp_path / "none").exists()


def test_the_newest_is_found_and_the_last_two_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "job" / "checkpoints"
    path = _save(folder, 9, 10, 100)
    assert path == folder / "step-100"
    assert _newest(folder) == path
    assert _step_in(path) == 100
    assert _names(folder) == ["LATEST", "step-10", "step-100"]
    assert (folder / "LATEST").read_text() == "step-100\n"
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["step"], manifest["world_size"]) == (100, 1)
    assert sorted(manifest["files"]) == ["engine/optimizer", "loop-00000", "weights"]
    Checkpoints(folder, Ranks()).clear()
    assert _newest(folder) is None


def test_the_same_step_again_replaces_nothing(tmp_path: Path) -> None:
    _save(tmp_path, 10, 20, 20)
    assert _names(tmp_path) == ["LATEST", "step-20", "step-20-2"]
    assert _newest(tmp_path) == tmp_path / "step-20-2"
    _save(tmp_path, 20)
    assert _names(tmp_path) == ["LATEST", "step-20-2", "step-20-3"]


def test_what_a_killed_save_left_is_ignored_then_removed(tmp_path: Path) -> None:
    _save(tmp_path, 10)
    shutil.copytree(tmp_path / "step-10", tmp_path / "step-20.tmp")
    (tmp_path / ".LATEST.123.tmp").write_text("step-20")
    (tmp_path / "LATEST").write_text("garbage")
    assert _newest(tmp_path) == tmp_path / "step-10"
    _save(tmp_path, 20)
    assert _names(tmp_path) == ["LATEST", "step-10", "step-20"]


def test_a_rename_that_brought_the_name_but_not_the_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _save(tmp_path, 10, 20)
    (tmp_path / "step-30").mkdir()
    (tmp_path / "step-40").write_text("not even a folder")
    assert _newest(tmp_path) == tmp_path / "step-20"
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/step-30: manifest.json is missing or damaged: trying an older checkpoint"
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("two")
    _save(folder, 10, 20)
    return folder


_FILES = ("weights", "loop-00000", "engine/optimizer", "manifest.json")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found(data: st.DataObject, two: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = data.draw(st.sampled_from(_FILES))
    path = two / "step-20" / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    caplog.clear()
    try:
        path.write_bytes(damaged)
        found = _newest(two)
    finally:
        path.write_bytes(whole)
    if name == "manifest.json" and found == two / "step-20":
        assert json.loads(damaged) == json.loads(whole), "only white space may change unnoticed"
    else:
        assert found == two / "step-10"
        assert name in caplog.text


@pytest.mark.parametrize("name", _FILES)
def test_truncated_and_missing_files_are_found(name: str, two: Path) -> None:
    path = two / "step-20" / name
    whole = path.read_bytes()
    try:
        for length in range(0, len(whole) - 1, 1 + len(whole) // 20):
            path.write_bytes(whole[:length])
            assert _newest(two) == two / "step-10"
        path.unlink()
        assert _newest(two) == two / "step-10"
    finally:
        path.write_bytes(whole)
    assert _newest(two) == two / "step-20"


def test_after_a_fall_back_the_damaged_future_goes(tmp_path: Path) -> None:
    _save(tmp_path, 10, 20)
    (tmp_path / "step-20" / "weights").write_text("")
    assert _newest(tmp_path) == tmp_path / "step-10"
    _save(tmp_path, 15)
    assert _names(tmp_path) == ["LATEST", "step-10", "step-15"]
    assert _newest(tmp_path) == tmp_path / "step-15"


def test_a_full_disk_is_named_and_leaves_the_earlier_ones(tmp_path: Path) -> None:
    _save(tmp_path, 10)

    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(bytes(1000))
        with Path("/dev/full").open("wb") as file:
            file.write(bytes(1 << 20))

    with pytest.raises(UserError, match="rank 0 could not write the checkpoint of step 20: No space left on device"):
        Checkpoints(tmp_path, Ranks()).save(20, write)
    assert _names(tmp_path) == ["LATEST", "step-10"]
    assert _newest(tmp_path) == tmp_path / "step-10"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"rank 0 could not write the checkpoint of step 1: (Not a directory|File exists)"
    ):
        _save(tmp_path / "file", 1)


_MODIFYING = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}


def _die_at_every_operation(base: str) -> list[list[Any]]:
    """Kill a process that saves just before its 1st, 2nd, ... operation on a file, until one lives to the end.

    Returns for each death what newest() found then, and after another process saved anew.
    """
    found: list[list[Any]] = []
    while True:
        folder = Path(base) / f"death-{len(found)}"
        _save(folder, 10, 20)
        left = len(found)

        def hook(event: str, arguments: tuple[Any, ...], folder: Path = folder) -> None:
            nonlocal left
            if event in _MODIFYING and str(folder) in str(arguments[0]):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        child = os.fork()
        if child == 0:
            sys.addaudithook(hook)
            _save(folder, 30)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        newest = _newest(folder)
        assert newest is not None
        found.append([_step_in(newest), _names(folder)])
        after = _save(folder, 40)
        assert _newest(folder) == after
        assert not any(name.endswith(".tmp") for name in _names(folder))
        if status == 0:
            return found


def test_death_at_any_file_operation_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    results = run_ranks(_die_at_every_operation, 1, args=[str(tmp_path)], join=False)
    found = results[0].value
    steps = [step for step, _ in found]
    assert len(found) > 25, "it died in many places"
    assert set(steps) == {20, 30}
    assert steps == sorted(steps), "once committed, always found"
    assert found[-1] == [30, ["LATEST", "step-20", "step-30"]]
