"""The folder of a job: when it is finished, and what it then says."""

from pathlib import Path

import pytest

from elth_dist.errors import UserError
from elth_dist.runtime.job_folder import JobFolder
from elth_dist.runtime.run_directory import RunDirectory
from tests.helpers.job_folders import PART, finish


def test_a_finished_job_is_recognised_and_read_back(tmp_path: Path) -> None:
    folder = RunDirectory(tmp_path).job("level-01")
    assert folder.name == "level-01"
    assert not folder.finished("abc")
    with pytest.raises(UserError, match=r"level-01/result\.json: cannot be read: No such file"):
        folder.read()
    finish(folder)
    assert folder.finished("abc")
    assert not folder.finished("abd")
    result = folder.read()
    assert (result.identity, result.part, result.inputs, result.metrics) == (
        "abc",
        PART,
        {"ticket": "fff"},
        {"top1": 0.75},
    )
    assert list(result.files) == ["ticket.safetensors", "trained.safetensors"]
    assert not list(folder.path.glob("*.json.*"))


@pytest.mark.parametrize("name", ["ticket.safetensors", "trained.safetensors"])
def test_a_damaged_or_missing_product_is_named_and_the_job_not_finished(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = JobFolder(tmp_path / "level-01")
    finish(folder)
    (folder.path / name).write_bytes(b"tickeT")
    assert not folder.finished("abc")
    assert f"{name}: does not match its SHA-256: doing level-01 again" in caplog.text
    (folder.path / name).unlink()
    assert not folder.finished("abc")
    assert f"{name}: No such file or directory: doing level-01 again" in caplog.text


def test_a_result_cut_anywhere_is_no_result(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "level-01")
    finish(folder)
    whole = folder.result.read_bytes()
    for length in range(len(whole) - 1):
        folder.result.write_bytes(whole[:length])
        assert not folder.finished("abc")
    for other in (b"[]", b"{}", b'{"version": 1}', b'{"version": 2, "identity": "abc"}', b"\xff\xfe"):
        folder.result.write_bytes(other)
        assert not folder.finished("abc")
        with pytest.raises(UserError, match="is damaged"):
            folder.read()


def test_a_result_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "level-01").write_text("in the way")
    with pytest.raises(UserError, match=r"result\.json: cannot be written: "):
        JobFolder(tmp_path / "level-01").commit("abc", {}, {}, {})
