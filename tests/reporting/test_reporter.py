import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util.tensor_util import make_ndarray

from elth_dist.reporting.metrics_file import read
from elth_dist.reporting.reporter import ABOUT, LEVELS, Reporter, tag_of
from elth_dist.sparsity.masks import Masks


def open_reporter(
    folder: Path, *, interactive: bool = False, stream: io.StringIO | None = None, texts: dict[str, str] | None = None
) -> Reporter:
    return Reporter(
        folder / "metrics.jsonl",
        lambda job: folder / "tensorboard" / job,
        enabled=True,
        interactive=interactive,
        stream=stream or io.StringIO(),
        texts=texts,
        run="a run",
    )


def events(folder: Path, job: str) -> EventAccumulator:
    everything = {"scalars": 0, "images": 0, "histograms": 0, "compressedHistograms": 0, "tensors": 0}
    accumulator = EventAccumulator(str(folder / "tensorboard" / job), size_guidance=everything)
    accumulator.Reload()
    return accumulator


def series(folder: Path, job: str) -> dict[str, list[tuple[int, float]]]:
    found = events(folder, job)
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def rows_without_clock(folder: Path) -> list[str]:
    rows = [
        {k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))}
        for row in read(folder / "metrics.jsonl")
    ]
    return [json.dumps(row) for row in rows]


def next_second() -> None:
    """TensorBoard reads event files in the order of their names, which begin with the second of their creation."""
    time.sleep(1.01 - time.time() % 1)


TOTAL, EPOCH = 12, 4


def start(reporter: Reporter, job: str, *, step: int = 0, keep_rows: int = 0) -> None:
    reporter.start_job(
        job, title="a test", start_step=step, total_steps=TOTAL, steps_per_epoch=EPOCH, keep_rows=keep_rows
    )


def train(reporter: Reporter, first: int, stop: int, *, checkpoint_at: int = -1) -> int:
    """Report steps first + 1 to stop as a training loop does, with a checkpoint before the evaluation; its rows()."""
    rows = -1
    for step in range(first + 1, stop + 1):
        values = {"train/loss": 1 / step, "train/lr": 0.1, "time/images_per_second": time.perf_counter()}
        reporter.scalars(step, step / EPOCH, values)
        reporter.progress(step, values)
        if step == checkpoint_at:
            rows = reporter.rows()
        if step % EPOCH == 0:
            reporter.scalars(step, step / EPOCH, {"val/top1": step / 100})
    return rows


@pytest.fixture
def ticket() -> tuple[Masks, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        "conv1.weight": torch.randn(8, 3, 3, 3, generator=generator),
        "fc.weight": torch.randn(10, 8, generator=generator),
        "fc.bias": torch.zeros(10),
    }
    masks = {name: weights[name].abs() > 0.6 for name in ("conv1.weight", "fc.weight")}
    return Masks(masks), weights


@pytest.mark.parametrize("interactive", [False, True])
def test_scalars_reach_metrics_and_tensorboard(tmp_path, interactive):
    with open_reporter(tmp_path, interactive=interactive) as reporter:
        for job in ("level-00", "level-01"):
            start(reporter, job)
            train(reporter, 0, TOTAL)
            assert reporter.rows() == TOTAL + TOTAL // EPOCH
            reporter.finish_job()
    rows = read(tmp_path / "metrics.jsonl")
    assert [row["job"] for row in rows] == ["level-00"] * 15 + ["level-01"] * 15
    found = series(tmp_path, "level-01")
    assert found.keys() == {"loss/train", "optimizer/lr", "speed/images_per_second", "speed/epoch", "accuracy/val_top1"}
    tags = {tag_of(name): name for name in ("train/loss", "train/lr", "time/images_per_second", "val/top1")}
    for tag, points in found.items():
        name = tags.get(tag, "epoch")
        written = [(row["step"], row[name]) for row in rows[15:] if name in row]
        assert [step for step, _ in points] == [step for step, _ in written]
        assert [value for _, value in points] == pytest.approx([value for _, value in written], rel=1e-6)


def test_other_ranks_do_nothing(tmp_path, capsys, ticket):
    reporter = Reporter(tmp_path / "metrics.jsonl", lambda job: tmp_path / job, enabled=False)
    with reporter:
        start(reporter, "level-00", keep_rows=3)
        reporter.scalars(1, 0.1, {"train/loss": 1.0})
        reporter.progress(1, {"train/loss": 1.0})
        assert reporter.rows() == 0
        reporter.say("something")
        reporter.warn("something")
        reporter.level_end(1, *ticket, None)
        reporter.hparams({"a": 1}, {"top1": 0.5})
        reporter.finish_job()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("checkpoint", "killed"), [(4, 4), (5, 7), (8, 11), (12, 12), (0, 6)])
def test_a_resumed_job_leaves_the_record_of_an_uninterrupted_one(tmp_path, checkpoint, killed):
    once, twice = tmp_path / "once", tmp_path / "twice"
    with open_reporter(once) as reporter:
        start(reporter, "job")
        train(reporter, 0, TOTAL)
        reporter.finish_job()
    with open_reporter(twice) as reporter:
        start(reporter, "job")
        rows = max(train(reporter, 0, killed, checkpoint_at=checkpoint), 0)
    next_second()
    with open_reporter(twice) as reporter:
        start(reporter, "job", step=checkpoint, keep_rows=rows)
        if checkpoint and checkpoint % EPOCH == 0:  # the evaluation that the checkpoint had not seen
            reporter.scalars(checkpoint, checkpoint / EPOCH, {"val/top1": checkpoint / 100})
        train(reporter, checkpoint, TOTAL)
        reporter.finish_job()
    assert rows_without_clock(twice) == rows_without_clock(once)
    expected, found = series(once, "job"), series(twice, "job")
    expected.pop("speed/images_per_second")
    found.pop("speed/images_per_second")
    assert {tag: sorted(points) for tag, points in found.items()} == expected


def test_nothing_before_a_checkpoint_is_lost_in_a_kill(tmp_path):
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path.cwd())!r})
from tests.reporting.test_reporter import open_reporter, start, train
reporter = open_reporter(Path(sys.argv[1]))
start(reporter, "job")
assert train(reporter, 0, 6, checkpoint_at=6) == 7
for step in range(7, 10):
    reporter.scalars(step, 0.0, {{"train/loss": -1.0}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL
    assert series(tmp_path, "job")["loss/train"][:6] == [(step, pytest.approx(1 / step)) for step in range(1, 7)]
    next_second()
    with open_reporter(tmp_path) as reporter:
        start(reporter, "job", step=6, keep_rows=7)
        train(reporter, 6, TOTAL)
        reporter.finish_job()
    losses = [(step, pytest.approx(1 / step)) for step in range(1, TOTAL + 1)]
    assert sorted(series(tmp_path, "job")["loss/train"]) == losses
    assert [row["train/loss"] for row in read(tmp_path / "metrics.jsonl") if "train/loss" in row] == [
        1 / step for step in range(1, TOTAL + 1)
    ]


def test_missing_rows_are_told(tmp_path):
    said = io.StringIO()
    with open_reporter(tmp_path, stream=said) as reporter:
        start(reporter, "job", step=4, keep_rows=3)
        reporter.finish_job()
    assert re.search(r"warning: .*metrics\.jsonl: 3 rows of job are missing", said.getvalue())


def test_the_end_of_a_level(tmp_path, ticket):
    masks, weights = ticket
    dense = Masks.dense({name: mask.shape for name, mask in masks.items()})
    with open_reporter(tmp_path) as reporter:
        for job, current, previous in (("level-00", dense, None), ("level-01", masks, dense)):
            start(reporter, job)
            reporter.level_end(TOTAL, current, weights, previous)
            reporter.finish_job()
    first, second = read(tmp_path / "metrics.jsonl")
    assert not any(name.startswith("overlap/") for name in first)
    assert (second["step"], second["epoch"]) == (12, 3.0)
    assert second["density/total"] == masks.density
    for name, density in masks.densities.items():
        assert second[f"density/{name}"] == density
        assert second[f"overlap/{name}"] == density  # with a dense mask
    assert second["overlap/total"] == masks.density

    found = events(tmp_path, "level-01")
    assert sorted(found.Tags()["histograms"]) == ["weights/conv1.weight", "weights/fc.weight"]
    for name, mask in masks.items():
        (event,) = found.Histograms(f"weights/{name}")
        kept = weights[name][mask].abs()
        assert event.step == TOTAL
        assert event.histogram_value.num == sum(event.histogram_value.bucket) == mask.sum()
        assert event.histogram_value.min == kept.min() > 0.6
        assert event.histogram_value.max == event.histogram_value.bucket_limit[-1] == kept.max()
        assert event.histogram_value.sum == pytest.approx(float(kept.sum()), rel=1e-5)
        (picture,) = found.Images(f"mask/{name}")
        image = Image.open(io.BytesIO(picture.encoded_image_string))
        assert (image.height, image.width) == (picture.height, picture.width)
    assert image.mode == "RGB"


def test_a_collapsed_layer_has_no_histogram(tmp_path, ticket):
    masks, weights = ticket
    collapsed = Masks({**masks, "fc.weight": torch.zeros(10, 8, dtype=torch.bool)})
    with open_reporter(tmp_path) as reporter:
        start(reporter, "level-00")
        reporter.level_end(TOTAL, collapsed, weights, masks)
        reporter.finish_job()
    found = events(tmp_path, "level-00")
    assert found.Tags()["histograms"] == ["weights/conv1.weight"]
    assert len(found.Tags()["images"]) == 2
    assert found.Tags()["scalars"] == ["density/total", "density/overlap", "speed/epoch"], "layers: over levels only"
    (row,) = read(tmp_path / "metrics.jsonl")
    assert row["density/fc.weight"] == 0


def test_layers_are_curves_over_levels(tmp_path, ticket):
    masks, weights = ticket
    dense = Masks.dense({name: mask.shape for name, mask in masks.items()})
    with open_reporter(tmp_path) as reporter:
        for level, job, current in ((0, "level-00", dense), (1, "level-01", dense), (1, "level-01", masks)):
            if current is masks:
                next_second()  # level 1 is done again: its first attempt is hidden
            start(reporter, job)
            reporter.level_end(TOTAL, current, weights, dense if level else None, level=level)
            reporter.finish_job()
    found = series(tmp_path, LEVELS)
    for name, density in masks.densities.items():
        layer = name.removesuffix(".weight")
        assert found[f"layers_density/{layer}"] == [(0, 1.0), (1, pytest.approx(density))]
        assert found[f"layers_overlap/{layer}"] == [(1, pytest.approx(density))]
    assert found["over_levels/density"] == [(0, 1.0), (1, pytest.approx(masks.density))]
    assert found["over_levels/overlap"] == [(1, pytest.approx(masks.density))]


@pytest.mark.parametrize("interactive", [False, True])
def test_a_job_that_trains_nothing(tmp_path, ticket, interactive):
    with open_reporter(tmp_path, interactive=interactive) as reporter:
        reporter.start_job("mask-01", title="prunes", start_step=0, total_steps=0, steps_per_epoch=0)
        reporter.level_end(0, *ticket, None)
        reporter.finish_job()
    (row,) = read(tmp_path / "metrics.jsonl")
    assert (row["step"], row["epoch"]) == (0, 0.0)


def test_hparams_and_text(tmp_path):
    options = {
        "train": {"lr": 0.1, "deterministic": True, "milestones": ["80ep", "120ep"]},
        "seed": 7,
        "data": {"root": None, "name": "digits"},
    }
    with open_reporter(tmp_path, texts={"config": "    seed: 7"}) as reporter:
        start(reporter, "level-00", step=3)
        reporter.scalars(9, 2.25, {"train/loss": 1.0, "density/total": 0.25})
        reporter.hparams(options, {"top1": 0.5, "top5": 0.75})
        reporter.finish_job()
    assert {path.name for path in (tmp_path / "tensorboard").rglob("*") if path.is_dir()} == {ABOUT, "level-00"}
    found = events(tmp_path, "level-00")
    contents = found.PluginTagToContent(hparams_metadata.PLUGIN_NAME)
    session = hparams_metadata.parse_session_start_info_plugin_data(contents[hparams_metadata.SESSION_START_INFO_TAG])
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}
    assert values == {
        "train.lr": 0.1,
        "train.deterministic": "true",
        "train.milestones": "80ep, 120ep",
        "seed": 7,
        "data.root": "none",
        "data.name": "digits",
        "density": 0.25,
    }
    assert session.group_name == "level-00 (a run)"
    experiment = hparams_metadata.parse_experiment_plugin_data(contents[hparams_metadata.EXPERIMENT_TAG])
    assert [metric.name.tag for metric in experiment.metric_infos] == ["result/top1", "result/top5"]
    assert [(event.step, event.value) for event in found.Scalars("result/top5")] == [(9, 0.75)]
    about = events(tmp_path, ABOUT)
    (event,) = about.Tensors("config/text_summary")
    assert "custom_scalars__config__" in about.Tags()["tensors"]
    assert make_ndarray(event.tensor_proto).item() == b"    seed: 7"


def test_non_finite_scalars_are_reported(tmp_path):
    with open_reporter(tmp_path) as reporter:
        start(reporter, "job")
        reporter.scalars(1, 0.25, {"train/loss": float("nan")})
        reporter.progress(1, {"train/loss": float("nan"), "val/top1": float("nan")})
        reporter.finish_job()
    (point,) = series(tmp_path, "job")["loss/train"]
    assert point[1] != point[1]


def test_an_error_in_a_job_keeps_what_there_is(tmp_path):
    shown = io.StringIO()

    def fail() -> None:
        with open_reporter(tmp_path, interactive=True, stream=shown) as reporter:
            start(reporter, "job")
            train(reporter, 0, 3)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert len(series(tmp_path, "job")["loss/train"]) == 3
    assert shown.getvalue().count("\x1b[?25l") == shown.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_jobs_come_one_after_the_other(tmp_path):
    with open_reporter(tmp_path) as reporter:
        reporter.say("before any job")
        with pytest.raises(AssertionError, match=re.escape("call start_job() first")):
            reporter.scalars(1, 0.0, {})
        start(reporter, "one")
        with pytest.raises(AssertionError, match="one is not finished"):
            start(reporter, "two")
