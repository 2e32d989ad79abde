"""Submit the jobs of a sweep to SLURM: arrays of jobs with equal needs, after the jobs whose results they need."""

import shlex
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from elth_dist.errors import UserError
from elth_dist.sweeps.folder import Record, SweepFolder
from elth_dist.sweeps.options import Needs
from elth_dist.sweeps.plan import Sweep, SweepJob
from elth_dist.sweeps.snapshot import take_snapshot
from elth_dist.sweeps.worker import run_in_slurm

#: Fewer than any cluster's MaxArraySize (SLURM's default is 1001).
_LONGEST_ARRAY = 500

#: Set threads to the cores of the job, not of the node, which jobs may share.
_THREADS = "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"

#: Block signals while python starts, where they would end the task and thereby the job; the training unblocks them.
#: (`env` of coreutils before 8.31 cannot block signals; there, an early signal ends the job.)
_HOLD = "HOLD='env --block-signal=TERM --block-signal=USR1 --block-signal=USR2'; $HOLD true 2>/dev/null || HOLD="
_PYTHON = f"$HOLD {shlex.quote(sys.executable)}"


def submit(sweep: Sweep, folder: SweepFolder, todo: Sequence[str], needs: Needs, max_parallel: int | None) -> None:
    """Put jobs into SLURM's queue; this process may end then.

    Args:
        sweep: the plan.
        folder: on a file system that all nodes see.
        todo: names of the jobs, inputs first; their other inputs are done or in the queue.
        needs: the resources of a training.
        max_parallel: how many jobs of one array may run at once.

    Raises:
        UserError: SLURM refuses; jobs submitted before stay submitted and recorded.
    """
    code = take_snapshot(folder.code)
    waiting = list(todo)
    while waiting:
        records = folder.records()
        groups: dict[tuple[bool, tuple[str, ...]], list[SweepJob]] = {}
        for name in waiting:
            job = sweep.jobs[name]
            if not set(job.inputs).intersection(waiting):
                pending = [other for other in job.inputs if other in todo or not folder.job(other).result.exists()]
                before = {records[other].slurm for other in pending}
                inputs = tuple(sorted(number for number in before if number))
                groups.setdefault((_is_light(job), inputs), []).append(job)
        for (light, after), jobs in groups.items():
            for first in range(0, len(jobs), _LONGEST_ARRAY):
                array = jobs[first : first + _LONGEST_ARRAY]
                own = needs.light if light else needs
                numbers = _send(sweep.name, folder, array, own, after, code, max_parallel)
                new = {job.name: number for job, number in zip(array, numbers, strict=True)}
                _write_down(folder, new)
                waiting = [name for name in waiting if name not in new]


def cancel(folder: SweepFolder, names: Mapping[str, Record]) -> None:
    """Cancel queued and running jobs, and forget that they were sent. UserError if SLURM refuses."""
    numbers = [record.slurm for record in names.values() if record.slurm]
    for first in range(0, len(numbers), _LONGEST_ARRAY):
        command = ["scancel", *numbers[first : first + _LONGEST_ARRAY]]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        except subprocess.CalledProcessError as error:
            raise UserError(f"scancel: {error.stderr or error.stdout}") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"scancel: {error}") from None
    folder.write_records({name: record for name, record in folder.records().items() if name not in names})


def _is_light(job: SweepJob) -> bool:
    """Tell whether a job runs no network on the data."""
    return job.job.options.network_setting is None


def _send(
    title: str,
    folder: SweepFolder,
    jobs: Sequence[SweepJob],
    needs: Needs,
    after: Sequence[str],
    code: Path,
    max_parallel: int | None,
) -> list[str]:
    """Submit one array, or one job; return SLURM's numbers in the jobs' order."""
    import submitit

    for job in jobs:
        folder.write_config(job.name, job.config, snapshot=True)
    more: dict[str, object] = {"requeue": True, "kill-on-invalid-dep": "yes"}
    if after:
        more["dependency"] = f"afterok:{':'.join(after)}"
    # else `python -m` imports from the folder that sbatch was called in: the checkout
    path = f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
    wanted: dict[str, object] = {
        "name": title,
        "nodes": needs.nodes,
        "tasks_per_node": needs.tasks_per_node,
        "gpus_per_node": needs.gpus or None,
        "cpus_per_task": needs.cpus,
        "mem_gb": needs.memory,
        "timeout_min": needs.time,
        "slurm_partition": needs.partition,
        "slurm_account": needs.account,
        "slurm_qos": needs.qos,
        "slurm_constraint": needs.constraint,
        "slurm_signal_delay_s": needs.notice,
        "slurm_array_parallelism": max_parallel or len(jobs),
        "slurm_setup": [_THREADS, _HOLD, *needs.setup, path],
        # end all ranks if one fails; since SLURM 22.05, srun needs the number of CPUs again
        "slurm_srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={needs.cpus}"],
        "slurm_stderr_to_stdout": True,
        "slurm_additional_parameters": more,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # submitit warns about other clusters
            executor = submitit.AutoExecutor(folder=folder.slurm, cluster="slurm", slurm_python=_PYTHON)
            executor.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
            with executor.batch():
                sent = [executor.submit(run_in_slurm, str(folder.root), job.name) for job in jobs]
    except (
        submitit.core.utils.FailedJobError,
        submitit.core.utils.FailedSubmissionError,
        RuntimeError,
        OSError,
    ) as error:
        raise UserError(f"sbatch: {error}") from None
    return [one.job_id for one in sent]


def _write_down(folder: SweepFolder, numbers: Mapping[str, str]) -> None:
    new = {
        name: Record(log=str(folder.slurm / f"{number}_0_log.out"), slurm=number) for name, number in numbers.items()
    }
    folder.write_records({**folder.records(), **new})
