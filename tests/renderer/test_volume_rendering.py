"""Volume rendering of analytic fields: closed forms, sample order, calls of the field, effect of noise."""

import dataclasses
import math

import pytest
import torch

from renderer.cameras import CameraPrior, camera_rays, pixel_centers
from renderer.rays import NO_NOISE, RayNoise, RenderSettings
from renderer.volume_rendering import RenderedRays, march_background, march_foreground
from tests.goldens.checks import assert_near
from tests.streams import Recorder, constant_stream
from torch_utils.rng import RandomStream

SETTINGS = RenderSettings(resolution=4)


def rays(batch=1, size=4):
    return camera_rays(CameraPrior().sample(batch, RandomStream(0)), pixel_centers(size))


def gaussian_shell(points, directions):
    """A smooth foreground: density in a shell around depth one, the position as features. One frame."""
    density = 30 * torch.exp(-(((points.norm(dim=-1) - 0.05) / 0.03) ** 2))
    return density, (points,)


def constant(density, frames=1):
    def field(points, directions):
        shape = [points.shape[0], frames, *points.shape[2:-1]]
        return torch.full(shape, float(density)), (torch.ones(*shape, 2),)

    return field


@pytest.mark.parametrize("num_importance", [0, 14])
def test_homogeneous_foreground(num_importance):
    """The transmittance is exp(-density · length), whatever the spacing of the samples."""
    settings = dataclasses.replace(SETTINGS, num_importance=num_importance)
    origins, directions = rays(batch=2)
    samples = march_foreground(constant(3.0), origins, directions, settings, num_frames=1, last_opaque=False)
    expected = torch.exp(-3.0 * 0.24 * directions.norm(dim=-1))[:, None]
    assert_near(samples.transmittance, expected, relative=1e-5)
    (colour,) = samples.composite()
    assert_near(colour, (1 - expected)[..., None].expand(2, 1, 16, 2), relative=1e-5)
    assert_near(samples.weights().sum(-1), 1 - expected, relative=1e-5)


def test_an_opaque_end():
    origins, directions = rays()
    samples = march_foreground(constant(0.5), origins, directions, SETTINGS, num_frames=1, last_opaque=True)
    assert_near(samples.weights().sum(-1), torch.ones(1, 1, 16), absolute=1e-6)
    positions, weights = samples.sorted_along_ray()
    assert_near(positions[..., -1], torch.ones(1, 1, 16))
    assert (weights[..., -1] > 0.8).all(), "all that is left ends in the last sample"


def test_negative_densities_are_empty():
    origins, directions = rays()
    samples = march_foreground(constant(-4.0), origins, directions, SETTINGS, num_frames=1, last_opaque=False)
    assert (samples.weights() == 0).all()
    assert_near(samples.transmittance, torch.ones(1, 1, 16))


def test_an_opaque_end_needs_no_density():
    origins, directions = rays()
    samples = march_foreground(constant(-4.0), origins, directions, SETTINGS, num_frames=1, last_opaque=True)
    _, weights = samples.sorted_along_ray()
    assert (weights[..., :-1] == 0).all()
    assert_near(weights[..., -1], torch.ones(1, 1, 16))


def test_the_quadrature_converges():
    """Expected position along the ray and opacity, against a fine sum."""
    origins, directions = rays(size=8)
    depths = torch.linspace(0.88, 1.12, 20001)
    density, _ = gaussian_shell(origins[0] + depths[:, None, None] * directions[0], None)
    step = float(depths[1] - depths[0]) * directions[0].norm(dim=-1)
    optical = torch.cumsum(density.double() * step, dim=0)
    opacity = 1 - torch.exp(-optical[-1])
    shares = torch.exp(-optical) * density * step
    depth = (shares * depths[:, None]).sum(0)

    errors = []
    for num in (14, 28, 112):
        settings = dataclasses.replace(SETTINGS, num_samples=num, num_importance=num)
        samples = march_foreground(gaussian_shell, origins, directions, settings, num_frames=1, last_opaque=False)
        positions, weights = samples.sorted_along_ray()
        measured = ((0.88 + 0.24 * positions) * weights).sum(-1)[0, 0]
        errors.append(
            (
                float((1 - samples.transmittance[0, 0] - opacity).abs().max()),
                float((measured - depth).abs().max()),
            )
        )
    assert errors[2][0] < 2e-3 and errors[2][1] < 3e-3, errors
    assert errors[0][0] > 3 * errors[2][0] and errors[0][1] > 3 * errors[2][1], errors


@pytest.mark.parametrize("density", [3.0, 40.0])
def test_a_ball_in_closed_form(density):
    """Opacity 1 - exp(-σ L) of a chord of length L, and the expected depth ∫ s σ exp(-σ (s - s₀)) ds along it.

    The depth counts along the viewing axis, so that distances along a ray are divided by its direction's length.
    """
    centre, radius = torch.tensor([0.02, -0.03, 0.04], dtype=torch.float64), 0.09
    origins, directions = (x.double() for x in rays(batch=2, size=9))
    norm = directions.norm(dim=-1)
    unit = directions / norm[..., None]
    along = -((origins - centre) * unit).sum(-1)
    half = (radius**2 - (origins - centre + along[..., None] * unit).square().sum(-1)).clamp(min=0).sqrt()
    passed = torch.exp(-density * 2 * half)
    depth = ((along - half + 1 / density) * (1 - passed) - 2 * half * passed) / norm
    assert (half == 0).any() and (half > 0.08).any()

    def ball(points, view):
        return density * ((points - centre).norm(dim=-1) < radius).double(), (points,)

    errors = []
    for num in (50, 800):
        settings = RenderSettings(num_samples=num, num_importance=0, near=0.8, far=1.2)
        samples = march_foreground(ball, origins, directions, settings, num_frames=1, last_opaque=False)
        sums = samples.accumulate(settings)
        # Each end of the chord is off by at most a step.
        bound = 2 * density * 0.4 / (num - 1) * norm.max()
        errors.append([(sums.transmittance[:, 0] - passed).abs(), (sums.depth[:, 0] - depth).abs()])
        assert max(error.max() for error in errors[-1]) < bound
    assert all(fine.mean() < coarse.mean() / 8 for coarse, fine in zip(*errors))


def test_importance_samples_go_where_the_weights_are():
    origins, directions = rays()

    def slab(points, directions_):
        inside = (
            (points - origins[:, None, :, None]).norm(dim=-1) / directions.norm(dim=-1)[:, None, :, None] - 1
        ).abs()
        return torch.where(inside < 0.02, 200.0, 0.0), (points,)

    samples = march_foreground(slab, origins, directions, SETTINGS, num_frames=1, last_opaque=False)
    _, fine = samples.positions
    near_slab = ((0.88 + 0.24 * fine - 1).abs() < 0.04).double().mean()
    assert near_slab > 0.8


def test_samples_keep_their_order_and_features():
    """Parts are in the order of evaluation; sorting by position reproduces near to far."""
    origins, directions = rays(batch=2)
    samples = march_foreground(gaussian_shell, origins, directions, SETTINGS, num_frames=1, last_opaque=False)
    positions = torch.cat([p.expand(2, 1, 16, 14) for p in samples.positions], dim=-1)
    points = torch.cat([features[0] for _, features in samples.parts], dim=-2)
    depths = 0.88 + 0.24 * positions
    assert_near(points, origins[:, None, :, None] + depths[..., None] * directions[:, None, :, None], absolute=1e-6)
    sorted_positions, weights = samples.sorted_along_ray()
    assert (sorted_positions.diff(dim=-1) >= 0).all()
    assert_near(weights.sum(-1), samples.weights().sum(-1), absolute=1e-6)
    expected = (samples.weights()[..., None] * points).sum(-2)
    assert_near(samples.composite()[0], expected, absolute=1e-6)


def test_what_a_field_is_asked():
    """Coarse points are shared by the frames, fine points are each frame's own; view directions have unit length."""
    calls = []

    def field(points, directions):
        calls.append((points.shape, directions))
        shape = [2, 3, *points.shape[2:-1]]
        density = torch.linspace(0, 30, 3)[:, None, None] * points[..., 0].abs().expand(shape)
        return density, (points.expand(*shape, 3),)

    origins, directions = rays(batch=2)
    samples = march_foreground(field, origins, directions, SETTINGS, num_frames=3, last_opaque=False)
    assert [tuple(shape) for shape, _ in calls] == [(2, 1, 16, 14, 3), (2, 3, 16, 14, 3)]
    for _, view in calls:
        assert_near(view, torch.nn.functional.normalize(directions, dim=-1), relative=1e-6)
    assert samples.transmittance.shape == (2, 3, 16)
    assert_near(samples.transmittance[:, 0], torch.ones(2, 16))
    assert not torch.equal(samples.positions[1][:, 1], samples.positions[1][:, 2])


def test_no_gradient_through_the_sample_positions():
    scale = torch.tensor(20.0, requires_grad=True)
    seen = []

    def field(points, directions):
        seen.append(points.requires_grad)
        return scale * points[..., 0].abs(), (points,)

    origins, directions = rays()
    samples = march_foreground(field, origins, directions, SETTINGS, num_frames=1, last_opaque=False)
    assert seen == [False, False]
    assert all(not positions.requires_grad for positions in samples.positions)
    assert samples.transmittance.requires_grad


def test_background_is_opaque_and_seen_from_outside():
    calls = []

    def field(points, directions):
        calls.append((points, directions))
        return torch.full(points.shape[:-1], 0.7), (points,)

    origins, directions = rays(batch=2)
    samples = march_background(field, origins, directions, SETTINGS)
    ((points, view),) = calls
    assert points.shape == (2, 16, 4, 4)
    assert_near(points[..., 3], torch.linspace(0.5, 0, 4).expand(2, 16, 4), absolute=1e-6)
    assert_near(points[..., :3].norm(dim=-1), torch.ones(2, 16, 4), absolute=1e-5)
    assert_near(view.norm(dim=-1), torch.ones(2, 16), absolute=1e-6)
    alpha = 1 - math.exp(-0.7 / 6)
    expected = torch.tensor([alpha, alpha * (1 - alpha), alpha * (1 - alpha) ** 2, (1 - alpha) ** 3])
    assert_near(samples.weights, expected.expand(2, 16, 4), relative=1e-6)
    assert_near(samples.composite()[0], (samples.weights[..., None] * points).sum(-2), absolute=1e-6)


def test_a_background_with_nothing_in_front():
    background = torch.arange(24.0).reshape(2, 4, 3)
    alone = RenderedRays.of_background(background)
    assert torch.equal(alone.values, background[:, None])
    assert torch.equal(alone.depth, torch.zeros(2, 1, 4))
    assert torch.equal(alone.transmittance, torch.ones(2, 1, 4))


def test_draws_have_names_and_shapes():
    recorder = Recorder(0)
    noise = RayNoise.draw(recorder, 2, 5, SETTINGS, background=True)
    assert recorder.calls == [
        ("uniform", "render/depth", (2, 5, 14)),
        ("normal", "render/density", (2, 5, 14)),
        ("uniform", "render/importance", (2, 5, 14)),
        ("normal", "render/density_fine", (2, 5, 14)),
        ("uniform", "render/background_depth", (2, 5, 4)),
        ("normal", "render/background_density", (2, 5, 4)),
    ]
    part = noise.select(slice(2, 4))
    for field in dataclasses.fields(noise):
        assert torch.equal(getattr(part, field.name), getattr(noise, field.name)[:, 2:4])
    single = RayNoise.draw(RandomStream(0), 2, 5, dataclasses.replace(SETTINGS, num_importance=0), background=False)
    assert single.importance is single.density_fine is single.background_depth is single.background_density is None
    assert single.select(slice(3)).depth.shape == (2, 3, 14)


def test_middling_draws_change_nothing_inside():
    """Uniform noise of ½ leaves the inner positions of an even grid unchanged, normal noise of 0 the densities."""
    origins, directions = rays()
    noise = RayNoise.draw(constant_stream(), 1, 16, SETTINGS, background=True)
    still = march_foreground(constant(2.0), origins, directions, SETTINGS, num_frames=1, last_opaque=False)
    jittered = march_foreground(
        constant(2.0), origins, directions, SETTINGS, num_frames=1, last_opaque=False, noise=noise
    )
    assert_near(jittered.positions[0][..., 1:-1].squeeze(), still.positions[0][..., 1:-1].squeeze(), absolute=1e-6)
    first, last = jittered.positions[0][..., 0], jittered.positions[0][..., -1]
    assert_near(first, torch.full_like(first, 0.25 / 13), absolute=1e-6)
    assert_near(last, torch.full_like(last, 1 - 0.25 / 13), absolute=1e-6)


def test_density_noise_is_shared_by_the_frames_and_added_before_the_rectifier():
    origins, directions = rays(batch=2)
    noise = dataclasses.replace(
        RayNoise(), density=torch.full([2, 16, 14], 5.0), density_fine=torch.full([2, 16, 14], 5.0)
    )
    samples = march_foreground(
        constant(-2.0, frames=3), origins, directions, SETTINGS, num_frames=3, last_opaque=False, noise=noise
    )
    expected = torch.exp(-3.0 * 0.24 * directions.norm(dim=-1))[:, None].expand(2, 3, 16)
    assert_near(samples.transmittance, expected, relative=1e-5)


@pytest.mark.parametrize("num_importance", [0, 5])
def test_more_samples_where_nothing_is_random(num_importance):
    """`sampling_multiplier` applies to deterministic rays only."""
    origins, directions = rays()
    few = dataclasses.replace(SETTINGS, num_samples=7, num_importance=num_importance)
    many = dataclasses.replace(few, num_samples=21, num_importance=3 * num_importance)
    multiplied = dataclasses.replace(few, sampling_multiplier=3)

    def depths_and_weights(settings, noise=NO_NOISE):
        samples = march_foreground(
            gaussian_shell, origins, directions, settings, num_frames=1, last_opaque=False, noise=noise
        )
        return samples.sorted_along_ray()

    for actual, expected in zip(depths_and_weights(multiplied), depths_and_weights(many), strict=True):
        assert torch.equal(actual, expected)
    noise = RayNoise.draw(RandomStream(0), 1, 16, few, background=False)
    again = RayNoise.draw(RandomStream(0), 1, 16, multiplied, background=False)
    for actual, expected in zip(depths_and_weights(multiplied, again), depths_and_weights(few, noise), strict=True):
        assert torch.equal(actual, expected)


def test_noise_of_the_background():
    origins, directions = rays()

    def field(points, directions):
        return torch.full(points.shape[:-1], -1.0), (points,)

    depth = torch.tensor([0.0, 0.25, 0.5, 1.0]).expand(1, 16, 4)
    noise = RayNoise(background_depth=depth, background_density=torch.full([1, 16, 4], 1.6))
    samples = march_background(field, origins, directions, SETTINGS, noise=noise)
    inverse_radius = samples.features[0][0, 0, :, 3]
    sixth = 1 / 6
    expected = torch.tensor([0.5, 0.5 - sixth / 2 - sixth / 4, sixth, 0.0])
    assert_near(inverse_radius, expected, absolute=1e-6)
    first = 1 - math.exp(-0.6 * float(expected[0] - expected[1]))
    assert_near(samples.weights[0, :, 0], torch.full([16], first), relative=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_follows_the_rays(dtype):
    origins, directions = (x.to(dtype) for x in rays())
    foreground = march_foreground(gaussian_shell, origins, directions, SETTINGS, num_frames=1, last_opaque=False)
    assert foreground.transmittance.dtype == dtype and foreground.weights().dtype == dtype
    background = march_background(lambda p, d: (p[..., 0], (p,)), origins, directions, SETTINGS)
    assert background.weights.dtype == dtype


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_samples": 2}, "num_samples"),
        ({"num_importance": -1}, "num_importance"),
        ({"num_background": 1}, "num_background"),
        ({"sampling_multiplier": 0}, "sampling_multiplier"),
        ({"resolution": 0}, "resolution >= 1"),
        ({"near": 0.0}, "near"),
        ({"near": 1.2, "far": 1.1}, "near"),
        ({"background_start": 0}, "^rendering needs 0 < background_start <= 1, got 0.$"),
        ({"background_start": 1.5}, "^rendering needs 0 < background_start <= 1, got 1.5.$"),
        ({"resolution": 32.5}, "^resolution must be a whole number, got 32.5.$"),
        ({"num_samples": "14"}, "^num_samples must be a whole number, got '14'.$"),
        ({"far": None}, "^far must be a finite number, got None.$"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        RenderSettings(**arguments)


@pytest.mark.parametrize("num_importance", [0, 14])
def test_gradient_of_the_depth(num_importance):
    """Through the weights alone: equal to a difference quotient where sample positions do not depend on the field."""
    settings = dataclasses.replace(SETTINGS, num_importance=num_importance)
    origins, directions = (x.double() for x in rays())
    shell = gaussian_shell

    def depth(strength):
        density = lambda p, d: (strength * shell(p, d)[0], (p,))  # noqa: E731
        samples = march_foreground(density, origins, directions, settings, num_frames=1, last_opaque=False)
        return samples.accumulate(settings).depth.sum()

    strength = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(depth(strength), strength)
    assert gradient > 0.1, "a denser shell hides what is behind it and leaves less to the background"
    if num_importance == 0:
        with torch.no_grad():
            assert_near(gradient, (depth(strength + 1e-5) - depth(strength - 1e-5)) / 2e-5, relative=1e-6)


@pytest.mark.parametrize(
    "field, frames, given",
    [
        (lambda p, d: (p[..., 0], p), 1, "Tensor [2, 1, 16, 14, 3]"),  # its first video would be everyone's
        (lambda p, d: (p[..., :1], (p,)), 1, "[2, 1, 16, 14, 1] and [[2, 1, 16, 14, 3]]"),
        (lambda p, d: (p[..., 0], (p,)), 3, "[2, 1, 16, 14] and [[2, 1, 16, 14, 3]]"),
    ],
)
def test_fields_of_other_shapes(field, frames, given):
    origins, directions = rays(batch=2)
    with pytest.raises(ValueError) as error:
        march_foreground(field, origins, directions, SETTINGS, num_frames=frames, last_opaque=True)
    assert str(error.value).startswith(f"a field must return densities [2, {frames}, 16, 14] and a tuple of features ")
    assert str(error.value).endswith(f"{given}.")
    with pytest.raises(ValueError, match=r"densities \[2, 16, 4\] and a tuple of features"):
        march_background(lambda p, d: (p[..., 0], p), origins, directions, SETTINGS)
