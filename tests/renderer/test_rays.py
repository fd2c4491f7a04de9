"""Pixels and rays: measured values, the pinhole geometry, the lattice of the NeRF-path loss."""

import numpy as np
import pytest
import torch

from renderer.cameras import CameraPrior, camera_rays, focal_from_fov, lattice_pixel_indices, pixel_centers
from tests.goldens import reference
from tests.goldens.checks import assert_near
from tests.goldens.networks import golden_arrays
from torch_utils.rng import RandomStream

GOLDENS = golden_arrays("units.npz")


@pytest.mark.parametrize(
    "key, size", [("pixels_res4_corner0", 4), ("pixels_res32_corner0", 32), ("prepare_pixels/vol32", 32)]
)
def test_measured_pixels(key, size):
    assert_near(pixel_centers(size)[None], GOLDENS[f"rays/{key}"], relative=1e-7)


def test_measured_rays():
    cameras = CameraPrior().at(0.2, 0.7, 0.5)
    origins, directions = camera_rays(cameras, pixel_centers(4))
    assert_near(origins.expand(1, 16, 3), GOLDENS["rays/res4/camera_world"], relative=1e-6)
    assert_near(directions, GOLDENS["rays/res4/ray_vector"], relative=1e-6)
    assert_near(origins + directions, GOLDENS["rays/res4/pixels_world"], relative=1e-6)


def test_measured_points():
    """Points along the same rays at even depths; samples innermost."""
    origins, directions = camera_rays(CameraPrior().at(0.2, 0.7, 0.5), pixel_centers(4))
    depths = 0.88 + 0.24 * torch.linspace(0, 1, 14)
    assert_near(depths, GOLDENS["points/di14_trs"], relative=1e-6)
    points = origins[:, :, None] + depths[:, None] * directions[:, :, None]
    assert_near(points.flatten(1, 2), GOLDENS["points/fg_p"], relative=1e-6)
    along = directions[:, :, None].expand(1, 16, 14, 3).flatten(1, 2)
    assert_near(along, GOLDENS["points/fg_r"], relative=1e-6)


def test_against_the_formula():
    cameras = CameraPrior().sample(3, RandomStream(0))
    pixels = pixel_centers(8)
    assert_near(pixels, reference.pixel_grid(8), absolute=1e-7)
    _, directions = camera_rays(cameras, pixels)
    expected = [reference.directions(m.double(), float(f), pixels) for m, f in zip(cameras.cam2world, cameras.fov)]
    assert_near(directions, torch.stack(expected), absolute=1e-6)


def test_rays_run_through_their_pixels():
    """Project points of rays back onto the image plane."""
    cameras = CameraPrior(radius=(0.8, 1.2)).sample(3, RandomStream(2))
    pixels = torch.rand(3, 50, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1  # separate pixels for each camera
    origins, directions = camera_rays(cameras, pixels)
    points = origins + 1.3 * directions
    in_camera = (points - cameras.cam2world[:, None, :3, 3]) @ cameras.cam2world[:, :3, :3]
    assert_near(in_camera[..., 2], torch.full([3, 50], -1.3), absolute=1e-6)  # depth counts along the viewing axis
    focal = focal_from_fov(cameras.fov)[:, None, None]
    assert_near(in_camera[..., :2] / 1.3 * focal, pixels, absolute=1e-5)


def test_the_picture_is_upright():
    origins, directions = camera_rays(CameraPrior().at(), pixel_centers(2))
    top_left, top_right, bottom_left, _ = (origins + directions)[0]
    assert top_left[2] > 0 > bottom_left[2]
    # From (1, 0, 0), looking at the origin with z up, the right hand points along +y.
    assert top_right[1] > 0 > top_left[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rays_follow_the_precision_of_the_pixels(dtype):
    origins, directions = camera_rays(CameraPrior().at(), pixel_centers(4).to(dtype))
    assert origins.dtype == directions.dtype == dtype


def test_measured_lattice():
    """Two draws for two videos of two frames."""
    uniform = torch.from_numpy(np.random.RandomState(2001).rand(2, 2).astype(np.float32))
    indices = lattice_pixel_indices(uniform, 256, 16)
    assert torch.equal(indices.repeat_interleave(2, dim=0), GOLDENS["tape2000/reg_indices"])
    pixels = pixel_centers(256)[indices].repeat_interleave(2, dim=0)
    assert_near(pixels, GOLDENS["tape2000/reg_pixels"], relative=1e-6)


def test_lattice_offsets():
    uniform = torch.tensor([[0.0, 0.0], [0.999, 0.0], [0.0, 0.999], [0.5, 0.26]])
    indices = lattice_pixel_indices(uniform, 16, 4)
    rows, columns = indices // 16, indices % 16
    for i, (x, y) in enumerate([(0, 0), (3, 0), (0, 3), (2, 1)]):
        assert columns[i].reshape(4, 4).tolist() == [[x, x + 4, x + 8, x + 12]] * 4
        assert rows[i].reshape(4, 4).t().tolist() == [[y, y + 4, y + 8, y + 12]] * 4
