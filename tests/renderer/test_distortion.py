"""The distortion of the weights along a ray: closed forms, brute force, gradients."""

import pytest
import torch

from renderer.cameras import CameraPrior, camera_rays, pixel_centers
from renderer.rays import ForegroundSamples, RenderSettings
from renderer.volume_rendering import march_foreground
from tests.goldens.checks import assert_near


def distortion(positions, weights):
    """Distortion of samples [..., S] along rays, in a single pass."""
    transmittance = 1 - weights.sum(-1)
    return ForegroundSamples([(weights, ())], transmittance, [positions]).distortion()


def brute_force(positions, weights):
    """Equation 15 of mip-NeRF 360 for one ray, with weights that sum to one, times the sum they have."""
    total = sum(weights)
    w = [x / total for x in weights]
    ends = [*positions[1:], positions[-1]]
    middles = [(a + b) / 2 for a, b in zip(positions, ends)]
    pairs = sum(a * b * abs(m - n) for a, m in zip(w, middles) for b, n in zip(w, middles))
    return total * (pairs + sum(a * a * (end - p) for a, p, end in zip(w, positions, ends)) / 3)


def test_two_layers():
    """Half the weight in each of two intervals of a tenth, half of the range apart."""
    positions = torch.tensor([0.2, 0.3, 0.7, 0.8], dtype=torch.float64)
    value = distortion(positions, torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=torch.float64))
    assert_near(value, torch.tensor(0.5 * 0.5 + 2 * 0.25 * 0.1 / 3, dtype=torch.float64), relative=1e-12)


def test_one_layer_and_none():
    positions = torch.linspace(0, 1, 11, dtype=torch.float64)
    one = torch.zeros(11, dtype=torch.float64)
    one[4] = 0.8
    assert_near(distortion(positions, one), torch.tensor(0.8 * 0.1 / 3, dtype=torch.float64), relative=1e-12)
    empty = torch.zeros(11, dtype=torch.float64, requires_grad=True)
    value = distortion(positions, empty)
    value.backward()
    assert value == 0 and empty.grad.isfinite().all()


@pytest.mark.parametrize("samples", [3, 12, 24])
def test_against_brute_force(samples):
    generator = torch.Generator().manual_seed(samples)
    positions = torch.rand(2, 1, 3, samples, generator=generator, dtype=torch.float64).sort(dim=-1).values
    weights = torch.rand(2, 2, 3, samples, generator=generator, dtype=torch.float64) / samples
    values = distortion(positions, weights)
    assert values.shape == (2, 2, 3)
    for video in range(2):
        for frame in range(2):
            for ray in range(3):
                expected = brute_force(positions[video, 0, ray].tolist(), weights[video, frame, ray].tolist())
                assert values[video, frame, ray].item() == pytest.approx(expected, rel=1e-10)


def test_a_ray_gains_nothing_by_becoming_transparent():
    """The gradient is at right angles to the weights: a step along it leaves their sum, the opacity, as it is."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.linspace(0, 1, 9, dtype=torch.float64)
    weights = (torch.rand(4, 9, generator=generator, dtype=torch.float64) / 9).requires_grad_()
    distortion(positions, weights).sum().backward()
    assert (weights.grad.norm(dim=-1) > 0.01).all()
    assert_near((weights.grad * weights).sum(-1), torch.zeros(4, dtype=torch.float64), absolute=1e-12)


def test_importance_samples_take_their_places_along_the_ray():
    """Two passes of a thin wall: the distortion of their samples in order, much lower than that of fog."""
    origins, directions = camera_rays(CameraPrior().at(), pixel_centers(4))
    settings = RenderSettings(resolution=4, num_samples=8, num_importance=16, near=0.8, far=1.2, path_lattice=4)

    def field(density):
        def evaluate(points, view):
            x = points[..., 0]
            return density(x).expand(1, 1, *x.shape[-2:]), (torch.zeros_like(points),)

        return evaluate

    values = {}
    for name, density in {
        "wall": lambda x: 4000 * torch.exp(-((x / 0.01) ** 2)),
        "fog": lambda x: torch.full_like(x, 5.0),
    }.items():
        samples = march_foreground(field(density), origins, directions, settings, num_frames=1, last_opaque=False)
        positions, weights = samples.sorted_along_ray()
        assert (positions.diff(dim=-1) >= 0).all()
        expected = brute_force(positions[0, 0, 5].tolist(), weights[0, 0, 5].tolist())
        values[name] = samples.distortion()
        assert values[name][0, 0, 5].item() == pytest.approx(expected, rel=1e-4)
    assert (values["wall"] < 0.1 * values["fog"]).all()
