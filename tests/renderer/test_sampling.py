"""Depths along a ray: measured values, a plain inverse CDF, statistics, extremes."""

import numpy as np
import pytest
import torch

from renderer.rays import importance_samples, stratified
from tests.goldens import reference
from tests.goldens.checks import assert_near
from tests.goldens.networks import golden_arrays

GOLDENS = golden_arrays("units.npz")


def test_measured_even_positions():
    even = torch.linspace(0, 1, 14)
    assert_near(stratified(even, None), GOLDENS["points/di14"], relative=1e-6)
    assert_near(torch.linspace(-0.5, 0, 4), GOLDENS["points/bg_di"], relative=1e-6)


def test_measured_jitter():
    uniform = torch.from_numpy(np.random.RandomState(2000).rand(1, 16, 14).astype(np.float32))
    assert_near(stratified(torch.linspace(0, 1, 14), uniform), GOLDENS["tape2000/add_noise_to_interval"], relative=1e-6)


def test_measured_importance_samples():
    bins, weights = GOLDENS["sample_pdf/bins"], GOLDENS["sample_pdf/weights"]
    assert_near(importance_samples(bins, weights, 14, None), GOLDENS["sample_pdf/det14"])
    # Two videos of two frames and three rays; the frames of a video share the draw.
    uniform = torch.from_numpy(np.random.RandomState(2100).rand(2, 3, 14).astype(np.float32))
    uniform = uniform[:, None].expand(2, 2, 3, 14).reshape(12, 14)
    assert_near(importance_samples(bins, weights, 14, uniform), GOLDENS["sample_pdf/tape2100_b2_t2_r3"])


def test_jitter_stays_between_the_midpoints():
    positions = torch.tensor([0.0, 0.2, 0.6, 1.0])
    lowest = stratified(positions, torch.zeros(4))
    highest = stratified(positions, torch.ones(4))
    assert_near(lowest, torch.tensor([0.0, 0.1, 0.4, 0.8]))
    assert_near(highest, torch.tensor([0.1, 0.4, 0.8, 1.0]))
    random = stratified(positions, torch.rand(5, 7, 4, generator=torch.Generator().manual_seed(0)))
    assert random.shape == (5, 7, 4)
    assert (random.diff(dim=-1) > 0).all()
    assert torch.equal(stratified(positions, None), positions)


def test_against_a_plain_inverse_cdf():
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(40, 9, generator=generator, dtype=torch.float64).sort(dim=-1).values
    weights = torch.rand(40, 8, generator=generator, dtype=torch.float64) ** 6
    weights[:10, 2:5] = 0  # empty bins
    weights[10] = 0  # an empty ray: uniform over the bins
    uniform = torch.rand(40, 11, generator=generator, dtype=torch.float64)
    samples = importance_samples(edges, weights, 11, uniform)
    expected = torch.stack([reference.inverse_cdf(*ray) for ray in zip(edges, weights, uniform)])
    assert_near(samples, expected, relative=1e-9)


def test_without_draws_the_quantiles_are_even():
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(40, 9, generator=generator).sort(dim=-1).values
    weights = torch.rand(40, 8, generator=generator)
    samples = importance_samples(edges, weights, 11, torch.linspace(0, 1, 11).expand(40, 11))
    assert torch.equal(importance_samples(edges, weights, 11, None), samples)
    # The ends are the ends of the bins.
    assert_near(samples[:, [0, -1]], edges[:, [0, -1]], absolute=1e-6)


def test_samples_follow_the_weights():
    edges = torch.tensor([0.0, 0.1, 0.5, 0.6, 1.0])
    weights = torch.tensor([1.0, 4.0, 0.0, 5.0])
    uniform = torch.rand(1, 20000, generator=torch.Generator().manual_seed(0))
    samples = importance_samples(edges, weights[None], 20000, uniform)[0]
    shares = [float(((samples >= low) & (samples < high)).double().mean()) for low, high in zip(edges, edges[1:])]
    assert shares == pytest.approx([0.1, 0.4, 0.0, 0.5], abs=0.02)
    second = samples[(samples >= 0.1) & (samples < 0.5)]
    assert float(second.mean()) == pytest.approx(0.3, abs=0.01), "uniform within a bin"


def test_deterministic_samples_are_sorted_within_the_bins():
    weights = torch.rand(100, 12, generator=torch.Generator().manual_seed(0))
    edges = torch.linspace(0.1, 0.9, 13)
    samples = importance_samples(edges, weights, 14, None)
    assert (samples.diff(dim=-1) >= 0).all()
    assert float(samples.min()) >= 0.1 and float(samples.max()) <= 0.9 + 1e-6


@pytest.mark.parametrize(
    "weights", [torch.zeros(12), torch.eye(12)[0], torch.eye(12)[11], torch.full([12], 1e-30), torch.full([12], 1e6)]
)
@pytest.mark.parametrize("uniform", [None, torch.zeros(1, 14), torch.ones(1, 14), torch.full([1, 14], 0.5)])
def test_extreme_rays(weights, uniform):
    edges = torch.linspace(0, 1, 13)
    samples = importance_samples(edges, weights[None], 14, uniform)
    assert samples.shape == (1, 14)
    assert ((samples >= 0) & (samples <= 1)).all()


def test_samples_are_constants():
    weights = torch.rand(3, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    edges = torch.linspace(0, 1, 13).expand(3, 13).clone().requires_grad_()
    assert not importance_samples(edges, weights, 14, None).requires_grad
