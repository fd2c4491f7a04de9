"""Signals that request a run to stop."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from torch_utils import stop_signal
from torch_utils.stop_signal import StopRequested, StopSignal


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures("hear_hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_remembered_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        send(number)
        assert stop.requested and stop.number == number
    assert signal.getsignal(number) is before


def test_echoes_of_one_request_are_one():
    """A terminal sends Ctrl-C to every process, and a launcher passes it on."""
    with StopSignal() as stop:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            send(number)
        assert stop.number == signal.SIGINT


def test_a_later_second_one_ends_the_process(monkeypatch):
    monkeypatch.setattr(stop_signal, "ECHO", 0.05)
    child = os.fork()
    if child == 0:
        with StopSignal():
            send(signal.SIGTERM)
            time.sleep(0.1)
            send(signal.SIGTERM)
            time.sleep(5)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_launchers_signal_stops_first_and_is_handed_on_then():
    calls, before = [], signal.getsignal(signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, lambda number, frame: calls.append(number))
    try:
        with StopSignal() as stop:
            send(signal.SIGUSR2)
            assert stop.requested and calls == []
        assert calls == [signal.SIGUSR2]
        with pytest.raises(ValueError), StopSignal():  # a run that fails is not put back into the queue
            send(signal.SIGUSR2)
            raise ValueError
        assert len(calls) == 1
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            send(signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_request_ends_a_wait_and_nothing_else():
    with StopSignal() as stop:
        with stop.interrupts():
            pass
        with pytest.raises(StopRequested), stop.interrupts():
            send(signal.SIGTERM)
        assert stop.requested
        send(signal.SIGTERM)  # outside of a wait it is only remembered
        with pytest.raises(StopRequested), stop.interrupts():  # and ends the next one before it begins
            raise AssertionError


def test_an_echo_does_not_interrupt_the_end_of_a_wait():
    ended = []
    with StopSignal() as stop, pytest.raises(StopRequested), stop.interrupts():
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGTERM)
            ended.append(True)
    assert ended == [True]


def test_signals_without_a_handler_are_left_alone():
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    with StopSignal():
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_in_another_thread_signals_are_left_alone():
    def handlers():
        with StopSignal() as stop, stop.interrupts():
            return [signal.getsignal(number) for number in StopSignal.ENDING]

    before = [signal.getsignal(number) for number in StopSignal.ENDING]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handlers).result() == before
