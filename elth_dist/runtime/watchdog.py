"""End a process that makes no progress, and print its stacks."""

import faulthandler
import os
import threading
import time
from types import TracebackType
from typing import Self


class Watchdog:
    """End the process unless it calls beat() at least every `minutes` while the block runs.

    Then "rank R: no progress" and the stacks of all threads go to stderr, and the process exits with status 1 at once,
    so that the launcher ends the other ranks too. faulthandler prints the stacks from a thread that needs no GIL: it
    works while a library hangs with the GIL held (then without the rank's line). One block at a time.
    """

    def __init__(self, minutes: float, rank: int) -> None:
        """`minutes`: 0 turns the watchdog off."""
        assert minutes >= 0, minutes
        self._seconds = minutes * 60
        self._rank = rank
        self._armed = 0.0
        self._closed = threading.Event()
        self._closed.set()

    def beat(self) -> None:
        """Report progress. Cheap enough for every step: the timer restarts at most every twentieth of its time."""
        if self._seconds and not self._closed.is_set() and time.monotonic() - self._armed > self._seconds / 20:
            self._arm()

    def _arm(self) -> None:
        self._armed = time.monotonic()
        announce_first = min(1.0, self._seconds / 10)
        faulthandler.dump_traceback_later(self._seconds + announce_first, exit=True, file=2)

    def _announce(self) -> None:
        """Say, in a thread of its own, which rank is stuck, before faulthandler prints where."""
        while not self._closed.wait(max(0.0, self._armed + self._seconds - time.monotonic())):
            if time.monotonic() >= self._armed + self._seconds:
                minutes = f"{self._seconds / 60:g} minutes"
                os.write(
                    2, f"elth_dist: rank {self._rank}: no progress for {minutes}; its threads are here:\n".encode()
                )
                return

    def __enter__(self) -> Self:
        self._closed.clear()
        if self._seconds:
            self._arm()
            threading.Thread(target=self._announce, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()
