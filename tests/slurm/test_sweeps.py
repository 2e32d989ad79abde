"""Sweeps against a real slurmctld: order, process groups, preemption, time limits, failures."""

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from elth_dist.sweeps.command import main
from tests.helpers.ranks import REPOSITORY
from tests.launch.test_sweep import TINY, sweep_file

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(3600)]

#: A dense run to r that takes a while, and three short jobs that wait for it.
LONG: dict[str, Any] = {
    **TINY,
    "overrides": {
        "data": {"image_size": 8, "loader": "resident"},
        "train": {
            "epochs": 20,
            "global_batch": 120,
            "milestones": ["10ep"],
            "log_every": 10,
            "eval_every": 10,
            "checkpoint_every": 0,
        },
    },
    "experiments": [{"sources": ["resnet14_cifar"], "methods": [{"levels": 1, "rewind": "18ep", "controls": []}]}],
}


def sbatch(*arguments: str) -> str:
    return subprocess.run(
        ["sbatch", "--parsable", *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def scancel(*arguments: str) -> None:
    """Signal a job; one that has been requeued meanwhile cannot take it, which is fine."""
    subprocess.run(["scancel", *arguments], check=False)


def restarts(number: str) -> int:
    shown = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Restarts=(\d+)", shown)
    assert found is not None
    return int(found[1])


@contextlib.contextmanager
def nothing_starts() -> Iterator[None]:
    """What is submitted meanwhile waits."""
    subprocess.run(["scontrol", "update", "PartitionName=normal", "State=DOWN"], check=True)
    try:
        yield
    finally:
        subprocess.run(["scontrol", "update", "PartitionName=normal", "State=UP"], check=True)


def squeue() -> str:
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout


def wait_until(true: Callable[[], object], folder: Path, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            logs = "".join(f"--- {path}:\n{path.read_text()[-2000:]}\n" for path in sorted(folder.glob("slurm/*.out")))
            raise AssertionError(f"not in {seconds:g} s; the queue:\n{squeue()}\n{logs}")
        time.sleep(0.1)


def records(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "submitted.json").read_text())
    return found


def log_of(folder: Path, kind: str) -> str:
    [record] = [record for name, record in records(folder).items() if name.startswith(f"{kind}-")]
    path = Path(record["log"])
    return path.read_text() if path.exists() else ""


def slurm_id(folder: Path, kind: str) -> str:
    [record] = [record for name, record in records(folder).items() if name.startswith(f"{kind}-")]
    return str(record["slurm"])


def products(folder: Path) -> dict[str, bytes]:
    return {path.parent.name + path.name: path.read_bytes() for path in folder.glob("jobs/*/*.safetensors")}


def figures(folder: Path) -> dict[str, Any]:
    """What each result and each row of metrics says, but for the time it took."""
    found: dict[str, Any] = {}
    for path in folder.glob("jobs/*/result.json"):
        found[path.parent.name] = json.loads(path.read_text())
        found[path.parent.name]["metrics"].pop("seconds")
    for path in folder.glob("logs/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[f"{path.parent.name} metrics"] = [
            {name: value for name, value in row.items() if not name.startswith(("time/", "memory/"))} for row in rows
        ]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(sweep file, folder) of the long sweep, done in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = folder / "long.yaml"
    path.write_text(yaml.safe_dump(LONG))
    assert main([str(path), "--cluster", "debug", "--dir", str(folder / "out")]) == 0
    return path, folder / "out"


def test_quickstart_from_submission_to_results(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The shipped sweep, shortened; arrays, dependencies, a second submission, and the table."""
    folder = tmp_path / "out"
    shorter = ["--train.epochs=2", "--data.image_size=8", "--data.loader=resident", "--train.global_batch=120"]
    line = [str(REPOSITORY / "configs/sweeps/quickstart.yaml"), *shorter, "--dir", str(folder)]
    with nothing_starts():
        assert main([*line, "--cluster", "slurm", "--max-parallel", "3"]) == 0
        assert "submitted 24 jobs" in capfd.readouterr().out
        before = records(folder)
        assert main([*line, "--cluster", "slurm"]) == 0
        assert "24 jobs: 0 done, 0 to do" in capfd.readouterr().out
        assert records(folder) == before, "what is in the queue is not submitted again"

    scripts = {path.name: path.read_text() for path in folder.glob("slurm/*_submission.sh")}
    first = scripts[f"{slurm_id_of_first(before)}_submission.sh"]
    assert "#SBATCH --array=0-3%3" in first, "two dense runs to r and two to the end need the same: one array"
    assert "dependency" not in first
    assert all("--dependency=afterok:" in text for text in scripts.values() if text != first)

    wait_until(lambda: not squeue(), folder, 600)
    assert main([*line, "results"]) == 0
    assert "ETT <- resnet14_cifar" in capfd.readouterr().out
    assert main([*line, "status", "--once"]) == 0
    assert "24 done" in capfd.readouterr().out
    assert main([*line, "--cluster", "slurm"]) == 0
    assert "24 jobs: 24 done, 0 to do" in capfd.readouterr().out
    assert records(folder) == before

    assert_order(folder)


def assert_order(folder: Path) -> None:
    """Every job began when the results were there that it needs."""
    results = {path.parent.name: path for path in folder.glob("jobs/*/result.json")}
    ends = {name: path.stat().st_mtime for name, path in results.items()}
    by_identity = {json.loads(path.read_text())["identity"]: name for name, path in results.items()}
    for name, path in results.items():
        started = (folder / "logs" / name / "environment.json").stat().st_mtime
        for identity in json.loads(path.read_text())["inputs"].values():
            assert ends[by_identity[identity]] <= started, f"{name} began before its input was there"


def slurm_id_of_first(found: dict[str, Any]) -> str:
    return min((record["slurm"].split("_")[0] for record in found.values()), key=int)


def test_two_nodes_train_as_one_process_group(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    methods = [{"levels": 1, "rewind": "2it", "controls": []}]
    path = sweep_file(tmp_path, experiments=[{"sources": ["resnet14_cifar"], "methods": methods}])
    assert main([str(path), "--cluster", "slurm", "--nodes", "2", "--tasks", "1", "--dir", str(folder)]) == 0
    wait_until(lambda: not squeue(), folder)
    assert len(products(folder)) == 6, "every job is done"
    for name in ("pretrain", "level"):
        for environment in folder.glob(f"logs/{name}-*/environment.json"):
            assert json.loads(environment.read_text())["world_size"] == 2
    script = (folder / "slurm" / f"{slurm_id(folder, 'pretrain')}_submission.sh").read_text()
    assert "#SBATCH --nodes=2" in script
    # the same two ranks on one node
    local = [str(path), "--cluster", "local", "--workers", "1", "--tasks", "2", "--dir", str(tmp_path / "local")]
    assert main(local) == 0
    assert products(folder) == products(tmp_path / "local")
    assert not list(folder.glob("logs/*/meeting-*")), "nothing is left of how ranks found each other"


def test_preempted_job_is_requeued_and_ends_bit_equal(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    path, reference = undisturbed
    folder = tmp_path / "out"
    assert main([str(path), "--cluster", "slurm", "--dir", str(folder)]) == 0
    wait_until(lambda: rows(folder) > 3, folder)
    scancel("--signal=STOP", slurm_id(folder, "pretrain"))  # however fast it is; SLURM lets a job go on to be warned
    sbatch("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 1", f"--output={tmp_path}/urgent")
    wait_until(lambda: "preempted (SIGUSR2): saved" in log_of(folder, "pretrain"), folder)
    assert len(list(folder.glob("jobs/pretrain-*/checkpoints/step-*"))) == 1, "one save"
    wait_until(lambda: not squeue(), folder)
    assert "time limit" not in log_of(folder, "pretrain"), "SLURM requeues it, not the job itself"
    assert restarts(slurm_id(folder, "pretrain")) == 1
    assert products(folder) == products(reference)
    assert figures(folder) == figures(reference)


def test_task_of_an_array_requeues_itself_alone(tmp_path: Path) -> None:
    """The last task of an array has the array's own number, by which SLURM would take all of its tasks."""
    code = "from elth_dist.runtime.slurm import preempted, requeue; assert not preempted(); requeue()"
    again = f"{sys.executable} -c '{code}'"
    script = f"""
        touch {tmp_path}/started-$SLURM_ARRAY_TASK_ID-${{SLURM_RESTART_COUNT:-0}}
        if [ "$SLURM_ARRAY_TASK_ID-${{SLURM_RESTART_COUNT:-0}}" = 2-0 ]; then {again}; sleep 100; fi
        sleep 2
    """
    places = [f"--output={tmp_path}/log-%a", "--open-mode=append", f"--chdir={REPOSITORY}"]
    sbatch("--requeue", "--array=0-2", *places, "--export=ALL,PYTHONPATH=" + str(REPOSITORY), f"--wrap={script}")
    wait_until(lambda: not squeue(), tmp_path, 120)
    logs = "".join(path.read_text() for path in sorted(tmp_path.glob("log-*")))
    starts = sorted(path.name.removeprefix("started-") for path in tmp_path.glob("started-*"))
    assert starts == ["0-0", "1-0", "2-0", "2-1"], logs


def rows(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.glob("logs/pretrain-*/metrics.jsonl"))


def test_job_at_its_time_limit_requeues_itself_and_ends_bit_equal(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    path, reference = undisturbed
    folder = tmp_path / "out"
    # SLURM looks every half minute whose limit comes near; until then the training is held, however fast it is
    assert main([str(path), "--cluster", "slurm", "--dir", str(folder), "--time", "2", "--notice", "110"]) == 0
    wait_until(lambda: rows(folder) > 3, folder)
    scancel("--signal=STOP", slurm_id(folder, "pretrain"))
    time.sleep(32)
    scancel("--signal=CONT", slurm_id(folder, "pretrain"))
    wait_until(lambda: "time limit: saved, and put back into the queue" in log_of(folder, "pretrain"), folder)
    assert restarts(slurm_id(folder, "pretrain")) >= 1
    for record in records(folder).values():  # once is enough, and a slow machine would take many stays
        subprocess.run(["scontrol", "update", f"JobId={record['slurm']}", "TimeLimit=60"], check=False)
    wait_until(lambda: not squeue(), folder)
    assert_order(folder)
    assert products(folder) == products(reference)
    assert figures(folder) == figures(reference)


def test_failing_job_blocks_its_children_only_and_cancel_forgets(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    path = sweep_file(tmp_path)
    assert main([str(path), "--dir", str(folder), "--dry-run"]) == 0
    assert main([str(path), "--cluster", "slurm", "--dir", str(folder)]) == 0
    [transfer] = [name for name in records(folder) if name.startswith("transfer-")]
    (folder / "jobs").mkdir(exist_ok=True)
    (folder / "jobs" / transfer).write_text("in the way")
    wait_until(lambda: not squeue(), folder)
    capfd.readouterr()
    assert main([str(path), "status", "--once", "--dir", str(folder)]) == 0
    table = capfd.readouterr().out
    assert "5 done, 1 blocked, 1 failed" in table
    assert "elth_dist: error:" in table, "the last line of the error"
    (folder / "jobs" / transfer).unlink()
    shorter = [str(path), "--train.epochs", "3", "--dir", str(folder)]
    with nothing_starts():
        assert main([str(path), "--cluster", "slurm", "--dir", str(folder), "--retry-failed"]) == 0
        assert main([str(path), "status", "--once", "--dir", str(folder)]) == 0
        assert "5 done, 2 queued" in capfd.readouterr().out
        assert main([*shorter, "cancel"]) == 0, "a sweep of other jobs by now"
        assert "cancelled 2 jobs" in capfd.readouterr().out
    wait_until(lambda: not squeue(), folder)
    assert main([str(path), "--cluster", "slurm", "--dir", str(folder)]) == 0
    assert "2 to do" in capfd.readouterr().out, "cancelled jobs are open again"
    wait_until(lambda: not squeue(), folder)
    assert main([str(path), "status", "--once", "--dir", str(folder)]) == 0
    assert "7 done" in capfd.readouterr().out


def test_queued_jobs_do_not_see_edits_of_the_checkout(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    methods = [{"levels": 0, "rewind": "2it", "controls": []}]
    path = sweep_file(tmp_path, experiments=[{"sources": ["resnet14_cifar"], "methods": methods}])
    with nothing_starts():
        assert main([str(path), "--cluster", "slurm", "--dir", str(folder)]) == 0
        [code] = (folder / "code").iterdir()
        copy = code / "elth_dist/sweeps/worker.py"
        assert copy.read_bytes() == (REPOSITORY / "elth_dist/sweeps/worker.py").read_bytes()
        copy.write_text(copy.read_text() + '\nprint("this is the copy", flush=True)\n')
    wait_until(lambda: not squeue(), folder)
    assert len(list(folder.glob("jobs/*/result.json"))) == 2
    assert "this is the copy" in log_of(folder, "pretrain")


def test_sweep_with_a_plugin_from_outside_the_tree(tmp_path: Path) -> None:
    """The jobs import the plugin's copy beside that of the code: edits after the submission change nothing."""
    folder, plugin = tmp_path / "out", tmp_path / "elsewhere/criterion.py"
    plugin.parent.mkdir()
    plugin.write_bytes((REPOSITORY / "examples/criterion.py").read_bytes())
    methods = [{"name": "wanda", "density": 0.2, "rewind": "2it"}]
    path = sweep_file(
        tmp_path, plugins=[str(plugin)], experiments=[{"sources": ["resnet14_cifar"], "methods": methods}]
    )

    def sweep(*arguments: str) -> str:
        # in a process of its own: a plugin stays loaded
        command = [sys.executable, str(REPOSITORY / "launch/sweep.py"), str(path), *arguments, "--dir", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with nothing_starts():
        sweep("--cluster", "slurm", "--tasks", "2")
        plugin.write_text("raise AssertionError('this is the original, edited')")
    wait_until(lambda: not squeue(), folder)
    plugin.write_bytes((REPOSITORY / "examples/criterion.py").read_bytes())
    assert "Wanda" in sweep("results")
    environments = [json.loads(file.read_text()) for file in folder.glob("logs/*/environment.json")]
    [sha256] = {environment["plugins"][0]["sha256"] for environment in environments}
    results = [result.read_text() for result in folder.glob("jobs/*/result.json")]
    assert sum(sha256 in text for text in results) == 1 < len(results), "the job that prunes, no other"
