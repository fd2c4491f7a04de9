"""Fixtures of several rooms."""

import pytest


@pytest.fixture(scope="session")
def generator():
    """The small generator with every part, in evaluation mode; shared by the tests: leave it as it is."""
    from tests.goldens.networks import SMALL, build_generator

    return build_generator(SMALL)
