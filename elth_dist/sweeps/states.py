"""The state of each job of a sweep, read from its folder and from SLURM's queue."""

import fcntl
import getpass
import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from elth_dist.errors import UserError
from elth_dist.reporting.metrics_file import read
from elth_dist.sweeps.folder import Record, SweepFolder
from elth_dist.sweeps.plan import Sweep, SweepJob

State = Literal["done", "running", "queued", "failed", "blocked", "open"]


def slurm_queue(folder: SweepFolder, records: Mapping[str, Record]) -> dict[str, str]:
    """Ask SLURM for the states of this user's jobs: number -> PENDING, RUNNING, ... UserError if squeue fails.

    If every submitted job has a result, SLURM is not asked and the result is empty: a finished sweep needs no cluster.
    """
    if not any(record.slurm and not folder.job(name).result.exists() for name, record in records.items()):
        return {}
    command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%T"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except subprocess.CalledProcessError as error:
        raise UserError(f"squeue: {error.stderr or error.stdout}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"squeue: {error}; is this a machine of the cluster?") from None
    return dict(line.split("|", maxsplit=1) for line in listing.stdout.splitlines() if "|" in line)


def states(sweep: Sweep, folder: SweepFolder, *, verify: bool) -> dict[str, State]:
    """Determine the state of every job of a sweep.

    Args:
        sweep: the plan.
        folder: the sweep's folder.
        verify: check every file of every finished job, as before a submission; else trust result.json.
    """
    records = folder.records()
    queue = slurm_queue(folder, records)
    state_of: dict[str, State] = {}
    for name, job in sweep.jobs.items():
        state_of[name] = _state(job, folder, records.get(name), queue, state_of, verify=verify)
    return state_of


def _state(
    job: SweepJob,
    folder: SweepFolder,
    record: Record | None,
    queue: Mapping[str, str],
    before: Mapping[str, State],
    *,
    verify: bool,
) -> State:
    result = folder.job(job.name)
    if result.result.exists() and (not verify or result.finished(job.job.identity)):
        return "done"
    if record is not None and record.slurm is not None and record.slurm in queue:
        return "queued" if queue[record.slurm] in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING") else "running"
    if record is not None and record.slurm is None and _in_use(folder.logs(job.name) / ".lock"):
        return "running"
    if any(before[name] in ("failed", "blocked") for name in job.inputs):
        return "blocked"
    if record is not None and (record.slurm is not None or record.failed) and not result.result.exists():
        return "failed"  # sent to SLURM, no longer in the queue, and without a result
    return "open"


def _in_use(lock: Path) -> bool:
    """Tell whether a process holds a run directory (see RunDirectory.prepare)."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # there is none, or its file system has no locks
    return False


@dataclass(frozen=True)
class Progress:
    """The progress of a running job."""

    share: float  # of its steps, in [0, 1]
    seconds_left: float | None
    top1: float | None  # at its last evaluation


def progress(job: SweepJob, folder: SweepFolder) -> Progress | None:
    """Read the progress that a running job has reported; None if it has reported nothing yet."""
    directory = folder.logs(job.name)
    metrics = directory / "metrics.jsonl"
    options = job.job.options
    setting = options.network_setting
    if setting is None or not metrics.exists():
        return None
    rows = read(metrics)
    logged = [row for row in rows if row["epoch"] > 0]
    if not logged:
        return None
    first, last = logged[0], logged[-1]
    per_epoch = last["step"] / last["epoch"]
    end = options.end_step(round(per_epoch))
    if end is None:
        return None
    speeds = [row["time/images_per_second"] for row in logged[-5:] if "time/images_per_second" in row]
    left = None
    if speeds:
        quiet = time.time() - metrics.stat().st_mtime
        left = max(0.0, (end - last["step"]) * setting.train.global_batch * len(speeds) / sum(speeds) - quiet)
    top1 = next((row["val/top1"] for row in reversed(rows) if "val/top1" in row), None)
    begin = first["step"] - 1
    return Progress(min(1.0, (last["step"] - begin) / max(1.0, end - begin)), left, top1)


def last_line(path: Path) -> str:
    """Return the last error in a job's output, else its last line, without lines of SLURM."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return f"no log {path}"
    said = [line.strip() for line in lines if line.strip() and not line.startswith(("srun:", "slurmstepd:"))]
    errors = [line for line in said if "elth_dist: error:" in line]
    return errors[-1] if errors else next(iter(reversed(said)), f"nothing in {path}")


def measured(sweep: Sweep, folder: SweepFolder) -> dict[str, dict[str, Any]]:
    """Read the metrics of the finished jobs."""
    metrics = {}
    for name in sweep.jobs:
        result = folder.job(name)
        if result.result.exists():
            metrics[name] = result.read().metrics
    return metrics


def measured_speeds(sweep: Sweep, folder: SweepFolder) -> dict[str, float]:
    """Measure images per second of one process, by network, from the sweep's own trainings."""
    speeds_of: dict[str, list[float]] = {}
    for name, job in sweep.jobs.items():
        setting, path = job.job.options.network_setting, folder.logs(name) / "metrics.jsonl"
        if setting is None or not path.exists():
            continue
        speeds = [row["time/images_per_second"] for row in read(path) if "time/images_per_second" in row]
        if speeds:
            ranks = _world_size(folder.logs(name) / "environment.json")
            speeds_of.setdefault(setting.model.arch, []).append(sorted(speeds)[len(speeds) // 2] / ranks)
    return {arch: sum(speeds) / len(speeds) for arch, speeds in speeds_of.items()}


def _world_size(environment: Path) -> int:
    try:
        return max(1, int(json.loads(environment.read_bytes())["world_size"]))
    except (OSError, ValueError, KeyError):
        return 1
