"""A Vision Transformer end to end on digits: IMP, AdamW, RigL, elastic transfer and FLOPs, under DDP and ZeRO."""

import json
from pathlib import Path

import pytest
import safetensors.torch

from elth_dist.tickets import Ticket
from tests.distributed.test_resume import wait_for
from tests.helpers.runs import BASE, assert_same_science, jobs, run, start

VIT = [
    *BASE,
    "--model.arch=vit_xs4",
    "--data.loader=resident",
    "--train.optimizer=adamw",
    "--train.lr=0.002",
    "--method.levels=1",
    "--method.rewind=2it",
    "--method.transfers=[{to: vit_xs6, controls: [random]}]",
    "--method.controls=[snip, {name: rigl, delta_t: 4}]",
]
ENGINES = {
    "ddp": [],
    "zero1": ["--engine.name=deepspeed", "--engine.zero_stage=1"],
    "zero2": ["--engine.name=deepspeed", "--engine.zero_stage=2"],
    "zero3": ["--engine.name=deepspeed", "--engine.zero_stage=3"],
}


@pytest.mark.parametrize("engine", ENGINES)
def test_tickets_of_a_vit_are_found_moved_and_trained(engine: str, tmp_path: Path) -> None:
    if engine != "ddp":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    folder = tmp_path / "run"
    run(folder, 2, *ENGINES[engine], base=VIT)
    moved = Ticket.load(folder / "transfer-vit_xs6" / "ticket.safetensors")
    source = Ticket.load(folder / "mask-01" / "ticket.safetensors")
    assert moved.arch == "vit_xs6"
    block = "encoder.layers.encoder_layer_{}.self_attention.in_proj_weight"
    plan = moved.meta.plan
    assert plan is not None
    for unit, filled_from in enumerate(plan.stages[0]):
        assert bool((moved.masks[block.format(unit)] == source.masks[block.format(filled_from)]).all())
    attention = block.format(1)
    for job, masks in (("level-01", source.masks), ("train-vit_xs6", moved.masks)):
        trained = safetensors.torch.load_file(folder / job / "trained.safetensors")
        assert 0 < masks.densities[attention] < 1
        assert masks.check_zero(trained) == []
    for job in ("level-01", "train-vit_xs6", "random-vit_xs6", "snip-vit_xs4", "rigl-vit_xs4"):
        metrics = json.loads((folder / job / "result.json").read_text())["metrics"]
        assert 0 < metrics["forward_flops"] < metrics["dense_forward_flops"]
    report = (folder / "report.md").read_text()
    assert "| ETT <- vit_xs4 | vit_xs6 |" in report
    assert "| RigL |" in report


def test_a_vit_under_adamw_learns(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    longer = ["--data.augment=none", "--train.epochs=10", "--train.milestones=[8ep]", "--method={name: dense}"]
    run(folder, 1, *longer, base=VIT[:-4])
    metrics = json.loads((folder / "dense-vit_xs4" / "result.json").read_text())["metrics"]
    assert metrics["top1"] > 0.5, "ten classes"


def test_a_vit_under_adamw_continues_to_the_bit(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = ["--method.transfers=[]", "--method.controls=[{name: rigl, delta_t: 4}]"]
    run(whole, 2, *options, base=VIT)
    with start(stopped, 2, *options, base=VIT) as running:
        wait_for(stopped / "rigl-vit_xs4/checkpoints/step-10", running)
        running.kill()
    assert "rigl-vit_xs4" not in jobs(stopped), "killed too late for the test to show anything"
    run(stopped, 2, *options, base=VIT)
    assert_same_science(whole, stopped)
