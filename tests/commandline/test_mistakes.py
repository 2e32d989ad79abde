"""Mistakes on the command line and in files: one line that blames the right source and says what is valid."""

import shlex
from pathlib import Path

import pytest

from elth_dist.config import read_config
from elth_dist.errors import UserError

ROOT = Path(__file__).parents[2]
QUICKSTART = ["--config", str(ROOT / "configs/quickstart.yaml")]
JARGON = (
    "Value error",
    "dictionary",
    "object to extract",
    "instance of",
    "CliSettings",
    "validation",
    "tuple",
    "parse",
)


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        read_config(arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert not [word for word in JARGON if word in message]
    return message


# what is typed after `--config configs/quickstart.yaml` -> the whole answer
TYPED = {
    # sections and kinds
    "--model X": "model: 'X' is not a section of options; write {arch: X} or --model.arch X",
    "--train 3": "train: '3' is not a section of options; write {OPTION: VALUE} or --train.OPTION VALUE",
    "--method rigl": "method: needs either density or like (a ticket file)",
    "--method ticket": "method.path: is required; give it in the file or as --method.path",
    "--method dpf --method.density 0.1 --method.batches 3": "method.batches: is not an option of method 'dpf'; "
    "valid are density, like, multiplier, distribution, dense_layers, every, begin, end",
    # lists
    "--method.transfers resnet20_cifar": "method.transfers.0: 'resnet20_cifar' is not a section of options; write "
    "{to: resnet20_cifar}",
    "--train.milestones 4": "train.milestones.0: 4 is not a step: write '5ep' (epochs), '1000it' (iterations) or 0",
    "--method.controls '[{name: rigl, deltat: 3}]'": "method.controls.0.deltat: no such option; did you mean "
    "method.controls.0.delta_t?",
    "--data.scale '(0.1,1)'": "data.scale: needs a list of 2, such as NUMBER,NUMBER, got '(0.1,1)'",
    "--data.mean 0.5": "data.mean: needs 3 values: NUMBER,NUMBER,NUMBER; got 1: [0.5]",
    "--data.mean 1,2,3,4": "data.mean: needs 3 values: NUMBER,NUMBER,NUMBER; got 4: [1, 2, 3, 4]",
    "--data.mean inf": "data.mean: needs 3 values: NUMBER,NUMBER,NUMBER; got 1: [inf]",
    "--data.mean 0,0,nan": "data: mean must lie within -10 .. 10 and std within 0.001 .. 10 (images are in [0, 1])",
    "--data.mean a,b,c": "data.mean.0: needs a number, got 'a'",
    "--method.transfers.0.to X": "--method.transfers.0.to: no such option; a list is written whole: "
    "--method.transfers '[{to: VALUE}, {to: VALUE, OPTION: VALUE}]'",
    "--train.milestones.0 4ep": "--train.milestones.0: no such option; a list is written whole: --train.milestones A,B "
    "with STEP for each",
    "--method.controls '{name: rigl'": "method.controls: '{name: rigl' cannot be read: expected ',' or '}', but got "
    "']'",
    # other codes' words, and typing mistakes
    "--method.sparsity 0.9": "--method.sparsity: no such option; did you mean --method.levels?",
    "--method snip --method.sparsity 0.9": "--method.sparsity: no such option; did you mean --method.density "
    "(density = 1 - sparsity)?",
    "--train.batch_size 3": "--train.batch_size: no such option; did you mean --train.global_batch?",
    "--batch-size 3": "--batch-size: no such option; did you mean --train.global_batch?",
    "--batch_size=3": "--batch_size: no such option; did you mean --train.global_batch?",
    "--learning_rate 3": "--learning_rate: no such option; did you mean --train.lr?",
    "--train.learning-rate 3": "--train.learning-rate: no such option; did you mean --train.lr?",
    "--method snip --method.batch 3": "--method.batch: no such option; did you mean --method.batches?",
    "--method dpf --method.batch 3": "--method.batch: no such option",
    "--method.name dpf --method.evry 3": "--method.evry: no such option; did you mean --method.every?",
    "--zzz 3": "--zzz: no such option",
    # values
    "--train.lr nan": "train.lr: 'nan' is not a number",
    "--train.lr yes": "train.lr: needs a number, got 'yes'",
    "--train.lr -1": "train.lr: Input should be greater than 0, got '-1'",
    "--train.lr": "--train.lr: needs a value",
    "--train.epochs 1.5": "train.epochs: needs a whole number, got '1.5'",
    "--train.epochs null": "train.epochs: needs a whole number, got 'null'",
    "--train.compile maybe": "train.compile: needs true or false, got 'maybe'",
    "--train.precision bf32": "train.precision: needs one of fp32, tf32, bf16, fp16, got 'bf32'",
    "--data_seed x": "data_seed: needs a whole number, or null, got 'x'",
    "--run.name 'a b'": "run.name: 'a b' may hold letters, digits, '.', '_' and '-', and starts with a letter or digit",
    "--method rigl --method.density 0.1 --method.t_end 1.5": "method.t_end: Input should be less than or equal to 1, "
    "got '1.5'",
    "--method rigl --method.density 0.1 --method.delta_t 100it": "method.delta_t: needs a whole number, or an "
    "interval: 0.5ep (epochs) or 2.5% (of the training's steps), got '100it'",
    "--method random --method.density 0.1 --method.variant elth_code": "method.variant: elth_code masks theta_r with a "
    "ticket's masks: give `like`, a ticket file",
    "--method rigl --method.density 0.1 --method.t_end foo": "method.t_end: needs a number, or a step: 5ep (epochs), "
    "1000it (optimizer steps) or 0, got 'foo'",
    "--method.transfers '[{to: resnet20_cifar, plan: [[0, -1]]}]'": "method.transfers.0.plan.0.1: Input should be "
    "greater than or equal to 0, got -1",
    "--plugins no_such_module": "plugins: there is no module no_such_module; install it, or give the path of its file",
}


@pytest.mark.parametrize("typed", TYPED)
def test_a_mistake_on_the_command_line_is_answered_in_the_users_words(typed: str) -> None:
    assert refused(*QUICKSTART, *shlex.split(typed)) == TYPED[typed]


@pytest.mark.parametrize(
    ("typed", "start", "end"),
    [
        (
            "--method.controls dense,magnitud",
            "method.controls.1.name: unknown control 'magnitud'; valid are dense, random,",
            "; did you mean magnitude?",
        ),
        (
            "--method.controls='[\"wanda\"]'",
            "method.controls.0.name: unknown control 'wanda'; valid are dense,",
            "snfs",
        ),
        (
            "--data digit",
            "data.name: unknown dataset 'digit'; valid are cifar10, cifar100, digits, folder,",
            "did you mean digits?",
        ),
        ("--method impp", "method.name: unknown method 'impp'; valid are dense, imp,", "; did you mean imp?"),
    ],
)
def test_a_name_of_no_kind_is_answered_with_those_that_are(typed: str, start: str, end: str) -> None:
    message = refused(*QUICKSTART, *shlex.split(typed))
    assert message.startswith(start)
    assert message.endswith(end)


def test_nothing_typed_asks_for_the_network() -> None:
    assert refused() == "model: is required; give it in the file or as --model.arch"


BASE = "model: {arch: resnet14_cifar}\ndata: {name: digits}\n"

# what a file says -> the answer, with FILE for its name
WRITTEN = {
    BASE + "method: 3": "method: must be one method: a name, or an object with name and options (in FILE)",
    BASE + "method: {name: imp, levels: many}": "method.levels: needs a whole number, got 'many' (in FILE)",
    BASE + "method: {name: imp, controls: [{}]}": "method.controls.0.name: is required (in FILE); valid are dense,",
    BASE + "method: {name: imp, controls: dense}": "method.controls: needs a list, such as a,b or [a, b], got 'dense' "
    "(in FILE)",
    BASE + "method: imp\ntrain: {epochs: 2}\nseed: 3\ntrain: {lr: 1}": "--config: FILE line 6, column 1: no valid YAML:"
    " train is given twice, first in line 4",
    BASE + "method:\n  name: imp\n  levels: 2\n  name: dense": "--config: FILE line 6, column 3: no valid YAML: "
    "name is given twice, first in line 4",
    BASE + "method: imp\ntrain: {lr: .nan}": "train.lr: nan is not a number (in FILE)",
    BASE + "method: {name: ticket, path: 3}": "method.path: needs a text (numbers in quotes), got 3 (in FILE)",
    BASE + "method: imp\ntrain: 3": "train: 3 is not a section of options (in FILE); write {OPTION: VALUE} or",
    "model: resnet18\nmethod: imp": "model: 'resnet18' is not a section of options (in FILE); write {arch: resnet18}",
    "method: imp\n": "model: is required (in FILE); give it in the file or as --model.arch",
    "model: {arch: resnet14_cifar}\nmethod: imp\ndata: {name: digits, verify: off}": "data.verify: needs one of off, "
    "decode, got false (in FILE); in YAML, write 'off' in quotes",
    BASE + "method: imp\nplugins: no_such_module": "plugins: 'no_such_module' is no list of modules; write ",
    "recipe: a.yaml\nexperiments: []": "--config: FILE describes a sweep; run it with python launch/sweep.py FILE",
    BASE + "method: {name: imp, sparsity: 0.9}": "method.sparsity: no such option (in FILE); did you mean method.level",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_mistake_in_a_file_names_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mistake.yaml"
    file.write_text(text)
    assert refused("--config", str(file)).replace(str(file), "FILE").startswith(WRITTEN[text])


def test_the_source_that_has_the_mistake_is_blamed(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(BASE + "method: {name: imp, controls: [wanda]}\ntrain: {nesterov: true, momentum: 0}\n")
    config = ["--config", str(file)]
    assert refused(*config, "--method.controls", "[]", "--train.log_every", "5").endswith(f"(in {file})")
    assert "unknown control 'wanda' (in" in refused(*config, "--train.momentum", "0.9")
    assert "(in" not in refused(*config, "--train.momentum", "0.9", "--method.controls", "dense,wand")
    assert "(in" not in refused(*QUICKSTART, "--train.nesterov", "true", "--train.momentum", "0")
    assert "(in" not in refused(*QUICKSTART, "--model.arch", "resnet8_cifar"), "transfers of the file do not fit it"
