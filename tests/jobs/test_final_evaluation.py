"""The end of a training: accuracy with running and with re-estimated BatchNorm statistics, and divergence."""

import json
from pathlib import Path

import pytest

from elth_dist.train import main
from tests.helpers.runs import BASE, run

LATE = ["--method.name=dpf", "--method.density=0.0256", "--method.every=5", "--method.distribution=erk"]


def metrics(folder: Path, job: str = "train") -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / job / "result.json").read_text())["metrics"]
    return found


def test_statistics_that_masks_left_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DPF changes masks to the end: the running statistics are not those of the final network."""
    command = [*BASE, "--data.loader=resident", *LATE, "--train.epochs=2", "--run.dir", str(tmp_path / "run")]
    assert main(command) == 0
    found = metrics(tmp_path / "run")
    assert found["reestimated_top1"] > found["top1"] + 0.01
    assert found["reestimated_val_loss"] < found["val_loss"]
    assert found["reestimated_top1"] <= found["reestimated_top5"] <= 1
    assert "with re-estimated ones; train.bn chooses" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1].get("val/top1_reestimated", rows[-2].get("val/top1_reestimated")) == found["reestimated_top1"]


def test_the_choice_of_statistics_changes_no_identity(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, 2, "--method.name=dense", "--train.epochs=1", base=BASE)
    before = (folder / "dense-resnet14_cifar/result.json").read_bytes()
    run(folder, 2, "--method.name=dense", "--train.epochs=1", "--train.bn=reestimated", base=BASE)
    assert (folder / "dense-resnet14_cifar/result.json").read_bytes() == before


def test_divergence_is_warned_of_and_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*BASE, "--data.loader=resident", "--method.name=dense", "--train.epochs=1", "--train.lr=12"]
    assert main([*command, "--run.dir", str(tmp_path / "run")]) == 0
    assert metrics(tmp_path / "run", "dense-resnet14_cifar")["diverged"] is True
    assert "training diverged: the validation loss is" in capsys.readouterr().out
