"""Trainings with changing masks as methods of their own."""

import json
from pathlib import Path

import pytest
import safetensors.torch

from elth_dist.models.build import build_model
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates.drop_and_grow import random_masks
from elth_dist.tickets import Ticket
from elth_dist.tickets.ticket import TicketMeta
from elth_dist.train import main
from tests.helpers.runs import BASE

SMALL = [*BASE, "--data.loader=resident", "--model.arch=resnet8_cifar", "--train.epochs=1", "--train.accumulate=2"]
OFTEN = {"rigl": "delta_t", "set": "delta_t", "snfs": "delta_t", "gradual": "every", "dpf": "every"}


@pytest.mark.parametrize(
    ("name", "precision"),
    [("rigl", "fp16"), ("rigl", "tf32"), ("set", "fp16"), ("snfs", "bf16"), ("gradual", "fp16"), ("dpf", "fp16")],
)
def test_every_precision_accumulates(name: str, precision: str, tmp_path: Path) -> None:
    more = [f"--method.name={name}", "--method.density=0.2", f"--method.{OFTEN[name]}=3"]
    assert main([*SMALL, *more, f"--train.precision={precision}", "--run.dir", str(tmp_path / "run")]) == 0
    ticket = Ticket.load(tmp_path / "run/train/ticket.safetensors")
    assert ticket.meta.criterion == name
    assert ticket.density == pytest.approx(0.2, abs=0.005)
    trained = safetensors.torch.load_file(tmp_path / "run/train/trained.safetensors")
    assert ticket.masks.check_zero(trained) == []


def test_density_of_a_ticket_file_even_of_another_network(tmp_path: Path) -> None:
    model = build_model("resnet14_cifar", 10, seed=0)
    dense = Masks.dense(model)
    masks = random_masks(dense, {name: mask.numel() // 10 for name, mask in dense.items()}, 3)
    path = tmp_path / "ticket.safetensors"
    Ticket("resnet14_cifar", model.state_dict(), masks, TicketMeta(dataset="digits", level=1, rewind_step=0)).save(path)
    more = ["--method.name=gradual", f"--method.like={path}", "--method.every=3", "--method.distribution=global"]
    assert main([*SMALL, *more, "--run.dir", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run/train/result.json").read_text())["metrics"]
    assert metrics["density"] == pytest.approx(masks.density, abs=1e-4)
