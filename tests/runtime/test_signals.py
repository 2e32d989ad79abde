"""Stop signals of one process. Between ranks: tests/distributed/test_runtime.py."""

import os
import signal
import time

import pytest

from elth_dist.runtime.ranks import Ranks
from elth_dist.runtime.signals import STOP_SIGNALS, StopSignals
from tests.helpers.ranks import run_ranks


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_heard_and_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    with StopSignals(Ranks()) as stop:
        assert not stop.poll()
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.received == number
        assert stop.poll()
        assert stop.poll()
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="within"), StopSignals(Ranks()):
        raise ValueError("within")
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_interrupt_is_for_the_impatient() -> None:
    with StopSignals(Ranks()) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def _kill_a_helper() -> int:
    with StopSignals(Ranks()) as stop:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"!")
            for _ in range(1000):
                time.sleep(0.01)
            os._exit(0)
        os.read(reader, 1)  # a signal that meets Python within fork() is forgotten
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert not stop.requested
    return os.waitstatus_to_exitcode(status)


def test_a_helper_process_dies_of_the_signal_as_if_there_were_no_handler() -> None:
    assert run_ranks(_kill_a_helper, 1, join=False)[0].value == -signal.SIGTERM
