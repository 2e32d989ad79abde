"""Read a task's rank from SLURM; ask SLURM about preemption and for a requeue. No torch here."""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from elth_dist.errors import UserError
from elth_dist.runtime.rendezvous import meet


@contextlib.contextmanager
def slurm_ranks(folder: Path) -> Iterator[None]:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, ... from SLURM's variables while the block runs.

    `folder`: seen by all nodes; holds the file through which ranks find each other.
    """
    variables = os.environ
    rank, world_size = int(variables["SLURM_PROCID"]), int(variables["SLURM_NTASKS"])
    node = int(variables.get("SLURM_NODEID", "0"))
    local_sizes = tasks_per_node(variables.get("SLURM_STEP_TASKS_PER_NODE", str(world_size)))
    local_rank = int(variables["SLURM_LOCALID"])
    visible = variables.get("CUDA_VISIBLE_DEVICES", "")
    if local_sizes[node] > 1 and visible and "," not in visible:
        local_rank = 0  # each task sees only its own GPU (--gpus-per-task), which is number 0
    own = {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(local_sizes[node]),
    }
    attempt = [variables.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")]
    before = {name: variables.get(name) for name in own}
    variables.update(own)
    try:
        with meet(folder / f"meeting-{'.'.join(attempt)}.json", rank, world_size, one_host=len(local_sizes) == 1):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del variables[name]
            else:
                variables[name] = value


def tasks_per_node(text: str) -> list[int]:
    """Read SLURM's "2(x3),1" as [2, 2, 2, 1]."""
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise UserError(f"environment variable SLURM_STEP_TASKS_PER_NODE: cannot read {text!r}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def preempted() -> bool:
    """Tell whether SLURM is preempting this job, which it then requeues itself."""
    time = re.search(r"\bPreemptTime=(\S+)", _scontrol("show", "job", _this_job()))
    return time is not None and time[1] not in ("None", "N/A", "Unknown")


def requeue() -> None:
    """Put this job back into the queue, to start again with the same command. UserError if SLURM refuses."""
    _scontrol("requeue", _this_job())


def _this_job() -> str:
    """Return the job's name in SLURM: ARRAY_TASK in an array, whose number alone would mean all its tasks."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _scontrol(*arguments: str) -> str:
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    except subprocess.CalledProcessError as error:
        raise UserError(f"{' '.join(command)}: {error.stderr or error.stdout}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{' '.join(command)}: {error}") from None
