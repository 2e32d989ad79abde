"""What SLURM says to a task, and what a task says to SLURM. No torch here."""

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
    """While the block runs, this SLURM task is a rank: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, ... are set.

    `folder`: one that all nodes see, for the file by which ranks find each other.
    """
    variables = os.environ
    rank, world_size = int(variables["SLURM_PROCID"]), int(variables["SLURM_NTASKS"])
    node = int(variables.get("SLURM_NODEID", "0"))
    local_sizes = tasks_per_node(variables.get("SLURM_STEP_TASKS_PER_NODE", str(world_size)))
    local_rank = int(variables["SLURM_LOCALID"])
    visible = variables.get("CUDA_VISIBLE_DEVICES", "")
    if local_sizes[node] > 1 and visible and "," not in visible:
        local_rank = 0  # each task sees its own GPU alone (--gpus-per-task): it is the first one there
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
    """SLURM's "2(x3),1" as [2, 2, 2, 1]."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise UserError(f"environment variable SLURM_STEP_TASKS_PER_NODE: cannot read {text!r}")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def preempted() -> bool:
    """Whether SLURM is taking this job's place for another one; it then requeues the job by itself."""
    time = re.search(r"\bPreemptTime=(\S+)", _scontrol("show", "job", _this_job()))
    return time is not None and time[1] not in ("None", "N/A", "Unknown")


def requeue() -> None:
    """Put this job back into the queue: it will start again with the same command. UserError if SLURM refuses."""
    _scontrol("requeue", _this_job())


def _this_job() -> str:
    """As SLURM names it. An array's last task has the number of the array, which alone would mean all of its tasks."""
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
