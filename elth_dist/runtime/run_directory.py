"""The folder of a run: the one place that names the files in it, and knows which jobs are finished.

config.yaml         the resolved configuration
environment.json    versions, git revision, hosts, devices, command line
metrics.jsonl       every scalar of every job
report.md           the closing tables
tensorboard/JOB/    event files
digits/             the embedded digits as JPEG folders, if the run uses them
JOB/                result.json, ticket.safetensors, trained.safetensors, checkpoints/
"""

import contextlib
import json
import logging
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import yaml

import elth_dist
from elth_dist.errors import UserError
from elth_dist.runtime.files import held, make_folder, reason, sha256, sync, write_atomically
from elth_dist.runtime.ranks import Ranks

_LOG = logging.getLogger(__name__)
_VERSION = 1
#: Beside a copy of this package: the commit that it was taken from.
REVISION_FILE = "revision.json"


@dataclass(frozen=True)
class Result:
    """What a finished job leaves in result.json."""

    identity: str  # hash of what determines the result
    part: dict[str, Any]  # the options that do
    inputs: dict[str, str]  # role -> identity of the job that played it
    metrics: dict[str, Any]
    files: dict[str, str]  # name in the job's folder -> SHA-256


@dataclass(frozen=True)
class JobFolder:
    """The folder of one job. Only rank 0 writes to it, except for checkpoints."""

    path: Path

    @property
    def name(self) -> str:
        """The job's name."""
        return self.path.name

    @property
    def ticket(self) -> Path:
        """The ticket that the job made or trained."""
        return self.path / "ticket.safetensors"

    @property
    def trained(self) -> Path:
        """The weights at the end of its training."""
        return self.path / "trained.safetensors"

    @property
    def result(self) -> Path:
        """What became of it; written last, so that its presence says that the job is finished."""
        return self.path / "result.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.path / "checkpoints"

    def commit(
        self, identity: str, part: Mapping[str, Any], inputs: Mapping[str, str], metrics: Mapping[str, Any]
    ) -> None:
        """Declare the job finished: its files are made durable and hashed, then result.json appears whole. Rank 0.

        Raises:
            UserError: it cannot be written; the job then is not finished.
        """
        try:
            make_folder(self.path)
            files = {}
            for path in self._products():
                sync(path)
                files[str(path.relative_to(self.path))] = sha256(path)
            sync(self.path)
            result = Result(identity, dict(part), dict(inputs), dict(metrics), files)
            text = json.dumps({"version": _VERSION, **asdict(result)}, indent=1)
            write_atomically(self.result, f"{text}\n".encode())
        except OSError as error:
            raise UserError(f"{self.result}: cannot be written: {reason(error)}") from error

    def finished(self, identity: str) -> bool:
        """Whether the job has been done with this identity and every file it made is as it was; all are read. Rank 0.

        A damaged file is named in a warning; the job is then not finished and will be done again.
        """
        result = self._result_if_whole()
        if result is None or result.identity != identity:
            return False
        for name, digest in result.files.items():
            try:
                intact = sha256(self.path / name) == digest
            except OSError as error:
                _LOG.warning("%s: %s: doing %s again", self.path / name, reason(error), self.name)
                return False
            if not intact:
                _LOG.warning("%s: does not match its SHA-256: doing %s again", self.path / name, self.name)
                return False
        return True

    def read(self) -> Result:
        """The result.

        Raises:
            UserError: there is none, or its file is damaged.
        """
        try:
            return self._read()
        except OSError as error:
            raise UserError(f"{self.result}: cannot be read: {reason(error)}") from error
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.result}: is damaged ({error}); remove {self.path} to do the job again") from error

    def _read(self) -> Result:
        found = json.loads(self.result.read_bytes())
        if not isinstance(found, dict) or found.pop("version", None) != _VERSION:
            raise ValueError("it is no result of this version")
        result = Result(**found)
        if not isinstance(result.identity, str) or not all(
            isinstance(entry, dict) for entry in (result.part, result.inputs, result.metrics, result.files)
        ):
            raise ValueError("it has entries of the wrong kind")
        return result

    def _result_if_whole(self) -> Result | None:
        try:
            return self._read()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            _LOG.warning("%s: cannot be used (%s): doing %s again", self.result, error, self.name)
            return None

    def _products(self) -> list[Path]:
        """Every file but the result itself, checkpoints, and what an interrupted writer left."""
        return [
            path
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
            and path != self.result
            and self.checkpoints not in path.parents
            and not path.name.endswith(".tmp")
        ]


class RunDirectory:
    """Everything a run writes lies below `root`. It belongs to one run at a time, from prepare() to close()."""

    def __init__(self, root: Path, jobs: Path | None = None) -> None:
        """Nothing is touched yet.

        Args:
            root: of this run alone.
            jobs: where the jobs' folders lie; other runs may have theirs there too. None: in `root`.
        """
        self.root = root
        self._jobs = root if jobs is None else jobs
        self._held = contextlib.ExitStack()

    @property
    def config(self) -> Path:
        """The resolved configuration, YAML."""
        return self.root / "config.yaml"

    @property
    def environment(self) -> Path:
        """What the run was last started with, JSON."""
        return self.root / "environment.json"

    @property
    def metrics(self) -> Path:
        """Every scalar, JSON lines."""
        return self.root / "metrics.jsonl"

    @property
    def report(self) -> Path:
        """The closing tables, Markdown."""
        return self.root / "report.md"

    @property
    def figure(self) -> Path:
        """Accuracy against density, PNG."""
        return self.root / "report.png"

    @property
    def digits(self) -> Path:
        """Where the embedded digits are written as JPEG folders."""
        return self.root / "digits"

    def tensorboard(self, job: str) -> Path:
        """The folder of a job's event files."""
        return self.root / "tensorboard" / job

    def job(self, name: str) -> JobFolder:
        """The folder of a job."""
        assert name not in ("tensorboard", "digits"), name
        return JobFolder(self._jobs / name)

    def started(self) -> list[str]:
        """Names of the jobs that the run has been started for, in order; empty where that is not known."""
        return list(self._read_started())

    def prepare(
        self,
        ranks: Ranks,
        config_yaml: str,
        environment: Mapping[str, Any],
        identities: Mapping[str, str],
        parts: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Take the directory for this run alone and write down its configuration and environment. Collective.

        It is given back by close() and at the end of the process, however that comes. What an unfinished job left under
        another configuration is removed, with a warning.

        Args:
            ranks: rank 0 writes and the others wait.
            config_yaml: the resolved configuration.
            environment: see `environment`.
            identities: job -> hash of what determines its result, inputs first.
            parts: job -> the options that do, as they went into the hash.

        Raises:
            UserError: on every rank, with nothing written: another run uses the directory; a finished job would now
                come out differently (names it and the first option that differs); or it cannot be written.
        """
        with ranks.together():
            if ranks.is_main:
                try:
                    self._prepare(config_yaml, environment, identities, parts)
                except OSError as error:
                    raise UserError(f"run.dir: {self.root}: cannot be written: {reason(error)}") from error

    def close(self) -> None:
        """Let other runs use the directory."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(
        self,
        config_yaml: str,
        environment: Mapping[str, Any],
        identities: Mapping[str, str],
        parts: Mapping[str, Mapping[str, Any]],
    ) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"run.dir: {self.root} is a file; give a folder, or a path where one can be made")
        self._refuse_changes(config_yaml, identities, parts)  # before a lock file is made
        make_folder(self.root)
        with contextlib.ExitStack() as stack:
            stack.enter_context(held(self.root / ".lock", f"run.dir: {self.root}"))
            self._refuse_changes(config_yaml, identities, parts)  # the holder before us may have finished a job
            self._restart_changed(config_yaml, identities, parts)
            write_atomically(self.config, config_yaml.encode())
            write_atomically(self.environment, (json.dumps(environment, indent=1, sort_keys=True) + "\n").encode())
            self._held = stack.pop_all()

    def _refuse_changes(
        self, config_yaml: str, identities: Mapping[str, str], parts: Mapping[str, Mapping[str, Any]]
    ) -> None:
        for name, identity in identities.items():
            result = self.job(name)._result_if_whole()
            if result is not None and result.identity != identity:
                what = self._first_difference(config_yaml, result.part, parts[name])
                raise UserError(
                    f"run.dir: {self.root} holds the finished job {name}, which this configuration changes: {what}; "
                    "choose another run.dir (or run.name), or go back to the old value"
                )

    @property
    def _started(self) -> Path:
        """Job -> identity and options under which it was last started."""
        return self.root / "jobs.json"

    def _restart_changed(
        self, config_yaml: str, identities: Mapping[str, str], parts: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Remove what unfinished jobs left under other options: their checkpoints lead to another result."""
        before = self._read_started()
        for name, identity in identities.items():
            folder, old = self.job(name), before.get(name)
            stale = old["identity"] != identity if old else not folder.result.exists()
            if stale and folder.path.exists():
                what = self._first_difference(config_yaml, old["part"] if old else {}, parts[name])
                _LOG.warning("%s: starting it anew, its unfinished work is of another configuration: %s", name, what)
                shutil.rmtree(folder.path)
        now = {name: {"identity": identity, "part": parts[name]} for name, identity in identities.items()}
        write_atomically(self._started, (json.dumps({**before, **now}, indent=1) + "\n").encode())

    def _read_started(self) -> dict[str, Any]:
        try:
            found = json.loads(self._started.read_bytes())
            return {name: {"identity": job["identity"], "part": dict(job["part"])} for name, job in found.items()}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _first_difference(self, config_yaml: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        """The first option whose value differs, with both values, in the words of the configuration."""
        old_options, new_options = dict(_flat(old)), dict(_flat(new))
        for option in {**new_options, **old_options}:
            if old_options.get(option) != new_options.get(option):
                break
        else:
            return "one of its inputs, or the version of elth_dist, is another"
        name = option.removeprefix("setting.")
        written = self.config.read_text() if self.config.exists() else ""
        values = []
        for options, text in ((old_options, written), (new_options, config_yaml)):
            resolved = dict(_flat(yaml.safe_load(text) or {}))  # identities leave defaults out, the file does not
            values.append(json.dumps(options.get(option, resolved.get(name, "the default"))))
        return f"{name} was {values[0]}, now {values[1]}"


def _flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and plain values of nested dicts and lists."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        for index, value in enumerate(tree):
            yield from _flat(value, f"{name}.{index}")
    else:
        yield name, tree


def environment(ranks: Ranks) -> dict[str, Any]:
    """What a run depends on beside its configuration: JSON values. Collective, the same on every rank."""
    device = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "cpu"
    places = ranks.gather_json({"host": socket.gethostname(), "device": device})
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "world_size": ranks.world_size,
        "hosts": sorted({place["host"] for place in places}),
        "devices": [place["device"] for place in places],
        "cpu_threads": torch.get_num_threads(),
        "versions": {
            "elth_dist": elth_dist.__version__,
            "python": sys.version.split()[0],
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call] # torch leaves it untyped
            **{name: _installed(name) for name in ("torchvision", "numpy", "safetensors", "deepspeed")},
            "dali": _installed("nvidia-dali-cuda130") or _installed("nvidia-dali-cuda120"),
        },
        "git": ranks.broadcast_json(git_revision() if ranks.is_main else None),
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_revision() -> dict[str, Any] | None:
    """The commit this package is run from (or was copied from), and whether files differ from it; None if unknown."""
    checkout = Path(elth_dist.__file__).resolve().parents[1]
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] | None = json.loads((checkout / REVISION_FILE).read_bytes())
        return found

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != checkout:
            return None
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
