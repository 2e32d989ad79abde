"""Checkpoints that are either there whole, proven by digests, or not there at all.

A save writes ``step-N.tmp/``, makes its files durable, adds a manifest with their SHA-256 and renames the folder: the
rename is the commit. Then LATEST, for people and tools, is swapped and older checkpoints are removed. No committed
checkpoint is ever written to again: a second one of the same step is ``step-N-2``.
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
    """What orders committed checkpoints in time."""

    step: int
    attempt: int


class Checkpoints:
    """The checkpoints of one training, in a folder that all ranks see."""

    def __init__(self, folder: Path, ranks: Ranks, keep: int = 2) -> None:
        """Nothing is touched yet.

        Args:
            folder: of these checkpoints alone; made by the first save.
            keep: how many of the newest ones stay.
        """
        assert keep >= 1, keep
        self._folder = folder
        self._ranks = ranks
        self._keep = keep

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Commit a checkpoint of `step`. Collective; all ranks leave it alike.

        Args:
            write: called on every rank with a folder that is the same for all; writes this rank's files into it
                (names must differ between ranks, so they contain the rank or are written by one rank only).

        Returns:
            The committed folder; `write`'s files lie in it.

        Raises:
            UserError: on every rank, when any could not write (disk full, no permission). Earlier checkpoints are as
                they were.
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
        """The newest checkpoint whose every file verifies, the same on every rank; None when there is none. Collective.

        Each rank reads a share of the files. A checkpoint that does not verify is passed over with a warning.

        Raises:
            UserError: it was made by another number of ranks, or some rank does not see the folder.
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
                    f"continue with {made_by} processes, or remove that folder's parent to train anew"
                )
            return folder
        return None

    def clear(self) -> None:
        """Remove them all: the work they belong to is done. Collective."""
        if self._ranks.is_main:
            (self._folder / _LATEST).unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._ranks.barrier()

    def _committed(self) -> list[Path]:
        """Committed folders, the oldest first."""
        if not self._folder.is_dir():
            return []
        found = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=_age)

    def _make_room(self, step: int) -> str:
        """Remove what interrupted saves left; the name of a new checkpoint, for which an empty folder is made."""
        make_folder(self._folder)
        for leftover in self._folder.glob("*.tmp"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        attempts = [age.attempt for path in self._committed() if (age := _age(path)).step == step]
        name = f"step-{step}-{max(attempts) + 1}" if attempts else f"step-{step}"
        (self._folder / f"{name}.tmp").mkdir()
        return name

    def _seal(self, step: int, folder: Path) -> dict[str, str]:
        """Make what was written durable; every file's SHA-256, computed by a rank that sees it.

        Ranks list the folder each for itself: on a network file system one may see another's new files late.
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
        """Keep the newest ones up to `final`. Whatever claims to be newer did not verify, or time was turned back."""
        committed = self._committed()
        place = committed.index(final)
        for old in committed[: max(0, place + 1 - self._keep)] + committed[place + 1 :]:
            try:
                shutil.rmtree(old)
            except OSError as error:
                _LOG.warning("%s: an old checkpoint could not be removed: %s", old, reason(error))

    def _first_bad(self, folder: Path, files: dict[str, str]) -> str | None:
        """What is wrong with a checkpoint, if anything; each rank looks at every world_size-th file."""
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
        """A block in which what the operating system refuses is the user's to mend."""
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
    """The manifest, if it is one of ours and whole."""
    try:
        found = json.loads((folder / _MANIFEST).read_bytes())
        digest = found.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    whole = digest == _digest(found) and (found["version"], found["step"]) == (_VERSION, _age(folder).step)
    return found if whole else None
