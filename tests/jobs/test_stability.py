"""Controls at any level, several data orders per ticket, and what is compared between them."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from elth_dist.config import Config, read_yaml
from elth_dist.errors import UserError
from elth_dist.jobs.plan import make_plan
from elth_dist.tickets import Ticket
from elth_dist.tickets.weights import load_weights
from tests.helpers.ranks import REPOSITORY
from tests.helpers.runs import BASE, run, start

QUICKSTART = read_yaml(REPOSITORY / "configs/quickstart_fast.yaml")


def planned(**method: Any) -> dict[str, Any]:
    config = Config(**{**QUICKSTART, "method": {"name": "imp", "levels": 2, **method}})
    return {job.name: job for job in make_plan(config.method, config.setting).jobs}


def test_controls_at_several_levels() -> None:
    jobs = planned(controls=["random"], controls_at=[{"levels": [0, 1], "controls": ["magnitude", "rigl"]}])
    assert jobs["random-resnet14_cifar"].inputs == {"ticket": "mask-02"}
    assert jobs["rigl-resnet14_cifar-level-01"].inputs == {"like": "mask-01"}
    assert jobs["rigl-resnet14_cifar-level-00"].inputs == {"like": "pretrain"}
    assert jobs["mask-magnitude-resnet14_cifar-level-01"].inputs == {"ticket": "pretrain", "like": "mask-01"}


def test_transfers_of_several_levels_are_those_of_each() -> None:
    both = planned(transfers=[{"to": "resnet20_cifar", "level": [1, 2], "controls": ["random"]}])
    each = planned(transfers=[{"to": "resnet20_cifar", "level": level, "controls": ["random"]} for level in (1, 2)])
    assert {name: job.identity for name, job in both.items()} == {name: job.identity for name, job in each.items()}
    assert "random-resnet20_cifar-level-01" in both


def test_rules_that_give_the_same_plan_are_one_job() -> None:
    rules = [{}, {"order": "append"}, {"units": [1]}, {"plan": "0:0;1:1,2"}]
    jobs = planned(transfers=[{"to": "resnet20_cifar", **rule, "controls": ["random"]} for rule in rules])
    assert [name for name in jobs if "resnet20" in name] == [
        "transfer-resnet20_cifar",
        "train-resnet20_cifar",
        "random-resnet20_cifar",
    ]


def test_other_plans_are_other_jobs() -> None:
    method = {
        "name": "imp",
        "levels": 1,
        "transfers": [{"to": "resnet32_cifar"}, {"to": "resnet32_cifar", "order": "append"}],
    }
    config = Config(**{**QUICKSTART, "model": {"arch": "resnet20_cifar"}, "method": method})
    names = [job.name for job in make_plan(config.method, config.setting).jobs]
    assert {"transfer-resnet32_cifar", "transfer-resnet32_cifar-2", "train-resnet32_cifar-2"} <= set(names)


def test_orders_lines_and_distances() -> None:
    more = {"controls": ["random"], "transfers": [{"to": "resnet20_cifar", "controls": ["reinit", "random"]}]}
    plain, jobs = (
        planned(**more),
        planned(**more, stability={"orders": 3, "of": ["ticket", "random"], "levels": [0, 2]}),
    )
    assert {name: jobs[name].identity for name in plain} == {name: job.identity for name, job in plain.items()}
    added = set(jobs) - set(plain)
    of = ("level-00", "level-02", "train-resnet20_cifar", "random-resnet14_cifar", "random-resnet20_cifar")
    assert added == {
        f"{prefix}{name}{suffix}"
        for name in of
        for prefix, suffix in (
            *(("", f"-order-{order}") for order in (1, 2)),
            *(("line-", f"-orders-{pair}") for pair in ("0-1", "0-2", "1-2")),
            ("distance-", ""),
        )
    }
    assert jobs["level-02-order-1"].inputs == jobs["level-02"].inputs
    assert jobs["line-level-02-orders-1-2"].inputs == {"one": "level-02-order-1", "other": "level-02-order-2"}


def test_lines_between_levels() -> None:
    jobs = planned(stability={"orders": 1, "consecutive": True})
    assert jobs["line-level-00-level-01"].inputs == {"one": "level-00", "other": "level-01"}
    assert list(jobs["distance-levels"].inputs.values()) == ["level-00", "level-01", "level-02"]
    assert not any("order" in name for name in jobs)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"controls_at": [{"levels": [3], "controls": ["random"]}]}, "controls_at.0.levels 3: the method has levels"),
        ({"transfers": [{"to": "resnet20_cifar", "level": [1, 4]}]}, "transfers.0.level 4: the method has levels"),
        ({"stability": {"levels": [7]}}, "stability.levels 7: the method has levels 0 to 2"),
        ({"stability": {"of": ["random"]}}, "stability.of: 'random' is none of ticket"),
    ],
)
def test_mistakes_are_named(method: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        planned(**method)


STABLE = [
    *BASE,
    "--method.levels=1",
    "--method.rewind=2it",
    "--method.transfers=[]",
    "--method.controls=[random]",
    '--method.stability={"of": ["ticket", "random"], "consecutive": true, "line": {"alphas": 40, "train_batches": 1}}',
]


def test_a_run_of_it_stopped_in_a_line_and_continued(tmp_path: Path) -> None:
    """The masks of a control stay in another data order; a stopped line goes on with its next point."""
    folder = tmp_path / "run"
    with start(folder, 2, base=STABLE) as running:
        running.wait_for_output(0, "random-resnet14_cifar-order-1: done")
        running.signal(0, signal.SIGTERM)
        running.finish()
    run(folder, 2, base=STABLE)
    metrics = json.loads((folder / "line-random-resnet14_cifar/result.json").read_text())["metrics"]
    line = metrics["line"]
    assert len(line["alphas"]) == len(line["val_running"]["error"]) == 40
    assert line["alphas"][0] == 0.0
    assert line["alphas"][-1] == 1.0
    ends = [
        json.loads((folder / name / "result.json").read_text())["metrics"]
        for name in ("random-resnet14_cifar", "random-resnet14_cifar-order-1")
    ]
    for end, found in zip(ends, (line["val_running"]["error"][0], line["val_running"]["error"][-1]), strict=True):
        assert 1 - end["top1"] == pytest.approx(found, abs=1e-9)
    assert metrics["barriers"]["val_running"]["frankle"] >= -1e-9
    one, other = (
        Ticket.load(folder / name / "ticket.safetensors")
        for name in ("random-resnet14_cifar", "random-resnet14_cifar-order-1")
    )
    assert one.masks == other.masks
    weights = [
        load_weights(folder / name / "trained.safetensors")
        for name in ("random-resnet14_cifar", "random-resnet14_cifar-order-1")
    ]
    assert not weights[0]["conv1.weight"].equal(weights[1]["conv1.weight"])
    distance = json.loads((folder / "distance-levels/result.json").read_text())["metrics"]["distance"]
    assert distance["labels"] == ["level-00", "level-01"]
    assert distance["total"]["l2"][0] == [0.0]
    assert distance["total"]["l2"][1][0] > 0
