"""Report a run to console, TensorBoard and metrics.jsonl, on rank 0 only."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from elth_dist.reporting import pictures
from elth_dist.reporting.console import Extent, open_console
from elth_dist.reporting.metrics_file import KEYS, MetricsFile
from elth_dist.sparsity.masks import Masks


@dataclass
class _Job:
    name: str
    extent: Extent
    writer: SummaryWriter
    last_step: int
    density: float | None = None  # as reported last


#: Tags in TensorBoard, which shows groups by the alphabet: accuracy, density and speed come before what fewer read.
_GROUPS = {"train": "optimizer", "time": "speed", "memory": "speed"}
_TAGS = {
    **{f"{data}/{top}": f"accuracy/{data}_{top}" for data in ("val", "train") for top in ("top1", "top5")},
    **{f"{data}/loss": f"loss/{data}" for data in ("val", "train")},
    "overlap/total": "density/overlap",
}
#: Figures of layers are curves over levels, in a run of their own; at the one step of a job's end they say little.
_OF_LAYERS = {"density": "layers_density", "overlap": "layers_overlap"}
#: The run in TensorBoard whose steps are levels, not optimizer steps; and the one that has the texts.
LEVELS, ABOUT = "levels", "about"
_LAYOUT = {
    "overview": {
        "accuracy": ["Multiline", ["accuracy/val_top1", "accuracy/train_top1"]],
        "density": ["Multiline", ["density/total"]],
        "images per second": ["Multiline", ["speed/images_per_second"]],
        "share of the time that waits for data": ["Multiline", ["speed/data_wait_fraction"]],
        "loss": ["Multiline", ["loss/val", "loss/train"]],
    },
    "over levels": {
        "density of each layer over levels": ["Multiline", ["layers_density/.*"]],
        "overlap of each layer with the level before": ["Multiline", ["layers_overlap/.*"]],
        "density and overlap of all weights over levels": ["Multiline", ["over_levels/.*"]],
    },
}


def tag_of(name: str) -> str:
    """Return the tag in TensorBoard of a scalar in metrics.jsonl: `val/top1` is `accuracy/val_top1`."""
    group, _, rest = name.partition("/")
    return _TAGS.get(name, f"{_GROUPS.get(group, group)}/{rest}")


def level_tag_of(name: str) -> str:
    """Return the tag of a density or overlap as a curve over levels: `layers_density/conv1`, `over_levels/density`."""
    group, _, rest = name.partition("/")
    return f"over_levels/{group}" if rest == "total" else f"{_OF_LAYERS[group]}/{rest.removesuffix('.weight')}"


def _is_of_a_layer(name: str) -> bool:
    group, _, rest = name.partition("/")
    return group in _OF_LAYERS and rest != "total"


class Reporter:
    """Reports one job after the other. If not `enabled` (on ranks other than 0), every call does nothing.

    The prefix of a scalar's name is its kind: ``train/``, ``val/``, ``density/``, ``overlap/``, ``time/`` and
    ``memory/``; only the last two may differ between equal runs. Accuracies, densities and overlaps are fractions in
    [0, 1]. TensorBoard has other names, see tag_of().
    """

    def __init__(
        self,
        metrics_path: Path,
        tensorboard_folder: Callable[[str], Path],
        *,
        enabled: bool,
        interactive: bool | None = None,
        stream: TextIO | None = None,
        texts: Mapping[str, str] | None = None,
        run: str = "",
    ) -> None:
        """
        Args:
            metrics_path: the run's metrics.jsonl.
            tensorboard_folder: returns the folder of a job's event files, given the job's name.
            enabled: whether this is rank 0.
            interactive: a progress bar (True) or plain lines (False); None: a bar if `stream` is a terminal.
            stream: where to write; None: standard output.
            texts: markdown by tag for TensorBoard's TEXT tab, once per run (config, environment).
            run: name of the run, behind the job's name in TensorBoard's HPARAMS tab.
        """
        self._run = run
        self.enabled = enabled
        self._tensorboard_folder = tensorboard_folder
        self._metrics = MetricsFile(metrics_path)
        self._console = open_console(sys.stdout if stream is None else stream, interactive)
        self._job: _Job | None = None
        if enabled and texts:
            with SummaryWriter(str(tensorboard_folder(ABOUT)), purge_step=0) as writer:
                for tag, markdown in texts.items():
                    writer.add_text(tag, markdown, 0)
                writer.add_custom_scalars(_LAYOUT)

    def start_job(
        self, job: str, *, title: str, start_step: int, total_steps: int, steps_per_epoch: int, keep_rows: int = 0
    ) -> None:
        """Begin a job, or continue one from a checkpoint.

        What an interrupted attempt reported after the checkpoint is dropped from metrics.jsonl and hidden in
        TensorBoard, so that the job's record equals an uninterrupted one.

        Args:
            title: what the job does, for people.
            start_step: the step at which the job continues.
            total_steps: the step at which it ends; 0 for a job that trains nothing.
            steps_per_epoch: ignored if `total_steps` is 0.
            keep_rows: `rows()` at the checkpoint; 0: a fresh start.
        """
        if not self.enabled:
            return
        assert self._job is None, f"{self._job.name} is not finished" if self._job else ""
        extent = Extent(start_step, total_steps, steps_per_epoch)
        kept = self._metrics.restart(job, keep_rows)
        # TensorBoard hides what was written earlier for this step or a later one ...
        folder = str(self._tensorboard_folder(job))
        writer = SummaryWriter(folder, purge_step=start_step, max_queue=100, flush_secs=30)
        self._job = _Job(job, extent, writer, start_step)
        # ... including kept rows, if they were written before the checkpoint of the same step
        for row in kept:
            if row["step"] >= start_step:
                values = {name: value for name, value in row.items() if name not in KEYS}
                self._add_scalars(row["step"], {**values, "speed/epoch": row["epoch"]})
        self._console.start(job, title, extent)
        if len(kept) < keep_rows:
            self.warn(f"{self._metrics.path}: {keep_rows - len(kept)} rows of {job} are missing")

    def scalars(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Write a row to metrics.jsonl and a point per scalar to TensorBoard, at optimizer step `step`."""
        if not self.enabled:
            return
        job = self._open_job()
        self._metrics.append({"job": job.name, "step": step, "epoch": epoch, **values})
        self._add_scalars(step, {**values, "speed/epoch": epoch})

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Show the job's progress: move the bar, or write a line every few seconds and for each ``val/`` scalar."""
        if not self.enabled:
            return
        self._open_job()
        self._console.progress(step, values)

    def rows(self) -> int:
        """Flush all that was reported to disk, and count the current job's rows, for its checkpoint."""
        if not self.enabled:
            return 0
        job = self._open_job()
        self._metrics.sync()
        job.writer.flush()
        return self._metrics.rows(job.name)

    def say(self, text: str) -> None:
        """Print a message, inside or outside of a job."""
        if self.enabled:
            self._console.say(text)

    def warn(self, text: str) -> None:
        """Print a warning, inside or outside of a job."""
        if self.enabled:
            self._console.warn(text)

    def level_end(
        self,
        step: int,
        masks: Masks,
        weights: Mapping[str, Tensor],
        previous: Masks | None,
        further: Mapping[str, float] | None = None,
        level: int | None = None,
    ) -> None:
        """Report a ticket: densities, magnitudes of kept weights, pictures of the masks.

        Args:
            step: the job's last optimizer step.
            masks: the ticket's masks.
            weights: whole weights; at least those named in `masks`, of the same shapes.
            previous: the masks of the previous level, for the overlap (Jaccard index); None: no previous level.
            further: scalars for the same row.
            level: the IMP level, for curves of the layers over levels; None: it is none.
        """
        if not self.enabled:
            return
        job = self._open_job()
        values = {**(further or {}), "density/total": masks.density}
        values |= {f"density/{name}": density for name, density in masks.densities.items()}
        if previous is not None:
            overlap = masks.overlap(previous)
            values["overlap/total"] = overlap.total
            values |= {f"overlap/{name}": jaccard for name, jaccard in overlap.tensors.items()}
        self.scalars(step, job.extent.epoch(step), values)
        if level is not None:
            # a level that is done again hides what it and later ones wrote
            with SummaryWriter(str(self._tensorboard_folder(LEVELS)), purge_step=level) as writer:
                for name, value in values.items():
                    if name.startswith(("density/", "overlap/")):
                        writer.add_scalar(level_tag_of(name), value, level)
        for name, mask in masks.items():
            job.writer.add_image(f"mask/{name}", pictures.mask_picture(mask), step, dataformats="HWC")
            magnitudes = pictures.kept_magnitudes(weights[name], mask)
            if magnitudes is not None:
                job.writer.add_histogram_raw(
                    f"weights/{name}",
                    min=magnitudes.min,
                    max=magnitudes.max,
                    num=magnitudes.num,
                    sum=magnitudes.sum,
                    sum_squares=magnitudes.sum_squares,
                    bucket_limits=magnitudes.limits,
                    bucket_counts=magnitudes.counts,
                    global_step=step,
                )

    def hparams(self, values: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Write the job's row in TensorBoard's HPARAMS tab: what it is, and final metrics. Once, at the job's end.

        Args:
            values: what tells jobs apart, possibly nested: ``{"train": {"lr": 0.1}}`` becomes ``train.lr``. The density
                that was reported last is added.
            metrics: final metrics, shown and drawn as scalars under ``result/<name>``.
        """
        if not self.enabled:
            return
        job = self._open_job()
        results = {f"result/{name}": float(value) for name, value in metrics.items()}
        known = {} if job.density is None else {"density": job.density}
        assert job.writer.file_writer is not None
        experiment, start, end = hparams_summaries({**dict(_flatten(values)), **known}, results)
        for summary in (
            experiment,
            _named(start, f"{job.name} ({self._run})" if self._run not in ("", job.name) else job.name),
            end,
        ):
            job.writer.file_writer.add_summary(summary, job.last_step)
        self._add_scalars(job.last_step, results)

    def finish_job(self) -> None:
        """End the current job, with everything that it reported on disk."""
        if not self.enabled:
            return
        self._open_job()
        self._end_job()

    def close(self) -> None:
        """End the report, also in the middle of a job: keep what was reported, release files and the terminal."""
        if self._job is not None:
            self._end_job()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_job(self) -> _Job:
        assert self._job is not None, "call start_job() first"
        return self._job

    def _add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        job = self._open_job()
        job.last_step = max(job.last_step, step)
        job.density = values.get("density/total", job.density)
        for name, value in values.items():
            if not _is_of_a_layer(name):
                job.writer.add_scalar(tag_of(name), value, step)

    def _end_job(self) -> None:
        job, self._job = self._open_job(), None
        self._console.finish()
        job.writer.close()
        self._metrics.sync()
        self._metrics.close()


def _named(start: Summary, name: str) -> Summary:
    """Give a session of the HPARAMS tab a short name, in place of its folder's path."""
    for value in start.value:
        content = hparams_metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
        content.group_name = name
        value.metadata.plugin_data.content = hparams_metadata.create_summary_metadata(
            HParamsPluginData(session_start_info=content)
        ).plugin_data.content
    return start


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float | str]]:
    """Flatten options for TensorBoard: numbers and texts under dotted names."""
    for name, value in values.items():
        match value:
            case Mapping():
                yield from _flatten(value, f"{prefix}{name}.")
            case bool():
                yield prefix + name, str(value).lower()
            case int() | float() | str():
                yield prefix + name, value
            case list() | tuple():
                yield prefix + name, ", ".join(map(str, value))
            case _:
                yield prefix + name, "none" if value is None else str(value)
