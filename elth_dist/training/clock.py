"""Wall time of a training between two readings."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """How long training took since the last lap, and how much of that it waited for data."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._paused = 0.0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time in the block as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time in the block from training: evaluation, checkpoints."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def lap(self) -> tuple[float, float]:
        """Return (seconds of training, of which seconds waiting for data) since the last lap."""
        now = time.perf_counter()
        times = now - self._start - self._paused, self._waited
        self._start, self._waited, self._paused = now, 0.0, 0.0
        return times
