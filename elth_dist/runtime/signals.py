"""Signals that stop a run: sent to any rank, acted on by all ranks between the same two steps."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from elth_dist.runtime.ranks import Ranks

#: Signals that ask for a checkpoint and a clean exit. Schedulers send USR1 or USR2 ahead of a time limit.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class StopSignals:
    """Handle STOP_SIGNALS while the block runs, then restore the earlier handlers.

    The handler only sets a flag. A second interrupt from the keyboard raises KeyboardInterrupt at once, for people who
    do not want to wait. Enter the block in the main thread; all ranks must leave it after equally many polls.
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
        """Whether this process received a stop signal."""
        return self._received is not None

    @property
    def received(self) -> signal.Signals | None:
        """The first stop signal that this process received; None: none."""
        return self._received

    def poll(self) -> bool:
        """Tell whether all ranks stop now: True on every rank from the same poll on.

        Call it once per step, equally often on every rank. The answer is the maximum of the ranks' flags at the
        previous poll: that reduction runs on the CPU during the step, so that no rank waits for it.
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
        """Return the outcome of the pending reduction; False if none is pending."""
        if self._asking is None:
            return False
        flag, work = self._asking
        self._asking = None
        work.wait()
        return bool(flag.item())

    def __enter__(self) -> Self:
        for number in STOP_SIGNALS:
            self._handlers[number] = signal.signal(number, self._handle)
        # a launcher may have blocked the signals until there is a handler
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
        # after an error other ranks may be gone: the reduction ends with the process group

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a process forked from this one: end as without a handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        if self._received is None:
            self._received = signal.Signals(number)
