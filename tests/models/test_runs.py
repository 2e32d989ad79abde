"""Whole runs on digits with networks of timm and torchvision."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from elth_dist.models.build import build_model
from elth_dist.tickets import Ticket
from elth_dist.train import main
from tests.helpers.runs import BASE


def test_a_network_of_timm_from_weights(tmp_path: Path) -> None:
    """IMP on any classifier; `model.weights` is where it starts."""
    name = "timm/test_convnext"
    start = build_model(name, 10, 32, init="torchvision", seed=7).state_dict()
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in start.items()}}, tmp_path / "start.pth")
    short = [
        "--data.loader=resident",
        f"--model.arch={name}",
        f"--model.weights={tmp_path}/start.pth",
        "--data.image_size=32",
    ]
    method = ["--method.levels=1", "--method.rewind=0", "--method.transfers=[]", "--method.controls=[]"]
    assert main([*BASE, *short, *method, "--run.dir", str(tmp_path / "run")]) == 0
    ticket = Ticket.load(tmp_path / "run/mask-01/ticket.safetensors")
    assert all(torch.equal(tensor, start[key]) for key, tensor in ticket.weights.items())
    assert ticket.masks.total - ticket.masks.kept == -(-ticket.masks.total * 3 // 5), "exactly 60 % are pruned"
    trained = safetensors.torch.load_file(tmp_path / "run/level-01/trained.safetensors")
    assert ticket.masks.check_zero(trained) == []


def test_a_network_that_cannot_take_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before the first step, although only the library's code knows it."""
    options = ["--model.arch=torchvision/alexnet", "--method={name: dense}", "--run.dir", str(tmp_path / "run")]
    assert main([*BASE, *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("elth_dist: error: torchvision/alexnet: cannot take images of 8 px: ")
    assert said.count("\n") == 1
    assert not list((tmp_path / "run").glob("*/result.json"))
