"""Real rank processes for tests: start N of them, end them all in time, and show every rank's log when one fails.

    results = run_ranks(function, 2, args=["x"])     # function(ranks, "x") in 2 processes that joined one gloo group
    results = run_ranks([sys.executable, "-m", "elth_dist.train", ...], 2)    # a command line with RANK etc. set
    results = run_ranks("import os; print(os.environ['RANK'])", 2)            # a script
    with start_ranks(function, 4) as running:        # the same, to meddle with
        running.wait_for_output(2, "ready")
        running.signal(2, signal.SIGTERM)
        results = running.finish(timeout=30)
    result = run_torchrun(["-m", "elth_dist.train", ...], 2)

Functions are named (module level) functions of an importable module, such as the test file itself. What they return
(anything JSON can hold) arrives in ``result.value``. Their processes are forked from one that has imported torch and
has done nothing else, which saves two seconds of a core for each.
"""

import contextlib
import faulthandler
import importlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

REPOSITORY = Path(__file__).resolve().parents[2]
#: How long the other ranks may live on when one has failed: enough to notice a broken connection.
GRACE_SECONDS = 60.0
#: How long processes may take: minutes, since the machine may be busy with other tests.
PATIENCE_SECONDS = 600.0
SHOWN_CHARACTERS = 6000

Program = Callable[..., Any] | Sequence[str] | str


@dataclass(frozen=True)
class RankResult:
    """How one process ended. `output` is its stdout and stderr as they came; `value` what its function returned."""

    rank: int
    returncode: int
    output: str
    value: Any = None


class RanksFailed(AssertionError):  # noqa: N818 - a failed test, not an error of this helper
    """Some process failed or was too late; the text shows each one's log."""

    def __init__(self, why: str, results: Sequence[RankResult]) -> None:
        self.results = list(results)
        parts = [why]
        for result in results:
            text = result.output[-SHOWN_CHARACTERS:]
            cut = "" if len(text) == len(result.output) else " (end of it)"
            parts.append(f"--- rank {result.rank}: exit status {result.returncode}, output{cut}:\n{text.rstrip()}")
        super().__init__("\n".join(parts))


def run_ranks(
    program: Program,
    world_size: int = 2,
    *,
    args: Sequence[Any] = (),
    timeout: float = PATIENCE_SECONDS,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    join: bool = True,
    check: bool = True,
) -> list[RankResult]:
    """Run `program` on `world_size` processes and wait for them all.

    Args:
        program: a function, a command line (sequence) or the text of a script.
        args: what JSON can hold, for a function.
        timeout: seconds after which every process is ended, with the stacks of its threads in its log.
        env: added to this process's environment.
        join: a function gets `Ranks` of an open CPU group as its first argument; else it is called with `args` alone.
        check: raise RanksFailed when any exit status is not 0; too late always raises.
    """
    with start_ranks(program, world_size, args=args, env=env, cwd=cwd, join=join) as running:
        return running.finish(timeout=timeout, check=check)


@contextlib.contextmanager
def start_ranks(
    program: Program,
    world_size: int = 2,
    *,
    args: Sequence[Any] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    join: bool = True,
) -> Iterator["RunningRanks"]:
    """Start the processes and go on; whatever still runs at the end of the block is killed."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined] # torch re-exports it

    # This process serves the rendezvous on a port of the system's choice, as torchrun's agent does: no race for a port.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        running = RunningRanks(Path(folder))
        try:
            for rank in range(world_size):
                own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), **(env or {})}
                if callable(program):
                    running.start_function(program, [join, *args], own, cwd)
                else:
                    line = [sys.executable, "-c", program] if isinstance(program, str) else program
                    running.start(line, own, cwd)
            yield running
        finally:
            running.kill()
            del store


def run_torchrun(
    command: Sequence[str],
    nproc: int = 2,
    *,
    timeout: float = PATIENCE_SECONDS,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    options: Sequence[str] = ("--standalone",),
    check: bool = True,
) -> RankResult:
    """``torchrun OPTIONS --nproc-per-node NPROC COMMAND``, with all its processes ended at `timeout`."""
    with start_torchrun(command, nproc, env=env, cwd=cwd, options=options) as running:
        return running.finish(timeout=timeout, check=check)[0]


@contextlib.contextmanager
def start_torchrun(
    command: Sequence[str],
    nproc: int = 2,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    options: Sequence[str] = ("--standalone",),
) -> Iterator["RunningRanks"]:
    """Start one torchrun agent and go on; its process counts as "rank 0" here."""
    line = [sys.executable, "-m", "torch.distributed.run", *options, "--nproc-per-node", str(nproc), *command]
    with tempfile.TemporaryDirectory(prefix="torchrun-") as folder:
        running = RunningRanks(Path(folder))
        try:
            running.start(line, dict(env or {}), cwd)
            yield running
        finally:
            running.kill()


class _Process(Protocol):
    """One rank, however it was started."""

    pid: int

    def poll(self) -> int | None: ...

    def send_signal(self, number: int, /) -> None: ...

    def wait(self) -> int: ...


class RunningRanks:
    """Processes that were started, each the leader of its own process group."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[_Process] = []

    def start(self, command: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> None:
        """One more process: a command line."""
        with self._log_path(len(self._processes)).open("wb") as log:
            process = subprocess.Popen(
                list(command),
                env=_environment(env),
                cwd=cwd or REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)

    def start_function(
        self, function: Callable[..., Any], args: Sequence[Any], env: Mapping[str, str], cwd: Path | None
    ) -> None:
        """One more process: a function."""
        name = f"{function.__module__}:{function.__qualname__}"
        assert "<" not in name, f"{name} is not a function that another process can import"
        rank = len(self._processes)
        environment, folder = _environment(env), str(cwd or REPOSITORY)
        request = [name, json.dumps(list(args)), environment, folder, self._log_path(rank), self.value_path(rank)]
        self._processes.append(_Forked(request))

    @property
    def pids(self) -> list[int]:
        """Process ids in rank order."""
        return [process.pid for process in self._processes]

    def signal(self, rank: int, number: int) -> None:
        """Send a signal to one rank's process alone; nothing happens when it has ended."""
        self._processes[rank].send_signal(number)

    def output(self, rank: int) -> str:
        """What a rank has written so far."""
        path = self._log_path(rank)
        return path.read_text(errors="replace") if path.exists() else ""

    def value_path(self, rank: int) -> Path:
        """Where a rank's function leaves what it returned."""
        return self._folder / f"value-{rank}.json"

    def wait_for_output(self, rank: int, pattern: str, timeout: float = PATIENCE_SECONDS) -> re.Match[str]:
        """Wait until a rank has written something that matches (re.search)."""
        end = time.monotonic() + timeout
        while True:
            ended = self._processes[rank].poll() is not None
            if match := re.search(pattern, self.output(rank)):
                return match
            if ended or time.monotonic() > end:
                why = "ended without" if ended else f"did not in {timeout:g} s"
                self.kill()
                raise RanksFailed(f"rank {rank} {why} writing {pattern!r}", self._results())
            time.sleep(0.01)

    def finish(self, timeout: float = PATIENCE_SECONDS, check: bool = True) -> list[RankResult]:
        """Wait for all; RanksFailed when one is too late or (`check`) ends with another status than 0."""
        end = time.monotonic() + timeout
        failed = False
        while None in (statuses := [process.poll() for process in self._processes]):
            if not failed and any(statuses):
                failed = True
                end = min(end, time.monotonic() + GRACE_SECONDS)
            if time.monotonic() > end:
                late = [rank for rank, status in enumerate(statuses) if status is None]
                self.kill(dump_stacks=True)
                why = (
                    f"still running {GRACE_SECONDS:g} s after another failed"
                    if failed
                    else f"not done in {timeout:g} s"
                )
                raise RanksFailed(f"rank {', '.join(map(str, late))} {why}", self._results())
            time.sleep(0.01)
        results = self._results()
        if check and any(result.returncode for result in results):
            raise RanksFailed("some rank failed", results)
        return results

    def kill(self, dump_stacks: bool = False) -> None:
        """End every process and what it started, at once."""
        if dump_stacks:
            for process in self._processes:
                process.send_signal(signal.SIGABRT)  # faulthandler writes the stacks
            end = time.monotonic() + 3
            while time.monotonic() < end and any(process.poll() is None for process in self._processes):
                time.sleep(0.01)
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def _log_path(self, rank: int) -> Path:
        return self._folder / f"log-{rank}.txt"

    def _results(self) -> list[RankResult]:
        results = []
        for rank, process in enumerate(self._processes):
            path = self.value_path(rank)
            value = json.loads(path.read_text()) if path.exists() else None
            results.append(RankResult(rank, process.wait(), self.output(rank), value))
        return results


#: What a launcher around the tests (SLURM, torchrun) may have set and our processes must not inherit.
_LAUNCHER_VARIABLE = re.compile(
    r"^(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_\w+|ROLE_\w+|MASTER_\w+|TORCHELASTIC_\w+)$"
)


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not _LAUNCHER_VARIABLE.match(key)}
    return {
        **inherited,
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
        **env,
    }


_SERVER = multiprocessing.get_context("forkserver")
# What takes long to import, so that it is imported once; none of it starts a thread.
_SERVER.set_forkserver_preload(
    [
        "torch.distributed",
        "elth_dist.train",
        "elth_dist.jobs.run",
        "elth_dist.jobs.report",
        "elth_dist.data.dali",
        "tests.helpers.preloaded",
        "pytest",
    ]
)


class _Forked:
    """A process that runs a function, with the manners of subprocess.Popen."""

    def __init__(self, request: Sequence[Any]) -> None:
        self._process = _SERVER.Process(target=_serve, args=request)
        threads = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # of the server: a process to fork from has one thread
        try:
            self._process.start()
        finally:
            if threads is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = threads
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self) -> int:
        self._process.join()
        status = self._process.exitcode
        assert status is not None
        return status


def _serve(name: str, json_args: str, env: dict[str, str], cwd: str, log_path: Path, value_path: Path) -> None:
    """What a forked process runs: become a rank, then call the function."""
    os.setsid()
    with log_path.open("wb") as log, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr] # the process's own streams
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)

    import torch

    from elth_dist.runtime.ranks import open_ranks

    torch.set_num_threads(1)
    module, _, qualified = name.partition(":")
    function: Any = importlib.import_module(module)
    for part in qualified.split("."):
        function = getattr(function, part)
    join, *args = json.loads(json_args)
    with contextlib.ExitStack() as stack:
        if join:
            args.insert(0, stack.enter_context(open_ranks("cpu", timeout_minutes=2)))
        value = function(*args)
        value_path.write_text(json.dumps(value))
