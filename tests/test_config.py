"""The configuration: what a user types, what comes of it, and what a mistake says."""

import subprocess
import sys
from pathlib import Path

import pytest

from elth_dist.config import Config, option_names, read_config
from elth_dist.errors import UserError
from elth_dist.jobs.graph import Graph
from elth_dist.jobs.methods.imp import ImpMethod

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(path for path in ROOT.glob("configs/**/*.yaml") if "sweeps" not in path.parts)
QUICKSTART = ["--config", str(ROOT / "configs/quickstart_fast.yaml")]


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        read_config(arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_config_is_valid_and_says_how_to_run_it(path: Path) -> None:
    config = read_config(["--config", str(path)]).config
    graph = Graph()
    config.method.plan(graph, config.setting)
    assert len({job.identity for job in graph.jobs}) == len(graph.jobs) > 0
    header = path.read_text().split("\nmodel:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    relative = str(path.relative_to(ROOT))
    assert f"--config {relative}" in header
    assert "Hardware:" in header
    assert config.run.name == path.stem


#: Density of the paper's figures: six, ten and thirteen IMP levels.
PUBLISHED = {"imagenet": 0.8**6, "cifar10": 0.8**10}


@pytest.mark.parametrize("folder", PUBLISHED)
@pytest.mark.parametrize("method", ["magnitude", "snip", "grasp", "synflow", "random", "reinit"])
def test_shipped_methods_share_their_networks_recipe_and_density(folder: str, method: str) -> None:
    depths = {"imagenet": (18, 26, 34), "cifar10": (20, 32, 56)}[folder]
    for name in (f"resnet{depth}" for depth in depths):
        imp, config = (
            read_config(["--config", str(ROOT / f"configs/{folder}/{name}_{which}.yaml")]).config
            for which in ("imp", method)
        )
        assert config.setting == imp.setting
        assert isinstance(imp.method, ImpMethod)
        assert config.method.name == method
        assert getattr(config.method, "rewind", imp.method.rewind) == imp.method.rewind
        density = getattr(config.method, "density", None)
        like = getattr(config.method, "like", None)
        if density is not None:
            assert density == pytest.approx(PUBLISHED[folder], rel=1e-12)
        else:
            assert like == str(Path("runs") / imp.run.name / f"mask-{imp.method.levels:02d}" / "ticket.safetensors")


def test_resolved_config_reads_back_as_itself(tmp_path: Path) -> None:
    explicit = ["--method.transfers", '[{"to": "resnet8_cifar", "plan": "0:0"}, {"to": "resnet20_cifar"}]']
    controls = ["--method.controls", '["reinit", {"name": "grasp", "batches": 2}]']
    random = ["--method.name=random", "--method.density=0.1"]
    for arguments in ([], explicit, controls, random, ["--train.lr_batch", "256"]):
        config = read_config([*QUICKSTART, *arguments]).config
        file = tmp_path / "resolved.yaml"
        file.write_text(config.to_yaml())
        assert read_config(["--config", str(file)]).config == config


def test_command_line_overrides_the_file() -> None:
    config = read_config(
        [*QUICKSTART, "--train.epochs", "2", "--method.levels=1", "--method.rewind", "1it", "--data.scale", "[0.1, 1]"]
    ).config
    assert config.train.epochs == 2
    assert isinstance(config.method, ImpMethod)
    assert config.method.levels == 1
    assert config.method.prune_fraction == 0.6  # the file's stays
    assert str(config.method.rewind) == "1it"
    assert config.data.scale == (0.1, 1.0)
    assert read_config([*QUICKSTART, "--train.lr_batch", "null"]).config.train.lr_batch is None


def test_another_method_drops_the_files_options_of_its_own() -> None:
    config = read_config([*QUICKSTART, "--method.name", "ticket", "--method.path", "t.safetensors"]).config
    assert config.method.name == "ticket"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--train.epoch", "3"], "--train.epoch: no such option; did you mean --train.epochs?"),
        (["--epochs", "3"], "--epochs: no such option; did you mean --train.epochs?"),
        (["--train.epochs", "0"], "train.epochs: Input should be greater than or equal to 1, got '0'"),
        (["--train.global_batch", "many"], "train.global_batch"),
        (
            ["--method.rewind", "5x"],
            "method.rewind: '5x' is not a step: write '5ep' (epochs), '1000it' (iterations) or 0",
        ),
        (["--method.prune_fraction", "1.0"], "method.prune_fraction: Input should be less than 1"),
        (
            ["--method.name", "impp"],
            "method.name: unknown method 'impp'; valid are dense, imp, reinit, ticket, grasp, magnitude",
        ),
        (["--method.name", "snip"], "method: needs either density or like (a ticket file)"),
        (["--method.name", "snip", "--method.density", "0"], "method.density: Input should be greater than 0"),
        (["--method.controls=[snap]"], "method.controls.0.name: unknown control 'snap'"),
        (["--method.controls", '[{"batches": 3}]'], "method.controls.0.name: is required"),
        (["--method.controls", '[{"name": "snip", "batchs": 3}]'], "method.controls.0.batchs: no such option"),
        (["--method.controls=[shuffled_copies]"], "shuffled_copies is for the controls of a transfer"),
        (
            ["--method.transfers", '[{"to": "resnet8_cifar", "controls": ["snip_copies"]}]'],
            "method.transfers.0.controls: snip_copies, but 0:0|0:0|0:0 copies no unit",
        ),
        (["--model.arch", "resnet19"], "did you mean 'resnet18'?"),
        (["--train.accumulate", "3"], "train: global_batch 64 is not a multiple of accumulate 3"),
        (["--method.name=dense", "--method.levels=3"], "method.levels: is not an option of method 'dense'"),
        (["train.epochs=3"], "train.epochs=3: not understood; write --section.option value"),
        (["--config"], "--config: needs the path of a YAML file"),
        (["--method.transfers", '[{"to": "vgg16"}]'], "method.transfers.0: "),
        (["--model.arch", "resnet8_cifar"], "stage 1 grows from 1 to 3 units and has none to copy"),
        (["--method.transfers", '[{"to": "resnet20_cifar", "level": 9}]'], "level 9: the method has levels 0 to 5"),
    ],
)
def test_mistake_on_the_command_line_is_one_line(arguments: list[str], expected: str) -> None:
    assert expected in refused(*QUICKSTART, *arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {arch: resnet18}\ndata: {name: digits}\nmethod: {name: imp, level: 3}", "did you mean method.levels?"),
        ("model: {arch: resnet18}\ndata: {name: digits}\nmethod: {levels: 3}", "method.name: is required"),
        ("model: {arch: resnet18}\nmethod: {name: imp}", "data: is required"),
        ("model: [", "no valid YAML"),
        ("- 1\n- 2", "holds a list, not sections of options"),
        (
            "model: {arch: resnet14_cifar}\n"  # noqa: ISC004 - one text
            "data: {name: digits}\n"
            "method: {name: imp, transfers: [{to: resnet8_cifar, sqeeze: last}]}",
            "method.transfers.0.sqeeze: no such option",
        ),
    ],
)
def test_mistake_in_the_file_is_one_line_that_names_it(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "mistake.yaml"
    file.write_text(text)
    message = refused("--config", str(file))
    assert expected in message
    assert str(file) in message


def test_missing_file_is_named() -> None:
    assert refused("--config", "nowhere.yaml") == "--config: no file nowhere.yaml"


def test_every_option_is_documented_or_self_evident() -> None:
    assert {"train.epochs", "data.root", "method.levels", "method.path", "engine.name", "run.dir", "seed"} <= set(
        option_names(Config)
    )


def test_reading_a_config_imports_no_torch() -> None:
    code = (
        "import sys; from elth_dist.config import read_config; from elth_dist.jobs.plan import make_plan;"
        f"c = read_config({QUICKSTART!r}).config; make_plan(c.method, c.setting); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=600)
