"""Stereo pairs: positions and orientation of the two eyes."""

import math

import pytest
import torch

from renderer.cameras import CameraPrior, stereo_pair
from renderer.depth import project

PRIOR = CameraPrior()
MIDDLE = PRIOR.at_angles([0.0, 0.6, -2.0], [math.pi / 2, 1.1, 2.0], [1.0, 1.0, 2.5], fov=[10.0, 18.0, 30.0])


def test_the_eyes_stand_beside_the_camera():
    left, right = stereo_pair(MIDDLE, 0.1)
    base = right.cam2world[:, :3, 3] - left.cam2world[:, :3, 3]
    assert torch.allclose(base, 0.1 * MIDDLE.cam2world[:, :3, 0], atol=1e-6)  # along x, of the requested length
    for eye in (left, right):
        assert torch.equal(eye.fov, MIDDLE.fov)
        position, rotation = eye.cam2world[:, :3, 3], eye.cam2world[:, :3, :3]
        assert torch.allclose(position.norm(dim=-1), torch.tensor([1.0, 1.0, 2.5]), atol=1e-6)
        assert torch.allclose(rotation[..., 2] * position.norm(dim=-1)[:, None], position, atol=1e-6)  # at the origin
        assert torch.allclose(rotation.transpose(1, 2) @ rotation, torch.eye(3).expand(3, 3, 3), atol=1e-6)
        assert torch.allclose(torch.linalg.det(rotation), torch.ones(3), atol=1e-6)
        assert torch.allclose(rotation[..., 1], MIDDLE.cam2world[:, :3, 1], atol=1e-6)  # upright as the camera


def test_each_eye_has_a_field_of_view_of_its_own():
    left, right = stereo_pair(MIDDLE)
    left.fov.mul_(2)
    assert torch.equal(left.fov, 2 * MIDDLE.fov) and torch.equal(right.fov, MIDDLE.fov)


def test_at_the_equator_the_eyes_differ_in_yaw():
    left, right = stereo_pair(PRIOR.at_angles(0.3, math.pi / 2), 0.2)
    angle = math.asin(0.1)
    for eye, yaw in ((left, 0.3 - angle), (right, 0.3 + angle)):
        assert torch.allclose(eye.cam2world, PRIOR.at_angles(yaw, math.pi / 2).cam2world, atol=1e-6)


def test_what_is_nearer_is_further_right_for_the_left_eye():
    left, right = stereo_pair(PRIOR.at_angles(0.0, math.pi / 2), 0.063)
    points = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]])[None, :, None]  # camera at x = 1
    shift = (project(left, points)[0] - project(right, points)[0])[0, :, 0, 0]
    assert shift[0] == pytest.approx(0, abs=1e-5) and shift[1] > 0.01 and shift[2] < -0.01


@pytest.mark.parametrize("distance", [0.0, -1.0, 2.0])
def test_impossible_distances(distance):
    with pytest.raises(ValueError, match="eye distance must lie between 0 and 2"):
        stereo_pair(MIDDLE, distance)


@pytest.mark.parametrize("distance", [math.nan, math.inf, "0.1", None])
def test_other_values(distance):
    with pytest.raises(ValueError, match="^eye_distance must be a finite number, got "):
        stereo_pair(MIDDLE, distance)
    for cameras in (MIDDLE.cam2world, MIDDLE[[]]):
        with pytest.raises(ValueError, match="^stereo_pair takes one or more Cameras, got "):
            stereo_pair(cameras, 0.1)
