"""Planes, spheres and shifts of known depth, relief and parallax."""

import math

import pytest
import torch

from renderer.cameras import CameraPrior, camera_rays, pixel_centers
from renderer.depth import (
    parallax,
    plane_depth,
    project,
    relief,
    surface_depth,
    surface_points,
    warp,
    weighted_mean,
)

PRIOR = CameraPrior(fov=18, yaw=(-0.3, 0.3), radius=(1.0, 1.0))
SIZE = 32


def depth_of_plane(cameras, normal, offset: float) -> torch.Tensor:
    """Depths at which rays meet the plane normal · p = offset, [N, SIZE, SIZE]."""
    origins, directions = camera_rays(cameras, pixel_centers(SIZE))
    normal = torch.tensor(normal)
    return ((offset - origins @ normal) / (directions @ normal)).reshape(-1, SIZE, SIZE)


def depth_of_sphere(cameras, radius: float, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth and weights of a sphere around the origin: |o + s·d| = radius."""
    origins, directions = (x.double() for x in camera_rays(cameras, pixel_centers(size)))  # a small difference
    a = directions.square().sum(-1)
    b = (origins * directions).sum(-1)
    root = b * b - a * (origins.square().sum(-1) - radius**2)
    depth = (-b - root.clamp(min=0).sqrt()) / a
    return depth.reshape(-1, size, size), (root > 0).double().reshape(-1, size, size)


@pytest.mark.parametrize("normal, offset", [([1.0, 0.0, 0.0], 0.05), ([0.8, 0.5, -0.2], 0.0), ([0.9, -0.4, 0.3], 0.1)])
def test_a_plane_is_fitted_exactly_and_has_no_relief_and_no_parallax(normal, offset):
    cameras, others = PRIOR.at_angles([0.2], [1.5]), PRIOR.at_angles([-0.4], [1.6])
    depth = depth_of_plane(cameras, normal, offset)
    weights = torch.ones_like(depth)
    weights[:, :10] = 0
    torch.testing.assert_close(plane_depth(depth, weights), depth, atol=1e-5, rtol=0)
    assert relief(depth, weights).item() < 1e-5
    assert parallax(cameras, others, depth, weights).item() < 1e-5


def test_cameras_follow_depth_maps_to_their_device():
    """`G.camera()` is on the CPU, whatever the device of its frames."""
    points = surface_points(PRIOR.at(), torch.ones(1, 4, 4, device="meta"))
    assert {values.device.type for values in (points, *project(PRIOR.at(), points))} == {"meta"}


@pytest.mark.parametrize("value", [7.0, 0.0, math.nan])
def test_pixels_that_do_not_count_have_no_influence(value):
    cameras, others = PRIOR.at_angles([0.0], [math.pi / 2]), PRIOR.at_angles([0.4], [1.5])
    depth = depth_of_plane(cameras, [1.0, 0.2, 0.0], 0.0)
    weights = torch.full_like(depth, 0.3)
    weights[:, 5:9, 3:20] = 0
    spoilt = torch.where(weights > 0, depth, torch.full_like(depth, value))
    torch.testing.assert_close(plane_depth(spoilt, weights), depth, atol=1e-5, rtol=0)
    assert relief(spoilt, weights).item() < 1e-5
    assert parallax(cameras, others, spoilt, weights).item() < 1e-5


def test_the_plane_that_fits_best_is_that_of_weighted_least_squares():
    generator = torch.Generator().manual_seed(2)
    depth = 0.8 + 0.4 * torch.rand(1, 8, 8, generator=generator, dtype=torch.float64)
    weights = torch.rand(1, 8, 8, generator=generator, dtype=torch.float64)
    basis = torch.cat([pixel_centers(8).double(), torch.ones(64, 1, dtype=torch.float64)], dim=1)
    root = weights.flatten().sqrt()[:, None]  # of the weighted residuals
    solution = torch.linalg.lstsq(root * basis, root / depth.flatten()[:, None]).solution
    torch.testing.assert_close(plane_depth(depth, weights).flatten(), 1 / (basis @ solution)[:, 0], atol=1e-6, rtol=0)


def test_planes_that_too_few_pixels_determine():
    weights = torch.zeros(2, 4, 4)
    weights[0, 1, 1] = weights[0, 2, 3] = 1
    depth = torch.full([2, 4, 4], 0.9)
    depth[0, 2, 3] = 1.1
    planes = plane_depth(depth, weights)
    assert planes.isfinite().all()
    assert planes[0, 1, 1].item() == pytest.approx(0.9, abs=1e-5)
    assert planes[0, 2, 3].item() == pytest.approx(1.1, abs=1e-5)


def test_points_project_back_to_where_they_were_seen():
    cameras = PRIOR.at_angles([0.3, -0.5], [1.5, 1.7])
    depth = 0.8 + 0.4 * torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    places, seen = project(cameras, surface_points(cameras, depth))
    torch.testing.assert_close(places.reshape(2, -1, 2), pixel_centers(SIZE).expand(2, -1, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen, depth, atol=1e-5, rtol=0)


def test_warping_to_the_own_view_changes_nothing_and_a_shift_shifts():
    images = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    places = pixel_centers(SIZE).reshape(1, SIZE, SIZE, 2)
    torch.testing.assert_close(warp(images, places), images, atol=1e-5, rtol=0)
    moved = warp(images, places + torch.tensor([2 / SIZE, 0.0]))  # one pixel to the right, y up
    torch.testing.assert_close(moved[..., :-1], images[..., 1:], atol=1e-5, rtol=0)
    moved = warp(images, places + torch.tensor([0.0, 2 / SIZE]))
    torch.testing.assert_close(moved[..., 1:, :], images[..., :-1, :], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[..., 0, :], images[..., 0, :], atol=1e-5, rtol=0)  # the border is repeated


def test_the_relief_of_a_sphere_is_that_of_its_formula():
    # A small sphere far away, seen orthographically: depth = -sqrt(r² - ρ²), whose deviation over the disc is r/√18:
    # the mean of r² - ρ² is r²/2 and the mean depth 2r/3. At ten units' distance a little less than half is seen.
    prior = CameraPrior(fov=2, yaw=(-0.3, 0.3), radius=(10.0, 10.0))
    depth, weights = depth_of_sphere(prior.at_angles([0.0], [math.pi / 2]), 0.15, size=256)
    assert relief(depth, weights).item() == pytest.approx(0.15 / math.sqrt(18), rel=0.02)


def test_the_parallax_of_a_sphere_grows_with_its_relief_and_the_angle():
    # To first order a point that stands h before the plane moves by f·h·sin(angle)/distance, half of that in widths.
    prior = CameraPrior(fov=2, yaw=(-0.3, 0.3), radius=(10.0, 10.0))
    camera = prior.at_angles([0.0], [math.pi / 2])
    depth, weights = depth_of_sphere(camera, 0.15)
    rms = relief(depth, weights).item()
    for angle in (0.1, 0.3):
        value = parallax(camera, prior.at_angles([angle], [math.pi / 2]), depth, weights).item()
        expected = rms * math.sin(angle) / 10 / math.tan(math.radians(1)) / 2
        assert value == pytest.approx(expected, rel=0.05)


def test_depth_is_normalised_by_the_opacity_only_before_a_background():
    depth, opacity = torch.tensor([[[0.9, 0.2]]]), torch.tensor([[[0.9, 0.2]]])
    surface, weights = surface_depth(depth, opacity, background=True)
    torch.testing.assert_close(surface, torch.ones(1, 1, 2))
    assert weights.tolist() == [[[1.0, 0.0]]]
    surface, weights = surface_depth(depth, opacity, background=False)
    assert surface is depth and weights.tolist() == [[[1.0, 1.0]]]


def test_the_mean_of_nothing_is_not_a_number():
    x, weights = torch.tensor([[[1.0, 3.0]], [[1.0, 3.0]]]), torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]])
    value = weighted_mean(x, weights)
    assert value[0] == 2 and value[1].isnan()


def test_integers_and_other_shapes_are_refused():
    camera, depth = CameraPrior().at(), torch.ones(2, 4, 4)
    points = surface_points(camera, depth)
    assert torch.equal(points, surface_points(camera.repeat(2), depth[:, None]))
    for integers in (depth.to(torch.int32), depth.to(torch.uint16)):
        with pytest.raises(ValueError, match="^depth must be floats in scene units, got u?int"):
            surface_points(camera, integers)
    with pytest.raises(ValueError, match="^points must be floats in scene units, got int64"):
        project(camera, points.long())
    with pytest.raises(ValueError, match=r"one per map, got \[2, 4, 4\] and 3 cameras"):
        surface_points(camera.repeat(3), depth)
    with pytest.raises(ValueError, match=r"got \[2, 4, 3\]"):
        surface_points(camera, depth[..., :3])
    with pytest.raises(ValueError, match="pixels must be floats .*got int64"):
        camera_rays(camera, torch.zeros(4, 2).long())


def test_weights_of_other_maps_are_refused():
    """Weights that broadcast would give each map the figures of another one's surface."""
    camera, depth, weights = CameraPrior().at().repeat(2), torch.ones(2, 4, 4), torch.ones(1, 4, 4)
    for measure in (
        lambda: relief(depth, weights),
        lambda: plane_depth(depth, weights),
        lambda: parallax(camera, camera, depth, weights),
        lambda: weighted_mean(depth, weights),
    ):
        with pytest.raises(
            ValueError, match=r"^weights must be \[2, 4, 4\], one for each value, got Tensor \[1, 4, 4\]"
        ):
            measure()
    with pytest.raises(ValueError, match=r"^depth must be a tensor \[N, H, H\], got Tensor \[2, 1, 4, 4\]"):
        relief(depth[:, None], depth[:, None])
    with pytest.raises(ValueError, match=r"^points \[2, H, W, 3\] need one camera or 2, got 3"):
        project(camera[[0, 1, 1]], torch.ones(2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"^points must be a tensor \[N, H, W, 3\], got Tensor \[4, 3\]"):
        project(camera, torch.ones(4, 3))


def test_points_behind_a_camera_have_no_projection():
    camera = CameraPrior().at_angles(0.0, math.pi / 2)  # on the x axis, at distance 1
    points = torch.tensor([[[[0.0, 0.0, 0.1], [1.0, 0.0, 0.0], [2.0, 0.0, 0.1]]]])
    places, depth = project(camera, points)
    assert depth[0, 0].tolist() == pytest.approx([1, 0, -1], abs=1e-6)
    assert places[0, 0, 0].isfinite().all() and places[0, 0, 1:].isnan().all()
