"""Records of real runs: everything that tells two results apart is in them, in the table, the CSV and the curves."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from elth_dist.config import read_config
from elth_dist.jobs.plan import make_plan
from elth_dist.jobs.report import done_in, read_results
from elth_dist.reporting.figures.accuracy import curves_of
from elth_dist.reporting.records import Record, Results, experiments, to_csv, to_json
from elth_dist.reporting.tables import results_table, short_table
from elth_dist.runtime.run_directory import RunDirectory
from elth_dist.train import main
from tests.helpers.runs import BASE

#: Two transfers in two orders, one of them from two levels, and RigL with two intervals: all with equal titles.
ALIKE = [
    *BASE,
    "--model.arch=resnet20_cifar",
    "--run.name=alike",
    "--train.bn=running",
    "--data.loader=resident",
    "--train.epochs=1",
    "--train.milestones=[]",
    "--method.levels=2",
    "--method.rewind=2it",
    (
        "--method.transfers=[{to: resnet32_cifar}, {to: resnet32_cifar, order: append}, {to: resnet32_cifar, level: 1},"
        " {to: resnet14_cifar, squeeze: strided}]"
    ),
    "--method.controls=[{name: rigl, delta_t: 4}, {name: rigl, delta_t: 8}, snip, random]",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alike") / "run"
    assert main([*ALIKE, "--run.dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    config = read_config(ALIKE).config
    plan = make_plan(config.method, config.setting)
    return read_results(done_in(plan.jobs, plan.groups, RunDirectory(folder)), run="alike")


@pytest.fixture(scope="module")
def records(results: Results) -> dict[str, Record]:
    return {record.job: record for record in results.records}


def test_a_record_says_where_a_network_comes_from(records: dict[str, Record], folder: Path) -> None:
    moved = records["train-resnet32_cifar-2"]
    assert (moved.method, moved.what, moved.arch) == ("ett", "ETT <- resnet20_cifar", "resnet32_cifar")
    assert (moved.source, moved.source_level, moved.level) == ("resnet20_cifar", 2, 2)
    assert (moved.order, moved.squeeze, moved.units) == ("append", "first", "none")
    assert moved.plan == "0:0;1:1,3;2:2,4|0:0;1:1,3;2:2,4|0:0;1:1,3;2:2,4"
    assert records["train-resnet32_cifar-level-01"].source_level == 1
    assert records["train-resnet14_cifar"].squeeze == "strided"
    rigl = records["rigl-resnet20_cifar"]
    assert (rigl.method, rigl.level, rigl.source, rigl.plan) == ("rigl", 2, None, None)
    assert rigl.option("update.delta_t") == "4"
    assert records["snip-resnet20_cifar"].level == 2, "of the ticket that it is compared with"
    level = records["level-02"]
    assert (level.method, level.level, level.option("prune_fraction")) == ("imp", 2, "0.6")
    metrics = json.loads((folder / "level-02/result.json").read_text())["metrics"]
    assert (level.density, level.layer_densities) == (metrics["density"], metrics["layer_densities"])
    assert level.overlap == pytest.approx(0.4, abs=1e-4), "0.6 of the weights go"
    assert level.layer_overlaps.keys() == level.layer_densities.keys()
    assert (level.dataset, level.classes, level.seed, level.data_seed) == ("digits", 10, 0, None)


def test_no_two_rows_look_alike(results: Results) -> None:
    labels = [(entry.label, entry.first.arch, entry.first.level) for entry in experiments(results.records)]
    assert len(set(labels)) == len(labels) == len(results.records)
    assert ("ETT <- resnet20_cifar, order append", "resnet32_cifar", 2) in labels
    assert ("ETT <- resnet20_cifar, order interpolate", "resnet32_cifar", 2) in labels, "a default is said too"
    assert ("ETT <- resnet20_cifar, order interpolate", "resnet32_cifar", 1) in labels
    assert ("ETT <- resnet20_cifar", "resnet14_cifar", 2) in labels, "the only one on its network"
    assert ("RigL, delta_t 4", "resnet20_cifar", 2) in labels
    assert ("RigL, delta_t 8", "resnet20_cifar", 2) in labels


def test_curves_join_levels_and_keep_options_apart(results: Results) -> None:
    deeper = [record for record in results.records if record.arch == "resnet32_cifar"]
    curves = {curve.label: len(curve.points) for curve in curves_of(deeper)}
    assert curves == {
        "ETT <- resnet20_cifar, order interpolate": 2,
        "ETT <- resnet20_cifar, order append": 1,
    }
    [imp] = [curve for curve in curves_of(results.records) if curve.method == "imp"]
    assert [point.x for point in imp.points] == [record.density for record in results.records if record.method == "imp"]


def test_table_and_csv_carry_everything(results: Results, folder: Path) -> None:
    table = results_table(results.records)
    for record, row in zip(results.records, table.rows, strict=True):
        cells = dict(zip(table.headings, row, strict=True))
        assert cells["jobs"] == record.job
        assert cells["plan"] == (record.plan or "-")
        assert cells["source"] == (record.source or "-")
        assert cells["density"] == f"{record.density:.5f}"
    rules = {dict(zip(table.headings, row, strict=True))["rule"] for row in table.rows}
    assert rules == {"-", "interpolate", "append", "keep strided"}
    assert (folder / "report.csv").read_text() == to_csv(results.records)
    lines = {line["job"]: line for line in csv.DictReader(to_csv(results.records).splitlines())}
    assert lines["train-resnet32_cifar-2"]["distinguishing"] == "order=append"
    assert lines["rigl-2-resnet20_cifar" if "rigl-2-resnet20_cifar" in lines else "rigl-resnet20_cifar-2"][
        "distinguishing"
    ] == ("delta_t=8")
    for line in lines.values():
        assert int(line["history_flops"]) >= int(line["train_flops"]) > 0
        assert line["seed"] == "0"
    read = json.loads(to_json(results))
    assert [record["job"] for record in read["records"]] == list(lines)


def test_seeds_are_put_together(results: Results) -> None:
    other = [
        dataclasses.replace(record, seed=1, identity=f"{record.identity}-1", top1=record.top1 + 0.02, job="other")
        for record in results.records
    ]
    found = experiments([*results.records, *other])
    assert len(found) == len(results.records)
    for experiment, record in zip(found, results.records, strict=True):
        assert experiment.accuracy == pytest.approx(record.top1 + 0.01)
        assert experiment.deviation == pytest.approx(0.02 / 2**0.5)
    assert len(experiments([*results.records, *results.records])) == len(results.records), "a job counts once"
    assert all(len(experiment.records) == 1 for experiment in experiments([*results.records, *results.records]))


def test_which_batchnorm_counts_and_what_is_warned_of(results: Results) -> None:
    first = dataclasses.replace(results.records[0], top1=0.5, reestimated_top1=0.9, top5=0.6, reestimated_top5=0.95)
    assert (first.accuracy, first.other_accuracy, first.accuracy5, first.bn_matters) == (0.5, 0.9, 0.6, True)
    counted = dataclasses.replace(first, bn="reestimated")
    assert (counted.accuracy, counted.other_accuracy, counted.accuracy5) == (0.9, 0.5, 0.95)
    old = dataclasses.replace(first, bn="reestimated", reestimated_top1=None, reestimated_top5=None)
    assert (old.accuracy, old.other_accuracy, old.flags) == (0.5, None, [])
    diverged = dataclasses.replace(first, diverged=True)
    assert diverged.flags == ["diverged", "BN"]
    table = short_table([diverged])
    assert table.rows[0][3:5] == ("50.00!", "90.00")
    assert len(table.notes) == 2
    assert "re-estimating BatchNorm statistics moves top-1 by more than a point: IMP (resnet20_cifar)" in table.notes[1]
    assert short_table([dataclasses.replace(first, reestimated_top1=0.505)]).notes == ()
    assert short_table([counted]).headings[4] == "running %"


def test_chance_is_flagged(results: Results) -> None:
    assert "at chance" in dataclasses.replace(results.records[0], top1=0.1).flags
    assert "at chance" not in dataclasses.replace(results.records[0], top1=0.2).flags
