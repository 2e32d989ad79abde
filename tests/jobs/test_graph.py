"""A method as a graph: golden plans, and identities that change exactly when the result may."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from elth_dist.data import data_options
from elth_dist.jobs.graph import Graph, Job
from elth_dist.jobs.kinds.dynamic import DynamicJob
from elth_dist.jobs.kinds.imp import LevelJob
from elth_dist.jobs.kinds.prune import PruneJob
from elth_dist.jobs.kinds.train import TrainJob
from elth_dist.jobs.methods import AnyMethod, Method
from elth_dist.jobs.methods.dense import DenseMethod
from elth_dist.jobs.methods.imp import ImpMethod
from elth_dist.jobs.methods.ticket import TicketMethod
from elth_dist.jobs.setting import Setting
from elth_dist.models.options import ModelOptions
from elth_dist.training.options import TrainOptions


def setting(**train: Any) -> Setting:
    return Setting(
        model=ModelOptions(arch="resnet14_cifar"), data=data_options(name="digits"), train=TrainOptions(**train)
    )


def imp(**options: Any) -> ImpMethod:
    return ImpMethod.model_validate({"levels": 2, "rewind": "1ep", **options})


def plan(method: Method, setting: Setting, files: dict[str, str] | None = None) -> list[Job]:
    graph = Graph(files)
    method.plan(graph, setting)
    return graph.jobs


def identities(jobs: list[Job]) -> dict[str, str]:
    return {job.name: job.identity for job in jobs}


def shape(jobs: list[Job]) -> dict[str, dict[str, str]]:
    return {job.name: dict(job.inputs) for job in jobs}


def test_imp_with_transfers_and_controls() -> None:
    method = imp(
        transfers=[
            {"to": "resnet20_cifar", "controls": ["random", "dense"]},
            {"to": "resnet20_cifar", "order": "append", "level": 1},
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
        "transfer-resnet20_cifar-level-01": {"ticket": "mask-01"},
        "train-resnet20_cifar-level-01": {"ticket": "transfer-resnet20_cifar-level-01"},
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


CRITERIA = ["magnitude", "snip", "grasp", "synflow"]


def method(**options: Any) -> Any:
    return TypeAdapter[Any](AnyMethod).validate_python(options)


@pytest.mark.parametrize("name", [*CRITERIA, "random"])
def test_methods_that_prune_at_the_rewinding_weights(name: str) -> None:
    jobs = plan(method(name=name, density=0.1, rewind="1ep"), setting())
    assert shape(jobs) == {"pretrain": {}, "mask": {"ticket": "pretrain"}, "train": {"ticket": "mask"}}
    pruning = jobs[1].options
    assert isinstance(pruning, PruneJob)
    assert pruning.folder == "mask"
    assert (pruning.criterion.name, pruning.density, pruning.path) == (name, 0.1, None)
    chosen = method(name=name, like="a.safetensors", matched="layerwise", rewind="1ep")
    like = plan(chosen, setting())
    assert shape(like) == shape(jobs)
    assert identities(like)["pretrain"] == identities(jobs)["pretrain"]
    assert identities(like)["mask"] != identities(plan(chosen, setting(), {"a.safetensors": "hash"}))["mask"]


UPDATES = ["rigl", "set", "snfs", "gradual", "dpf"]


@pytest.mark.parametrize("name", UPDATES)
def test_methods_that_change_masks_are_one_training(name: str) -> None:
    [job] = plan(method(name=name, density=0.1, multiplier=5), setting())
    assert (job.name, dict(job.inputs)) == ("train", {})
    assert isinstance(job.options, DynamicJob)
    assert (job.options.update.name, job.options.update.multiplier, job.options.density) == (name, 5, 0.1)
    chosen = method(name=name, like="a.safetensors")
    assert identities(plan(chosen, setting())) != identities(plan(chosen, setting(), {"a.safetensors": "hash"}))


def test_controls_that_change_masks_look_at_the_ticket_for_its_density() -> None:
    controls = [*UPDATES, {"name": "rigl", "multiplier": 5}, {"name": "rigl", "distribution": "erk"}]
    found = shape(plan(imp(levels=0, controls=controls), setting()))
    ours = {name: inputs for name, inputs in found.items() if "like" in inputs}
    names = [*(f"{name}-resnet14_cifar" for name in UPDATES), "rigl-5x-resnet14_cifar", "rigl-resnet14_cifar-2"]
    assert ours == {name: {"like": "pretrain"} for name in names}


def test_reinit_takes_everything_but_weights_from_its_ticket() -> None:
    [job] = plan(method(name="reinit", like="a.safetensors"), setting())
    [same] = plan(method(name="ticket", path="a.safetensors", control="reinit"), setting())
    assert job == same


def test_controls_prune_beside_the_ticket_and_on_each_target() -> None:
    beside = ["dense", "random", "reinit", "random_reinit", *CRITERIA]
    found = shape(
        plan(
            imp(
                levels=1,
                controls=beside,
                transfers=[
                    {"to": "resnet20_cifar", "controls": [*beside, "shuffled_copies", "snip_copies"]},
                    {"to": "resnet20_cifar", "order": "append", "level": 0, "controls": ["snip"]},
                ],
            ),
            setting(),
        )
    )
    own = {
        "dense-resnet14_cifar": {},
        **{f"{name}-resnet14_cifar": {"ticket": "mask-01"} for name in ("random", "reinit", "random_reinit")},
    }
    for name in CRITERIA:
        own[f"mask-{name}-resnet14_cifar"] = {"ticket": "pretrain", "like": "mask-01"}
        own[f"{name}-resnet14_cifar"] = {"ticket": f"mask-{name}-resnet14_cifar"}
    moved = "transfer-resnet20_cifar"
    target = {
        moved: {"ticket": "mask-01"},
        "train-resnet20_cifar": {"ticket": moved},
        "dense-resnet20_cifar": {},
        **{f"{name}-resnet20_cifar": {"ticket": moved} for name in ("random", "reinit", "random_reinit")},
        "pretrain-resnet20_cifar": {},
    }
    for name in CRITERIA:
        target[f"mask-{name}-resnet20_cifar"] = {"ticket": "pretrain-resnet20_cifar", "like": moved}
        target[f"{name}-resnet20_cifar"] = {"ticket": f"mask-{name}-resnet20_cifar"}
    target["shuffled_copies-resnet20_cifar"] = {"ticket": moved}
    target["mask-snip_copies-resnet20_cifar"] = {"ticket": moved, "like": moved}
    target["snip_copies-resnet20_cifar"] = {"ticket": "mask-snip_copies-resnet20_cifar"}
    other = {
        f"{moved}-level-00": {"ticket": "pretrain"},
        "train-resnet20_cifar-level-00": {"ticket": f"{moved}-level-00"},
        "mask-snip-resnet20_cifar-level-00": {"ticket": "pretrain-resnet20_cifar", "like": f"{moved}-level-00"},
        "snip-resnet20_cifar-level-00": {"ticket": "mask-snip-resnet20_cifar-level-00"},
    }
    chain = ["pretrain", "level-00", "mask-01", "level-01"]
    assert list(found) == [*chain, *own, *target, *other]
    assert {name: inputs for name, inputs in found.items() if name not in chain} == own | target | other


def test_one_control_with_different_options_is_two_experiments() -> None:
    controls = ["snip", {"name": "snip", "batches": 4}, "snip", {"name": "snip", "matched": "global"}]
    names = list(shape(plan(imp(levels=0, controls=controls), setting())))
    arch = "resnet14_cifar"
    assert names[2:] == [f"mask-snip-{arch}", f"snip-{arch}", f"mask-snip-{arch}-2", f"snip-{arch}-2"]


def test_controls_on_a_target_of_the_same_network_share_its_theta_r() -> None:
    transfers = [{"to": "resnet14_cifar", "controls": ["random", "magnitude"]}]
    found = shape(plan(imp(levels=1, controls=["random"], transfers=transfers), setting()))
    assert found["mask-magnitude-resnet14_cifar"] == {"ticket": "pretrain", "like": "transfer-resnet14_cifar"}
    assert found["random-resnet14_cifar"] == {"ticket": "mask-01"}
    assert found["random-resnet14_cifar-2"] == {"ticket": "transfer-resnet14_cifar"}


def test_masks_of_copies_from_a_ticket_file() -> None:
    jobs = plan(method(name="ticket", path="a", control="snip_copies"), setting())
    assert shape(jobs) == {"mask": {}, "train": {"ticket": "mask"}}
    moved = method(name="ticket", path="a", control="snip_copies", transfer={"to": "resnet14_cifar"})
    jobs = plan(moved, setting())
    assert shape(jobs) == {
        "transfer": {},
        "mask": {"ticket": "transfer", "like": "transfer"},
        "train": {"ticket": "mask"},
    }
    assert identities(jobs)["mask"] != identities(plan(moved, setting(), {"a": "hash"}))["mask"]


def test_controls_leave_the_identities_of_everything_else_alone() -> None:
    plain = identities(plan(imp(transfers=[{"to": "resnet20_cifar"}]), setting()))
    transfers = [{"to": "resnet20_cifar", "controls": ["snip", "shuffled_copies"]}]
    assert plain.items() <= identities(plan(imp(transfers=transfers, controls=["grasp"]), setting())).items()


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
        return identities(plan(TicketMethod(path=path), setting(), files))["train"]

    assert identity("a", {"a": "hash"}) == identity("b", {"b": "hash"})
    assert identity("a", {"a": "hash"}) != identity("a", {"a": "other"})
