"""Files that outlive a crash of the process and of the machine."""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from elth_dist.errors import UserError

_LOG = logging.getLogger(__name__)


def write_atomically(path: Path, data: bytes) -> None:
    """Make `path` hold `data`: whoever looks, now or after a crash, finds the old content or the new one, whole.

    Raises:
        OSError: it could not be written; `path` is as before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder and its parents durably; one that exists is fine."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


@contextlib.contextmanager
def held(lock: Path, whose: str) -> Iterator[None]:
    """Hold a lock file, which the system takes back however this process ends. Its folder must be there.

    Args:
        lock: made if missing, and left behind.
        whose: what is in use where somebody else holds it, for people.

    Raises:
        UserError: "`whose` is in use by ...; wait for it".
    """
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{whose} is in use by {file.read() or 'another process'}; wait for it") from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
            _LOG.warning("%s: its file system has no locks: take care that nobody else uses it", lock.parent)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends: that appears whole or not at all.

    Where another process was faster, its folder stays. The parent must be there.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        try:
            scratch.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reason(error: OSError) -> str:
    """What went wrong, without number and path: "No space left on device"."""
    return error.strerror or str(error)
