"""Fixtures shared by several test folders."""

import signal

import pytest


@pytest.fixture(scope="session")
def generator():
    """The small generator with every part, in evaluation mode; shared by the tests, which must not change it."""
    from tests.goldens.networks import SMALL, build_generator

    return build_generator(SMALL)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """The folder of a run of the small generator."""
    from tests.small_network import save_small_run

    folder = tmp_path_factory.mktemp("run")
    save_small_run(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def hear_interrupts():
    """SIGINT as in a terminal: shells start background commands with SIGINT ignored, and processes inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def hear_hangups():
    """SIGHUP as in a terminal, for tests that send it: under nohup it is ignored, and processes inherit that."""
    before = signal.getsignal(signal.SIGHUP)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session", autouse=True)
def operators_are_built_once():
    """Native operators come from one cache, also in tests that have a cache folder of their own."""
    from torch_utils import op_build

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(op_build.CACHE_VARIABLE, str(op_build.library_folder()))
        yield
