"""Warping error and flatness of analytic surfaces."""

import math
import types

import pytest
import torch

from metrics.feature_extractors import make_network
from metrics.generated_videos import reproject
from metrics.video_measures import flatness, warping_error
from renderer.cameras import CameraPrior, camera_rays, pixel_centers

SIZE = 64
CAMERAS = CameraPrior(fov=30).at_angles([-0.15, 0.15], [math.pi / 2, math.pi / 2 - 0.1], 1.0)
RADIUS = 0.2


def texture(points: torch.Tensor) -> torch.Tensor:
    """Colours [..., 3] in 0…1 of points in space."""
    x, y, z = (points * 25).unbind(-1)
    return torch.stack([(x + y).sin(), (y - 2 * z).sin(), (z + x).cos()], dim=-1) / 2 + 0.5


def sphere_depths(origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Depth of the nearer intersection with a sphere around the origin; NaN for rays that miss it."""
    a, b = directions.square().sum(-1), (origins * directions).sum(-1)
    return (-b - (b * b - a * (origins.square().sum(-1) - RADIUS**2)).sqrt()) / a


def plane_depths(origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Depth of the plane x = 0, which faces a camera at yaw 0."""
    return (-origins / directions)[..., 0].expand(directions.shape[:2])


def scene(depths_of, *, depth_factor: float = 1.0, offset: float = 0.0):
    """The arguments of warping_error for a textured surface seen by two cameras; the depths passed may be wrong."""
    origins, directions = camera_rays(CAMERAS, pixel_centers(SIZE)[None])
    true = depths_of(origins, directions)
    opacity = true.isfinite().float()
    images = texture(origins + true.nan_to_num(1)[..., None] * directions) * opacity[..., None]
    told = true.nan_to_num(1) * depth_factor + offset
    points = (origins + told[..., None] * directions).unflatten(1, (SIZE, SIZE))
    seen = [reproject(points[:1], CAMERAS[1]), reproject(points[1:], CAMERAS[0])]
    return {
        "images": images.unflatten(1, (SIZE, SIZE)).movedim(-1, 1)[None],
        "grids": torch.stack([grid[0] for grid, _ in seen])[None],
        "depths": told.unflatten(1, (SIZE, SIZE))[None],
        "expected": torch.stack([depth[0] for _, depth in seen])[None],
        "opacities": opacity.unflatten(1, (SIZE, SIZE))[None],
        "points": points,
    }


def measure(found, *, tolerance=0.02):
    arguments = {name: value for name, value in found.items() if name != "points"}
    return warping_error(**arguments, tolerance=tolerance)[0].tolist()


@pytest.mark.parametrize("depths_of", [plane_depths, sphere_depths])
def test_right_depth_explains_the_other_view(depths_of):
    error, unwarped, compared = measure(scene(depths_of))
    assert error < 0.015 and unwarped > 10 * error and compared > 0.3


def test_the_more_wrong_the_depth_the_larger_the_error():
    errors = [measure(scene(sphere_depths, offset=offset), tolerance=1.0)[0] for offset in (0, 0.02, 0.05, 0.1)]
    assert errors == sorted(errors) and errors[3] > 8 * errors[0]
    assert measure(scene(plane_depths, depth_factor=1.05), tolerance=1.0)[0] > 3 * measure(scene(plane_depths))[0]


def test_a_picture_on_the_wrong_surface():
    """Colours that stay at their pixels, as in a flat picture, contradict the depth of a sphere."""
    found = scene(sphere_depths)
    found["images"] = found["images"][:, :1].expand(-1, 2, -1, -1, -1)
    error, unwarped, _ = measure(found)
    assert unwarped == 0 and error > 0.05


def test_reprojection_of_own_points():
    """A camera sees the point of a pixel at the pixel, at the pixel's depth."""
    found = scene(sphere_depths)
    grid, depth = reproject(found["points"], CAMERAS)
    centres = pixel_centers(SIZE).unflatten(0, (SIZE, SIZE)) * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(grid, centres.expand(2, -1, -1, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(depth, found["depths"][0], atol=1e-5, rtol=0)


def test_hidden_points_are_left_out():
    """A wall far behind the sphere: points that the sphere hides from the other view do not count."""
    origins, directions = camera_rays(CAMERAS, pixel_centers(SIZE)[None])
    sphere = sphere_depths(origins, directions)

    def both(origins, directions):
        wall = plane_depths(origins + torch.tensor([0.6, 0, 0]), directions)
        return torch.where(sphere.isfinite(), sphere, wall)

    careful, careless = (measure(scene(both), tolerance=tolerance)[0] for tolerance in (0.02, 10.0))
    assert careful < 0.7 * careless


def test_a_tenth_of_the_volume_hides_a_point():
    """The other view's surface is 0.05 nearer than the points."""
    found = scene(plane_depths)
    found["depths"] = found["depths"] - 0.05
    compared = [
        make_network("warping", device="cpu", detectors={})(
            types.SimpleNamespace(**found, thickness=thickness, same_camera=False)
        )[0, 2]
        for thickness in (0.2, 1.0)
    ]
    assert compared[0] == 0 and compared[1] > 0.3


def test_nothing_to_compare():
    found = scene(plane_depths)
    found["opacities"] = torch.zeros_like(found["opacities"])
    error, unwarped, compared = measure(found)
    assert math.isnan(error) and math.isnan(unwarped) and compared == 0


def test_flatness_of_planes_at_any_angle():
    x, y = pixel_centers(20).unbind(-1)
    for slope in (0.0, 0.5, 3.0):
        points = torch.stack([x, y, slope * x - 0.3 * y + 7], dim=-1).reshape(1, 20, 20, 3)
        assert float(flatness(points, torch.ones(1, 20, 20))) == pytest.approx(1, abs=1e-5)


def test_flatness_of_a_half_sphere():
    """Of points spread evenly over a disc of radius 1: variance of x 1/4, of z = √(1 − ρ²) 1/18."""
    xy = pixel_centers(200)
    depth = (1 - xy.square().sum(-1)).clamp(min=0).sqrt()
    points = torch.cat([xy, depth[:, None]], dim=-1).reshape(1, 200, 200, 3)
    opacity = (xy.square().sum(-1) < 1).float().reshape(1, 200, 200)
    assert float(flatness(points, opacity)) == pytest.approx(1 - math.sqrt(2 / 9), abs=2e-3)


def test_flatness_of_a_cloud_and_of_nothing():
    points = torch.randn(1, 100, 100, 3, generator=torch.Generator().manual_seed(0))
    assert float(flatness(points, torch.ones(1, 100, 100))) < 0.05
    assert float(flatness(points, torch.zeros(1, 100, 100))) != float(flatness(points, torch.zeros(1, 100, 100)))
    flattened = points * torch.tensor([1, 1, 0.1])
    assert float(flatness(flattened, torch.ones(1, 100, 100))) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"depths": torch.ones(1, 2, 1, SIZE)}, r"^depths must be \[N, 2, H, W\] with N = 1, H = 64, W = 64"),
        (
            {"images": torch.zeros(1, 2, 3, SIZE, SIZE, dtype=torch.uint8)},
            r"^images must be floats in \[0, 1\], got uint8",
        ),
        ({"tolerance": math.nan}, "^tolerance must be a finite number of at least 0, got nan"),
        ({"tolerance": -1}, "^tolerance must be a finite number of at least 0, got -1"),
    ],
)
def test_other_arguments_are_refused(changes, message):
    found = scene(plane_depths)
    found.pop("points")
    with pytest.raises(ValueError, match=message):
        warping_error(**{**found, "tolerance": 0.02, **changes})
