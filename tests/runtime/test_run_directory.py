"""The run directory: what may go on, and who may use it."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks
from elth_dist.runtime.run_directory import RunDirectory
from tests.helpers.job_folders import finish
from tests.helpers.ranks import start_ranks


class _Job(NamedTuple):
    name: str
    identity: str
    part: dict[str, Any]


class _Configured:
    """What a run knows of its jobs: two, of which the second depends on the first."""

    def __init__(self, lr: float, levels: int = 3, log_every: int = 50) -> None:
        self.yaml = yaml.safe_dump(
            {"train": {"log_every": log_every, "epochs": 2, "lr": lr}, "method": {"levels": levels}}, sort_keys=False
        )
        train = {} if lr == 0.1 else {"lr": lr}  # identities leave defaults out
        self.parts = {name: {"kind": name, "setting": {"train": train}} for name in ("pretrain", "level-00")}
        self.identities = {name: f"{name} with lr {lr}" for name in self.parts}

    def prepare(self, root: Path) -> RunDirectory:
        run = RunDirectory(root)
        jobs = [_Job(name, identity, self.parts[name]) for name, identity in self.identities.items()]
        run.prepare(Ranks(), self.yaml, {"python": "3"}, jobs)
        return run


def _snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def test_prepare_writes_what_the_run_is(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "one"
    with _Configured(0.1).prepare(root) as run:
        assert run.config.read_text() == _Configured(0.1).yaml
        assert json.loads(run.environment.read_text()) == {"python": "3"}
        names = [run.config, run.environment, run.metrics, run.report, run.digits, run.tensorboard("level-00")]
        assert all(root in path.parents for path in names)
        assert len({path.relative_to(root).parts[0] for path in names}) == len(names)


def test_a_changed_finished_job_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with _Configured(0.1).prepare(tmp_path) as run:
        finish(run.job("pretrain"), "pretrain with lr 0.1", _Configured(0.1).parts["pretrain"])
    before = _snapshot(tmp_path)
    with pytest.raises(UserError) as error:
        _Configured(0.4, log_every=10).prepare(tmp_path)
    assert f"{tmp_path} holds the finished job pretrain" in str(error.value)
    assert "train.lr was 0.1, now 0.4;" in str(error.value), "a default is shown too; log_every changes nothing"
    assert _snapshot(tmp_path) == before
    with _Configured(0.1, log_every=10).prepare(tmp_path) as run:  # what cannot change a result may change
        assert run.job("pretrain").finished("pretrain with lr 0.1")


def test_a_job_that_only_its_inputs_change_is_refused_too(tmp_path: Path) -> None:
    configured = _Configured(0.1)
    with configured.prepare(tmp_path) as run:
        finish(run.job("level-00"), "of another pretrain", configured.parts["level-00"])
    with pytest.raises(UserError, match=r"finished job level-00.*: an input of the job, or the version of elth_dist"):
        configured.prepare(tmp_path)


def test_unfinished_work_of_another_configuration_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with _Configured(0.1).prepare(tmp_path) as run:
        checkpoint = run.job("pretrain").checkpoints / "step-5"
        checkpoint.mkdir(parents=True)
    with _Configured(0.1).prepare(tmp_path):
        assert checkpoint.exists(), "the same configuration goes on"
    assert not caplog.text
    with _Configured(0.4).prepare(tmp_path):
        assert not checkpoint.exists()
    assert "pretrain: starting over" in caplog.text
    assert "train.lr was 0.1, now 0.4" in caplog.text


def test_unfinished_work_of_unknown_origin_goes(tmp_path: Path) -> None:
    (tmp_path / "level-00" / "checkpoints" / "step-5").mkdir(parents=True)
    (tmp_path / "jobs.json").write_text('{"level-00": 5}')
    with _Configured(0.1).prepare(tmp_path) as run:
        assert not run.job("level-00").path.exists()


def test_a_run_of_fewer_levels_leaves_the_others_alone(tmp_path: Path) -> None:
    with _Configured(0.1).prepare(tmp_path) as run:
        finish(run.job("level-07"))
    with _Configured(0.1).prepare(tmp_path) as run:
        assert run.job("level-07").finished("abc")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run\.dir: .*file is a file"):
        _Configured(0.1).prepare(tmp_path / "file")
    with pytest.raises(UserError, match=r"run\.dir: .*file/run: cannot be written: Not a directory"):
        _Configured(0.1).prepare(tmp_path / "file" / "run")


def _hold(root: str) -> None:
    with _Configured(0.1).prepare(Path(root)):
        print("held", flush=True)
        time.sleep(60)


def test_two_runs_cannot_share_a_directory_and_death_frees_it(tmp_path: Path) -> None:
    with start_ranks(_hold, 1, args=[str(tmp_path)], join=False) as running:
        running.wait_for_output(0, "held")
        before = _snapshot(tmp_path)
        with pytest.raises(UserError, match=rf"in use by process {running.pids[0]} on {os.uname().nodename}"):
            _Configured(0.1, log_every=1).prepare(tmp_path)
        assert _snapshot(tmp_path) == before
        running.signal(0, signal.SIGKILL)
        running.finish(check=False)
        _Configured(0.1).prepare(tmp_path).close()
