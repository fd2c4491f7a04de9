"""The generator of a small run in the Python interface."""

import pytest
import torch

import video3d


@pytest.fixture(scope="module")
def G(run_folder):
    return video3d.load_generator(run_folder)


@pytest.fixture
def double_by_default():
    """Programs that call torch.set_default_dtype(torch.float64)."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
