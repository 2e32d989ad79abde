"""What SLURM's variables mean, and how ranks find each other through a file."""

import os
from pathlib import Path
from typing import Any

import pytest

from elth_dist.errors import UserError
from elth_dist.runtime.launcher import launcher_ranks
from elth_dist.runtime.rendezvous import meet
from elth_dist.runtime.slurm import slurm_ranks, tasks_per_node
from tests.helpers.ranks import run_ranks

OURS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def test_tasks_per_node() -> None:
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    assert tasks_per_node("8") == [8]
    with pytest.raises(UserError, match="SLURM_STEP_TASKS_PER_NODE"):
        tasks_per_node("many")


@pytest.mark.parametrize(
    ("visible", "local_rank"),
    [("0,1", 1), ("3", 0), ("", 1)],
    ids=["every task sees all GPUs", "--gpus-per-task: its own alone", "no GPU"],
)
def test_slurm_task_becomes_a_rank(
    visible: str, local_rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"PROCID": 3, "NTASKS": 4, "NODEID": 1, "LOCALID": 1, "JOB_ID": 7, "STEP_ID": 0}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2(x2)")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "meeting-7.0.2.json").write_text('{"address": "node1", "port": 1234}')
    with slurm_ranks(tmp_path):
        assert launcher_ranks() == (3, 4, local_rank)
        assert os.environ["LOCAL_WORLD_SIZE"] == "2"
        assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node1", "1234")
    assert not set(OURS) & os.environ.keys()


def joined(place: str) -> list[Any]:
    """Meet, then be one group; what rank 1 says arrives at rank 0."""
    from elth_dist.runtime.ranks import open_ranks

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"):
        del os.environ[name]
    with meet(Path(place), rank, world_size, one_host=True), open_ranks("cpu", 1) as ranks:
        found: list[Any] = ranks.gather_json([rank, os.environ["MASTER_PORT"]])
    return found


def test_two_groups_on_one_host_meet_on_ports_of_their_own(tmp_path: Path) -> None:
    one = run_ranks(joined, 2, args=[str(tmp_path / "one.json")], join=False)
    other = run_ranks(joined, 2, args=[str(tmp_path / "other.json")], join=False)
    for results in (one, other):
        assert results[0].value == results[1].value
        assert [rank for rank, _ in results[0].value] == [0, 1]
        assert len({port for _, port in results[0].value}) == 1
    assert list(tmp_path.iterdir()) == []


def test_rank_that_meets_nobody_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="rank 0 has not written it"),
        meet(tmp_path / "x", 1, 2, one_host=True, minutes=0),
    ):
        pass
