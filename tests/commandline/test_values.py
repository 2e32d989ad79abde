"""What is typed for an option and what it becomes."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from elth_dist.config import merge, read_config, read_overrides

ROOT = Path(__file__).parents[2]
QUICKSTART = ["--config", str(ROOT / "configs/quickstart_fast.yaml")]


@pytest.mark.parametrize(
    ("typed", "sections"),
    [
        ("--train.lr 3e-4", {"train": {"lr": 3e-4}}),
        ("--train.lr=.5 --train.compile true", {"train": {"lr": 0.5, "compile": True}}),
        ("--train.lr -0.1", {"train": {"lr": -0.1}}),
        ("--train.epochs 1_000", {"train": {"epochs": 1000}}),
        ("--train.epochs 2 --train.epochs 3", {"train": {"epochs": 3}}),
        ("--train.lr_batch null", {"train": {"lr_batch": None}}),
        ("--run.name 7 --run.dir null", {"run": {"name": "7", "dir": None}}),
        ("--data.verify off", {"data": {"verify": "off"}}),
        ("--train.warmup 0 --train.milestones 4ep,5ep", {"train": {"warmup": "0", "milestones": ["4ep", "5ep"]}}),
        ("--train.milestones '[4ep, 0]'", {"train": {"milestones": ["4ep", 0]}}),
        ("--train.milestones ''", {"train": {"milestones": []}}),
        ("--data.scale 0.1,1", {"data": {"scale": [0.1, 1]}}),
        ("--method rigl", {"method": {"name": "rigl"}}),
        ("--method.delta_t 5 --method rigl", {"method": {"name": "rigl", "delta_t": 5}}),
        ("--method '{name: rigl, delta_t: 5}' --method.delta_t 6", {"method": {"name": "rigl", "delta_t": 6}}),
        ("--method dpf --method.begin 5ep --method.end 1", {"method": {"name": "dpf", "begin": "5ep", "end": 1}}),
        ("--model '{arch: resnet18}'", {"model": {"arch": "resnet18"}}),
        ("--method.controls dense", {"method": {"controls": ["dense"]}}),
        (
            "--method.controls 'random,{name: rigl, delta_t: 50}'",
            {"method": {"controls": ["random", {"name": "rigl", "delta_t": 50}]}},
        ),
        (
            "--method.transfers '[{to: resnet8_cifar, plan: 0:0}]'",
            {"method": {"transfers": [{"to": "resnet8_cifar", "plan": "0:0"}]}},
        ),
        ("--method ticket --method.transfer null", {"method": {"name": "ticket", "transfer": None}}),
        ("--method.transfer.plan 0:0;1:1,2", {"method": {"transfer": {"plan": "0:0;1:1,2"}}}),
        ("--method.transfer.plan '[[0, 1, 1]]'", {"method": {"transfer": {"plan": [[0, 1, 1]]}}}),
        ("--engine.deepspeed_config file.json", {"engine": {"deepspeed_config": "file.json"}}),
    ],
)
def test_what_is_typed_becomes(typed: str, sections: dict[str, Any]) -> None:
    assert read_overrides(shlex.split(typed)) == sections


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"method": {"name": "imp", "levels": 2}}, {"method": {"levels": 3}}, {"method": {"name": "imp", "levels": 3}}),
        ({"method": "imp"}, {"method": {"levels": 3}}, {"method": {"name": "imp", "levels": 3}}),
        ({"method": {"name": "imp", "levels": 2}}, {"method": {"name": "dense"}}, {"method": {"name": "dense"}}),
        ({"method": {"name": "imp", "levels": 2}}, {"method": "dense"}, {"method": {"name": "dense"}}),
        ({"method": {"name": "imp", "levels": 2}}, {"method": "imp"}, {"method": {"name": "imp", "levels": 2}}),
        ({"train": {"lr": 1}}, {"train": {"epochs": 2}}, {"train": {"lr": 1, "epochs": 2}}),
        ({"train": 3}, {"train": {"epochs": 2}}, {"train": {"epochs": 2}}),
    ],
)
def test_sections_lie_over_one_another(base: dict[str, Any], over: dict[str, Any], merged: dict[str, Any]) -> None:
    assert merge(base, over) == merged


@pytest.mark.parametrize(
    "typed",
    [
        "--method rigl --method.density 0.1 --method.t_end 5ep",
        "--method.controls 'random,{name: rigl, delta_t: 50}' --data_seed 3",
        "--method ticket --method.path t --method.transfer '{to: resnet8_cifar, plan: [[0, 1, 1]]}'",
        "--engine '{name: deepspeed, deepspeed_config: {zero_optimization: {overlap_comm: true}}}'",
        "--data '{name: synthetic, image_size: 8}' --run.dir 'some where'",
    ],
)
def test_a_printed_configuration_reads_back_and_reads_as_typed(tmp_path: Path, typed: str) -> None:
    config = read_config([*QUICKSTART, *shlex.split(typed)]).config
    file = tmp_path / "printed.yaml"
    file.write_text(config.to_yaml())
    assert read_config(["--config", str(file)]).config == config


KIND = """
from typing import Annotated, Literal
from elth_dist import registry
from elth_dist.options import Options
print({name!r})
"""


def test_plugins_are_loaded_files_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("plugin_of_file", "plugin_of_line", "plugin_by_path"):
        (tmp_path / f"{name}.py").write_text(KIND.format(name=name))
    file = tmp_path / "with_plugin.yaml"
    file.write_text("plugins: [plugin_of_file]\n" + (ROOT / "configs/quickstart_fast.yaml").read_text())
    config = read_config(["--config", str(file), "--plugins", "plugin_of_line,plugin_by_path.py"]).config
    assert capsys.readouterr().out.split() == ["plugin_of_file", "plugin_of_line", "plugin_by_path"]
    assert config.plugins == ("plugin_of_file", "plugin_of_line", "plugin_by_path.py")
    plain = read_config(QUICKSTART).config
    assert config.setting == plain.setting
    assert config.setting.identity() == plain.setting.identity()
