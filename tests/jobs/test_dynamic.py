"""Trainings with changing masks as methods of their own."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from elth_dist.models.build import build_model
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates.drop_and_grow import random_masks
from elth_dist.tickets import Ticket
from elth_dist.tickets.ticket import TicketMeta
from elth_dist.train import main
from tests.helpers.runs import BASE, IMP

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


CONTROLS = {
    "rigl-resnet14_cifar": "{name: rigl, delta_t: 4}",
    "rigl-resnet14_cifar-2": "{name: rigl, delta_t: 4, dense_layers: []}",
    "set-resnet14_cifar": "{name: set, delta_t: 0.25ep, distribution: erk}",
    "snfs-resnet14_cifar": "{name: snfs, delta_t: 20%, dense_layers: [first, last]}",
    "gradual-resnet14_cifar": "{name: gradual, every: 5%, distribution: erk}",
    "gradual-resnet14_cifar-2": "{name: gradual, every: 1000, distribution: global, dense_layers: [conv1]}",
    "dpf-resnet14_cifar": "{name: dpf, every: 4}",
}


def test_controls_meet_the_tickets_number_of_weights_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*IMP, "--data.loader=resident", "--method.prune_fraction=0.98", "--run.dir", str(tmp_path / "run")]
    assert main([*line, f"--method.controls=[{', '.join(CONTROLS.values())}]"]) == 0
    ticket = Ticket.load(tmp_path / "run/mask-01/ticket.safetensors")
    for name in CONTROLS:
        control = Ticket.load(tmp_path / f"run/{name}/ticket.safetensors")
        assert control.masks.kept == ticket.masks.kept, name
        metrics = json.loads((tmp_path / f"run/{name}/result.json").read_text())["metrics"]
        assert metrics["density"] == ticket.density
    dense = {name: Ticket.load(tmp_path / f"run/{name}/ticket.safetensors").masks.densities for name in CONTROLS}
    for name, layers in {"rigl-resnet14_cifar": ["conv1"], "snfs-resnet14_cifar": ["conv1", "fc"]}.items():
        assert [layer for layer, density in dense[name].items() if density == 1] == [f"{it}.weight" for it in layers]
    assert dense["rigl-resnet14_cifar-2"]["conv1.weight"] < 0.03
    assert dense["gradual-resnet14_cifar-2"]["conv1.weight"] == 1.0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("fewer than 5") == 2, "SNFS at 20 %, gradual at 1000 steps"
    warning = "gradual-resnet14_cifar-2: gradual: every 1000 makes 1 mask update in 24 steps, fewer than 5: set it to 2"
    assert said.count(warning) == 1


def test_a_density_of_its_own_has_the_meaning_of_rigls_paper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--method.name=rigl", "--method.density=0.01", "--method.delta_t=1", "--run.dir", str(tmp_path / "run")]
    assert main([*SMALL, *more]) == 0
    densities = Ticket.load(tmp_path / "run/train/ticket.safetensors").masks.densities
    assert densities["conv1.weight"] == 1.0
    assert densities["layer3.0.conv2.weight"] == pytest.approx(0.01, abs=1e-4)
    achieved = json.loads((tmp_path / "run/train/result.json").read_text())["metrics"]["density"]
    assert f"density {achieved:.3%}, not 1.000%: layers kept dense come on top" in capsys.readouterr().out
    assert f"| {100 * (1 - achieved):.2f} |" in (tmp_path / "run/report.md").read_text(), "the row has the achieved one"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--method.dense_layers=first,fc.wait"],
            "train (resnet8_cifar): dense_layers: 'fc.wait' is no prunable",
        ),
        (["--method.dense_layers=layer3.0.conv2.weight", "--method.distribution=erk"], "alone keep 36,864 of"),
    ],
)
def test_layers_that_cannot_stay_dense_are_one_line(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--method.name=set", "--method.density=0.1", *more, "--run.dir", str(tmp_path / "run")]
    assert main([*SMALL, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_imp_keeps_layers_dense_and_its_densities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*IMP, "--data.loader=resident", "--method.levels=2", "--method.prune_fraction=0.5"]
    assert main([*line, "--method.dense_layers=first,fc", "--run.dir", str(tmp_path / "run")]) == 0
    kept = Masks.dense(build_model("resnet14_cifar", 10)).total
    for level in (1, 2):
        masks = Ticket.load(tmp_path / f"run/mask-{level:02d}/ticket.safetensors").masks
        kept -= -(-kept // 2)
        assert masks.kept == kept
        assert [name for name, density in masks.densities.items() if density == 1] == ["conv1.weight", "fc.weight"]
    before = Ticket.load(tmp_path / "run/mask-01/ticket.safetensors").masks
    trained = safetensors.torch.load_file(tmp_path / "run/level-01/trained.safetensors")
    competing = [name for name in masks if name not in ("conv1.weight", "fc.weight")]
    gone = torch.cat([trained[name][before[name] & ~masks[name]].abs() for name in competing])
    stays = torch.cat([trained[name][masks[name]].abs() for name in competing])
    assert gone.max() <= stays.min(), "global magnitude among the others"
    capsys.readouterr()
    assert main([*line, "--method.dense_layers=frist", "--run.dir", str(tmp_path / "other")]) == 2
    said = capsys.readouterr().err
    assert "mask-01 (resnet14_cifar): dense_layers: 'frist' is no prunable weight of the network; did you mean" in said
    assert not (tmp_path / "other/pretrain").exists()
