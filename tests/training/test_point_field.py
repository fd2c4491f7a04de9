"""Points of a field against the samples that the renderer takes of the same scene."""

import pytest
import torch

from renderer.rays import camera_rays, pixel_centers
from renderer.rendering import Rays, ray_samples
from tests.training.tiny import make_plan
from training.build import build_networks
from training.latents import seed_latents
from training.point_field import PointField


@pytest.mark.parametrize("words", [[], ["model.generator.foreground.view_directions=true"]])
def test_points_of_the_frontal_cameras_rays_have_their_densities_and_colours(tmp_path, words):
    generator = build_networks(make_plan(tmp_path, *words).options, c_dim=0)[0].eval().requires_grad_(False)
    sizes = {name: getattr(generator, name) for name in ("z_dim", "motion_dim", "background_dim")}
    codes = seed_latents(3, 4, **sizes)
    ws = generator.mapping(codes.z)
    field = PointField(generator, ws, z_motion=codes.z_motion, z_bg=codes.z_bg, time=0.7)

    times = torch.tensor([[0.7]])
    with torch.no_grad():
        motion = generator.motion_vectors(ws, codes.z_motion, times)
        fields = generator.fields(generator.fold(ws).foreground[0], times, motion, codes.z_bg)
        origins, directions = camera_rays(generator.camera_prior.at(), pixel_centers(6))
        _, rows = ray_samples(fields, Rays(origins, directions), generator.settings, frames=1)
        settings = generator.settings
        depths = torch.linspace(settings.near, settings.far, settings.num_samples)
        points = origins[:, :, None] + depths[:, None] * directions[:, :, None]
        view = torch.nn.functional.normalize(directions, dim=-1)
        raw, _ = fields.foreground(points[:, None], view)
    points = points.reshape(-1, 3)
    density = field.density(points)
    assert density.max() > 0
    torch.testing.assert_close(density, raw.relu().reshape(-1), rtol=1e-4, atol=1e-5)
    colours = rows[0, 0, :, : settings.num_samples, :3].reshape(-1, 3)
    torch.testing.assert_close(field.colour(points), colours, rtol=1e-4, atol=1e-5)

    # The opacity is that of the rendered scene.
    scene = generator.scene(ws, z_motion=codes.z_motion, z_bg=codes.z_bg)
    aside = generator.camera_prior.at(yaw=0.9)
    size = settings.resolution
    expected = scene.output(0.7, aside).opacity[0, 0]
    assert 0.01 < expected.mean() < 0.99
    torch.testing.assert_close(field.opacity(aside, size), expected, rtol=1e-4, atol=1e-5)

    # Another moment, or another camera where colours depend on it, shows something else.
    later = PointField(generator, ws, z_motion=codes.z_motion, z_bg=codes.z_bg, time=0.0)
    assert (later.density(points) - density).abs().max() > 1e-4
    aside = generator.camera_prior.at(yaw=1.0)
    aside = PointField(generator, ws, z_motion=codes.z_motion, z_bg=codes.z_bg, time=0.7, camera=aside)
    torch.testing.assert_close(aside.density(points), density, rtol=1e-4, atol=1e-5)
    assert torch.allclose(aside.colour(points), colours, atol=1e-4) == (not words)
