"""Densities to weights to pixels: measured values, the formula, conservation, extremes, derivatives."""

import pytest
import torch
from torch.autograd import gradcheck

from renderer.rays import quadrature_weights
from tests.goldens import reference
from tests.goldens.checks import assert_near
from tests.goldens.networks import golden_arrays
from torch_utils.ops.composite import weighted_sum

GOLDENS = golden_arrays("units.npz")


@pytest.mark.parametrize(
    "key, last_opaque, unit", [("last0", False, False), ("last1e10", True, False), ("noray", True, True)]
)
def test_measured_weights(key, last_opaque, unit):
    norm = None if unit else GOLDENS["volume/ray_vector"].norm(dim=-1)
    weights, transmittance = quadrature_weights(
        GOLDENS["volume/sigma"].relu(), GOLDENS["volume/z"], direction_norm=norm, last_opaque=last_opaque
    )
    assert_near(weights, GOLDENS[f"volume/{key}/weights"])
    assert_near(transmittance, GOLDENS[f"volume/{key}/T_last"])


def random_rays(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    density = torch.randn(4, 5, 7, generator=generator, dtype=dtype).mul(10).relu()
    depths = torch.rand(4, 5, 7, generator=generator, dtype=dtype).sort(dim=-1).values
    norm = torch.rand(4, 5, generator=generator, dtype=dtype) + 0.5
    return density, depths, norm


@pytest.mark.parametrize("last_opaque", [True, False])
def test_against_the_formula(last_opaque):
    density, depths, norm = random_rays()
    weights, transmittance = quadrature_weights(density, depths, direction_norm=norm, last_opaque=last_opaque)
    for i in range(4):
        for j in range(5):
            expected = reference.weigh(density[i, j], depths[i, j].diff() * norm[i, j], last_opaque=last_opaque)
            assert_near(weights[i, j], expected[0], relative=1e-12)
            assert_near(transmittance[i, j], expected[1], relative=1e-12)


def test_nothing_is_lost():
    density, depths, norm = random_rays(dtype=torch.float32)
    weights, transmittance = quadrature_weights(density, depths, direction_norm=norm, last_opaque=False)
    assert_near(weights.sum(-1) + transmittance, torch.ones(4, 5), absolute=1e-6)
    assert (weights[..., -1] == 0).all(), "the last sample leaves the ray to the background"
    weights, before_last = quadrature_weights(density, depths, direction_norm=norm, last_opaque=True)
    assert_near(weights.sum(-1), torch.ones(4, 5), absolute=1e-6)
    assert_near(weights[..., -1], before_last)


def test_homogeneous_medium():
    """Beer–Lambert law: the transmittance is exp(-density · length)."""
    depths = torch.linspace(1, 3, 50, dtype=torch.float64)
    density = torch.full([50], 0.7, dtype=torch.float64)
    norm = torch.tensor(1.5, dtype=torch.float64)
    _, transmittance = quadrature_weights(density, depths, direction_norm=norm, last_opaque=False)
    assert_near(transmittance, torch.exp(torch.tensor(-0.7 * 2 * 1.5, dtype=torch.float64)), relative=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30, torch.inf])
def test_extreme_densities(value):
    depths = torch.linspace(0.88, 1.12, 6)
    density = torch.full([6], value).requires_grad_()
    weights, transmittance = quadrature_weights(density, depths, last_opaque=False)
    assert (weights.sum() + transmittance).item() == pytest.approx(1)
    assert transmittance.item() == pytest.approx(1 if value < 1 else 0, abs=1e-9)
    if value < torch.inf:
        (gradient,) = torch.autograd.grad(transmittance, density)
        assert gradient.isfinite().all()


def test_an_opaque_sample_lets_next_to_nothing_through():
    density = torch.full([4], torch.inf, dtype=torch.float64)
    weights, transmittance = quadrature_weights(density, torch.arange(4.0, dtype=torch.float64), last_opaque=True)
    assert weights.tolist() == pytest.approx([1, 1e-10, 1e-20, 1e-30], rel=1e-6)
    assert transmittance.item() == pytest.approx(1e-30, rel=1e-6)


def test_weighted_sums():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(2, 3, 7, generator=generator)
    features = torch.randn(2, 3, 7, 4, generator=generator)
    expected = torch.zeros(2, 3, 4)
    for i in range(7):
        expected += weights[..., i, None] * features[..., i, :]
    assert_near(weighted_sum(weights, features), expected, relative=1e-6)


@pytest.mark.parametrize("last_opaque", [True, False])
def test_derivatives(last_opaque):
    density, depths, norm = (x[0, :2].requires_grad_() for x in random_rays())

    def function(density, depths, norm):
        return quadrature_weights(density + 0.1, depths, direction_norm=norm, last_opaque=last_opaque)

    assert gradcheck(function, [density, depths, norm])
