"""How a run is asked to stop: signals to any rank, heard by all ranks between the same two steps."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from elth_dist.runtime.ranks import Ranks

#: What asks for a checkpoint and a clean end. USR1 and USR2 are what schedulers send ahead of a time limit.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class StopSignals:
    """Hears STOP_SIGNALS while its block runs; afterwards the handlers are those of before.

    The handler only sets a flag. A second interrupt from the keyboard raises KeyboardInterrupt at once, for people who
    do not want to wait. Enter it in the main thread, and leave it on all ranks after equally many polls.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._process = os.getpid()
        self._handlers: dict[signal.Signals, Any] = {}
        self._received: signal.Signals | None = None
        self._interrupted = False
        self._agreed = False
        self._asking: tuple[Tensor, dist.Work] | None = None

    @property
    def requested(self) -> bool:
        """Whether this process itself was asked to stop."""
        return self._received is not None

    @property
    def received(self) -> signal.Signals | None:
        """The first signal that this process itself got."""
        return self._received

    def poll(self) -> bool:
        """Whether all ranks stop now: True on each of them at the same poll, and from then on.

        Call it once a step, equally often on every rank. The answer is that of the ranks' flags one poll ago: a
        reduction on the CPU that has been under way during the step, so that nobody waits for it.
        """
        if self._ranks.alone:
            return self.requested
        if self._agreed:
            return True
        self._agreed = self._answer()
        if not self._agreed:
            flag = torch.tensor([int(self.requested)], dtype=torch.int32)
            work = self._ranks.start_max(flag)
            assert work is not None
            self._asking = (flag, work)
        return self._agreed

    def _answer(self) -> bool:
        """The outcome of the reduction that is under way, if one is."""
        if self._asking is None:
            return False
        flag, work = self._asking
        self._asking = None
        work.wait()
        return bool(flag.item())

    def __enter__(self) -> Self:
        for number in STOP_SIGNALS:
            self._handlers[number] = signal.signal(number, self._handle)
        # a launcher may have held them back until someone listens: now they arrive
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers.clear()
        if kind is None:
            self._answer()
        # after an error other ranks may be gone; the reduction then ends with the process group

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a helper process forked from this one ends as if there were no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        if self._received is None:
            self._received = signal.Signals(number)
