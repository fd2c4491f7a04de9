"""A run of a small model, and its generator in the Python interface."""

import pytest
import torch

import video3d
from tests.small_network import save_small_run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_small_run(folder)
    return folder


@pytest.fixture(scope="module")
def G(run_folder):
    return video3d.load_generator(run_folder)


@pytest.fixture
def double_by_default():
    """Programs that call torch.set_default_dtype(torch.float64)."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
