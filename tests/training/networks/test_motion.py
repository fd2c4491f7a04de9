"""The motion network: measured values, formula, continuity in time."""

import dataclasses
import math

import pytest
import torch

from tests.goldens import reference
from tests.goldens.checks import assert_near
from tests.goldens.networks import SMALL, build_generator, doubled_state, golden_arrays
from tests.goldens.reference import generator_shapes
from training.launch.build import build_networks
from training.launch.config import compose_options
from training.networks.mapping import MotionNetwork
from training.published.state_dict import map_generator_name

GOLDENS = golden_arrays("units.npz")


def test_measured_values():
    prefix, inside = "motion/param/", "synthesis.fg_nerf.motion_generator."
    state = {
        map_generator_name(inside + key.removeprefix(prefix)).removeprefix("motion."): value
        for key, value in GOLDENS.items()
        if key.startswith(prefix)
    }
    network = MotionNetwork(motion_dim=16, out_features=12, width=10)
    network.load_state_dict(state)
    times = GOLDENS["motion/Ts"].reshape(3, 1)
    assert_near(network(GOLDENS["motion/z_motion"], times)[:, 0], GOLDENS["motion/y"])


@pytest.mark.parametrize("blocks, content", [(1, False), (2, False), (1, True), (3, True)])
def test_against_the_formula(blocks, content):
    spec = dataclasses.replace(SMALL, motion_blocks=blocks, motion_content=content)
    network = build_generator(spec).motion.double()
    generator = torch.Generator().manual_seed(0)
    z_motion = torch.randn(3, spec.motion_dim, generator=generator, dtype=torch.float64)
    w = torch.randn(3, spec.w_dim, generator=generator, dtype=torch.float64)
    times = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    vectors = network(z_motion, times, w if content else None)
    assert vectors.shape == (3, 4, spec.width)
    state = doubled_state(generator_shapes(spec))
    for video in range(3):
        for frame in range(4):
            expected = reference.motion_vector(state, spec, z_motion[video], times[video, frame], w[video])
            assert_near(vectors[video, frame], expected, relative=1e-12)


def test_time_is_a_factor_of_the_code():
    """At time zero the code has no influence; time t of a code is time 2t of half the code but for the bias."""
    network = build_generator(SMALL).motion
    generator = torch.Generator().manual_seed(0)
    z_motion = torch.randn(2, SMALL.motion_dim, generator=generator)
    still = network(z_motion, torch.zeros(2, 3))
    assert_near(still, still[:1, :1].expand(2, 3, -1))
    near, far = network(z_motion, torch.tensor([[0.5, 0.5001], [0.5, 0.9]])).diff(dim=1).norm(dim=-1)
    assert 0 < near[0] < far[0] / 100, "continuous in time"


def waves(**arguments):
    torch.manual_seed(0)
    return MotionNetwork(motion_dim=64, out_features=12, width=256, frequency=0.5, **arguments).double()


def test_waves_against_the_formula():
    network = waves(content_dim=3)
    z, w, t = torch.randn(2, 64).double(), torch.randn(2, 3).double(), torch.tensor([[0.0, 0.3], [1.0, 2.5]]).double()
    code = torch.cat([z, w], dim=1)
    a = torch.sin(math.pi * network.input(code)[:, None] * t[..., None] + 2 * math.pi * network.phase(code)[:, None])
    expected = network.output(network.layers[0](a.flatten(0, 1))).unflatten(0, (2, 2))
    assert_near(network(z, t, w), expected, relative=1e-12)


def test_waves_are_bounded_and_alike_at_all_times():
    """Motion vectors of many codes have the same spread at every time; along a line it grows with time."""
    z = torch.randn(2000, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = torch.tensor([0.0, 0.5, 1.0, 100.0], dtype=torch.float64).expand(len(z), -1)
    spread = waves()(z, times).std(dim=0).mean(dim=-1)
    assert_near(spread, spread.mean().expand(4), relative=0.05)
    torch.manual_seed(0)
    line = MotionNetwork(motion_dim=64, out_features=12, width=256).double()(z, times).std(dim=0).mean(dim=-1)
    assert line[0] == 0 and line[2] > 1.8 * line[1] and line[3] > 50 * line[2]


def test_the_frequency_is_that_of_the_clip():
    """The mean square of the first layer's phase speed is (2π · frequency)² per unit of time."""
    network = waves()
    z = torch.randn(2000, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    periods = network.frequency * network.input(z)
    assert periods.square().mean().sqrt().item() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("value", ["0", "-1", "true", "fast", "[1]"])
def test_mistaken_frequencies(value):
    options = compose_options(["model=stylenerf_small", f"model.generator.motion.frequency={value}"])
    with pytest.raises(ValueError, match=r"motion\.frequency must be null or a number above 0, got "):
        build_networks(options, c_dim=0)


def test_the_frequencies_are_not_trained():
    network = MotionNetwork(motion_dim=8, out_features=4, width=16, frequency=0.5)
    code = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    network(code, torch.tensor([[0.2, 0.7]]).expand(3, -1)).square().sum().backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == ["input.weight", "input.bias"]
    # The gradient of the code passes through them all the same, for inversion.
    whole, network.input.trained = code.grad.clone(), True
    code.grad = None
    network(code, torch.tensor([[0.2, 0.7]]).expand(3, -1)).square().sum().backward()
    assert torch.equal(code.grad, whole) and network.input.weight.grad.abs().min() > 0
    along_a_line = MotionNetwork(motion_dim=8, out_features=4, width=16)
    assert along_a_line.input.trained
