"""Predictions beside what a run would count."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from elth_dist.accounting.conventions import CONVENTIONS
from elth_dist.accounting.layers import network
from elth_dist.data import data_options
from elth_dist.errors import UserError
from elth_dist.jobs.methods import AnyMethod, Method
from elth_dist.jobs.methods.imp import ImpMethod
from elth_dist.jobs.methods.ticket import TicketMethod
from elth_dist.jobs.plan import make_plan
from elth_dist.jobs.prediction import Prediction, predict
from elth_dist.jobs.setting import Setting
from elth_dist.models.build import build_model
from elth_dist.models.options import ModelOptions
from elth_dist.sparsity.masks import Masks
from elth_dist.tickets import Ticket, transfer
from elth_dist.tickets.ticket import TicketMeta
from elth_dist.training.options import TrainOptions

SETTING = Setting(
    model=ModelOptions(arch="resnet14_cifar"),
    data=data_options(name="digits"),
    train=TrainOptions(epochs=6, global_batch=64),
)
STEPS = 1442 // 64


def imp(**options: Any) -> dict[str, Prediction]:
    method = ImpMethod.model_validate({"levels": 2, "prune_fraction": 0.5, "rewind": "1ep", **options})
    return predict(make_plan(method, SETTING).jobs)


def ticket(folder: Path) -> tuple[Path, Ticket]:
    model = build_model("resnet14_cifar", 10, seed=0)
    dense = Masks.dense(model)
    masks = Masks({name: mask & (index % 3 > 0) for index, (name, mask) in enumerate(dense.items())})
    found = Ticket("resnet14_cifar", model.state_dict(), masks, TicketMeta(dataset="digits", level=1, rewind_step=7))
    found.save(folder / "ticket.safetensors")
    return folder / "ticket.safetensors", found


def test_imp_with_transfer_and_controls() -> None:
    found = imp(transfers=[{"to": "resnet20_cifar", "controls": ["dense", "snip"]}], controls=["dense"])
    dense = 2 * network("resnet14_cifar", 16, 10).macs
    assert found["pretrain"].train == 3 * dense * STEPS * 64
    assert found["dense-resnet14_cifar"].train == found["pretrain"].dense_train == 3 * dense * 6 * STEPS * 64
    for level in range(3):
        job = found[f"level-{level:02d}"]
        assert (job.start, job.end, job.samples) == (STEPS, 6 * STEPS, 5 * STEPS * 64)
        assert job.density == pytest.approx(0.5**level)
        assert job.forward == pytest.approx(0.5**level * dense)
        assert job.train == pytest.approx(3 * job.forward * job.samples)
    moved = found["train-resnet20_cifar"]
    assert (moved.arch, moved.density) == ("resnet20_cifar", pytest.approx(0.25))
    assert found["pretrain-resnet20_cifar"].end == STEPS
    assert found["snip-resnet20_cifar"].density == pytest.approx(0.25)
    assert found["dense-resnet20_cifar"].forward == found["dense-resnet20_cifar"].dense_forward


def test_dense_trainings_cost_nothing_before_a_rewind_to_initialisation() -> None:
    assert "pretrain" not in imp(rewind=0)


def test_a_ticket_file_has_its_own_densities_and_a_transfer_moves_them(tmp_path: Path) -> None:
    path, source = ticket(tmp_path)
    method = TicketMethod.model_validate({"path": str(path), "transfer": {"to": "resnet20_cifar"}})
    setting = SETTING.model_copy(update={"model": ModelOptions(arch="resnet20_cifar")})
    [found] = predict(make_plan(method, setting).jobs).values()
    moved = transfer(source, "resnet20_cifar")
    exact = CONVENTIONS["exact"].forward(network("resnet20_cifar", 16, 10), moved.masks.densities)
    assert found.forward == pytest.approx(exact)
    assert found.density == pytest.approx(moved.density)
    assert (found.start, found.end) == (7, 6 * STEPS)


def test_pruning_like_a_ticket(tmp_path: Path) -> None:
    path, source = ticket(tmp_path)
    for matched, densities in (
        ("layerwise", source.masks.densities),
        ("global", dict.fromkeys(source.masks, source.density)),
    ):
        options = {"name": "snip", "like": str(path), "matched": matched, "rewind": "3it"}
        method: Method = TypeAdapter[Any](AnyMethod).validate_python(options)
        found = predict(make_plan(method, SETTING).jobs)["train"]
        exact = CONVENTIONS["exact"].forward(network("resnet14_cifar", 16, 10), densities)
        assert found.forward == pytest.approx(exact)
        assert found.start == 3


def test_the_dataset_is_counted_where_it_lies(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(3):
            (tmp_path / split / f"class{number}").mkdir(parents=True)
            for image in range(50):
                (tmp_path / split / f"class{number}" / f"{image}.jpg").touch()
    data = data_options(name="folder", root=tmp_path, image_size=32)
    setting = SETTING.model_copy(update={"data": data})
    found = predict(make_plan(ImpMethod(levels=0, rewind="1ep"), setting).jobs)["level-00"]
    assert (found.start, found.end) == (2, 12)
    assert found.dense_forward == 2 * network("resnet14_cifar", 32, 3).macs
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(UserError, match=r"data\.root: .* has no train/"):
        predict(make_plan(ImpMethod(), setting).jobs)


def test_a_folder_that_nobody_named() -> None:
    setting = SETTING.model_copy(update={"data": data_options(name="folder")})
    with pytest.raises(UserError, match=r"data\.root: 'folder' needs"):
        predict(make_plan(ImpMethod(), setting).jobs)


def test_controls_are_predicted_at_the_tickets_density() -> None:
    """As they are trained: uniform solved around the dense first layer, ERK, and global with layers kept dense."""
    options = [{}, {"distribution": "erk"}, {"dense_layers": []}]
    gradual = [{"distribution": "global", "every": 5, "dense_layers": ["first", "last"]}]
    controls = [{"name": "rigl", **more} for more in options] + [{"name": "gradual", **more} for more in gradual]
    found = imp(levels=5, prune_fraction=0.6, controls=controls)
    names = ["rigl-resnet14_cifar", "rigl-resnet14_cifar-2", "rigl-resnet14_cifar-3", "gradual-resnet14_cifar"]
    for name in names:
        assert found[name].density == pytest.approx(found["level-05"].density, rel=1e-9), name
    assert len({found[name].forward for name in names}) == 4
    assert found["gradual-resnet14_cifar"].warning is None
    warning = "rigl: delta_t 100 makes 2 mask updates in 132 steps, fewer than 5: set it to 25 or less"
    assert found["rigl-resnet14_cifar"].warning == warning
    with pytest.raises(UserError, match=r"^rigl, uniform: dense_layers: conv1\.weight alone keep 432 of .* leave"):
        imp(levels=8, prune_fraction=0.6, controls=["rigl"])


def test_levels_with_layers_kept_dense_have_the_densities_of_imp() -> None:
    plain, dense = imp(), imp(dense_layers=["first", "last"])
    assert dense["level-02"].density == pytest.approx(plain["level-02"].density, rel=1e-9)
    assert dense["level-02"].forward > plain["level-02"].forward, "the first layer computes at every position"
    with pytest.raises(UserError, match=r"method\.dense_layers: conv1\.weight, fc\.weight alone keep more than the"):
        imp(dense_layers=["first", "last"], levels=9)


def test_one_shot_pruning_with_layers_kept_dense() -> None:
    options = {"name": "snip", "density": 0.1, "rewind": "3it", "dense_layers": ["first"]}
    method: Method = TypeAdapter[Any](AnyMethod).validate_python(options)
    assert predict(make_plan(method, SETTING).jobs)["train"].density == pytest.approx(0.1)
