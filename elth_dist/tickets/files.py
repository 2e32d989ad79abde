"""Writing a file so that it is there whole, durably, or not at all."""

import contextlib
import os
from pathlib import Path

from elth_dist.errors import UserError


def write_atomically(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, replacing what was there; a reader never sees a part of it.

    UserError naming the file if that is impossible; nothing is left behind then.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
