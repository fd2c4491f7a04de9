"""The fit of a head: known rotations, and the landmarks of a real clip."""

import itertools
import math
import pathlib

import numpy as np
import pytest
import torch

from renderer.cameras import cam2world_from_angles
from tests.training.dataset_tool.faces.heads import NAMES, head
from training.dataset_tool.faces.detections import read_detections
from training.dataset_tool.faces.head_pose import BOX_SIDE, CENTER, HEAD, fit_head, head_rotation, project

MODEL = np.array(list(HEAD.values()))
# MediaPipe 0.10.21 on the clip of training.dataset_tool.demo_clip.
CARPHONE = pathlib.Path(__file__).parent / "carphone_landmarks.json"
GRID = list(itertools.product(np.linspace(-1.3, 1.3, 7), np.linspace(0.7, 2.4, 5), np.linspace(-3, 3, 7)))


def points_of(detection):
    return np.array(detection["points"])


def test_known_rotations_are_found():
    """Exactly without noise; to half a degree with half a millimetre of noise."""
    generator = np.random.default_rng(0)
    errors = []
    for yaw, pitch, roll in GRID:
        points = points_of(head(yaw, pitch, roll, center=(33.5, 71.25), side=60))
        pose = fit_head(points, NAMES)
        assert [pose.yaw, pose.pitch, pose.roll] == pytest.approx([yaw, pitch, roll], abs=1e-6)
        assert pose.center == pytest.approx((33.5, 71.25)) and pose.side == pytest.approx(60)
        assert pose.residual < 1e-9
        noisy = fit_head(points + generator.normal(scale=0.05 * 60 / BOX_SIDE, size=points.shape), NAMES)
        errors.append([noisy.yaw - yaw, noisy.pitch - pitch, noisy.roll - roll])
        assert 0.03 < noisy.residual < 0.15  # √3 × 0.05 cm, less what the fit takes up
    assert np.degrees(np.sqrt(np.square(errors).mean(axis=0))).max() < 0.5


def test_angles_are_those_of_the_renderer():
    """The head's axes forward, left, up are the world's x, y, z: a camera at (yaw, pitch) sees it so."""
    world_from_head = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    for yaw, pitch in [(0.0, math.pi / 2), (0.4, 1.2), (-0.7, 1.9)]:
        cam2world = cam2world_from_angles(*(torch.tensor([x], dtype=torch.float64) for x in (yaw, pitch, 1.0)))
        rotation = cam2world[0, :3, :3].numpy().T @ world_from_head
        assert np.abs(rotation - head_rotation(yaw, pitch, 0.0)).max() < 1e-6


def test_directions_of_the_angles():
    nose, ear = HEAD["nose_tip"], HEAD["ear_left"]
    to_the_right = project(fit_head(points_of(head(yaw=0.5)), NAMES), np.array([nose, ear]))
    assert to_the_right[0, 0] < 60  # a camera that has moved to the right sees the nose point to the left
    from_below = project(fit_head(points_of(head(pitch=2.0)), NAMES), np.array([nose]))
    assert from_below[0, 1] < project(fit_head(points_of(head()), NAMES), np.array([nose]))[0, 1]
    leaning = project(fit_head(points_of(head(roll=0.3)), NAMES), np.array([CENTER, CENTER + [0, 5, 0]]))
    assert leaning[1, 0] > leaning[0, 0]  # clockwise: the top of the head is further to the right


def test_some_landmarks_are_enough():
    names = ["nose_tip", "eye_outer_left", "eye_outer_right", "subnasale", "glabella"]
    pose = fit_head(points_of(head(0.3, 1.4, -0.2, names=names)), names)
    assert [pose.yaw, pose.pitch, pose.roll] == pytest.approx([0.3, 1.4, -0.2])


def test_degenerate_landmarks_have_no_pose():
    assert fit_head(np.zeros([len(NAMES), 3]), NAMES) is None
    assert fit_head(np.arange(len(NAMES))[:, None] * [1.0, 2.0, 3.0], NAMES) is None


@pytest.fixture(scope="module")
def carphone():
    """Landmarks [120, k, 3] of a real clip, one face in every frame."""
    detections = read_detections(CARPHONE)
    frames = detections.videos["carphone_pristine.mp4"].frames
    assert detections.names == NAMES and [len(frame) for frame in frames] == [1] * 120
    return np.stack([frame[0].points for frame in frames])


def angles(clip):
    poses = [fit_head(points, NAMES) for points in clip]
    return np.array([[pose.yaw, pose.pitch, pose.roll] for pose in poses])


def test_a_real_clip(carphone):
    """Measured with this fit; MediaPipe's own pose matrix gives a median yaw of -0.007 and pitch of 1.676."""
    found = angles(carphone)
    assert np.median(found, axis=0) == pytest.approx([-0.029, 1.717, -0.282], abs=0.002)
    assert [found[:, 0].min(), found[:, 0].max()] == pytest.approx([-0.23, 0.18], abs=0.01)
    assert max(fit_head(points, NAMES).residual for points in carphone) < 1.0


def test_mirrored_turned_and_scaled_landmarks(carphone):
    before = angles(carphone)
    swapped = [NAMES.index(name.replace("left", "?").replace("right", "left").replace("?", "right")) for name in NAMES]
    mirrored = angles(carphone[:, swapped] * [-1, 1, 1] + [193, 0, 0])
    assert np.abs(mirrored - before * [-1, 1, -1]).max() < 1e-6
    for turn in (-1.2, 0.4, 2.0):
        cos, sin = math.cos(turn), math.sin(turn)
        turned = angles(carphone @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]).T)  # clockwise, y is down
        assert np.abs(turned[:, :2] - before[:, :2]).max() < 1e-6
        assert np.abs(np.angle(np.exp(1j * (turned[:, 2] - before[:, 2] - turn)))).max() < 1e-6
    assert np.abs(angles(carphone * 3.7) - before).max() < 1e-6
