"""The mapping network: formula, labels, truncation, the running mean."""

import dataclasses

import pytest
import torch

from tests.goldens import reference
from tests.goldens.checks import assert_near
from tests.goldens.networks import SMALL, build_generator, doubled_state
from tests.goldens.reference import generator_shapes
from training.networks.mapping import MappingNetwork


def small_mapping(c_dim=0):
    spec = dataclasses.replace(SMALL, c_dim=c_dim, mapping_layers=3)
    return spec, build_generator(spec).mapping


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("c_dim", [0, 3])
def test_against_the_formula(c_dim):
    spec, mapping = small_mapping(c_dim)
    z, c = draws(4, spec.z_dim), torch.eye(4, 3)
    ws = mapping(z, c)
    expected = reference.mapping(doubled_state(generator_shapes(spec)), spec, z.double(), c.double())
    assert ws.shape == (4, spec.num_ws, spec.w_dim)
    for layer in range(spec.num_ws):
        assert_near(ws[:, layer], expected)
    precise = mapping.double()(z.double(), c.double())
    assert_near(precise[:, 0], expected, relative=1e-12)


def test_the_scale_of_z_does_not_matter():
    _, mapping = small_mapping()
    z = draws(4, SMALL.z_dim)
    assert_near(mapping(10 * z), mapping(z), relative=1e-5)


def test_truncation():
    _, mapping = small_mapping()
    z = draws(4, SMALL.z_dim)
    ws = mapping(z)
    assert_near(mapping(z, truncation_psi=0), mapping.w_avg.expand_as(ws), absolute=1e-6)
    assert_near(mapping(z, truncation_psi=0.3), mapping.w_avg + 0.3 * (ws - mapping.w_avg), absolute=1e-5)
    assert torch.equal(mapping(z, truncation_psi=1, truncation_cutoff=2), ws)
    cut = mapping(z, truncation_psi=0.3, truncation_cutoff=2)
    assert_near(cut[:, :2], mapping(z, truncation_psi=0.3)[:, :2], absolute=1e-6)
    assert torch.equal(cut[:, 2:], ws[:, 2:])
    beyond = mapping(z, truncation_psi=0.3, truncation_cutoff=100)
    assert_near(beyond, mapping(z, truncation_psi=0.3), absolute=1e-6)
    assert torch.equal(mapping(z, truncation_psi=0.3, truncation_cutoff=0), ws)


def test_the_running_mean():
    _, mapping = small_mapping()
    z = draws(6, SMALL.z_dim)
    before = mapping.w_avg.clone()
    ws = mapping(z)
    assert torch.equal(mapping.w_avg, before), "only on request"
    mapping(z, update_w_avg=True)
    expected = 0.995 * before + 0.005 * ws[:, 0].mean(dim=0)
    assert_near(mapping.w_avg, expected, relative=1e-6)
    assert not mapping.w_avg.requires_grad


def test_without_a_mean_and_without_repetition():
    mapping = MappingNetwork(z_dim=0, c_dim=3, w_dim=8, num_ws=None, num_layers=2, w_avg_beta=None)
    assert mapping(None, torch.eye(3)).shape == (3, 8)
    assert not list(mapping.buffers())
    with pytest.raises(ValueError, match="truncation_psi must be 1, got 0.5: this network keeps no mean of w"):
        MappingNetwork(z_dim=12, c_dim=0, w_dim=8, num_ws=2, w_avg_beta=None)(torch.zeros(1, 12), truncation_psi=0.5)


@pytest.mark.parametrize(
    "c_dim, z, c, message",
    [
        (0, torch.zeros(2, 5), None, r"z must be \[B, 12\], got \(2, 5\)"),
        (0, torch.zeros(12), None, r"z must be"),
        (0, None, None, r"z must be .* got None"),
        (3, torch.zeros(2, 12), None, r"labels c must be \[B, 3\], got None"),
        (3, torch.zeros(2, 12), torch.zeros(2, 4), r"labels c must be \[B, 3\], got \(2, 4\)"),
    ],
)
def test_mistakes(c_dim, z, c, message):
    _, mapping = small_mapping(c_dim)
    with pytest.raises(ValueError, match=message):
        mapping(z, c)
