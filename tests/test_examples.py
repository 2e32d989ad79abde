"""The examples as plugins from outside the tree: under torchrun, in a sweep on this machine, and as the guide shows."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.ranks import REPOSITORY
from tests.helpers.runs import BASE, jobs, run
from tests.launch.test_sweep import TINY

EXAMPLES = REPOSITORY / "examples"

#: What a run with each example says beyond BASE, and a row of its report.
RUNS = {
    "criterion": (["--method={name: wanda, density: 0.2, rewind: 2it}"], "Wanda"),
    "mask_update": (["--method={name: acdc, density: 0.2, phase: 4}"], "AC/DC"),
    "one_shot": (["--method={name: one_shot, density: 0.2, rewind: 2it}"], "one-shot ticket"),
    "family": (
        [
            "--model.arch=plain4",
            "--method.levels=1",
            "--method.rewind=2it",
            "--method.transfers=[{to: plain6, controls: [random]}]",
            "--method.controls=[]",
        ],
        "ETT <- plain4",
    ),
    "dataset": (["--data={name: gratings, image_size: 8, noise: 0.1}", "--method={name: dense}"], "dense"),
}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The examples in a folder that has nothing to do with the project."""
    return shutil.copytree(EXAMPLES, tmp_path / "plugins", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs_on_two_ranks_and_is_in_the_report(name: str, outside: Path, tmp_path: Path) -> None:
    options, row = RUNS[name]
    folder = tmp_path / "run"
    run(folder, 2, "--plugins", str(outside / f"{name}.py"), *options, base=[*BASE, "--data.loader=resident"])
    assert f"| {row}" in (folder / "report.md").read_text()
    [plugin] = json.loads((folder / "environment.json").read_text())["plugins"]
    assert plugin["name"] == name
    parts = [json.loads((folder / job / "result.json").read_text())["part"] for job in jobs(folder)]
    using = [part for part in parts if plugin["sha256"] in json.dumps(part)]
    assert using, "the identity of a job that uses the plugin names it"
    if name == "criterion":
        assert len(using) == 1 < len(parts), "only that of such a job"


def test_every_command_takes_plugins(outside: Path, tmp_path: Path) -> None:
    plugins = f"--plugins={outside / 'family.py'}"
    short = ["--data.loader=resident", "--model.arch=plain4", "--train.epochs=1", "--train.milestones=[]"]
    run(tmp_path / "run", 1, plugins, *short, "--method={name: dense}", base=BASE)
    trained = tmp_path / "run/dense-plain4/trained.safetensors"
    for command, said in (
        (["tickets", "plan", "plain4", "plain6"], "plain4 -> plain6"),
        (["tickets", "show", str(trained)], "plain4"),
        (["accounting", "plain4"], "FLOPs per sample by static"),
        (["evaluate", str(trained)], "plain4 on digits"),
    ):
        line = [sys.executable, "-m", f"elth_dist.{command[0]}", *command[1:], plugins]
        done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def test_an_example_is_a_control_too(outside: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plugins = f"--plugins={outside / 'criterion.py'},{outside / 'mask_update.py'}"
    options = ["--method.levels=1", "--method.rewind=2it", "--method.transfers=[]"]
    run(folder, 1, plugins, *options, "--method.controls=[wanda, {name: acdc, phase: 4}]")
    report = (folder / "report.md").read_text()
    assert "| Wanda |" in report
    assert "| AC/DC |" in report


def test_from_outside_the_tree_under_torchrun(outside: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "elth_dist.train",
        *BASE,
        "--plugins=criterion",
        "--method={name: wanda, density: 0.2, rewind: 0}",
        f"--run.dir={folder}",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{outside}:{REPOSITORY}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Wanda" in done.stdout


def test_in_a_sweep_on_this_machine(outside: Path, tmp_path: Path) -> None:
    sweep = {
        **TINY,
        "plugins": [str(outside / "criterion.py")],
        "experiments": [
            {"sources": ["resnet14_cifar"], "methods": [{"name": "wanda", "density": 0.2, "rewind": "2it"}]}
        ],
    }
    path = tmp_path / "wanda.yaml"
    path.write_text(yaml.safe_dump(sweep))
    command = [sys.executable, str(REPOSITORY / "launch/sweep.py"), str(path), "--cluster=local", "--workers=1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*command, "--dir", str(tmp_path / "out")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Wanda" in (tmp_path / "out/results.md").read_text()


def test_the_guide_shows_the_examples_as_they_are() -> None:
    text = (REPOSITORY / "docs/extending.md").read_text()
    shown = dict(re.findall(r"`(examples/\w+\.py)`:\n\n```python\n(.*?)```", text, flags=re.DOTALL))
    assert set(shown) == {f"examples/{name}.py" for name in RUNS}
    assert all((REPOSITORY / name).read_text() == code for name, code in shown.items())
