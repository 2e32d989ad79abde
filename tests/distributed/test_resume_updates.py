"""Trainings whose masks change: a run on two ranks, killed between two changes, beside one that nobody disturbed."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from elth_dist.tickets import Ticket
from tests.distributed.test_resume import wait_for
from tests.helpers.runs import BASE, assert_same_science, jobs, run, start

#: Masks change every 5 (3, 4) steps; of two epochs of 12 steps, the first ends with an evaluation and a checkpoint.
CONTROLS = [
    {"name": "rigl", "delta_t": 5, "multiplier": 2, "t_end": "16it"},
    {"name": "set", "delta_t": 5},
    {"name": "snfs", "delta_t": 5, "distribution": "erk"},
    {"name": "gradual", "every": 3, "distribution": "global"},
    {"name": "dpf", "every": 4, "end": 0.8},
]
METHOD = [
    *BASE,
    "--model.arch=resnet8_cifar",
    "--data.loader=resident",
    "--train.checkpoint_every=4it",
    "--method.levels=1",
    "--method.prune_fraction=0.8",
    "--method.rewind=2it",
    "--method.transfers=[]",
    f"--method.controls={json.dumps(CONTROLS)}",
]
NAMES = ["rigl-2x-resnet8_cifar", *(f"{name}-resnet8_cifar" for name in ("set", "snfs", "gradual", "dpf"))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run(folder, 2, base=METHOD)
    return folder


def test_killed_between_two_changes_of_each(tmp_path: Path, undisturbed: Path) -> None:
    folder = tmp_path / "run"
    for name in NAMES:
        with start(folder, 2, base=METHOD) as running:
            wait_for(folder / name / "checkpoints/step-12", running)
            running.kill()
        assert name not in jobs(folder), "killed too late for the test to show anything"
    run(folder, 2, base=METHOD)
    assert_same_science(folder, undisturbed)


def test_each_ends_masked_at_the_tickets_density_from_the_runs_initialisation(undisturbed: Path) -> None:
    wanted = Ticket.load(undisturbed / "mask-01/ticket.safetensors")
    shared = Ticket.load(undisturbed / f"{NAMES[0]}/ticket.safetensors").weights
    for name in NAMES:
        ticket = Ticket.load(undisturbed / name / "ticket.safetensors")
        trained = safetensors.torch.load_file(undisturbed / name / "trained.safetensors")
        assert ticket.masks.check_zero(trained) == []
        assert all((trained[layer][mask] != 0).float().mean() > 0.99 for layer, mask in ticket.masks.items())
        assert all(torch.equal(ticket.weights[key], shared[key]) for key in shared)
        assert ticket.masks.kept == wanted.masks.kept, "exactly, however it is distributed"
        if name.startswith(("rigl", "set")):
            first = ticket.masks["conv1.weight"].numel()
            assert ticket.masks.densities["conv1.weight"] == 1
            shared_density = (wanted.masks.kept - first) / (wanted.masks.total - first)
            others = {layer: found for layer, found in ticket.masks.densities.items() if layer != "conv1.weight"}
            assert others == pytest.approx(dict.fromkeys(others, shared_density), abs=2e-3)


def test_densities_and_costs_are_reported(undisturbed: Path) -> None:
    rows = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    last = {row["job"]: row for row in rows if "density/total" in row and "train/loss" in row}
    assert last["rigl-2x-resnet8_cifar"]["step"] == 48, "twice as long"
    found = {name: json.loads((undisturbed / name / "result.json").read_text())["metrics"] for name in NAMES}
    for name, metrics in found.items():
        assert metrics["criterion"] == name.split("-")[0]
        assert last[name]["density/total"] == pytest.approx(metrics["density"])
    dense = {metrics["dense_train_flops"] for metrics in found.values()}
    assert dense == {3 * found[NAMES[0]]["dense_forward_flops"] * 24 * 120}, "one dense training, not a longer one"
    rigl, plain = found["rigl-2x-resnet8_cifar"], found["set-resnet8_cifar"]
    updates = len(range(0, 33, 5))  # up to 2 x 16it
    extra = updates * 120 * (rigl["dense_forward_flops"] - rigl["forward_flops"])
    assert rigl["train_flops"] == 48 * 120 * 3 * rigl["forward_flops"] + extra
    assert plain["train_flops"] == 24 * 120 * 3 * plain["forward_flops"]
    report = (undisturbed / "report.md").read_text()
    assert all(label in report for label in ("RigL-2x", "SET", "SNFS, ERK", "gradual, global", "DPF"))
