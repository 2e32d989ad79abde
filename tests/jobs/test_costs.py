"""The cost of whole methods, from the files that a real run leaves."""

import json
from pathlib import Path
from typing import Any

import pytest

from elth_dist.accounting.layers import network
from elth_dist.config import read_config
from elth_dist.jobs.costs import cost_columns, history_flops
from elth_dist.jobs.graph import Job, plan
from elth_dist.runtime.run_directory import RunDirectory
from elth_dist.tickets import Ticket
from elth_dist.train import main
from tests.helpers.runs import BASE, FULL

ARGUMENTS = [*FULL, "--data.loader=resident", "--method.controls=[random, dense]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("costs") / "run"
    assert main([*ARGUMENTS, "--run.dir", str(folder)]) == 0
    return folder


def graph() -> list[Job]:
    config = read_config(ARGUMENTS).config
    return plan(config.method, config.setting)


def result(folder: Path, job: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / job / "result.json").read_text())["metrics"]
    return metrics


def forward_of(ticket: Path) -> int:
    """2 FLOPs for each kept weight at each position, summed anew from the ticket's file."""
    found = Ticket.load(ticket)
    layers = network(found.arch, 8, 10).layers
    return sum(2 * int(found.masks[layer.weight].sum()) * layer.positions for layer in layers)


def test_result_files_hold_what_the_masks_say(finished: Path) -> None:
    dense = 2 * network("resnet14_cifar", 8, 10).macs
    batch, steps, rewind = 120, 24, 2
    expected = {
        "pretrain": (dense, rewind),
        "level-00": (dense, steps - rewind),
        "level-01": (forward_of(finished / "mask-01/ticket.safetensors"), steps - rewind),
        "random-resnet14_cifar": (forward_of(finished / "random-resnet14_cifar/ticket.safetensors"), steps - rewind),
        "dense-resnet14_cifar": (dense, steps),
    }
    for job, (forward, taken) in expected.items():
        found = result(finished, job)
        assert found["forward_flops"] == forward, job
        assert found["train_flops"] == 3 * forward * taken * batch, job
        assert found["dense_forward_flops"] == dense
        assert found["dense_train_flops"] == 3 * dense * steps * batch
    assert expected["level-01"][0] == expected["random-resnet14_cifar"][0], "equal layer densities cost the same"


def test_history_is_everything_that_a_result_rests_on(finished: Path) -> None:
    with RunDirectory(finished) as run:
        history = {job.name: history_flops(job.name, graph(), run) for job in graph()}
    own = {job.name: result(finished, job.name).get("train_flops", 0) for job in graph()}
    imp = own["pretrain"] + own["level-00"]
    assert history["mask-01"] == imp
    assert history["level-01"] == imp + own["level-01"]
    assert history["train-resnet8_cifar"] == imp + own["train-resnet8_cifar"], "finding the source's ticket included"
    assert history["dense-resnet14_cifar"] == own["dense-resnet14_cifar"]


def test_a_ticket_from_elsewhere_has_an_unknown_history(finished: Path, tmp_path: Path) -> None:
    path = finished / "mask-01/ticket.safetensors"
    method = ["--method.name=ticket", f"--method.path={path}"]
    base = [*BASE, "--data.loader=resident", *method]
    assert main([*base, "--run.dir", str(tmp_path / "run")]) == 0
    config = read_config(base).config
    with RunDirectory(tmp_path / "run") as run:
        history = history_flops("train", plan(config.method, config.setting), run)
    assert history is None
    assert cost_columns(result(tmp_path / "run", "train"), history)["with history"] == "-"


def test_report_and_metrics_carry_flops(finished: Path) -> None:
    heading, _, *lines = (line for line in (finished / "report.md").read_text().splitlines() if line.startswith("|"))
    assert heading.endswith("| training FLOPs | with history | inference FLOPs |")
    dense = next(line for line in lines if line.startswith("| dense"))
    assert dense.endswith("| 1.000x | 1.000x | 1.0000x |")
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "train/loss" in row or "val/top1" in row]
    assert all({"flops/train", "flops/train_relative", "flops/forward"} <= row.keys() for row in trained)
    level = [row for row in trained if row["job"] == "level-01"]
    forward = forward_of(finished / "mask-01/ticket.safetensors")
    assert [row["flops/train"] for row in level] == [3 * forward * (row["step"] - 2) * 120 for row in level]
    [last] = {row["flops/train_relative"] for row in trained if row["job"].startswith("dense") and row["step"] == 24}
    assert last == 1.0


def test_a_ticket_that_only_says_how_dense_costs_nothing(finished: Path, tmp_path: Path) -> None:
    path = finished / "mask-01/ticket.safetensors"
    method = ["--method.name=magnitude", f"--method.like={path}", "--method.rewind=2it"]
    base = [*BASE, "--data.loader=resident", *method]
    assert main([*base, "--run.dir", str(tmp_path / "run")]) == 0
    config = read_config(base).config
    own = [result(tmp_path / "run", job)["train_flops"] for job in ("pretrain", "train")]
    with RunDirectory(tmp_path / "run") as run:
        assert history_flops("train", plan(config.method, config.setting), run) == sum(own)
