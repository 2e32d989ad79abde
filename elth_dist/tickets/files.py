"""Writing a user's file."""

from pathlib import Path

from elth_dist.errors import UserError
from elth_dist.runtime.files import reason, write_atomically


def write_file(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, whole and durably. UserError naming the file if impossible: all is as before then."""
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {reason(error)}") from error
