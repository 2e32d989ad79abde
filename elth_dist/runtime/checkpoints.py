"""Atomic checkpoints, verified by SHA-256.

A save writes ``step-N.tmp/``, makes its files durable, adds a manifest with their SHA-256 and renames the folder: the
rename is the commit. LATEST, for people and tools, is then updated, and older checkpoints are removed. A committed
checkpoint is never written to again: a second one of the same step is named ``step-N-2``.
"""

import contextlib
import hashlib
import json
import logging
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from elth_dist.errors import UserError
from elth_dist.runtime.files import make_folder, reason, sha256, sync, write_atomically
from elth_dist.runtime.ranks import Ranks

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"step-(\d+)(?:-(\d+))?")
_MANIFEST = "manifest.json"
_LATEST = "LATEST"
_VERSION = 1


class _Age(NamedTuple):
    """Order committed checkpoints in time."""

    step: int
    attempt: int


class Checkpoints:
    """The checkpoints of one training, in a folder that all ranks see."""

    def __init__(self, folder: Path, ranks: Ranks, keep: int = 2) -> None:
        """Set the folder; writes nothing yet.

        Args:
            folder: holds only these checkpoints; made by the first save.
            keep: how many of the newest checkpoints to keep.
        """
        assert keep >= 1, keep
        self._folder = folder
        self._ranks = ranks
        self._keep = keep

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Commit a checkpoint of `step`. Collective; it succeeds or fails on all ranks.

        Args:
            write: called on every rank with the same folder; writes this rank's files into it (file names must differ
                between ranks: they contain the rank, or one rank writes them).

        Returns:
            The committed folder with the files that `write` wrote.

        Raises:
            UserError: on every rank, when any rank could not write (disk full, no permission). Earlier checkpoints are
                unchanged.
        """
        ranks = self._ranks
        name: str | None = None
        with ranks.together(), self._writing(step):
            if ranks.is_main:
                name = self._make_room(step)
        name = ranks.broadcast_json(name)
        unfinished, final = self._folder / f"{name}.tmp", self._folder / name
        try:
            with ranks.together(), self._writing(step):
                write(unfinished)
            digests = self._seal(step, unfinished)
            with ranks.together(), self._writing(step):
                if ranks.is_main:
                    self._commit(step, unfinished, final, digests)
        except UserError:
            if ranks.is_main:
                shutil.rmtree(unfinished, ignore_errors=True)  # a full disk needs the room
            raise
        if ranks.is_main:
            self._prune(final)
        return final

    def newest(self) -> Path | None:
        """Return the newest checkpoint whose files all verify, the same on every rank; None if none does. Collective.

        Each rank reads a share of the files. A checkpoint that does not verify is skipped with a warning.

        Raises:
            UserError: another number of ranks made it, or some rank does not see the folder.
        """
        ranks = self._ranks
        names: list[str] = ranks.broadcast_json(
            [path.name for path in reversed(self._committed())] if ranks.is_main else None
        )
        for name in names:
            folder: Path = self._folder / name
            manifest = ranks.broadcast_json(_read_manifest(folder) if ranks.is_main else None)
            if manifest is None:
                self._warn(folder, f"{_MANIFEST} is missing or damaged")
                continue
            with ranks.together():
                if not (folder / _MANIFEST).is_file():
                    raise UserError(
                        f"run.dir: rank {ranks.rank} on {socket.gethostname()} does not see {folder}: "
                        "it must lie on a file system that all nodes share"
                    )
            bad = self._first_bad(folder, manifest["files"])
            if bad is not None:
                self._warn(folder, bad)
                continue
            made_by = manifest["world_size"]
            if made_by != ranks.world_size:
                raise UserError(
                    f"{folder}: made by {made_by} ranks, this run has {ranks.world_size}: "
                    f"continue with {made_by} processes, or remove that folder's parent to train from the start"
                )
            return folder
        return None

    def clear(self) -> None:
        """Remove all checkpoints, once the training they belong to is done. Collective."""
        if self._ranks.is_main:
            (self._folder / _LATEST).unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._ranks.barrier()

    def _committed(self) -> list[Path]:
        """List committed folders, oldest first."""
        if not self._folder.is_dir():
            return []
        folders = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(folders, key=_age)

    def _make_room(self, step: int) -> str:
        """Remove what interrupted saves left, make an empty folder for a new checkpoint and return its name."""
        make_folder(self._folder)
        for leftover in self._folder.glob("*.tmp"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        attempts = [age.attempt for path in self._committed() if (age := _age(path)).step == step]
        name = f"step-{step}-{max(attempts) + 1}" if attempts else f"step-{step}"
        (self._folder / f"{name}.tmp").mkdir()
        return name

    def _seal(self, step: int, folder: Path) -> dict[str, str]:
        """Make the written files durable and return the SHA-256 of each, computed by a rank that sees it.

        Each rank lists the folder itself: a network file system may show a rank another rank's new files late.
        """
        ranks = self._ranks
        seen: list[str] = []
        with ranks.together(), self._writing(step):
            entries = sorted(folder.rglob("*"))
            for path in [*entries, folder]:
                sync(path)
            seen = [str(path.relative_to(folder)) for path in entries if path.is_file()]
        listings = ranks.gather_json(seen)
        names = sorted({name for listing in listings for name in listing})
        holders = {name: [rank for rank, listing in enumerate(listings) if name in listing] for name in names}
        own: dict[str, str] = {}
        with ranks.together(), self._writing(step):
            for index, (name, who) in enumerate(holders.items()):
                if who[index % len(who)] == ranks.rank:
                    own[name] = sha256(folder / name)
        return {name: entry for part in ranks.gather_json(own) for name, entry in part.items()}

    def _commit(self, step: int, unfinished: Path, final: Path, digests: dict[str, str]) -> None:
        manifest = {"version": _VERSION, "step": step, "world_size": self._ranks.world_size, "files": digests}
        sealed = {**manifest, "sha256": _digest(manifest)}
        write_atomically(unfinished / _MANIFEST, f"{json.dumps(sealed, indent=1)}\n".encode())
        unfinished.rename(final)
        sync(self._folder)
        write_atomically(self._folder / _LATEST, f"{final.name}\n".encode())

    def _prune(self, final: Path) -> None:
        """Remove all checkpoints but `final` and the newest before it.

        Checkpoints of a later step go too: they did not verify, or training went back to an earlier checkpoint.
        """
        committed = self._committed()
        place = committed.index(final)
        for old in committed[: max(0, place + 1 - self._keep)] + committed[place + 1 :]:
            try:
                shutil.rmtree(old)
            except OSError as error:
                _LOG.warning("%s: an old checkpoint could not be removed: %s", old, reason(error))

    def _first_bad(self, folder: Path, files: dict[str, str]) -> str | None:
        """Say what is wrong with a checkpoint, or None; each rank checks every world_size-th file."""
        bad: str | None = None
        for name in sorted(files)[self._ranks.rank :: self._ranks.world_size]:
            try:
                matches = sha256(folder / name) == files[name]
            except OSError as error:
                bad = f"{name}: {reason(error)}"
                break
            if not matches:
                bad = f"{name} does not match its SHA-256"
                break
        return next((text for text in self._ranks.gather_json(bad) if text is not None), None)

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Turn an OSError in the block into a UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._folder}: rank {self._ranks.rank} could not write the checkpoint of step {step}: "
                f"{reason(error)}; earlier checkpoints are untouched"
            ) from error

    def _warn(self, folder: Path, why: str) -> None:
        if self._ranks.is_main:
            _LOG.warning("%s: %s: trying an older checkpoint", folder, why)


def _age(path: Path) -> _Age:
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return _Age(int(match[1]), int(match[2] or 1))


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest; None if it is missing, damaged or of another version."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        digest = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    whole = digest == _digest(manifest) and (manifest["version"], manifest["step"]) == (_VERSION, _age(folder).step)
    return manifest if whole else None
