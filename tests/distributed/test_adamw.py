"""A training with AdamW and RigL on two ranks: killed between two changes of its masks, next to one left in peace."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import yaml

from elth_dist.config import read_yaml
from elth_dist.runtime.states import load_state
from elth_dist.tickets import Ticket
from tests.distributed.test_resume import wait_for
from tests.helpers.runs import BASE, assert_same_science, run, start

ENGINES = {
    "ddp": {"name": "ddp"},
    "zero2": {"name": "deepspeed", "zero_stage": 2},
    "zero3": {
        "name": "deepspeed",
        "zero_stage": 3,
        "deepspeed_config": {"zero_optimization": {"stage3_param_persistence_threshold": 100}},
    },
}


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_between_two_changes_continues_bit_for_bit(engine: str, tmp_path: Path) -> None:
    config = tmp_path / "adamw.yaml"
    sections = read_yaml(Path(BASE[1]))
    sections |= {
        "model": {"arch": "resnet8_cifar"},
        "data": {"name": "digits", "loader": "resident"},
        "method": {"name": "rigl", "density": 0.2, "delta_t": 5},
        "engine": ENGINES[engine],
    }
    sections["train"] |= {
        "optimizer": {"name": "adamw", "betas": [0.9, 0.95]},
        "lr": 0.01,
        "weight_decay": 0.05,
        "decay": "weights",
        "precision": "fp16",
    }
    config.write_text(yaml.safe_dump(sections))
    base = ["--config", str(config), *BASE[2:], "--train.checkpoint_every=4it"]
    base.remove("--model.arch=resnet14_cifar")
    whole, folder = tmp_path / "whole", tmp_path / "run"
    run(whole, 2, base=base)
    [job] = [path.parent.name for path in whole.glob("*/trained.safetensors")]
    with start(folder, 2, base=base) as running:
        wait_for(folder / job / "checkpoints/step-12", running)
        running.kill()
    assert not (folder / job / "result.json").exists(), "killed too late for the test to show anything"
    saved = load_state(sorted((folder / job / "checkpoints").glob("step-*"))[-1] / name_of_state(engine))
    assert all(state.keys() == {"step", "exp_avg", "exp_avg_sq"} for state in saved["optimizer"])
    run(folder, 2, base=base)
    assert_same_science(folder, whole)
    ticket = Ticket.load(whole / job / "ticket.safetensors")
    trained = safetensors.torch.load_file(whole / job / "trained.safetensors")
    assert ticket.masks.check_zero(trained) == []
    assert ticket.density == pytest.approx(0.2, abs=0.02)
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0]


def name_of_state(engine: str) -> str:
    """The file of a checkpoint that holds the optimizer."""
    return "engine.safetensors" if engine == "ddp" else "engine-00000.safetensors"
