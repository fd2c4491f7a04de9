"""Counted work: that of the networks as configured, the same whatever computes them."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import work
from benchmarks.products import MatrixProduct, multiply_adds
from training.launch.config import compose_options


@pytest.fixture(scope="module")
def options():
    return compose_options(["outdir=.", "data=.", *work.QUICK])


def test_a_frame_requires_its_layers(options):
    """Rows of the field: 16² rays of twice the 16 samples of the training, 64 units."""
    found, share = work.count_products(work.rendering, options)["render"]
    assert share == 1
    samples = 16 * 16 * 2 * 16
    assert found[MatrixProduct(1, samples, 36, 64)] == 1  # the encoded points' layer
    assert found[MatrixProduct(1, samples, 64, 64)] == 3 and found[MatrixProduct(1, samples, 64, 1)] == 1
    upsampled = 4 * 16 * 16
    assert found[MatrixProduct(1, upsampled, 64, 64)] == 1 and found[MatrixProduct(1, upsampled, 64, 3)] == 1


def test_a_phase_requires_what_pytorch_counts_but_for_depthwise_filters(options):
    phases = work.count_products(work.training, options)
    assert {name: share for name, (_, share) in phases.items()} == {
        "Gmain": 1, "Greg": 1 / 4, "Dmain": 1, "Dreg": 1 / 16
    }  # fmt: skip
    for name, (function, _) in work.training(options, device="meta").items():
        with FlopCounterMode(display=False) as counter:
            function()
        assert 0.9 < 2 * multiply_adds(phases[name][0]) / counter.get_total_flops() <= 1, name


def test_work_computes(options):
    for compute in (work.rendering, work.synthesis):
        for function, _ in compute(options).values():
            function()
    (video,) = work.rendering(options, frames=2).values()
    video[0]()
    assert torch.is_grad_enabled()
