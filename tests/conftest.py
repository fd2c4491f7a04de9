"""Fixtures of several rooms."""

import signal

import pytest


@pytest.fixture(scope="session")
def generator():
    """The small generator with every part, in evaluation mode; shared by the tests: leave it as it is."""
    from tests.goldens.networks import SMALL, build_generator

    return build_generator(SMALL)


@pytest.fixture(scope="session", autouse=True)
def hear_interrupts():
    """SIGINT as in a terminal: shells start background commands with SIGINT ignored, and processes inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
