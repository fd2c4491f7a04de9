"""Points of a field against the samples that the renderer takes of the same scene."""

import math

import pytest
import torch

from renderer.cameras import camera_rays, pixel_centers
from tests.small_network import SIZES, small_generator
from tests.training.tiny import make_plan
from training.inference import point_query
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import seed_latents
from training.inference.point_query import SAMPLES, PointField
from training.launch.build import build_networks
from training.networks.fields import ConditionedForeground, ForegroundField


def brute_force(generator, fields, ws, points):
    """Colours of points, one after the other: samples along the ray, their final colours, weights by their formula."""
    settings, position = generator.settings, generator.camera_prior.at().cam2world[0, :3, 3]
    upsampler = generator.modulate(ws).upsampler
    length, colours = (settings.far - settings.near) / 2, []
    for point in points:
        view = (point - position) / (point - position).norm()
        total, left, norm = torch.zeros(3), 1.0, 0.0
        for i in range(SAMPLES):
            place = point + view * length * i / (SAMPLES - 1)
            raw, features = fields.foreground(place[None, None, None, None], view[None, None])
            step = length / (SAMPLES - 1) if i < SAMPLES - 1 else 0.0
            alpha = 1 - math.exp(-max(float(raw), 0.0) * step)
            row = fields.foreground.project(features).reshape(1, 1, -1)
            colour = generator.upsampler.pointwise(row[..., 3:], row[..., :3], upsampler).reshape(3)
            total, norm, left = total + (left * alpha + 1e-6) * colour, norm + left * alpha + 1e-6, left * (1 - alpha)
        colours.append(total / norm)
    return torch.stack(colours)


@pytest.mark.parametrize("words", [[], ["model.generator.foreground.view_directions=true"]])
def test_densities_colours_and_opacities_are_those_of_the_scene(tmp_path, words):
    generator = build_networks(make_plan(tmp_path, *words).options, c_dim=0)[0].eval().requires_grad_(False)
    sizes = {name: getattr(generator, name) for name in ("z_dim", "motion_dim", "background_dim")}
    codes = seed_latents(3, 4, **sizes)
    ws = generator.mapping(codes.z)
    field = PointField(generator, ws, z_motion=codes.z_motion, z_bg=codes.z_bg, time=0.7)

    times = torch.tensor([[0.7]])
    with torch.no_grad():
        motion = generator.motion_vectors(ws, codes.z_motion, times)
        fields = generator.condition(generator.modulate(ws), times=times, motion=motion, z_bg=codes.z_bg)
        origins, directions = camera_rays(generator.camera_prior.at(), pixel_centers(6))
        settings = generator.settings
        depths = torch.linspace(settings.near, settings.far, settings.num_samples)
        points = origins[:, :, None] + depths[:, None] * directions[:, :, None]
        view = torch.nn.functional.normalize(directions, dim=-1)
        raw, _ = fields.foreground(points[:, None], view)
    points = points.reshape(-1, 3)
    density = field.density(points)
    assert density.max() > 0
    torch.testing.assert_close(density, raw.relu().reshape(-1), rtol=1e-4, atol=1e-5)
    colours = field.colour(points)
    picked = points[:: len(points) // 7]
    torch.testing.assert_close(field.colour(picked), brute_force(generator, fields, ws, picked), rtol=1e-3, atol=1e-4)

    # The opacity is that of the rendered scene.
    scene = FrameRenderer(generator, ws, z_motion=codes.z_motion, z_bg=codes.z_bg)
    aside = generator.camera_prior.at(yaw=0.9)
    size = settings.resolution
    expected = scene.output(0.7, aside).opacity[0, 0]
    assert 0.01 < expected.mean() < 0.99
    torch.testing.assert_close(field.opacity(aside, size), expected, rtol=1e-4, atol=1e-5)

    # Another moment is denser elsewhere; another camera sees the same densities, and colours along its own rays.
    later = PointField(generator, ws, z_motion=codes.z_motion, z_bg=codes.z_bg, time=0.0)
    assert (later.density(points) - density).abs().max() > 1e-4
    aside = generator.camera_prior.at(yaw=1.0)
    aside = PointField(generator, ws, z_motion=codes.z_motion, z_bg=codes.z_bg, time=0.7, camera=aside)
    torch.testing.assert_close(aside.density(points), density, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(aside.colour(points), colours, atol=1e-3)


class Doubled(ConditionedForeground):
    """A field derived from this program's."""

    def __call__(self, points, directions):
        density, features = super().__call__(points, directions)
        return 2 * density, features


class DoubledField(ForegroundField):
    def condition(self, weights, **inputs):
        return Doubled(self, weights, **inputs)


@pytest.mark.parametrize("derived", [False, True])
def test_densities_are_evaluated_without_colours(derived, monkeypatch):
    """And equal to those of whole calls; what a derived class computes in a call is not known."""
    generator = small_generator(foreground={"view_directions": True, "density_bias": 1.0})
    if derived:
        generator.foreground.__class__ = DoubledField
    codes = seed_latents(3, 4, **SIZES)
    field = PointField(generator, generator.mapping(codes.z), z_motion=codes.z_motion, z_bg=codes.z_bg, time=0.5)
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 0.2 - 0.1
    with torch.no_grad():
        raw, _ = field._field(points[None, None, None], torch.tensor([[[-1.0, 0.0, 0.0]]]))
    calls, view_bias = [], ConditionedForeground.view_bias
    monkeypatch.setattr(ConditionedForeground, "view_bias", lambda *rays: calls.append(rays) or view_bias(*rays))
    density = field.density(points)
    assert torch.equal(density, raw[0, 0, 0].relu()) and (density > 0).any()
    assert len(calls) == (1 if derived else 0)
    field.emission(points)
    assert len(calls) == (2 if derived else 1)


@pytest.mark.parametrize(
    "points, message",
    [
        (torch.zeros(2, 2, 3), "points must be [N, 3], got [2, 2, 3]."),
        (torch.zeros(5, 2), "points must be [N, 3], got [5, 2]."),
        ([[0.0, 0.0, 0.0]], "points must be a tensor [N, 3], got [[0.0, 0.0, 0.0]]."),
        (torch.zeros(5, 3).double(), "points must be float32, as the generator is, got float64."),
        (torch.full([5, 3], math.nan), "points must be finite; it holds nan or inf."),
    ],
)
def test_mistaken_points(points, message):
    generator = small_generator()
    codes = seed_latents(3, 4, **SIZES)
    ws, rest = generator.mapping(codes.z), {"z_motion": codes.z_motion, "z_bg": codes.z_bg}
    field = PointField(generator, ws, **rest, time=0.5)
    for query in (field.density, field.colour, field.emission):
        with pytest.raises(ValueError) as error:
            query(points)
        assert str(error.value) == message
    with pytest.raises(ValueError, match="time must be a finite number, got '0.5'"):
        PointField(generator, ws, **rest, time="0.5")
    with pytest.raises(ValueError, match=r"ws must be \[1, 11, 16\], got \[2, 11, 16\]"):
        PointField(generator, ws.repeat(2, 1, 1), **rest, time=0.5)


def test_a_field_is_seen_from_the_camera_that_it_was_given():
    """Callers may put other poses into the same matrix."""
    generator = small_generator()
    codes = seed_latents(3, 4, **SIZES)
    ws, rest = generator.mapping(codes.z), {"z_motion": codes.z_motion, "z_bg": codes.z_bg}
    camera, points = generator.camera_prior.at(yaw=0.3), torch.tensor([[0.02, 0.01, 0.0]])
    field = PointField(generator, ws, **rest, time=0.5, camera=camera)
    expected = field.colour(points)
    camera.cam2world.copy_(generator.camera_prior.at(yaw=0.9).cam2world)
    assert torch.equal(field.colour(points), expected)
    other = PointField(generator, ws, **rest, time=0.5, camera=camera)
    assert not torch.equal(other.colour(points), expected)


def test_parts_of_rays_and_points_change_nothing(monkeypatch):
    generator = small_generator(foreground={"density_bias": 3})  # half opaque
    codes = seed_latents(3, 4, **SIZES)
    ws, rest = generator.mapping(codes.z), {"z_motion": codes.z_motion, "z_bg": codes.z_bg}
    field, camera = PointField(generator, ws, **rest, time=0.5), generator.camera_prior.at(yaw=0.3)
    points = torch.rand([8, 3], generator=torch.Generator().manual_seed(0)) * 0.1

    def results():
        return [field.opacity(camera, 4), *field.render(camera, 4), field.colour(points), field.emission(points)]

    expected = results()
    monkeypatch.setattr(point_query, "RAYS", 5)
    monkeypatch.setattr(point_query, "COLOURED", 3)
    for part, whole in zip(results(), expected, strict=True):
        assert whole.std() > 1e-4
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)
