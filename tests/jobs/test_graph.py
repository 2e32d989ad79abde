"""A method as a graph: golden plans, and identities that change exactly when the result may."""

from typing import Any

import pytest

from elth_dist.data.options import DataOptions
from elth_dist.jobs.graph import Job, identities, plan
from elth_dist.jobs.options import DenseMethod, ImpMethod, LevelJob, Setting, TicketMethod, TrainJob
from elth_dist.models.options import ModelOptions
from elth_dist.training.options import TrainOptions


def setting(**train: Any) -> Setting:
    return Setting(
        model=ModelOptions(arch="resnet14_cifar"), data=DataOptions(name="digits"), train=TrainOptions(**train)
    )


def imp(**options: Any) -> ImpMethod:
    return ImpMethod.model_validate({"levels": 2, "rewind": "1ep", **options})


def shape(jobs: list[Job]) -> dict[str, dict[str, str]]:
    return {job.name: dict(job.inputs) for job in jobs}


def test_imp_with_transfers_and_controls() -> None:
    method = imp(
        transfers=[
            {"to": "resnet20_cifar", "controls": ["random", "dense"]},
            {"to": "resnet20_cifar", "order": "append"},
            {"to": "resnet8_cifar", "level": 1},
        ],
        controls=["dense", "random"],
    )
    assert shape(plan(method, setting())) == {
        "pretrain": {},
        "level-00": {"ticket": "pretrain"},
        "mask-01": {"ticket": "pretrain", "trained": "level-00"},
        "level-01": {"ticket": "mask-01", "previous": "pretrain"},
        "mask-02": {"ticket": "mask-01", "trained": "level-01"},
        "level-02": {"ticket": "mask-02", "previous": "mask-01"},
        "dense-resnet14_cifar": {},
        "random-resnet14_cifar": {"ticket": "mask-02"},
        "transfer-resnet20_cifar": {"ticket": "mask-02"},
        "train-resnet20_cifar": {"ticket": "transfer-resnet20_cifar"},
        "random-resnet20_cifar": {"ticket": "transfer-resnet20_cifar"},
        "dense-resnet20_cifar": {},
        "transfer-resnet20_cifar-2": {"ticket": "mask-02"},
        "train-resnet20_cifar-2": {"ticket": "transfer-resnet20_cifar-2"},
        "transfer-resnet8_cifar-level-01": {"ticket": "mask-01"},
        "train-resnet8_cifar-level-01": {"ticket": "transfer-resnet8_cifar-level-01"},
    }


def test_every_job_comes_after_its_inputs() -> None:
    jobs = plan(imp(levels=6, transfers=[{"to": "resnet20_cifar"}], controls=["random"]), setting())
    seen: set[str] = set()
    for job in jobs:
        assert set(job.inputs.values()) <= seen
        seen.add(job.name)


def test_levels_are_prunings() -> None:
    names = shape(plan(imp(levels=0), setting()))
    assert list(names) == ["pretrain", "level-00"]


def test_dense_and_ticket_methods() -> None:
    assert shape(plan(DenseMethod(), setting())) == {"dense-resnet14_cifar": {}}
    assert shape(plan(TicketMethod(path="a.safetensors"), setting())) == {"train": {}}
    method = TicketMethod.model_validate({"path": "a.safetensors", "transfer": {"to": "resnet14_cifar"}})
    assert shape(plan(method, setting())) == {"transfer": {}, "train": {"ticket": "transfer"}}


def test_targets_train_the_target_network_with_the_same_recipe() -> None:
    jobs = {job.name: job for job in plan(imp(transfers=[{"to": "resnet20_cifar"}]), setting(epochs=7))}
    options = jobs["train-resnet20_cifar"].options
    assert isinstance(options, TrainJob)
    assert options.setting.model.arch == "resnet20_cifar"
    assert options.setting.train.epochs == 7


def test_data_order_differs_between_levels_unless_asked_not_to() -> None:
    def orders(method: ImpMethod) -> set[str]:
        return {job.options.data_order for job in plan(method, setting()) if isinstance(job.options, LevelJob)}

    assert orders(imp()) == {"level-00", "level-01", "level-02"}
    assert len(orders(imp(data_order="same"))) == 1


@pytest.mark.parametrize(
    "change",
    [{"lr": 0.2}, {"epochs": 8}, {"milestones": ("1ep",)}, {"precision": "bf16"}, {"eval_every": 2}],
    ids=str,
)
def test_identity_follows_what_determines_a_result(change: dict[str, Any]) -> None:
    before, after = identities(plan(imp(), setting())), identities(plan(imp(), setting(**change)))
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


@pytest.mark.parametrize(
    "change",
    [{"log_every": 3}, {"checkpoint_every": "7it"}, {"eval_batch": 10}, {"lr": 0.1}],
    ids=str,
)
def test_identity_ignores_what_cannot_change_a_result(change: dict[str, Any]) -> None:
    assert identities(plan(imp(), setting())) == identities(plan(imp(), setting(**change)))


def test_identity_of_a_prefix_does_not_depend_on_what_follows() -> None:
    short = identities(plan(imp(levels=1), setting()))
    longer = identities(plan(imp(levels=3, transfers=[{"to": "resnet20_cifar"}]), setting()))
    assert short.items() <= longer.items()


def test_identity_follows_the_inputs() -> None:
    one, other = identities(plan(imp(), setting())), identities(plan(imp(prune_fraction=0.3), setting()))
    same = {name for name in one if one[name] == other[name]}
    assert same == {"pretrain", "level-00"}


def test_identity_of_a_ticket_file_is_its_content() -> None:
    def identity(path: str, files: dict[str, str]) -> str:
        return identities(plan(TicketMethod(path=path), setting()), files)["train"]

    assert identity("a", {"a": "hash"}) == identity("b", {"b": "hash"})
    assert identity("a", {"a": "hash"}) != identity("a", {"a": "other"})
