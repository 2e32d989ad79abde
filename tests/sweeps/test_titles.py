"""What a plan and a status table call the jobs: different jobs differently, and by what differs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from elth_dist.sweeps.plan import Sweep, plan_sweep
from elth_dist.sweeps.titles import titles
from tests.helpers.ranks import REPOSITORY


def planned(folder: Path, experiments: Sequence[dict[str, Any]], **sections: Any) -> Sweep:
    path = folder / "tiny.yaml"
    recipe = str(REPOSITORY / "configs/quickstart_fast.yaml")
    path.write_text(yaml.safe_dump({"recipe": recipe, "experiments": list(experiments), **sections}))
    return plan_sweep(path)


def of_label(sweep: Sweep, label: str) -> list[str]:
    told = titles(sweep)
    return [told[name] for name, job in sweep.jobs.items() if job.label == label]


IMP = {"sources": ["resnet14_cifar"], "methods": [{"levels": 1, "controls": []}]}


def test_jobs_of_one_recipe_keep_their_plain_titles(tmp_path: Path) -> None:
    assert of_label(planned(tmp_path, [IMP]), "level-01") == ["level-01 (resnet14_cifar)"]


def test_an_option_of_the_training_is_told(tmp_path: Path) -> None:
    sweep = planned(tmp_path, [{**IMP, "grid": {"train.lr": [0.1, 0.01]}}])
    expected = [f"level-01 (resnet14_cifar) [train.lr {lr}]" for lr in (0.1, 0.01)]
    assert of_label(sweep, "level-01") == expected


def test_an_option_of_a_job_before_is_told(tmp_path: Path) -> None:
    """A level has no rewind step: the training to theta_r has."""
    sweep = planned(tmp_path, [{**IMP, "grid": {"method.rewind": [0, "1ep"]}}])
    expected = [f"level-01 (resnet14_cifar) [rewind {step}]" for step in ("0", "1ep")]
    assert of_label(sweep, "level-01") == expected


def test_a_transferred_ticket_tells_its_source(tmp_path: Path) -> None:
    nets = ["resnet14_cifar", "resnet20_cifar", "resnet26_cifar"]
    experiment = {"sources": nets[:2], "targets": [nets[2]], "methods": [{"levels": 1, "controls": []}]}
    expected = [f"train-{nets[2]} [model.arch {nets[2]} <- {source}]" for source in nets[:2]]
    assert of_label(planned(tmp_path, [experiment]), f"train-{nets[2]}") == expected


def test_numbered_names_give_way_to_what_differs(tmp_path: Path) -> None:
    experiment = {
        **IMP,
        "sources": ["resnet20_cifar"],
        "targets": ["resnet32_cifar"],
        "transfers": [{}, {"order": "append"}, {"units": [1]}],
    }
    told = titles(planned(tmp_path, [experiment]))
    assert sorted(title for title in told.values() if title.startswith("train-")) == [
        "train-resnet32_cifar [transfer.order append, transfer.units null]",
        "train-resnet32_cifar [transfer.order interpolate, transfer.units [1]]",
        "train-resnet32_cifar [transfer.order interpolate, transfer.units null]",
    ]


def test_an_option_that_tells_nothing_more_apart_is_left_out(tmp_path: Path) -> None:
    grid = {"train": [{"lr": 0.1}, {"lr": 0.01, "milestones": ["3ep"]}]}
    stability = {"consecutive": True}
    experiment = {**IMP, "methods": [{"levels": 1, "controls": [], "stability": stability}], "grid": grid}
    expected = [f"line-level-00-level-01 (resnet14_cifar) [train.lr {lr}]" for lr in (0.1, 0.01)]
    assert of_label(planned(tmp_path, [experiment]), "line-level-00-level-01") == expected


def test_kinds_are_told_by_their_names(tmp_path: Path) -> None:
    methods = [{"name": name, "density": 0.1} for name in ("rigl", "set")]
    sweep = planned(tmp_path, [{**IMP, "methods": methods}])
    assert of_label(sweep, "train") == [f"train (resnet14_cifar) [update {name}]" for name in ("rigl", "set")]


def test_a_control_is_told_beside_a_ticket_without_one(ticket_files: Path, tmp_path: Path) -> None:
    path = str(ticket_files / "runs/digits_ticket/mask-02/ticket.safetensors")
    methods = [{"name": "ticket", "path": path}, {"name": "ticket", "path": path, "control": "random"}]
    sweep = planned(tmp_path, [{**IMP, "methods": methods}])
    expected = [f"train (resnet14_cifar) [control {name}]" for name in ("null", "random")]
    assert of_label(sweep, "train") == expected


def test_a_data_order_is_told_where_nothing_else_differs(tmp_path: Path) -> None:
    sweep = planned(tmp_path, [{**IMP, "grid": {"method.data_order": ["per_level", "same"]}}])
    expected = [f"level-00 (resnet14_cifar) [data_order {order}]" for order in ("level-00", "level")]
    assert of_label(sweep, "level-00") == expected


def test_levels_are_not_taken_for_numbers(tmp_path: Path) -> None:
    told = titles(planned(tmp_path, [{**IMP, "methods": [{"levels": 11, "controls": []}]}]))
    assert {"level-10 (resnet14_cifar)", "level-11 (resnet14_cifar)"} <= set(told.values())


def test_seeds_have_no_titles_of_their_own(tmp_path: Path) -> None:
    sweep = planned(tmp_path, [{**IMP, "data_seeds": [0, 1]}], seeds=[0, 1])
    assert set(of_label(sweep, "level-01")) == {"level-01 (resnet14_cifar)"}


def test_no_two_different_jobs_of_a_shipped_sweep_are_called_the_same(shipped: Path) -> None:
    sweep = plan_sweep(shipped)
    told = titles(sweep)
    assert len(set(told.values())) == len({job.group for job in sweep.jobs.values()})
