"""metrics.jsonl: every scalar of a run, one JSON object per line, in the order of reporting."""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from elth_dist.errors import UserError
from elth_dist.runtime.files import write_atomically

#: The keys that every row has; all others are scalars.
KEYS = ("job", "step", "epoch")

# JSON has no non-finite numbers. These names are protobuf's; most languages parse them as floats.
_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsFile:
    """The rows of all jobs of a run, appended to by one process at a time.

    A row is ``{"job": str, "step": int, "epoch": float, **scalars}``: these three keys first, then the scalars in
    alphabetical order, each number as the shortest text that reads back to the same float64, so that equal scalars
    give equal bytes. NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity".
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: Counter[str] = Counter()
        self._file: BinaryIO | None = None

    def restart(self, job: str, keep_rows: int) -> list[dict[str, Any]]:
        """Open the file to append to `job`, keep only its first `keep_rows` rows, and return those.

        Other rows of the job (reported after a checkpoint) and a last line torn by a kill are removed in one atomic
        replacement of the file; the bytes of all other rows stay.

        Raises:
            UserError: a line other than the last is not a row.
        """
        assert keep_rows >= 0, keep_rows
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines, size = _read(self.path) if self.path.exists() else ([], 0)
        self._rows = Counter()
        kept: list[bytes] = []
        of_job: list[dict[str, Any]] = []
        for line, row in lines:
            if row["job"] == job:
                if self._rows[job] == keep_rows:
                    continue
                of_job.append(row)
            self._rows[row["job"]] += 1
            kept.append(line)
        if sum(map(len, kept)) != size:
            write_atomically(self.path, b"".join(kept))
        self._file = self.path.open("ab")
        return of_job

    def append(self, row: Mapping[str, str | int | float]) -> None:
        """Append a row and flush it to the operating system: it then survives a kill of this process."""
        assert self._file is not None, "call restart() first"
        scalars = {name: _number(row[name]) for name in sorted(row.keys() - set(KEYS))}
        whole = {"job": row["job"], "step": row["step"], "epoch": _number(row["epoch"]), **scalars}
        self._file.write(json.dumps(whole, allow_nan=False).encode() + b"\n")
        self._file.flush()
        self._rows[str(row["job"])] += 1

    def rows(self, job: str) -> int:
        """Count the rows of `job`."""
        return self._rows[job]

    def sync(self) -> None:
        """Flush every row to disk: it then survives a crash of the machine."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; `restart` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Read every row of a metrics.jsonl, also while it is written; non-finite numbers become floats again.

    Raises:
        UserError: there is no such file, or a line other than the last is not a row.
    """
    try:
        return [row for _, row in _read(path)[0]]
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such metrics file") from error


def _read(path: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], int]:
    """Read each whole line with its row, and the size of the file in bytes, without a torn last line."""
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is not None:
            rows.append((line, row))
        elif number != len(lines):
            raise UserError(f"{path}: line {number} is not a row of metrics; correct or remove the line")
    return rows, len(data)


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("job"), str) or not all(key in row for key in KEYS):
        return None
    scalars = {
        name: _NAMES.get(value, value) for name, value in row.items() if isinstance(value, str) and name != "job"
    }
    return row | scalars


def _number(value: str | int | float) -> float | str:
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number
