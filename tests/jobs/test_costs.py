"""The cost of whole methods, from the files that a real run leaves."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from elth_dist.accounting.layers import network
from elth_dist.config import read_config
from elth_dist.jobs.costs import history_flops
from elth_dist.jobs.plan import make_plan
from elth_dist.jobs.prediction import Prediction, predict
from elth_dist.tickets import Ticket
from elth_dist.train import main
from tests.helpers.runs import BASE, FULL

ARGUMENTS = [*FULL, "--data.loader=resident", "--method.controls=[random, dense]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("costs") / "run"
    assert main([*ARGUMENTS, "--run.dir", str(folder)]) == 0
    return folder


def histories(folder: Path, arguments: list[str] = ARGUMENTS) -> dict[str, int | None]:
    """Training FLOPs with history of every job."""
    config = read_config(arguments).config
    jobs = {job.name: job for job in make_plan(config.method, config.setting).jobs}
    metrics = {name: result(folder, name) for name in jobs}
    return {name: history_flops(name, jobs, metrics) for name in jobs}


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
    history = histories(finished)
    own = {name: result(finished, name).get("train_flops", 0) for name in history}
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
    assert histories(tmp_path / "run", base)["train"] is None
    [heading, _, row] = [line.split(" | ") for line in (tmp_path / "run/report.md").read_text().splitlines()[2:5]]
    assert row[heading.index("with history")] == "-"


def test_report_and_metrics_carry_flops(finished: Path) -> None:
    report = (finished / "report.md").read_text()
    heading, _, *lines = (line for line in report.splitlines() if line.startswith("|"))
    assert "| training FLOPs | with history | inference FLOPs |" in heading
    dense = next(line for line in lines if line.startswith("| dense"))
    assert "| 1.000x | 1.000x | 1.0000x |" in dense
    assert "1x is one dense training of the same network" in report
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert all({"flops/train", "flops/train_relative", "flops/forward"} <= row.keys() for row in rows)
    level = [row for row in rows if row["job"] == "level-01"]
    forward = forward_of(finished / "mask-01/ticket.safetensors")
    assert [row["flops/train"] for row in level] == [3 * forward * (row["step"] - 2) * 120 for row in level]
    [last] = {row["flops/train_relative"] for row in rows if row["job"].startswith("dense") and row["step"] == 24}
    assert last == 1.0


def test_a_ticket_that_only_says_how_dense_costs_nothing(finished: Path, tmp_path: Path) -> None:
    path = finished / "mask-01/ticket.safetensors"
    method = ["--method.name=magnitude", f"--method.like={path}", "--method.rewind=2it"]
    base = [*BASE, "--data.loader=resident", *method]
    assert main([*base, "--run.dir", str(tmp_path / "run")]) == 0
    own = [result(tmp_path / "run", job)["train_flops"] for job in ("pretrain", "train")]
    assert histories(tmp_path / "run", base)["train"] == sum(own)


def trained_by(folder: Path, *method: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run of 24 steps of 120 samples by one method: its result, and the rows of its training, one a step."""
    arguments = [*BASE, "--data.loader=resident", *method, "--run.dir", str(folder)]
    assert main(arguments) == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return result(folder, "train"), [row for row in rows if row["job"] == "train" and "train/loss" in row]


def predicted(*method: str) -> Prediction:
    config = read_config([*BASE, "--data.loader=resident", *method]).config
    return predict(make_plan(config.method, config.setting).jobs)["train"]


def test_rigl_costs_its_real_number_of_updates(tmp_path: Path) -> None:
    method = ["--method.name=rigl", "--method.density=0.3", "--method.delta_t=5"]
    found, rows = trained_by(tmp_path / "run", *method)
    sparse, dense = found["forward_flops"], found["dense_forward_flops"]
    updates = len([step for step in range(24) if step % 5 == 0 and step <= round(0.78125 * 24)])
    assert updates == 4
    assert found["train_flops"] == 120 * (24 * 3 * sparse + updates * (dense - sparse))
    costs = [b["flops/train"] - a["flops/train"] for a, b in itertools.pairwise([{"flops/train": 0}, *rows])]
    assert [step for step, cost in enumerate(costs) if cost > 120 * 3 * sparse] == [0, 5, 10, 15]
    foreseen = predicted(*method)
    assert foreseen.forward == pytest.approx(sparse, rel=0.01), "but for counts that are rounded up"
    assert foreseen.train == pytest.approx(found["train_flops"], rel=0.05), "the formula's updates never end"
    assert foreseen.dense_train == found["dense_train_flops"]


def test_rigl_2x_is_compared_with_one_dense_training(tmp_path: Path) -> None:
    method = ["--method.name=rigl", "--method.density=0.3", "--method.multiplier=2"]
    found, _ = trained_by(tmp_path / "run", *method)
    assert found["samples"] == 2 * 24 * 120
    assert found["dense_train_flops"] == 3 * found["dense_forward_flops"] * 24 * 120
    assert found["train_flops"] > 2 * 24 * 120 * 3 * found["forward_flops"]
    assert predicted(*method).train == pytest.approx(found["train_flops"], rel=0.02)


@pytest.mark.parametrize("name", ["gradual", "dpf"])
def test_a_ramp_costs_what_each_of_its_masks_does(name: str, tmp_path: Path) -> None:
    method = [f"--method.name={name}", "--method.density=0.2", "--method.every=3"]
    found, rows = trained_by(tmp_path / "run", *method)
    dense = found["dense_forward_flops"]
    in_force = [dense, *(row["flops/forward"] for row in rows)][:-1]  # a row tells what the next step computes with
    assert len(set(in_force)) > 3, "masks changed"
    steps = [120 * (2 * forward + (dense if name == "dpf" else forward)) for forward in in_force]
    assert [row["flops/train"] for row in rows] == list(itertools.accumulate(steps))
    assert found["train_flops"] == sum(steps)
    assert found["forward_flops"] < 0.5 * dense
    ticket = Ticket.load(tmp_path / "run/train/ticket.safetensors")
    assert found["forward_flops"] == forward_of(tmp_path / "run/train/ticket.safetensors")
    assert ticket.density == pytest.approx(0.2, rel=0.02), "the stem is dense"


def test_scoring_is_part_of_the_history(tmp_path: Path) -> None:
    arguments = [*BASE, "--data.loader=resident", "--train.epochs=1", "--method.density=0.3", "--method.rewind=1it"]
    forward = 2 * network("resnet14_cifar", 8, 10).macs
    expected = {"snip": 3 * 120, "grasp": 12 * 120, "synflow": 3 * 7}
    for name, passes in expected.items():
        more = ["--method.steps=7"] if name == "synflow" else []
        method = [*arguments, f"--method.name={name}", *more]
        assert main([*method, "--run.dir", str(tmp_path / name)]) == 0
        assert result(tmp_path / name, "mask")["train_flops"] == passes * forward
        history = histories(tmp_path / name, method)["train"]
        own = result(tmp_path / name, "train")["train_flops"]
        assert history == own + passes * forward + 3 * 120 * forward, "theta_r took one step"
