"""Costs before the first step: samples of each job, sparse FLOPs, and what sharing saves."""

from pathlib import Path

import pytest
import yaml

from elth_dist.sweeps.plan import plan_sweep
from elth_dist.sweeps.predict import Cost, Predictor
from tests.helpers.ranks import REPOSITORY

PATH = REPOSITORY / "configs/sweeps/imagenet_table1.yaml"


def test_costs_of_table_1() -> None:
    sweep = plan_sweep(PATH)
    predictor = Predictor(sweep, {}, {"resnet18": 1000.0, "resnet26": 1000.0, "resnet34": 1000.0})
    costs = {(job.label, job.config.model.arch): predictor.cost(name) for name, job in sweep.jobs.items()}
    samples = 1_281_167 // 1024 * 1024  # an epoch
    dense = costs["dense-resnet26", "resnet26"]
    assert dense.gpu_hours == pytest.approx(90 * samples / 1000 / 3600)
    assert dense.flops == pytest.approx(90 * samples * 3 * 2 * 2.739e9, rel=1e-3)
    pretrain, level, last = (costs[name, "resnet26"] for name in ("pretrain", "level-00", "level-06"))
    assert pretrain.flops == pytest.approx(dense.flops * 5 / 90)
    assert level.flops == pytest.approx(dense.flops * 85 / 90)
    assert last.flops == pytest.approx(level.flops * 0.8**6)
    assert costs["transfer-resnet34", "resnet26"].flops == 0.0
    assert costs["grasp-resnet26", "resnet26"].flops == pytest.approx(last.flops)


def test_measured_figures_replace_predicted_ones() -> None:
    sweep = plan_sweep(PATH)
    name = next(name for name, job in sweep.jobs.items() if job.label == "level-06")
    assert Predictor(sweep, {name: {"train_flops": 5.0, "density": 0.1}}, {}).cost(name).flops == 5.0


def test_nothing_is_made_up_where_nothing_is_known() -> None:
    sweep = plan_sweep(PATH)
    assert Predictor(sweep, {}, {}).cost(sweep.finals[0]).gpu_hours is None
    assert Predictor(sweep, {}, {}).alone().gpu_hours is None


def test_what_trains_nothing_costs_nothing(tmp_path: Path) -> None:
    """The initialisation as theta_r, lines and distances: the sum is known."""
    path = tmp_path / "tiny.yaml"
    method = {"levels": 1, "rewind": 0, "controls": [], "stability": {"consecutive": True}}
    experiments = [{"sources": ["resnet14_cifar"], "methods": [method]}]
    recipe = str(REPOSITORY / "configs/quickstart_fast.yaml")
    path.write_text(yaml.safe_dump({"recipe": recipe, "experiments": experiments}))
    sweep = plan_sweep(path)
    predictor = Predictor(sweep, {}, {"resnet14_cifar": 1000.0})
    costs = {job.label: predictor.cost(name) for name, job in sweep.jobs.items()}
    for free in ("pretrain", "mask-01", "line-level-00-level-01", "distance-levels"):
        assert costs[free] == Cost(0.0, 0.0)
    assert costs["level-00"].gpu_hours == pytest.approx(6 * (1442 // 64) * 64 / 1000 / 3600)
    whole = Cost.total(costs.values())
    assert whole.flops == pytest.approx(
        costs["level-00"].flops + costs["level-01"].flops + costs["level-01-order-1"].flops
    )
