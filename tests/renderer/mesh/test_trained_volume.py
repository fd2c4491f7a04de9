"""The volume against the rays of its cameras."""

import math

import pytest
import torch

from renderer.cameras import CameraPrior, camera_rays
from renderer.mesh.trained_volume import TrainedVolume

NEAR, FAR = 0.88, 1.12


def test_of_one_camera_it_is_a_truncated_pyramid():
    prior = CameraPrior(fov=18, yaw=(0.0, 0.0), pitch=(math.pi / 2, math.pi / 2))
    volume = TrainedVolume(prior, near=NEAR, far=FAR)
    tangent = math.tan(math.radians(9))
    torch.testing.assert_close(volume.low, torch.tensor([1 - FAR, -FAR * tangent, -FAR * tangent]), atol=1e-6, rtol=0)
    torch.testing.assert_close(volume.high, torch.tensor([1 - NEAR, FAR * tangent, FAR * tangent]), atol=1e-6, rtol=0)
    points = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.1, 0.17, 0.0], [0.1, 0.17, 0.0], [-0.2, 0.0, 0.0]])
    expected = [0.12, 0.02, (1.1 * tangent - 0.17) * math.cos(math.radians(9)), None, -0.08]
    for value, wanted in zip(volume.signed_distance(points).tolist(), expected):
        assert value < 0 if wanted is None else value == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("radius", [(1.0, 1.0), (0.95, 1.05)])
def test_it_holds_what_the_cameras_of_the_range_see_and_nothing_else(radius):
    prior = CameraPrior(radius=radius)
    volume = TrainedVolume(prior, near=NEAR, far=FAR)
    random = torch.Generator().manual_seed(0)
    # Samples of random rays of random cameras: never further outside than the cameras' step allows.
    fractions = torch.rand(3, 200, generator=random)
    cameras = prior.at(fractions[0], fractions[1], (fractions[2] > 0.5).double())
    origins, directions = camera_rays(cameras, torch.rand(200, 50, 2, generator=random) * 2 - 1)
    depths = NEAR + (FAR - NEAR) * torch.rand(200, 50, 1, generator=random)
    points = (origins + depths * directions).reshape(-1, 3)
    assert volume.signed_distance(points).min() > -0.0055
    assert ((points > volume.low - 0.0055) & (points < volume.high + 0.0055)).all()
    # No point inside the volume lies outside the box, nor beyond the furthest corner.
    points = (torch.rand(2000, 3, generator=random) - 0.5) * 0.8
    inside = volume.signed_distance(points) > 0
    assert 0.02 < inside.float().mean() < 0.3
    assert ((points >= volume.low) & (points <= volume.high))[inside].all()
    reach = math.hypot(FAR * math.tan(math.radians(9)) * math.sqrt(2), FAR - radius[0])
    assert not inside[points.norm(dim=-1) > reach + 1e-4].any()


def plain_distance(volume, point):
    """For every camera the nearest of its pyramid's six faces, each by its normal; the deepest of these."""
    found = []
    for matrix in volume.cameras.cam2world.double():
        right, up, back, position = matrix[:3].unbind(1)
        seen, depth = point - position, float((position - point) @ back)
        outwards = [sign * axis + volume.tangent * back for axis in (right, up) for sign in (1, -1)]
        sides = [-float(seen @ normal / normal.norm()) for normal in outwards]
        found.append(min(*sides, depth - volume.near, volume.far - depth))
    return max(found)


def test_distances_are_those_to_the_faces_of_the_pyramids():
    prior = CameraPrior(yaw=(-0.2, 0.3), pitch=(1.4, 1.6), radius=(0.95, 1.05))
    volume = TrainedVolume(prior, near=NEAR, far=FAR)
    corners = torch.cat([volume._corners(depth) for depth in (NEAR, FAR)], dim=1)  # [cameras, 8, 3]
    faces = [corners[:, rows].mean(dim=1) for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 4, 5], [1, 3, 5, 7])]
    edges = (corners[:, :4] + corners[:, 4:]) / 2
    random = (torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.6
    for points in (random, corners.flatten(0, 1), edges.flatten(0, 1), torch.cat(faces), random[:1], random[:0]):
        expected = torch.tensor([plain_distance(volume, point) for point in points.double()])
        torch.testing.assert_close(volume.signed_distance(points), expected.float(), atol=3e-7, rtol=0)
    # The borders of a single camera's pyramid are at distance 0.
    alone = TrainedVolume(CameraPrior(yaw=(0.3, 0.3), pitch=(1.4, 1.4)), near=NEAR, far=FAR)
    for depth in (NEAR, FAR, 1.0):
        distances = alone.signed_distance(alone._corners(depth)[0])
        torch.testing.assert_close(distances, torch.zeros(4), atol=3e-7, rtol=0)


def test_points_within_the_depths_of_all_cameras():
    # Cameras that see the origin from yaws of ±90 degrees and between, at the same distance.
    volume = TrainedVolume(CameraPrior(yaw=(-math.pi / 2, math.pi / 2), pitch=(math.pi / 2,) * 2), near=NEAR, far=FAR)
    points = torch.tensor([[0.0, 0.0, 0.0], [0.11, 0.0, 0.0], [0.13, 0.0, 0.0], [0.0, -0.13, 0.0], [0.0, 0.0, 0.5]])
    assert volume.within_all_depths(points).tolist() == [True, True, False, False, True]
    # (0.1, 0.1, 0) lies between the planes of the outer and the frontal camera, not of those at 45 degrees.
    assert volume.within_all_depths(torch.tensor([[0.1, 0.1, 0.0]])).tolist() == [False]


def test_a_wrong_range_of_depths():
    with pytest.raises(ValueError, match="0 < near < far"):
        TrainedVolume(CameraPrior(), near=1.0, far=1.0)
