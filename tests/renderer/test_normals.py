"""Normals of analytic surfaces."""

import math

import pytest
import torch

from renderer.cameras import CameraPrior, Cameras, camera_rays, pixel_centers
from renderer.depth import normals_from_depth

PRIOR = CameraPrior(fov=18.0)
VIEWS = PRIOR.at_angles([0.0, 0.7, -0.4], [math.pi / 2, 1.2, 1.9])


def rays(cameras: Cameras, size: int):
    return camera_rays(cameras, pixel_centers(size).double())


def sphere_depth(cameras: Cameras, size: int, radius: float) -> torch.Tensor:
    """Depth of a sphere around the origin; NaN for rays that miss it."""
    origins, directions = rays(cameras, size)
    a = directions.square().sum(-1)
    b = (origins * directions).sum(-1)
    root = b * b - a * (origins.square().sum(-1) - radius**2)
    return ((-b - root.sqrt()) / a).reshape(-1, size, size)  # the square root of a negative number is NaN


def plane_depth(cameras: Cameras, size: int, normal: torch.Tensor, offset: float) -> torch.Tensor:
    """Depth of the plane n · x = offset."""
    origins, directions = rays(cameras, size)
    return ((offset - origins @ normal) / (directions @ normal)).reshape(-1, size, size)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_a_plane_has_its_normal_everywhere(dtype, tolerance):
    normal = torch.nn.functional.normalize(torch.tensor([2.0, 0.7, -0.4], dtype=torch.float64), dim=0)
    depth = plane_depth(VIEWS, 16, normal, 0.03).to(dtype)
    found = normals_from_depth(VIEWS, depth, world=True)
    assert found.dtype == dtype and found.shape == (3, 16, 16, 3)
    assert (found - normal.to(dtype)).abs().max() < tolerance  # all three cameras stand on the side it points to


def test_the_normal_faces_the_camera_from_either_side():
    normal = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    sides = PRIOR.at_angles([1.2, -1.2], math.pi / 2)  # at y > 0 and y < 0
    found = normals_from_depth(sides, plane_depth(sides, 8, normal, 0.0), world=True)
    assert (found[0] - normal).abs().max() < 1e-9 and (found[1] + normal).abs().max() < 1e-9


def test_in_the_camera_a_plane_across_the_axis_looks_back():
    found = normals_from_depth(VIEWS, torch.full([3, 8, 8], 0.9, dtype=torch.float64))
    assert (found - torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).abs().max() < 1e-6


def test_a_sphere_to_second_order():
    """The normal of a sphere is the direction of its point; halving the pixels divides the error by about four."""
    errors = []
    for size in (32, 64):
        depth = sphere_depth(VIEWS, size, 0.12)
        found = normals_from_depth(VIEWS, depth, world=True)
        origins, directions = rays(VIEWS, size)
        points = (origins + depth.flatten(1)[..., None] * directions).unflatten(1, (size, size))
        truth = points / 0.12
        inside = (truth * -directions.unflatten(1, (size, size))).sum(-1) > 0.5  # not the rim, which is seen edge-on
        assert inside.sum() > 0.2 * inside.numel()
        angle = (found * truth).sum(-1).clamp(max=1).acos()
        errors.append(float(angle[inside].max()))
    assert errors[0] < math.radians(2) and 3 < errors[0] / errors[1] < 5


def test_the_edge_of_a_surface_does_not_lean_on_what_is_beside_it():
    """Columns 3 to 5 show a tilted plane, the others something nearer that is not a surface."""
    normal = torch.nn.functional.normalize(torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64), dim=0)
    camera = VIEWS[0]
    depth = plane_depth(camera, 8, normal, 0.0)
    surface = torch.zeros_like(depth)
    surface[:, :, 3:6] = 0.7
    depth = torch.where(surface > 0, depth, 0.5)
    found = normals_from_depth(camera, depth, surface=surface, world=True)
    assert (found[:, :, 3:6] - normal).abs().max() < 1e-9
    assert (found[:, :, :3] == 0).all() and (found[:, :, 6:] == 0).all()


def test_a_depth_that_is_no_number_has_no_normal_although_the_mask_has_it():
    depth = torch.full([1, 5, 5], 0.9, dtype=torch.float64)
    depth[0, 2, 2] = torch.nan
    found = normals_from_depth(VIEWS[0], depth, surface=torch.ones_like(depth))
    facing = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).repeat(1, 5, 5, 1)
    facing[0, 2, 2] = 0
    assert (found - facing).abs().max() < 1e-6


def test_a_pixel_without_a_neighbour_has_no_normal():
    depth = torch.full([1, 5, 5], torch.nan)
    depth[0, 2, 1:4] = 1.0  # a line: nothing above or below
    assert (normals_from_depth(VIEWS[0], depth) == 0).all()


@pytest.mark.parametrize("shape, surface", [((2, 8, 8), None), ((3, 8, 9), None), ((3, 8, 8), (3, 8, 7))])
def test_sizes_that_do_not_fit(shape, surface):
    with pytest.raises(ValueError, match="normals need|surface must be"):
        normals_from_depth(VIEWS, torch.ones(shape), surface=None if surface is None else torch.ones(surface))


DEPTH = torch.ones(3, 8, 8)


@pytest.mark.parametrize(
    "cameras, depth, surface, message",
    [
        (None, DEPTH, None, "cameras must be renderer.cameras.Cameras, as G.camera() gives them, got None."),
        (VIEWS, DEPTH.numpy(), None, "depth must be a tensor [N, H, H], got ndarray [3, 8, 8]."),
        (VIEWS, DEPTH, DEPTH.numpy(), "surface must be a tensor [N, H, H], got ndarray [3, 8, 8]."),
        (VIEWS, DEPTH.int(), None, "depth must be floats in scene units, got int32."),
    ],
)
def test_types_that_do_not_fit(cameras, depth, surface, message):
    with pytest.raises(ValueError) as error:
        normals_from_depth(cameras, depth, surface=surface)
    assert str(error.value) == message
