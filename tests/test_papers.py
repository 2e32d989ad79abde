"""`make test-papers`: the three shortest twins of the papers' sweeps run by their own commands, and what they leave."""

import csv
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from elth_dist.jobs.kinds.distance import DistanceJob
from elth_dist.jobs.kinds.dynamic import DynamicJob
from elth_dist.jobs.kinds.line import LineJob
from elth_dist.jobs.kinds.train import TrainJob
from elth_dist.jobs.kinds.transfer import TransferJob
from elth_dist.sweeps.folder import SweepFolder
from elth_dist.sweeps.plan import Sweep, SweepJob, plan_sweep
from elth_dist.tickets.ticket import Ticket
from tests.helpers.ranks import REPOSITORY

NAMES = ("imagenet_table2", "cifar10_table3", "cifar10_connectivity")


class Finished:
    """A twin that has run."""

    def __init__(self, name: str, folder: Path) -> None:
        self.sweep: Sweep = plan_sweep(REPOSITORY / f"configs/sweeps/digits/{name}.yaml")
        self.folder = SweepFolder(folder / "runs/sweeps" / name)

    def metrics(self, name: str) -> Mapping[str, Any]:
        return self.folder.job(name).read().metrics

    def ticket(self, name: str) -> Ticket:
        return Ticket.load(self.folder.job(name).ticket)

    def jobs(self, label: str) -> list[SweepJob]:
        return [job for job in self.sweep.jobs.values() if job.label == label]

    def of_kind(self, kind: type[Any]) -> list[SweepJob]:
        return [job for job in self.sweep.jobs.values() if isinstance(job.job.options, kind)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    folder = tmp_path_factory.mktemp("papers")
    command = [sys.executable, str(REPOSITORY / "launch/papers.py"), "--dir", str(folder), *NAMES]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert [line.split()[:2] for line in lines[: len(NAMES)]] == [["ok", name] for name in NAMES]
    assert lines[-1] == "3 of 3 twins are whole"
    return {name: Finished(name, folder) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_planned_job_is_done_and_every_training_has_a_row(finished: dict[str, Finished], name: str) -> None:
    twin = finished[name]
    trained = set()
    for job in twin.sweep.jobs:
        metrics = twin.metrics(job)
        if "top1" in metrics and twin.sweep.jobs[job].job.options.folder != "pretrain":
            trained.add(job)
            assert 0 <= metrics["top1"] <= metrics["top5"] <= 1
            assert metrics["train_flops"] > 0
    with twin.folder.results.with_suffix(".csv").open() as file:
        assert {row["job"] for row in csv.DictReader(file)} == trained


@pytest.mark.parametrize("name", NAMES)
def test_levels_keep_exactly_half_of_the_weights_before(finished: dict[str, Finished], name: str) -> None:
    twin = finished[name]
    masks = [job for job in twin.sweep.jobs.values() if job.label.startswith("mask-")]
    assert masks
    for job in masks:
        after, before = twin.ticket(job.name).masks, twin.ticket(job.job.inputs["ticket"]).masks
        assert after.kept == before.kept - -(-before.kept // 2)
        assert all(bool((before[layer] | ~mask).all()) for layer, mask in after.items()), "nothing pruned comes back"


def test_moved_tickets_have_the_density_that_they_say(finished: dict[str, Finished]) -> None:
    for twin in finished.values():
        for job in twin.of_kind(TransferJob):
            ticket = twin.ticket(job.name)
            assert ticket.arch == job.job.options.transfer.to
            assert twin.metrics(job.name)["density"] == pytest.approx(ticket.masks.kept / ticket.masks.total, abs=1e-12)
            source = twin.ticket(job.job.inputs["ticket"])
            assert ticket.density == pytest.approx(source.density, rel=0.35)


def test_controls_have_their_tickets_density(finished: dict[str, Finished]) -> None:
    twin = finished["cifar10_connectivity"]
    controls = [job for job in twin.of_kind(TrainJob) if job.job.options.alteration is not None]
    assert {job.label for job in controls} == {"random-resnet14_cifar", "random-resnet14_cifar-order-1"}
    for job in controls:
        own, its = twin.ticket(job.name).masks, twin.ticket(job.job.inputs["ticket"]).masks
        assert own.kept == its.kept
        assert own.densities == its.densities
        assert own.hashes() != its.hashes()


def test_rigl_meets_its_density_and_trains_as_long_as_asked(finished: dict[str, Finished]) -> None:
    twin = finished["imagenet_table2"]
    found = {}
    for job in twin.of_kind(DynamicJob):
        metrics, options = twin.metrics(job.name), job.job.options
        assert metrics["density"] == pytest.approx(options.density, rel=0.02)
        found[options.setting.model.arch, options.update.multiplier] = metrics["samples"]
    epoch = 1442 // 64 * 64
    nets = ("resnet14_cifar", "resnet20_cifar")
    assert found == {(net, times): times * epoch for net in nets for times in (1, 5)}


def test_dpf_and_the_dense_networks_of_both_recipes(finished: dict[str, Finished]) -> None:
    twin = finished["cifar10_table3"]
    kept = {job.job.options.density: twin.metrics(job.name)["density"] for job in twin.of_kind(DynamicJob)}
    assert kept == {0.5: pytest.approx(0.5, rel=1e-3), 0.25: pytest.approx(0.25, rel=1e-3)}
    dense = twin.jobs("dense-resnet20_cifar")
    assert sorted(twin.metrics(job.name)["samples"] for job in dense) == [22 * 64, 2 * 22 * 64]


def test_a_lines_ends_are_the_networks_themselves(finished: dict[str, Finished]) -> None:
    twin = finished["cifar10_connectivity"]
    lines = twin.of_kind(LineJob)
    assert len(lines) == 4
    for job in lines:
        measured = twin.metrics(job.name)
        error = measured["line"]["val_running"]["error"]
        assert measured["line"]["alphas"] == [0.0, 0.5, 1.0]
        ends = [1 - twin.metrics(job.job.inputs[role])["top1"] for role in ("one", "other")]
        assert [error[0], error[-1]] == pytest.approx(ends, abs=1e-9)
        assert measured["barriers"]["val_running"]["frankle"] == pytest.approx(max(error) - sum(ends) / 2, abs=1e-9)


def test_two_data_orders_end_apart_on_the_same_masks(finished: dict[str, Finished]) -> None:
    twin = finished["cifar10_connectivity"]
    for job in twin.of_kind(DistanceJob):
        matrix = twin.metrics(job.name)["distance"]["total"]["l2"]
        assert matrix[0][0] == matrix[1][1] == 0 < matrix[1][0]
        one, other = (twin.ticket(job.job.inputs[f"network_{number}"]).masks for number in (0, 1))
        assert one.hashes() == other.hashes()


def test_a_twin_that_does_not_exist_is_named(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "launch/papers.py"), "--dir", str(tmp_path), "nowhere"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "no twin nowhere; valid are cifar10_ablation" in run.stderr
