"""Whole runs on digits: a Vision Transformer (IMP with AdamW, elastic transfer, RigL, SNIP), a network of timm."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from elth_dist.models.build import build_model
from elth_dist.tickets import Ticket, transfer
from elth_dist.train import main
from tests.helpers.runs import BASE, jobs

#: A training of 24 steps in two epochs, on digits of 8 pixels: 16 patches of 2 pixels.
VIT = [
    *BASE,
    "--data.loader=resident",
    "--model.arch=vit_xs4",
    "--train.optimizer.name=adamw",
    "--train.lr=1e-3",
    "--train.weight_decay=0.05",
    "--train.decay=weights",
    "--train.checkpoint_every=0",
]


def test_imp_and_elastic_transfer(tmp_path: Path) -> None:
    method = [
        "--method.levels=1",
        "--method.rewind=2it",
        '--method.transfers=[{"to": "vit_xs6"}]',
        "--method.controls=[]",
    ]
    assert main([*VIT, *method, "--run.dir", str(tmp_path / "run")]) == 0
    assert {"pretrain", "level-01", "mask-01", "transfer-vit_xs6", "train-vit_xs6"} <= set(jobs(tmp_path / "run"))
    ticket = Ticket.load(tmp_path / "run/mask-01/ticket.safetensors")
    assert (ticket.arch, ticket.image_size) == ("vit_xs4", 8)
    assert ticket.masks.total - ticket.masks.kept == -(-ticket.masks.total * 3 // 5), "exactly 60 % are pruned"
    attention = "encoder.layers.encoder_layer_1.self_attention.in_proj_weight"
    assert 0 < ticket.masks.densities[attention] < 1
    moved = Ticket.load(tmp_path / "run/transfer-vit_xs6/ticket.safetensors")
    assert moved.hash == transfer(ticket, "vit_xs6").hash
    for job, masks in (("level-01", ticket.masks), ("train-vit_xs6", moved.masks)):
        trained = safetensors.torch.load_file(tmp_path / f"run/{job}/trained.safetensors")
        assert masks.check_zero(trained) == []
        assert not torch.equal(trained[attention], (ticket if job == "level-01" else moved).weights[attention])
    metrics = json.loads((tmp_path / "run/level-01/result.json").read_text())["metrics"]
    assert 0.4 < metrics["forward_flops"] / metrics["dense_forward_flops"] < 0.6, "attention itself is never pruned"


@pytest.mark.parametrize(("name", "more"), [("rigl", "--method.delta_t=3"), ("snip", "--method.rewind=0")])
def test_other_methods(name: str, more: str, tmp_path: Path) -> None:
    """One epoch on digits of 16 pixels: 64 patches of 2 pixels."""
    short = ["--data.image_size=16", "--train.epochs=1", "--train.milestones=[]"]
    method = [f"--method.name={name}", "--method.density=0.2", more]
    assert main([*VIT, *short, *method, "--run.dir", str(tmp_path / "run")]) == 0
    ticket = Ticket.load(tmp_path / "run/train/ticket.safetensors")
    assert ticket.image_size == 16
    assert ticket.density == pytest.approx(0.2, abs=0.005)
    trained = safetensors.torch.load_file(tmp_path / "run/train/trained.safetensors")
    assert ticket.masks.check_zero(trained) == []


def test_a_network_of_timm_from_weights(tmp_path: Path) -> None:
    """IMP on any classifier; `model.weights` is where it starts."""
    name = "timm/test_convnext"
    start = build_model(name, 10, 32, init="torchvision", seed=7).state_dict()
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in start.items()}}, tmp_path / "start.pth")
    short = [f"--model.arch={name}", f"--model.weights={tmp_path}/start.pth", "--data.image_size=32"]
    method = ["--method.levels=1", "--method.rewind=0", "--method.transfers=[]", "--method.controls=[]"]
    assert main([*VIT, *short, *method, "--run.dir", str(tmp_path / "run")]) == 0
    ticket = Ticket.load(tmp_path / "run/mask-01/ticket.safetensors")
    assert all(torch.equal(tensor, start[key]) for key, tensor in ticket.weights.items())
    assert ticket.masks.total - ticket.masks.kept == -(-ticket.masks.total * 3 // 5), "exactly 60 % are pruned"
    trained = safetensors.torch.load_file(tmp_path / "run/level-01/trained.safetensors")
    assert ticket.masks.check_zero(trained) == []
