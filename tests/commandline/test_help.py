"""--help: every option with its own default, and what a method's own options are."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elth_dist.commandline.tree import options
from elth_dist.commandline.values import read_text, show
from elth_dist.config import Config, read_config
from elth_dist.options import Options
from elth_dist.sweeps.options import SweepOptions

ROOT = Path(__file__).parents[2]


def help_for(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        read_config([*arguments, "--help"])
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_general_help_has_sections_methods_lists_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_for(capsys)
    for expected in (
        "--train.milestones STEP,... steps at which the schedule `step` multiplies",
        "by `gamma` (default: 80ep,120ep)",
        "--train.momentum NUMBER momentum of sgd; 0: none (default: 0.9)",
        "--model.arch TEXT",
        "(required)",
        "data: which images, how they are read and augmented; --data NAME --help shows the options of one",
        "--train.optimizer OPTIMIZER optimizer: a name, or a name with options (default: sgd)",
        "--engine.timeout_minutes NUMBER",
        "--run.dir PATH|null folder that everything is written to; null: runs/NAME (default: null)",
        "imp Iterative magnitude pruning",
        "--method.controls 'random,{name: rigl, delta_t: 50}'",
        "--config configs/quickstart.yaml",
    ):
        assert expected in text
    for jargon in ("Step(", "ifdef", "()", "--method.name imp|", "--method.levels"):
        assert jargon not in text


@pytest.mark.parametrize(
    ("arguments", "expected", "absent"),
    [
        (
            ["--method.name", "dpf"],
            ["--method.every INTEGER", "(default: 16)", "uniform|erk|global"],
            ["--method.alpha"],
        ),
        (["--method", "gradual"], ["--method.every INTEGER", "(default: 1000)", "(default: 0.3125)"], ["--train.lr"]),
        (["--method", "ticket"], ["--method.path TEXT ticket file (required)", "--method.transfer.to TEXT"], []),
        (["--method", "grasp"], ["ten samples per class", "(default: 200)"], ["SNIP"]),
        (
            ["--config", str(ROOT / "configs/quickstart.yaml")],
            ["--method imp", "each of method.transfers", "rigl RigL", "Options: multiplier 1", "delta_t 100"],
            ["--method.density"],
        ),
    ],
    ids=str,
)
def test_help_of_a_method_has_its_own_options_and_defaults(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[str], absent: list[str]
) -> None:
    text = help_for(capsys, *arguments)
    assert [part for part in expected if part not in text] == []
    assert [part for part in absent if part in text] == []


def test_a_presets_defaults_are_those_of_the_chosen_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_for(capsys, "--data.name", "digits")
    assert "--data.image_size INTEGER height and width of the network's input, pixels (default: 16)" in text


@pytest.mark.parametrize("model", [Config, SweepOptions])
def test_every_option_is_described(model: Any) -> None:
    bare = [
        option.name
        for option in options([model])
        if not option.name.endswith("name") and not all(field.description for field in option.fields)
    ]
    assert bare == []


def test_defaults_read_back_as_they_are_shown() -> None:
    for option in options([Config]):
        for field in option.fields:
            if not field.is_required() and not isinstance(field.default, Options):
                text = show(field.default)
                assert show(read_text(text, option.forms)) == text, option.name


@pytest.mark.parametrize(("rank", "prints"), [("0", True), ("1", False)])
def test_rank_0_alone_prints_help_and_torch_is_not_imported(rank: str, prints: bool) -> None:
    environment = {**os.environ, "RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    code = (
        "import sys, atexit; from elth_dist.train import main;"
        "atexit.register(lambda: sys.stderr.write('torch' if 'torch' in sys.modules else ''));"
        "main(['--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert bool(done.stdout) == prints
    assert done.stderr == ""
