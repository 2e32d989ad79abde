"""Finished work, read back: the jobs of a run directory or of a sweep's folder."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from elth_dist.config import Config, explain
from elth_dist.errors import UserError
from elth_dist.jobs.plan import Plan, make_plan
from elth_dist.jobs.report import Done, done_in, read_results
from elth_dist.plugins import load_plugins
from elth_dist.reporting.metrics_file import read as read_rows
from elth_dist.reporting.records import Results
from elth_dist.runtime.job_folder import JobFolder, Result
from elth_dist.runtime.run_directory import RunDirectory
from elth_dist.sweeps.folder import SweepFolder
from elth_dist.sweeps.plan import SweepJob, run_jobs
from elth_dist.tickets.weights import load_about, load_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from elth_dist.tickets.ticket import Ticket


@dataclass(frozen=True, repr=False)
class FinishedJob:
    """A finished job of a run. Files are read when they are asked for."""

    name: str
    config: Mapping[str, Any]
    """The resolved configuration of the run, as config.yaml has it."""
    _folder: JobFolder
    _result: Result
    _log: RunDirectory

    @property
    def path(self) -> Path:
        """The job's folder."""
        return self._folder.path

    @property
    def identity(self) -> str:
        """Hash of what determines the result."""
        return self._result.identity

    @property
    def options(self) -> dict[str, Any]:
        """The options that determine the result; those at their defaults are left out."""
        return self._result.part

    @property
    def metrics(self) -> dict[str, Any]:
        """What result.json says about the result: top1 and top5 in [0, 1], val_loss, density, train_flops, ..."""
        return self._result.metrics

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that the job has left, in its folder."""
        return tuple(self._result.files)

    def ticket(self) -> "Ticket":
        """The ticket that the job made or trained. UserError if it leaves none, or the file is damaged."""
        from elth_dist.tickets.ticket import Ticket

        return Ticket.load(self._file(self._folder.ticket, "ticket"))

    def weights(self) -> "dict[str, Tensor]":
        """The trained state_dict, fp32 on the CPU. UserError if the job trained nothing, or the file is damaged."""
        return load_weights(self._file(self._folder.trained, "trained weights"))

    def model(self) -> "nn.Module":
        """The trained network, on the CPU in evaluation mode. UserError if the job trained nothing."""
        from elth_dist.models.build import model_from

        about = load_about(self._folder.trained)  # none from an older version
        arch = self.metrics["arch"] if about is None else about.arch
        return model_from(arch, self.weights()).eval()

    def rows(self) -> list[dict[str, Any]]:
        """The job's rows of metrics.jsonl, in order: `step`, `epoch` and scalars by name. Empty if it logged nothing.

        UserError if a line is damaged.
        """
        if not self._log.metrics.exists():
            return []
        return [row for row in read_rows(self._log.metrics) if row["job"] == self.name]

    def _file(self, path: Path, what: str) -> Path:
        if path.name not in self.files:
            raise UserError(f"{self.path}: {self.name} leaves no {what}")
        return path

    def __repr__(self) -> str:
        facts = [f"arch={self.metrics['arch']!r}"] if "arch" in self.metrics else []
        facts += [f"{name}={self.metrics[name]:.4f}" for name in ("density", "top1") if name in self.metrics]
        return f"FinishedJob({', '.join([repr(self.name), *facts])})"


@dataclass(frozen=True, repr=False)
class Run:
    """A run directory or a sweep's folder, as it was when load_run() read it."""

    path: Path
    config: Mapping[str, Any]
    """The resolved configuration. Empty for a sweep, whose jobs have one each."""
    jobs: Mapping[str, FinishedJob]
    """The finished jobs by name, in the order of their planning where that is known."""
    unfinished: tuple[str, ...] = field(default=())
    """Names of the jobs that have been planned or started, and have no result."""

    def __repr__(self) -> str:
        names = ", ".join(self.jobs)
        names = names if len(names) <= 80 else f"{names[:77]}..."
        more = f", {len(self.unfinished)} unfinished" if self.unfinished else ""
        return f"Run({str(self.path)!r}, {len(self.jobs)} finished jobs: {names}{more})"


def load_run(path: Path | str) -> Run:
    """Read what a run, or a sweep, has left so far; nothing is written, and it may still be going on.

    Args:
        path: a run directory (with config.yaml) or a sweep's folder (with jobs/ and logs/).

    Raises:
        UserError: it is neither, or a configuration or a result is damaged.
    """
    path = Path(path)
    sweep = SweepFolder(path)
    if not path.is_dir():
        raise UserError(f"{path}: {'is a file, not a run directory' if path.exists() else 'no such folder'}")
    run = RunDirectory(path)
    if run.config.is_file():
        config = _config(run)
        names = [*run.started(), *_job_folders(path)]
        return _run(path, config, {name: (run, run.job(name), config) for name in dict.fromkeys(names)})
    if sweep.jobs.is_dir() or (path / "logs").is_dir():
        folders = [folder.name for place in (sweep.jobs, path / "logs") for folder in _folders(place)]
        logs = {name: sweep.directory(name) for name in dict.fromkeys(folders)}
        return _run(path, {}, {name: (log, sweep.job(name), _config(log)) for name, log in logs.items()})
    raise UserError(f"{path}: is no run directory (no config.yaml) and no sweep's folder (no jobs/)")


def load_results(path: Path | str) -> Results:
    """Read the records of a run's or sweep's finished jobs; nothing is written, and it may still be going on.

    Args:
        path: a run directory or a sweep's folder.

    Raises:
        UserError: it is neither, or a result or a configuration is damaged.
    """
    path = Path(path)
    run = load_run(path)
    if run.config:
        plan, notes = _planned(run.config)
        name = str(run.config.get("run", {}).get("name") or path.resolve().name)
        done = [] if plan is None else done_in(plan.jobs, plan.groups, RunDirectory(path))
    else:
        sweep = SweepFolder(path)
        name, _ = sweep.about()
        done, notes = _done_in_sweep(sweep, run)
    known = {entry.job.name: entry.job.identity for entry in done}
    changed = [job.name for job in run.jobs.values() if known.get(job.name) != job.identity]
    if changed and not notes:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        notes = [f"{path}: {', '.join(changed[:3])}{more}: left out, made by another version of elth_dist or a plugin"]
    done = [entry for entry in done if entry.job.name not in changed]
    return read_results(done, run=name, notes=notes)


def _done_in_sweep(sweep: SweepFolder, run: Run) -> tuple[list[Done], list[str]]:
    """The finished jobs of a sweep in an order that people expect: by network, method and seed; inputs first."""
    texts: dict[str, Mapping[str, Any]] = {}
    for job in run.jobs.values():
        texts.setdefault(json.dumps(job.config, sort_keys=True), job.config)
    planned: dict[str, SweepJob] = {}
    notes: list[str] = []
    for config in sorted(texts.values(), key=_usual_order):
        plan, complaints = _planned(config)
        notes += [note for note in complaints if note not in notes]
        if plan is not None:
            for planned_job in run_jobs(Config(**config)):
                planned.setdefault(planned_job.name, planned_job)
    done = [
        Done(job.job, job.group, sweep.job(name), sweep.directory(name).metrics)
        for name, job in planned.items()
        if name in run.jobs
    ]
    return done, notes


def _planned(config: Mapping[str, Any]) -> tuple[Plan | None, list[str]]:
    """Plan a run again from its configuration; None, and why, if that is not possible any more."""
    try:
        load_plugins(config.get("plugins") or ())
        chosen = Config(**config)
        return make_plan(chosen.method, chosen.setting), []
    except (UserError, ValidationError) as error:
        text = str(error) if isinstance(error, UserError) else explain(error, {}, None, config)
        return None, [f"{config.get('run', {}).get('name')}: cannot be planned again: {text}"]


def _usual_order(config: Mapping[str, Any]) -> tuple[Any, ...]:
    arch = str(config.get("model", {}).get("arch"))
    parts = [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", arch)]
    method = config.get("method", {})
    return parts, method.get("name") != "imp", json.dumps(method, sort_keys=True), config.get("seed", 0)


def job_of(path: Path) -> FinishedJob | None:
    """The finished job whose folder holds a file; None if no job's does. UserError if its result is damaged."""
    folder = JobFolder(path.resolve().parent)
    if not folder.result.is_file():
        return None
    run = RunDirectory(folder.path.parent)
    if not run.config.is_file():
        run = SweepFolder(folder.path.parent.parent).directory(folder.name)
    return FinishedJob(folder.name, _config(run), folder, folder.read(), run)


def _run(
    path: Path,
    config: Mapping[str, Any],
    places: Mapping[str, tuple[RunDirectory, JobFolder, Mapping[str, Any]]],
) -> Run:
    jobs = {
        name: FinishedJob(name, own, folder, folder.read(), log)
        for name, (log, folder, own) in places.items()
        if folder.result.exists()
    }
    return Run(path, config, MappingProxyType(jobs), tuple(name for name in places if name not in jobs))


def _config(run: RunDirectory) -> dict[str, Any]:
    """The resolved configuration; empty if it is not there."""
    try:
        options = yaml.safe_load(run.config.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{run.config}: cannot be read: {error}") from error
    if not isinstance(options, dict):
        raise UserError(f"{run.config}: holds no sections of options")
    return options


def _job_folders(path: Path) -> list[str]:
    return [
        folder.name
        for folder in _folders(path)
        if any((folder / name).exists() for name in ("result.json", "checkpoints"))
    ]


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
