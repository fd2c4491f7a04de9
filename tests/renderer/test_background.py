"""Points outside the unit sphere: measured values, their geometry, degenerate rays."""

import pytest
import torch

from renderer.cameras import CameraPrior, camera_rays, pixel_centers
from renderer.rays import inverted_sphere_points
from tests.goldens import reference
from tests.goldens.checks import assert_near
from tests.goldens.networks import golden_arrays

GOLDENS = golden_arrays("units.npz")


def test_measured_points():
    group = "depth2pts_outside"
    points = inverted_sphere_points(
        GOLDENS[f"{group}/ray_o"], GOLDENS[f"{group}/ray_d"], GOLDENS[f"{group}/depth"][:, None]
    )
    assert_near(points[:, 0], GOLDENS[f"{group}/pts"])


def test_measured_points_of_a_camera():
    origins, directions = camera_rays(CameraPrior().at(0.2, 0.7, 0.5), pixel_centers(4))
    unit = torch.nn.functional.normalize(directions, dim=-1)
    inverse_radius = torch.linspace(0.5, 0, 4).expand(1, 16, 4)
    points = inverted_sphere_points(origins, unit, inverse_radius)
    assert_near(points.flatten(1, 2), GOLDENS["points/bg_p"])
    assert_near(unit[:, :, None].expand(1, 16, 4, 3).flatten(1, 2), GOLDENS["points/bg_r"], relative=1e-6)


def random_rays(num):
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(num, 3, generator=generator, dtype=torch.float64)
    radius = torch.rand(num, 1, generator=generator, dtype=torch.float64)
    origins = torch.nn.functional.normalize(origins, dim=-1) * radius
    directions = torch.randn(num, 3, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    inverse_radius = torch.rand(num, 4, generator=generator, dtype=torch.float64)
    return origins, directions, inverse_radius


def test_points_lie_on_the_ray_and_on_their_sphere():
    origins, directions, inverse_radius = random_rays(100)
    points = inverted_sphere_points(origins, directions, inverse_radius)
    assert torch.equal(points[..., 3], inverse_radius)
    assert_near(points[..., :3].norm(dim=-1), torch.ones(100, 4), absolute=1e-12)
    positions = points[..., :3] / inverse_radius[..., None] - origins[:, None]  # seen from the ray's origin
    along = (positions * directions[:, None]).sum(-1)
    assert (along > 0).all()
    assert_near(positions, along[..., None] * directions[:, None], relative=1e-10)


def test_against_the_formula():
    origins, directions, inverse_radius = random_rays(20)
    points = inverted_sphere_points(origins, directions, inverse_radius)
    for i in range(20):
        for j in range(4):
            expected = reference.sphere_points(origins[i], directions[i], inverse_radius[i, j])
            assert_near(points[i, j], expected, relative=1e-12)


def test_infinity_is_the_direction():
    origins, directions, _ = random_rays(50)
    points = inverted_sphere_points(origins, directions, torch.zeros(50, 1, dtype=torch.float64))
    assert_near(points[:, 0, :3], directions, absolute=1e-7)


@pytest.mark.parametrize(
    "origin, direction",
    [
        ((1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)),  # from the sphere through the centre
        ((0.5, 0.0, 0.0), (1.0, 0.0, 0.0)),  # away from the centre
        ((0.0, 0.0, 0.0), (0.0, 0.6, 0.8)),  # from the centre
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),  # tangent
        ((1.0000001, 0.0, 0.0), (0.0, 1.0, 0.0)),  # tangent, a rounding error outside
    ],
)
def test_degenerate_rays(origin, direction):
    direction = torch.tensor([direction])
    points = inverted_sphere_points(torch.tensor([origin]), direction, torch.tensor([[1.0, 0.5, 0.25, 0.0]]))
    assert points.isfinite().all()
    assert_near(points[0, :, :3].norm(dim=-1), torch.ones(4), absolute=1e-5)
    if direction[0, 0].abs() == 1 or origin == (0.0, 0.0, 0.0):
        assert_near(points[0, :, :3], direction.expand(4, 3), absolute=1e-5)
