"""Rasterised meshes against analytic intersections of rays with spheres and planes."""

import numpy as np
import pytest

from renderer.cameras import CameraPrior, camera_rays, pixel_centers
from renderer.mesh.extraction import Grid, Mesh, extract_surface, sample
from renderer.mesh.rasteriser import overlap, rasterise

CAMERA = CameraPrior().at_angles([0.4], [1.5])
RADIUS, SIZE = 0.09, 64


@pytest.fixture(scope="module")
def sphere() -> Mesh:
    grid = Grid.around([-0.1] * 3, [0.1] * 3, resolution=60)
    return extract_surface(sample(lambda p: 1 + 100 * (RADIUS - p.norm(dim=-1)), grid), grid, level=1.0)


def sphere_depths() -> tuple[np.ndarray, np.ndarray]:
    """Depths at which the rays enter and leave the sphere, NaN if they miss it."""
    origins, directions = (x.double() for x in camera_rays(CAMERA, pixel_centers(SIZE)))
    a, b = directions.square().sum(-1), (origins * directions).sum(-1)
    root = (b * b - a * (origins.square().sum(-1) - RADIUS**2)).sqrt()
    return tuple(((-b + sign * root) / a).reshape(SIZE, SIZE).numpy() for sign in (-1, 1))


def test_a_sphere_has_the_outline_and_the_depth_of_its_rays(sphere):
    enter, _ = sphere_depths()
    raster = rasterise(sphere, CAMERA, SIZE, near=0.8, far=1.2)
    assert overlap(raster.covered, np.isfinite(enter)) > 0.97
    both = raster.covered & np.isfinite(enter)
    middle = both & (enter < 0.95)  # towards the edge the surface is steep
    assert middle.sum() > 500
    assert np.abs(raster.depth - enter)[middle].max() < 0.001
    assert np.isinf(raster.depth[~raster.covered]).all() and (raster.face[~raster.covered] == -1).all()


def test_what_lies_before_near_and_behind_far_is_not_seen_and_a_cut_mesh_is_solid(sphere):
    enter, leave = sphere_depths()
    for near, far in ((0.95, 1.2), (1.0, 1.01), (0.8, 0.93), (1.04, 1.3), (0.7, 0.9), (1.1, 1.3)):
        covered = rasterise(sphere, CAMERA, SIZE, near=near, far=far).covered
        expected = (enter <= far) & (leave >= near)
        assert overlap(covered, expected) > 0.95, (near, far)


def test_perspective_and_colours_of_a_slanted_triangle():
    """Colours that are linear in space: each pixel has that of the point where its ray meets the plane."""
    camera = CameraPrior(fov=40).at_angles([0.0], [np.pi / 2])
    vertices = np.array([[0.5, -0.9, -0.6], [-0.8, 0.9, -0.5], [-0.1, 0.1, 0.9]], dtype=np.float32)
    colours = np.rint((vertices + 1) * 120).astype(np.uint8)
    mesh = Mesh(vertices, np.array([[0, 1, 2]]), colours)
    raster = rasterise(mesh, camera, 48, near=0.1, far=3.0)
    picture = raster.colours(mesh)
    origins, directions = (x[0].double().numpy() for x in camera_rays(camera, pixel_centers(48)))
    normal = np.cross(vertices[1] - vertices[0], vertices[2] - vertices[0]).astype(np.float64)
    depth = ((vertices[0] - origins) @ normal) / (directions @ normal)
    points = (origins + depth[:, None] * directions).reshape(48, 48, 3)
    seen = raster.face == 0
    assert 200 < seen.sum() < 48 * 48 and (picture[~seen] == 255).all()
    np.testing.assert_allclose(raster.depth[seen], depth.reshape(48, 48)[seen], atol=1e-5)
    assert np.abs(picture[seen] - (points[seen] + 1) * 120).max() <= 1.01


def test_shading_is_the_cosine_to_the_viewing_axis(sphere):
    raster = rasterise(sphere, CAMERA, SIZE, near=0.8, far=1.2)
    picture = raster.shaded(sphere, CAMERA)
    origins, directions = (x[0].double().numpy() for x in camera_rays(CAMERA, pixel_centers(SIZE)))
    seen = raster.face >= 0
    points = (origins + raster.depth.reshape(-1, 1) * directions).reshape(SIZE, SIZE, 3)[seen]
    cosine = points @ CAMERA.cam2world[0, :3, 2].double().numpy() / RADIUS  # the normal of a sphere is its radius
    assert np.abs(picture[seen][:, 0] - (40 + 200 * cosine)).mean() < 3
    assert (picture[~seen] == 255).all()


def test_the_nearer_of_two_triangles_is_seen_whatever_their_order():
    plane = np.array([[0, -0.3, -0.3], [0, 0.3, -0.3], [0, 0, 0.4]], dtype=np.float32)
    vertices = np.concatenate([plane, plane + np.float32([0.05, 0, 0])])
    for faces in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]):
        mesh = Mesh(vertices, np.array(faces))
        raster = rasterise(mesh, CameraPrior().at(), 16, near=0.8, far=1.2)
        assert raster.depth[8, 8] == pytest.approx(0.95, abs=1e-6)
        assert faces[raster.face[8, 8]] == [3, 4, 5]


def test_triangles_behind_the_camera_and_degenerate_ones_show_nothing():
    behind = np.array([[2, -1, -1], [2, 1, -1], [2, 0, 1]], dtype=np.float32)
    line = np.array([[0, -0.1, 0], [0, 0.1, 0], [0, 0, 0]], dtype=np.float32)
    for vertices in (behind, line):
        raster = rasterise(Mesh(vertices, np.array([[0, 1, 2]])), CameraPrior().at(), 16, near=0.1, far=3.0)
        assert not raster.covered.any()


def test_overlap():
    a, b = np.array([True, True, False, False]), np.array([False, True, True, False])
    assert overlap(a, b) == pytest.approx(1 / 3) and overlap(a, a) == 1 and overlap(a, ~a) == 0
    assert overlap(a & ~a, a & ~a) == 1
