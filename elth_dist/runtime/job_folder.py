"""The folder of a job: its file names, and whether the job is finished."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elth_dist.errors import UserError
from elth_dist.runtime.files import make_folder, reason, sha256, sync, write_atomically

_LOG = logging.getLogger(__name__)
_VERSION = 1


@dataclass(frozen=True)
class Result:
    """What a finished job leaves in result.json."""

    identity: str  # hash of what determines the result
    part: dict[str, Any]  # the options that determine it
    inputs: dict[str, str]  # role -> identity of the job in that role
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
        """The job's result, written last: the job is finished if this file exists."""
        return self.path / "result.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.path / "checkpoints"

    def commit(
        self, identity: str, part: Mapping[str, Any], inputs: Mapping[str, str], metrics: Mapping[str, Any]
    ) -> None:
        """Finish the job: make its files durable, hash them, then write result.json atomically. Rank 0.

        Raises:
            UserError: result.json cannot be written; the job is then unfinished.
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
        """Tell whether the job finished under this identity and all its files match their SHA-256. Rank 0.

        A damaged file is named in a warning; the job then counts as unfinished and is done again.
        """
        result = self.result_if_whole()
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
        """Read the result.

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
        written = json.loads(self.result.read_bytes())
        if not isinstance(written, dict) or written.pop("version", None) != _VERSION:
            raise ValueError("it is not a result of this version")
        result = Result(**written)
        if not isinstance(result.identity, str) or not all(
            isinstance(entry, dict) for entry in (result.part, result.inputs, result.metrics, result.files)
        ):
            raise ValueError("it has entries of the wrong kind")
        return result

    def result_if_whole(self) -> Result | None:
        """Read the result; None if there is none, or, with a warning, if its file is damaged."""
        try:
            return self._read()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            _LOG.warning("%s: cannot be used (%s): doing %s again", self.result, error, self.name)
            return None

    def _products(self) -> list[Path]:
        """List the files of the job, without result.json, checkpoints and leftovers of an interrupted write."""
        return [
            path
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
            and path != self.result
            and self.checkpoints not in path.parents
            and not path.name.endswith(".tmp")
        ]
