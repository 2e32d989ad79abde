"""Run the jobs of a sweep on this machine: several at once, or one after the other in this process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from elth_dist.errors import DisagreementError, UserError, tell
from elth_dist.sweeps.folder import Record, SweepFolder
from elth_dist.sweeps.plan import Sweep, SweepJob
from elth_dist.sweeps.worker import STOPPED, do

#: How long jobs may take to save when they are stopped, in seconds.
_PATIENCE_SECONDS = 120.0


def run_in_process(sweep: Sweep, folder: SweepFolder, todo: Sequence[str]) -> bool:
    """Run jobs one after the other; a failure blocks only the jobs that need it. Return whether all are done."""
    bad: set[str] = set()
    for name in todo:
        job = sweep.jobs[name]
        if bad.intersection(job.inputs):
            bad.add(name)
            continue
        folder.write_config(name, job.config)
        _note(folder, name, failed=False)
        try:
            if do(folder, name) is not None:
                return False
        except (UserError, DisagreementError) as error:
            tell(error, 0)
            folder.output(name).write_text(f"elth_dist: error: {error}\n")
            _note(folder, name, failed=True)
            bad.add(name)
    return not bad


@dataclass(frozen=True)
class _Running:
    name: str
    slot: int
    processes: list[subprocess.Popen[bytes]]

    def poll(self) -> int | None:
        """Return the worst exit status once all ranks have ended, else None."""
        statuses = [process.poll() for process in self.processes]
        if any(status not in (None, 0, STOPPED) for status in statuses):  # the others would wait for it
            for process in self.processes:
                if process.poll() is None:
                    process.terminate()
        ended = [status for status in statuses if status is not None]
        return max(ended, key=lambda status: (status not in (0, STOPPED), status)) if None not in statuses else None


class LocalPool:
    """Runs jobs in processes of their own: `workers` at once, with `gpus` GPUs each."""

    def __init__(self, sweep: Sweep, folder: SweepFolder, *, workers: int, gpus: int, ranks: int) -> None:
        self._sweep, self._folder = sweep, folder
        self._workers, self._gpus, self._ranks = workers, gpus, ranks
        self._running: list[_Running] = []

    def run(self, todo: Sequence[str]) -> bool:
        """Run jobs as soon as their inputs exist; a failure blocks only the jobs that need it.

        Ctrl-C makes all running jobs save, then ends; the next call continues.

        Returns:
            Whether all jobs are done.
        """
        waiting, open_names, bad = list(todo), set(todo), set[str]()
        before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            while waiting or self._running:
                for name in list(waiting):
                    job = self._sweep.jobs[name]
                    if bad.intersection(job.inputs):
                        waiting.remove(name)
                        bad.add(name)
                    elif not open_names.intersection(job.inputs) and len(self._running) < self._workers:
                        waiting.remove(name)
                        self._start(job)
                for running in self._finished():
                    open_names.discard(running[0])
                    if running[1]:
                        bad.add(running[0])
                time.sleep(0.05)
        except KeyboardInterrupt:
            print(f"elth_dist: stopping {len(self._running)} jobs; they save first", file=sys.stderr, flush=True)
            self._stop()
            return False
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for one in self._running:
                for process in one.processes:
                    process.kill()
                    process.wait()
        return not bad

    def _start(self, job: SweepJob) -> None:
        folder, name = self._folder, job.name
        folder.write_config(name, job.config)
        _note(folder, name, failed=False)
        slot = min(set(range(self._workers)) - {running.slot for running in self._running})
        light = job.job.options.network_setting is None
        ranks = 1 if light else self._ranks
        threads = max(1, (os.cpu_count() or 1) // (self._workers * ranks))
        common = {
            **os.environ,
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks * self._workers),  # they share this machine's cores
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            "ELTH_ATTEMPT": f"{os.getpid()}-{time.monotonic_ns()}",
        }
        if self._gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            devices = visible.split(",") if visible else [str(number) for number in range(self._workers * self._gpus)]
            common["CUDA_VISIBLE_DEVICES"] = ",".join(devices[slot * self._gpus : (slot + 1) * self._gpus])
        else:
            common["CUDA_VISIBLE_DEVICES"] = ""
        processes = []
        with folder.output(name).open("ab") as log:
            for rank in range(ranks):
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "elth_dist.sweeps.worker", str(folder.root), name],
                        env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # the terminal's Ctrl-C must reach only this process
                    )
                )
        self._running.append(_Running(name, slot, processes))
        print(f"started   {name}  {job.label}", flush=True)

    def _finished(self) -> list[tuple[str, bool]]:
        """List (name, failed) of the jobs that have ended since the last call."""
        ended = []
        for running in list(self._running):
            status = running.poll()
            if status is None:
                continue
            self._running.remove(running)
            if status == STOPPED:  # by a signal from outside: neither failed nor done
                raise KeyboardInterrupt
            _note(self._folder, running.name, failed=status != 0)
            if status:
                print(f"failed    {running.name}  see {self._folder.output(running.name)}", file=sys.stderr, flush=True)
            else:
                print(f"done      {running.name}", flush=True)
            ended.append((running.name, status != 0))
        return ended

    def _stop(self) -> None:
        end = time.monotonic() + _PATIENCE_SECONDS
        for running in self._running:
            for process in running.processes:
                process.terminate()
        while time.monotonic() < end and any(running.poll() is None for running in self._running):
            time.sleep(0.05)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _note(folder: SweepFolder, name: str, *, failed: bool) -> None:
    folder.write_records({**folder.records(), name: Record(str(folder.output(name)), failed=failed)})
