"""`python -m elth_dist.accounting` as a user runs it."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from elth_dist.flops_command import main
from elth_dist.models.build import build_model
from elth_dist.sparsity.masks import Masks
from elth_dist.tickets import Ticket
from elth_dist.tickets.ticket import TicketMeta
from tests.helpers.ranks import REPOSITORY

Capture = pytest.CaptureFixture[str]


def data(capfd: Capture, *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def text(capfd: Capture, *arguments: str) -> str:
    assert main(arguments) == 0
    return capfd.readouterr().out


RIGL = ["resnet50", "--density", "0.2", "--distribution", "erk", "--method", "rigl", "--multiplier", "5"]


def test_published_rigl_as_data(capfd: Capture) -> None:
    found = data(capfd, *RIGL, "--convention", "rigl_compat_115")
    assert f"{found['train_relative']:.2f} {found['forward_relative']:.2f}" == "2.09 0.42"
    assert found["density"] == pytest.approx(0.2)
    assert found["dense_forward_flops"] == 8202340776
    assert found["forward_flops"] == pytest.approx(found["forward_relative"] * found["dense_forward_flops"])
    assert 5 * found["train_flops"] == pytest.approx(found["train_relative"] * 3 * found["dense_forward_flops"])
    assert sum(layer["forward_flops"] for layer in found["layers"]) == pytest.approx(found["forward_flops"])
    assert sum(layer["macs"] for layer in found["layers"]) == found["macs"] == 4_089_184_256


def test_defaults_are_exact_and_keep_the_stem(capfd: Capture) -> None:
    found = data(capfd, "resnet50", "--density", "0.2")
    assert (found["convention"], found["distribution"], found["method"]) == ("exact", "uniform", "static")
    assert [layer["density"] for layer in found["layers"][:2]] == [1.0, 0.2]
    assert found["train_flops"] == pytest.approx(3 * found["forward_flops"])
    dense = data(capfd, "resnet50", "--method", "dense")
    assert dense["forward_flops"] == 2 * 4_089_184_256
    assert dense["train_relative"] == dense["forward_relative"] == 1.0


def test_layer_table_and_totals(capfd: Capture) -> None:
    found = text(capfd, *RIGL, "--convention", "rigl_compat_115")
    assert "layer4.2.conv2" in found
    assert "in total     2.0861x one dense training, at 5x its length" in found
    assert "0.4153x dense (8.2023e+09)" in found
    assert "BatchNorm, ReLU, pooling" in text(capfd, "resnet20_cifar", "--convention", "dpf_counter")


def test_ramps(capfd: Capture) -> None:
    gradual = ["resnet50", "--density", "0.1", "--method", "gradual"]
    published = data(capfd, *gradual, "--convention", "rigl_compat_115")
    assert f"{published['train_relative']:.2f}" == "0.51"
    early = data(capfd, *gradual, "--ramp", "0", "0.1")
    assert early["train_relative"] < published["train_relative"]


def test_a_ticket_has_the_densities_of_its_masks(tmp_path: Path, capfd: Capture) -> None:
    model = build_model("resnet8_cifar", 7, seed=0)
    masks = Masks.dense(model)
    masks = Masks({name: mask & (index % 2 == 0) for index, (name, mask) in enumerate(masks.items())})
    Ticket("resnet8_cifar", model.state_dict(), masks, TicketMeta(dataset="digits", level=1, rewind_step=0)).save(
        tmp_path / "ticket.safetensors"
    )
    found = data(capfd, "--ticket", str(tmp_path / "ticket.safetensors"), "--image-size", "16")
    assert {layer["weight"]: layer["density"] for layer in found["layers"]} == masks.densities
    assert found["density"] == pytest.approx(masks.density)
    assert found["image_size"] == 16
    kept = sum(layer["macs"] for layer in found["layers"] if layer["density"])
    assert found["forward_flops"] == 2 * kept


def test_config_predicts_a_run(capfd: Capture) -> None:
    config = str(REPOSITORY / "configs/imagenet/resnet26_imp.yaml")
    found = data(capfd, "--config", config, "--train.epochs", "60", "--method.levels=2")
    steps = 1_281_167 // 1024
    assert list(found["jobs"]) == ["pretrain", "level-00", "level-01", "level-02", *list(found["jobs"])[4:]]
    level = found["jobs"]["level-02"]
    assert (level["start"], level["end"]) == (5 * steps, 60 * steps)
    assert level["density"] == pytest.approx(0.64)
    assert level["train"] / level["dense_train"] == pytest.approx(0.64 * 55 / 60)
    assert found["train_flops"] == pytest.approx(sum(job["train"] for job in found["jobs"].values()))
    assert "in total" in text(capfd, "--config", config)


def test_paper_says_what_does_not_follow(capfd: Capture) -> None:
    found = text(capfd, "--paper")
    assert "do not follow from real FLOPs" in found
    assert "E-LTH, all networks: published 1.26e9" in found
    tables = data(capfd, "--paper")
    assert {"published", "reproduced", "follows_from_real_flops"} <= tables[0]["figures"][0].keys()


def test_one_for_all(capfd: Capture) -> None:
    arguments = ["resnet26", "--amortise", "resnet18", "resnet34"]
    found = data(capfd, *arguments)
    assert [row["count"] for row in found["rows"]] == [1, 2]
    assert found["multiplier"] == 5
    assert "K x RigL-5x" in text(capfd, *arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "needs one of: a network"),
        (["resnet50", "--paper"], "needs one of: a network"),
        (["resnet51"], "unknown architecture 'resnet51'"),
        (["resnet50", "--density", "0"], "--density: 0 is not above 0 and at most 1"),
        (["resnet50", "--density", "nan"], "--density"),
        (["resnet50", "--densty", "1"], "unrecognized arguments: --densty"),
        (["resnet50", "--method", "dense", "--density", "0.5"], "--method dense trains all weights"),
        (["resnet50", "--ramp", "0", "1"], "--ramp: static has none"),
        (["resnet50", "--method", "dpf", "--ramp", "0.5", "0.5"], "must be two growing fractions"),
        (["resnet50", "--convention", "elth_paper"], "elth_paper: is defined for"),
        (["resnet20_cifar", "--convention", "rigl_compat_115"], "rigl_compat_115: is a quirk"),
        (["resnet26", "--amortise", "resnet50"], "tickets of resnet26 cannot be moved to resnet50"),
        (["--paper", "--amortise", "resnet50"], "--amortise: needs the ticket's own network"),
        (["--config", "/nowhere.yaml"], "--config: no file /nowhere.yaml"),
        (["--config"], "--config"),
        (["--ticket", "/nowhere.safetensors"], "/nowhere.safetensors: no such file"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], expected: str, capfd: Capture) -> None:
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("elth_dist: error: ")
    assert expected in line


def test_the_package_is_the_command(monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setattr("sys.argv", ["accounting", "resnet8_cifar", "--json"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("elth_dist.accounting", run_name="__main__")
    assert ended.value.code == 0
    assert json.loads(capfd.readouterr().out)["arch"] == "resnet8_cifar"
