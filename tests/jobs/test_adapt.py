"""A ticket trained on other data than it was found on: new classifier, other image size, whole schedule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from elth_dist.config import read_config
from elth_dist.jobs.plan import make_plan
from elth_dist.jobs.prediction import predict
from elth_dist.models.build import build_model
from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.tickets.adapt import new_classifier
from elth_dist.tickets.ticket import Ticket, TicketMeta
from elth_dist.train import main
from tests.helpers.ranks import REPOSITORY
from tests.helpers.runs import run

SYNTHETIC = ["--data.name=synthetic", "--data.image_size=8", "--data.num_classes=7", "--data.num_train=96"]
SYNTHETIC += ["--data.num_val=24", "--train.epochs=3", "--train.global_batch=24", "--train.milestones=[2ep]"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ticket of 10 classes, with a random tenth of the weights, that is trained from step 5."""
    generator = torch.Generator().manual_seed(0)
    model = build_model("resnet14_cifar", 10, seed=1)
    shapes = {name: weight.shape for name, weight in prunable_weights(model).items()}
    masks = Masks({name: torch.rand(shape, generator=generator) < 0.1 for name, shape in shapes.items()})
    path = tmp_path_factory.mktemp("found") / "ticket.safetensors"
    Ticket("resnet14_cifar", model.state_dict(), masks, TicketMeta(dataset="digits", level=10, rewind_step=5)).save(
        path
    )
    return path


def arguments(path: Path, *more: str) -> list[str]:
    config = ["--config", str(REPOSITORY / "configs/cifar10/resnet20_imp.yaml"), "--train.precision=fp32"]
    return [*config, *SYNTHETIC, "--method.name=ticket", f"--method.path={path}", "--model.arch=resnet14_cifar", *more]


def result(folder: Path, job: str = "train") -> dict[str, Any]:
    return json.loads((folder / job / "result.json").read_text())["metrics"]


def test_two_ranks_train_a_ticket_on_other_classes_from_the_first_step(found: Path, tmp_path: Path) -> None:
    line = ["--method.classifier=new", "--method.begin=0", "--seed=3"]
    run(tmp_path / "run", 2, base=arguments(found, *line))
    ticket, adapted = Ticket.load(found), Ticket.load(tmp_path / "run/adapt/ticket.safetensors")
    expected = new_classifier(ticket, 7, derive_seed(3, "classifier"))
    assert adapted.masks == expected.masks
    assert all(torch.equal(tensor, expected.weights[key]) for key, tensor in adapted.weights.items())
    assert adapted.masks.densities["fc.weight"] == 1
    trained = Ticket.load(tmp_path / "run/train/ticket.safetensors")
    assert trained.hash == adapted.hash
    metrics = result(tmp_path / "run")
    assert (metrics["start_step"], metrics["end_step"], metrics["samples"]) == (0, 12, 12 * 24)
    assert metrics["density"] == adapted.density
    report = (tmp_path / "run/report.md").read_text()
    assert "| ticket, new classifier, from step 0 | resnet14_cifar |" in report
    config = read_config([*arguments(found, *line)]).config
    foreseen = predict(make_plan(config.method, config.setting).jobs)["train"]
    assert (foreseen.start, foreseen.end, foreseen.samples) == (0, 12, 12 * 24)
    assert (foreseen.train, foreseen.forward) == (metrics["train_flops"], metrics["forward_flops"])
    assert foreseen.density == pytest.approx(metrics["density"])


def test_each_option_alone(found: Path, tmp_path: Path) -> None:
    assert main(arguments(found, "--method.classifier=new", "--run.dir", str(tmp_path / "new"))) == 0
    assert result(tmp_path / "new")["start_step"] == 5
    begun = ["--method.begin=1ep", "--data.num_classes=10", "--run.dir", str(tmp_path / "begun")]
    assert main(arguments(found, *begun)) == 0
    assert result(tmp_path / "begun")["start_step"] == 4
    begun_at = Ticket.load(tmp_path / "begun/train/ticket.safetensors")
    assert begun_at.masks == Ticket.load(found).masks


@pytest.mark.parametrize("control", ["random", "reinit", "snip_copies"])
def test_transfers_and_controls_are_adapted_too(found: Path, tmp_path: Path, control: str) -> None:
    line = ["--method.classifier=new", "--method.begin=0", f"--method.control={control}"]
    line += ["--method.transfer={to: resnet20_cifar}", "--model.arch=resnet20_cifar", "--train.epochs=1"]
    assert main(arguments(found, *line, "--train.milestones=[]", "--run.dir", str(tmp_path / "run"))) == 0
    adapted, trained = (Ticket.load(tmp_path / "run" / job / "ticket.safetensors") for job in ("adapt", "train"))
    assert (trained.arch, trained.num_classes, trained.meta.rewind_step) == ("resnet20_cifar", 7, 0)
    assert trained.masks.densities["fc.weight"] == adapted.masks.densities["fc.weight"] == 1
    assert trained.meta.plan == adapted.meta.plan is not None
    if control != "snip_copies":
        assert trained.masks.densities == adapted.masks.densities
    assert result(tmp_path / "run")["start_step"] == 0


def test_an_upsampled_dataset_of_other_classes(found: Path, tmp_path: Path) -> None:
    """As E-LTH trains an ImageNet ticket on CIFAR-10: random resized crops of small images, scaled up."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(12):
            folder = tmp_path / "images" / split / str(number % 3)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    data = [
        "--data.name=cifar10",
        f"--data.root={tmp_path / 'images'}",
        "--data.loader=dali",
        "--data.num_classes=null",
    ]
    data += ["--data.num_train=null", "--data.num_val=null", "--data.image_size=24", "--data.resize=28"]
    data += ["--data.augment=resized_crop", "--train.epochs=1", "--train.global_batch=4", "--train.milestones=[]"]
    line = [*data, "--method.classifier=new", "--method.begin=0", "--run.dir", str(tmp_path / "run")]
    assert main(arguments(found, *line)) == 0
    trained = Ticket.load(tmp_path / "run/train/ticket.safetensors")
    assert trained.num_classes == 3
    assert result(tmp_path / "run")["samples"] == 12


def test_what_is_not_adapted_is_the_job_that_it_was(found: Path) -> None:
    def jobs(*more: str) -> dict[str, str]:
        config = read_config(arguments(found, *more)).config
        return {job.name: job.identity for job in make_plan(config.method, config.setting).jobs}

    plain = jobs()
    assert list(plain) == ["train"]
    assert jobs("--method.classifier=keep", "--method.begin=null") == plain
    ways = [["--method.classifier=new"], ["--method.begin=0"], ["--method.classifier=new", "--method.begin=0"]]
    adapted = [jobs(*way) for way in ways]
    assert all(list(way) == ["adapt", "train"] for way in adapted)
    assert len({way["train"] for way in (plain, *adapted)}) == 4
    assert jobs(*ways[0], "--seed=4")["adapt"] != adapted[0]["adapt"]
    assert jobs(*ways[0], "--data_seed=4")["adapt"] == adapted[0]["adapt"], "data orders share it"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "the ticket has 10 classes, the dataset 7; `--method.classifier new` replaces the ticket's classifier"),
        (
            ["--method.classifier=new", "--method.begin=3ep"],
            "method.begin: 3ep is step 12, but train.epochs 3 makes 12",
        ),
        (["--method.classifier=other"], "method.classifier"),
    ],
)
def test_mistakes_are_one_line(
    found: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(arguments(found, *more, "--run.dir", str(tmp_path / "run"))) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()
