"""The folder of a sweep and the names of its files.

jobs/KIND-HASH/     one folder per job: result.json, ticket.safetensors, trained.safetensors, checkpoints/
logs/KIND-HASH/     config.yaml, environment.json, metrics.jsonl, tensorboard/, output.log
code/HASH/          the code that submitted jobs run
slurm/              what submitit writes
submitted.json      where each job was sent, and how it ended if it failed
results.md|csv|...  the closing table, its figure and records
sweep.json          the sweep's name, and the papers' figures that its report draws
digits/             the embedded digits as JPEG folders, if the sweep uses them
decoded/            decoded images, if the resident loader serves a dataset of image files
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elth_dist.errors import UserError
from elth_dist.plugins import absolute, module_name
from elth_dist.runtime.files import held, make_folder, write_atomically

if TYPE_CHECKING:
    from elth_dist.config import Config
    from elth_dist.runtime.job_folder import JobFolder
    from elth_dist.runtime.run_directory import RunDirectory


@dataclass(frozen=True)
class Record:
    """Where a job was sent."""

    log: str  # the file of rank 0's terminal output
    slurm: str | None = None  # its number in SLURM; None: run on this machine
    failed: bool = False  # only for jobs on this machine; SLURM's queue tells of the others


class SweepFolder:
    """Names every path below `root`."""

    def __init__(self, root: Path) -> None:
        """Set the root; writes nothing yet."""
        self.root = root.resolve()

    @property
    def jobs(self) -> Path:
        """Where the jobs' folders lie."""
        return self.root / "jobs"

    @property
    def code(self) -> Path:
        """Where snapshots of the code lie."""
        return self.root / "code"

    @property
    def slurm(self) -> Path:
        """What submitit writes."""
        return self.root / "slurm"

    @property
    def results(self) -> Path:
        """The results table, Markdown; next to it the figure (.png) and the records (.csv, .json)."""
        return self.root / "results.md"

    @property
    def digits(self) -> Path:
        """The embedded digits, written once for all jobs."""
        return self.root / "digits"

    def logs(self, name: str) -> Path:
        """The folder of a job's logs."""
        return self.root / "logs" / name

    def output(self, name: str) -> Path:
        """The terminal output of a job on this machine."""
        return self.logs(name) / "output.log"

    def config(self, name: str) -> Path:
        """The configuration of the run that a job belongs to."""
        return self.logs(name) / "config.yaml"

    def directory(self, name: str) -> "RunDirectory":
        """The run directory of one job."""
        from elth_dist.runtime.run_directory import RunDirectory

        return RunDirectory(self.logs(name), self.jobs, self.root)

    def job(self, name: str) -> "JobFolder":
        """The folder of a job's result."""
        from elth_dist.runtime.job_folder import JobFolder

        return JobFolder(self.jobs / name)

    def write_config(self, name: str, config: "Config", *, snapshot: bool = False) -> None:
        """Leave what the process that does a job will read.

        `snapshot`: it runs from a snapshot of the code, in which the files of plugins are modules.
        """
        find = module_name if snapshot else absolute
        config = config.model_copy(update={"plugins": tuple(map(find, config.plugins))})
        make_folder(self.logs(name))
        write_atomically(self.config(name), config.to_yaml().encode())

    def write_about(self, name: str, figures: Sequence[str]) -> None:
        """Leave the sweep's name, and the papers' figures that its report draws."""
        make_folder(self.root)
        about = {"name": name, "figures": list(figures)}
        write_atomically(self.root / "sweep.json", f"{json.dumps(about)}\n".encode())

    def about(self) -> tuple[str, tuple[str, ...]]:
        """The sweep's name, and the papers' figures that its report draws; the folder's name if that is not known."""
        try:
            about = json.loads((self.root / "sweep.json").read_bytes())
            return str(about["name"]), tuple(map(str, about["figures"]))
        except (OSError, ValueError, KeyError, TypeError):
            return self.root.name, ()

    @property
    def _records(self) -> Path:
        return self.root / "submitted.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the sweep against other submissions and cancellations. UserError if it is locked."""
        make_folder(self.root)
        with held(self.root / ".lock", f"--dir: {self.root}"):
            yield

    def records(self) -> dict[str, Record]:
        """Where jobs were sent, by name. UserError if the file is damaged."""
        try:
            records = json.loads(self._records.read_bytes())
            return {name: Record(**record) for name, record in records.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self._records}: is damaged ({error}); remove it if no job of the sweep is queued"
            ) from None

    def write_records(self, records: dict[str, Record]) -> None:
        """Replace all records."""
        make_folder(self.root)
        text = json.dumps({name: asdict(record) for name, record in records.items()}, indent=1)
        write_atomically(self._records, f"{text}\n".encode())
