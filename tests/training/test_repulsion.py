"""The term that repels weights from earlier optima, and what it does to a training."""

import json
from pathlib import Path

import pytest
import torch

from elth_dist.sparsity.masks import Masks
from elth_dist.training.repulsion import Repulsion
from tests.helpers.runs import BASE, run


def test_value_and_gradient_by_hand() -> None:
    masks = Masks({"a": torch.tensor([True, True, False]), "b": torch.tensor([True])})
    optima = [
        {"a": torch.tensor([3.0, 0.0, 100.0]), "b": torch.tensor([4.0])},
        {"a": torch.tensor([0.0, 2.0, 0.0]), "b": torch.tensor([0.0])},
    ]
    weights = {"a": torch.tensor([1.0, 2.0, 0.0], requires_grad=True), "b": torch.tensor([2.0], requires_grad=True)}
    term = Repulsion(-2.0, optima, masks)(weights)
    kept = torch.tensor([1.0, 2.0, 2.0])
    cosines = [
        (kept @ other / (kept.norm() * other.norm())).item()
        for other in (torch.tensor([3.0, 0, 4]), torch.tensor([0.0, 2, 0]))
    ]
    assert term.item() == pytest.approx(-2 * sum(cosine**2 for cosine in cosines) / 2)
    term.backward()
    assert weights["a"].grad is not None
    assert weights["b"].grad is not None
    together = torch.cat([weights["a"].grad[:2], weights["b"].grad])
    assert together @ kept == pytest.approx(0, abs=1e-6)  # a cosine does not depend on the length


def test_levels_are_pushed_apart_or_pulled_together_on_any_number_of_ranks(tmp_path: Path) -> None:
    angle = {}
    for strength, world_size in ((0.0, 2), (20.0, 2), (20.0, 1), (-20.0, 2)):
        folder = tmp_path / f"{strength}-{world_size}"
        line = [
            f"--method.repel={strength}",
            "--method.levels=2",
            "--method.rewind=0",
            "--method.transfers=[]",
            "--method.controls=[]",
            '--method.stability={"orders": 1, "consecutive": true, "line": null}',
        ]
        run(folder, world_size, *line, base=BASE)
        found = json.loads((folder / "distance-levels/result.json").read_text())["metrics"]["distance"]["total"][
            "angle"
        ]
        angle[strength, world_size] = found[2][0] + found[2][1]
    assert angle[20.0, 2] > angle[0.0, 2] + 1 > angle[-20.0, 2] + 1
    assert angle[20.0, 1] == pytest.approx(angle[20.0, 2], rel=0.1)


def test_refused_where_weights_are_sharded(tmp_path: Path) -> None:
    more = ["--method.repel=1", "--engine.name=deepspeed", "--method.transfers=[]", "--method.controls=[]"]
    result = run(tmp_path / "run", 1, *more, base=BASE, check=False)[0]
    assert result.returncode == 2
    assert result.output.strip().endswith("method.repel: needs whole weights on every rank; valid with engine.name ddp")
