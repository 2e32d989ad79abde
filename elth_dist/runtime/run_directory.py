"""The folder of a run and the names of its files; each job's folder is a JobFolder.

config.yaml         the resolved configuration
environment.json    versions, plugins, git revision, hosts, devices, command line
metrics.jsonl       every scalar of every job
report.md           the closing tables
tensorboard/JOB/    event files
digits/             the embedded digits as JPEG folders, if the run uses them
decoded/            decoded images, if the resident loader serves a dataset of image files
JOB/                result.json, ticket.safetensors, trained.safetensors, checkpoints/
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import yaml

from elth_dist.errors import UserError
from elth_dist.runtime.files import held, make_folder, reason, write_atomically
from elth_dist.runtime.job_folder import JobFolder
from elth_dist.runtime.ranks import Ranks

_LOG = logging.getLogger(__name__)


class PlannedJob(Protocol):
    """What a run directory needs to know of a job; jobs.graph.Job provides it."""

    @property
    def name(self) -> str:
        """The name of its folder."""

    @property
    def identity(self) -> str:
        """The hash of what determines the result."""

    @property
    def part(self) -> Mapping[str, Any]:
        """The options that determine the result, as hashed."""


class RunDirectory:
    """The folder `root`, below which a run writes everything. One run holds it at a time, from prepare() to close()."""

    def __init__(self, root: Path, jobs: Path | None = None, data: Path | None = None) -> None:
        """Set the folders; writes nothing yet.

        Args:
            root: the folder of this run only.
            jobs: the folder that holds the jobs' folders; runs may share it. None: `root`.
            data: the folder that holds digits/ and decoded/; runs may share it. None: `root`.
        """
        self.root = root
        self._data = root if data is None else data
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
        return self._data / "digits"

    @property
    def decoded(self) -> Path:
        """Where the decoded images of a dataset are kept for later jobs."""
        return self._data / "decoded"

    def tensorboard(self, job: str) -> Path:
        """The folder of a job's event files."""
        return self.root / "tensorboard" / job

    def job(self, name: str) -> JobFolder:
        """The folder of a job."""
        assert name not in ("tensorboard", "digits", "decoded"), name
        return JobFolder(self._jobs / name)

    def started(self) -> list[str]:
        """Names of the jobs that the run has been started for, in order; empty where that is not known."""
        return list(self._read_started())

    def prepare(
        self,
        ranks: Ranks,
        config_yaml: str,
        environment: Mapping[str, Any],
        jobs: Sequence[PlannedJob],
    ) -> None:
        """Lock the directory for this run and write its configuration and environment. Collective.

        close() and the end of the process release the lock. Files that an unfinished job left under another
        configuration are removed with a warning.

        Args:
            ranks: rank 0 writes and the others wait.
            config_yaml: the resolved configuration.
            environment: see runtime.environment.
            jobs: the jobs of the run, inputs first.

        Raises:
            UserError: on every rank, with nothing written: another run uses the directory; the configuration changes
                the result of a finished job (names the job and the first option that differs); or the directory
                cannot be written.
        """
        with ranks.together():
            if ranks.is_main:
                try:
                    self._prepare(config_yaml, environment, jobs)
                except OSError as error:
                    raise UserError(f"run.dir: {self.root}: cannot be written: {reason(error)}") from error

    def close(self) -> None:
        """Release the directory for other runs."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, config_yaml: str, environment: Mapping[str, Any], jobs: Sequence[PlannedJob]) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"run.dir: {self.root} is a file; give a folder, or a path where one can be made")
        self._refuse_changes(config_yaml, jobs)  # before a lock file is made
        make_folder(self.root)
        with contextlib.ExitStack() as stack:
            stack.enter_context(held(self.root / ".lock", f"run.dir: {self.root}"))
            self._refuse_changes(config_yaml, jobs)  # the holder before us may have finished a job
            self._restart_changed(config_yaml, jobs)
            write_atomically(self.config, config_yaml.encode())
            write_atomically(self.environment, (json.dumps(environment, indent=1, sort_keys=True) + "\n").encode())
            self._held = stack.pop_all()

    def _refuse_changes(self, config_yaml: str, jobs: Sequence[PlannedJob]) -> None:
        for job in jobs:
            result = self.job(job.name).result_if_whole()
            if result is not None and result.identity != job.identity:
                what = self._first_difference(config_yaml, result.part, job.part)
                raise UserError(
                    f"run.dir: {self.root} holds the finished job {job.name}, which this configuration changes: "
                    f"{what}; choose another run.dir (or run.name), or go back to the old value"
                )

    @property
    def _started(self) -> Path:
        """The file that maps each job to the identity and options of its last start."""
        return self.root / "jobs.json"

    def _restart_changed(self, config_yaml: str, jobs: Sequence[PlannedJob]) -> None:
        """Remove what unfinished jobs wrote under other options: their checkpoints lead to another result."""
        before = self._read_started()
        for job in jobs:
            folder, old = self.job(job.name), before.get(job.name)
            stale = old["identity"] != job.identity if old else not folder.result.exists()
            if stale and folder.path.exists():
                what = self._first_difference(config_yaml, old["part"] if old else {}, job.part)
                _LOG.warning(
                    "%s: starting over, because its unfinished work has another configuration: %s", job.name, what
                )
                shutil.rmtree(folder.path)
        now = {job.name: {"identity": job.identity, "part": dict(job.part)} for job in jobs}
        write_atomically(self._started, (json.dumps({**before, **now}, indent=1) + "\n").encode())

    def _read_started(self) -> dict[str, Any]:
        try:
            started = json.loads(self._started.read_bytes())
            return {name: {"identity": job["identity"], "part": dict(job["part"])} for name, job in started.items()}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _first_difference(self, config_yaml: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        """Describe the first option that differs, with both values, as written in a configuration."""
        old_options, new_options = dict(_flat(old)), dict(_flat(new))
        for option in {**new_options, **old_options}:
            if old_options.get(option) != new_options.get(option):
                break
        else:
            return "an input of the job, or the version of elth_dist, differs"
        name = option.removeprefix("setting.")
        written = self.config.read_text() if self.config.exists() else ""
        values = []
        for options, text in ((old_options, written), (new_options, config_yaml)):
            resolved = dict(_flat(yaml.safe_load(text) or {}))  # identities leave out defaults, the file does not
            values.append(json.dumps(options.get(option, resolved.get(name, "the default"))))
        return f"{name} was {values[0]}, now {values[1]}"


def _flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and plain values of nested dicts and lists."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        for index, value in enumerate(tree):
            yield from _flat(value, f"{name}.{index}")
    else:
        yield name, tree
