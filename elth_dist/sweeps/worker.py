"""Run one job of a sweep, in a process of its own or in one SLURM task per rank.

python -m elth_dist.sweeps.worker SWEEP_FOLDER JOB      (ranks from RANK, WORLD_SIZE, LOCAL_RANK)
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

from elth_dist.errors import DisagreementError, UserError, tell
from elth_dist.runtime.launcher import launcher_ranks
from elth_dist.runtime.rendezvous import meet
from elth_dist.runtime.slurm import preempted, requeue, slurm_ranks
from elth_dist.sweeps.folder import SweepFolder
from elth_dist.sweeps.plan import read_job

#: Exit status of a job that a signal stopped: its state is saved, and the same command continues.
STOPPED = 75
#: Signals blocked until the training handles them, so that an early one is not lost.
_HELD = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def do(folder: SweepFolder, name: str) -> list[str] | None:
    """Run a job with all ranks of the environment; returns and raises as jobs.walk does."""
    from elth_dist.jobs.walk import walk

    config, plan, jobs = read_job(folder.config(name).read_text(), name)
    if config.data.root == folder.digits:  # configurations of version 0.1.0 name this folder as the user's
        data = config.data.model_copy(update={"root": None})
        plan = plan.on(config.setting.model_copy(update={"data": data}))
    known = {job.name: job.job for job in jobs.values()}
    return walk(plan, [known[name]], known, folder.directory(name), config.to_yaml())


def run_in_slurm(root: str, name: str) -> None:
    """Run a job in one of its SLURM tasks; raises SystemExit unless the job is done."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    # not submitit's handlers, which save in the middle of a step, on rank 0 only, and ignore SIGTERM
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    folder = SweepFolder(Path(root))
    rank = int(os.environ["SLURM_PROCID"])
    _start_logging(rank)
    try:
        with slurm_ranks(folder.logs(name)):
            received = do(folder, name)
        if received is not None:
            _leave_to_slurm(rank, received)
    except (UserError, DisagreementError) as error:
        sys.exit(tell(error, rank))


def _leave_to_slurm(rank: int, received: list[str]) -> None:
    """Wait for SLURM to end the job, after its state is saved. Never returns: a status of 0 would start dependent jobs.

    At a time limit, rank 0 requeues the job once. At a preemption, SLURM requeues it when the grace time is over; a job
    that exits earlier ends for good.
    """
    if rank == 0:
        if preempted():
            print(f"preempted ({', '.join(received)}): saved; SLURM puts the job back into the queue", flush=True)
        elif received == ["SIGTERM"]:
            print("asked to end by SLURM: saved", flush=True)
        else:
            requeue()
            print("time limit: saved, and put back into the queue", flush=True)
    time.sleep(3600)  # SLURM ends it
    sys.exit(STOPPED)


def main(arguments: list[str]) -> int:
    """Run the job of a command line; exit status 0: done, STOPPED, or 2 and 1 as for python -m elth_dist.train."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    root, name = arguments
    folder = SweepFolder(Path(root))
    rank = 0
    try:
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        _start_logging(rank)
        attempt = os.environ.get("ELTH_ATTEMPT", "0")
        with meet(folder.logs(name) / f"meeting-{attempt}.json", rank, world_size, one_host=True):
            launcher_ranks()
            return 0 if do(folder, name) is None else STOPPED
    except (UserError, DisagreementError) as error:
        return tell(error, rank)


def _start_logging(rank: int) -> None:
    level = logging.WARNING if rank == 0 else logging.ERROR
    logging.basicConfig(level=level, format="elth_dist: warning: %(message)s")
    logging.getLogger("submitit").propagate = False  # submitit logs by itself


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
