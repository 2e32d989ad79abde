"""`python launch/sweep.py` as a user calls it, on this machine."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from elth_dist.sweeps.command import main
from elth_dist.sweeps.folder import SweepFolder
from elth_dist.sweeps.plan import plan_sweep
from tests.helpers.ranks import REPOSITORY

#: One pruning, one transfer, two trainings of 24 steps; every kind of job but `prune`.
TINY: dict[str, Any] = {
    "recipe": str(REPOSITORY / "configs/quickstart_fast.yaml"),
    "overrides": {
        "data": {"image_size": 8, "loader": "resident"},
        "train": {"epochs": 2, "global_batch": 120, "milestones": ["1ep"], "log_every": 1, "checkpoint_every": "5it"},
    },
    "experiments": [
        {
            "sources": ["resnet14_cifar"],
            "targets": ["resnet8_cifar"],
            "methods": [{"levels": 1, "rewind": "2it", "controls": ["random"]}],
        }
    ],
    "needs": {"gpus": 0, "cpus": 1},
}


def sweep_file(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.glob("jobs/*/*"))}


def test_a_python_without_the_project_is_told_so() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", str(REPOSITORY / "launch/sweep.py")]  # -S: nothing that is installed
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"elth_dist: error: .* has no module elth_dist: .*\n", done.stderr)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(sweep file, folder) of a sweep that was done in this process."""
    folder = tmp_path_factory.mktemp("sweep")
    assert main([str(sweep_file(folder)), "--cluster", "debug", "--dir", str(folder / "out")]) == 0
    return folder / "tiny.yaml", folder / "out"


def test_results_are_table_csv_and_figure(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    table = (folder / "results.md").read_text()
    assert "ETT <- resnet14_cifar" in table
    assert (folder / "results.png").stat().st_size > 0
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert [row["what"] for row in rows][:2] == ["IMP", "IMP"]
    assert all(0 <= float(row["top1"]) <= 1 for row in rows)
    assert all(row["job"] in table for row in rows)


def test_second_run_does_nothing_and_another_seed_runs_alone(
    finished: tuple[Path, Path], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, folder = finished
    before = files(folder)
    assert main([str(path), "--cluster", "debug", "--dir", str(folder)]) == 0
    assert "7 jobs: 7 done, 0 to do" in capfd.readouterr().out
    more = sweep_file(tmp_path, seeds=[0, 1])
    assert main([str(more), "--cluster", "debug", "--dir", str(folder)]) == 0
    out = capfd.readouterr().out
    assert "14 jobs: 7 done, 7 to do" in out
    assert files(folder).items() >= before.items()
    heading, _, *table = [
        line.split(" | ") for line in (folder / "results.md").read_text().splitlines() if "| " in line
    ]
    assert {row[heading.index("n")] for row in table} == {"2"}
    assert all(" ± " in row[heading.index("top-1 %")] for row in table), "mean and deviation"
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert sorted(row["seed"] for row in rows) == ["0"] * len(table) + ["1"] * len(table), "one line per seed"


def test_same_jobs_in_processes_give_the_same_bits(finished: tuple[Path, Path], tmp_path: Path) -> None:
    path, folder = finished
    assert main([str(path), "--cluster", "local", "--workers", "2", "--dir", str(tmp_path / "out")]) == 0
    for product in sorted((tmp_path / "out").glob("jobs/*/*.safetensors")):
        assert product.read_bytes() == (folder / product.relative_to(tmp_path / "out")).read_bytes(), product


def test_finished_sweep_needs_no_slurm_any_more(
    finished: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a job is done, it does not matter where; damage to it is repaired like that of any other."""
    path, folder = finished
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    sent = {name: {"log": "gone", "slurm": str(number)} for number, name in enumerate(plan_sweep(path).jobs)}
    (out / "submitted.json").write_text(json.dumps(sent))
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue
    for action in ("status", "results"):
        assert main([str(path), action, "--dir", str(out)]) == 0
    trained = min(out.glob("jobs/train-*/trained.safetensors"))
    trained.write_bytes(trained.read_bytes()[:-1])
    capfd.readouterr()
    assert main([str(path), "--cluster", "debug", "--dir", str(out)]) == 0
    assert "7 jobs: 6 done, 1 to do" in capfd.readouterr().out
    assert trained.read_bytes() == (folder / trained.relative_to(out)).read_bytes()


def test_two_commands_at_once_are_one_too_many(finished: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    path, folder = finished
    with SweepFolder(folder).held():
        for words in (["cancel"], ["--cluster", "debug"]):
            assert main([str(path), *words, "--dir", str(folder)]) == 2
            assert f"is in use by process {os.getpid()} on " in capfd.readouterr().err
        assert main([str(path), "status", "--once", "--dir", str(folder)]) == 0


def test_folder_that_is_a_file_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = sweep_file(tmp_path)
    for words in (["status"], ["--cluster", "debug"], ["cancel"]):
        assert main([str(path), *words, "--dir", str(path)]) == 2
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith(f"elth_dist: error: {path}")


def _heed_interrupts() -> None:
    """A shell's background jobs, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupt_saves_all_jobs_and_the_next_call_continues(finished: tuple[Path, Path], tmp_path: Path) -> None:
    path, folder = finished
    out = tmp_path / "out"
    line = [sys.executable, "launch/sweep.py", str(path), "--cluster", "local", "--workers", "2", "--dir", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            line,
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_heed_interrupts,
        )
        end = time.monotonic() + 600
        while not list(out.glob("jobs/level-*/checkpoints/step-5")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=600) == 1
    assert "they save first" in (tmp_path / "log").read_text()
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(out) not in left, "no process stays behind"
    assert main([str(path), "--cluster", "local", "--workers", "2", "--dir", str(out)]) == 0
    for product in sorted(out.glob("jobs/*/*.safetensors")):
        assert product.read_bytes() == (folder / product.relative_to(out)).read_bytes(), product


def test_failing_job_blocks_its_children_only_until_it_is_retried(
    finished: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file where the job's folder belongs: what the first transfer fails at, nothing else needs."""
    path, _ = finished
    out = tmp_path / "out"
    [transfer] = [name for name in plan_sweep(path).jobs if name.startswith("transfer-")]
    (out / "jobs").mkdir(parents=True)
    (out / "jobs" / transfer).write_text("in the way")
    arguments = [str(path), "--cluster", "local", "--workers", "2", "--dir", str(out)]
    assert main(arguments) == 1
    capfd.readouterr()
    assert main([str(path), "status", "--once", "--dir", str(out)]) == 0
    table = capfd.readouterr().out
    assert "tiny: 5 done, 1 blocked, 1 failed" in table
    assert main(arguments) == 1
    assert "0 to do" in capfd.readouterr().out, "what failed is not done again by itself"
    (out / "jobs" / transfer).unlink()
    assert main([*arguments, "--retry-failed"]) == 0
    assert "2 to do" in capfd.readouterr().out


def test_dry_run_shows_tree_costs_and_saving_and_writes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = [str(sweep_file(tmp_path, seeds=[0, 1])), "--dir", str(out), "--dry-run", "--images-per-second", "100"]
    assert main(line) == 0
    shown = capfd.readouterr().out
    for expected in ("pretrain (resnet14_cifar)  seeds 0, 1", "transfer-resnet8_cifar", "14 jobs for 6 final networks"):
        assert expected in shown
    assert "GPU-hours" in shown
    assert "saved by sharing" in shown
    assert not out.exists()


def test_dry_run_warns_of_mask_updates_that_hardly_happen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    controls = [{"name": "gradual", "every": 1000}, {"name": "rigl", "delta_t": "10%"}]
    [experiment] = TINY["experiments"]
    changed = {**experiment, "methods": [{"levels": 1, "rewind": "2it", "controls": controls}]}
    path = sweep_file(tmp_path, seeds=[0, 1], experiments=[changed])
    assert main([str(path), "--dir", str(tmp_path / "out"), "--dry-run"]) == 0
    shown = capfd.readouterr().out
    expected = (
        "warning: gradual-resnet14_cifar: gradual: every 1000 makes 1 mask update in 24 steps, fewer than 5: set it to "
        "2 or less"
    )
    assert shown.count("warning:") == shown.count(expected) == 1, "once for both seeds"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--cluster: is required; valid are slurm, local, debug"),
        (["--cluster", "clod"], "invalid choice: 'clod'"),
        (["--cluster", "debug", "--train.epoch", "3"], "--train.epoch: no such option; did you mean --train.epochs?"),
        (["--cluster", "slurm", "--time", "never"], "--time: 'never' is not a time"),
        (["--cluster", "local", "--workers", "0"], "'0' is not a number of at least 1"),
        (["--cluster", "local", "--gpus", "64"], "--gpus: 64 per job, but this machine has"),
        (["--dry-run", "--images-per-second", "0"], "'0' is not a number above 0"),
        (["--cluster", "debug", "--seed", "5"], "--seed: set `seeds` in the sweep file instead"),
        (
            ["--cluster", "debug", "--model.arch", "resnet8_cifar"],
            "--model.arch: set `sources` in the sweep file instead",
        ),
        (["--cluster", "slurm", "--tasks", "7"], "train.global_batch: 120 cannot be shared by 7 rank(s)"),
        (["--cluster", "slurm", "--data.name", "cifar10"], "data.root: 'cifar10' needs the folder of the dataset"),
        (["--cluster", "slurm", "--time", "3"], "notice 180 s leaves no time to work"),
    ],
    ids=str,
)
def test_mistake_is_one_line_exit_2_and_nothing_written(
    arguments: list[str], expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(sweep_file(tmp_path)), "--dir", str(out), *arguments]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("elth_dist: error: ")
    assert expected in line
    assert not out.exists()
