"""The mouse's camera within limits."""

import math

import numpy as np
import pytest

from renderer.cameras import CameraPrior
from renderer.trajectory_files import PathCamera, path_cameras
from renderer.viewer.orbit import OrbitLimits, position_of

PRIOR = CameraPrior(yaw=(-0.8, 0.8), pitch=(1.4, 1.7), radius=(1.0, 1.2))
TRAINED = OrbitLimits.of(PRIOR, beyond=False)
BEYOND = OrbitLimits.of(PRIOR, beyond=True)


def seen_from(camera, limits=BEYOND, target=(0.0, 0.0, 0.0)):
    position = np.add(position_of(camera), target)
    return limits.camera(position, np.array(target), fov=camera.fov, time=camera.time)


def test_positions_are_those_of_the_renderers_cameras():
    camera = PathCamera(0.3, 1.2, 1.5, 18.0)
    assert position_of(camera) == pytest.approx(path_cameras([camera]).cam2world[0, :3, 3].tolist(), abs=1e-6)


@pytest.mark.parametrize("yaw", [-3.1, -0.5, 0.0, 2.0, 3.1])
@pytest.mark.parametrize("pitch", [0.1, 1.5, 3.0])
def test_angles_of_a_position(yaw, pitch):
    found = seen_from(PathCamera(yaw, pitch, 1.3, 20.0, 0.25))
    assert (found.yaw, found.pitch, found.radius) == pytest.approx((yaw, pitch, 1.3))
    assert (found.fov, found.time) == (20.0, 0.25)


def test_the_trained_range_holds_the_camera():
    found = seen_from(PathCamera(2.0, 1.0, 5.0, 18.0), TRAINED)
    assert (found.yaw, found.pitch, found.radius) == (0.8, 1.4, 1.2)
    found = seen_from(PathCamera(-2.0, 3.0, 0.1, 18.0), TRAINED)
    assert (found.yaw, found.pitch, found.radius) == (-0.8, 1.7, 1.0)


def test_beyond_it_there_are_still_bounds():
    found = seen_from(PathCamera(3.0, 0.001, 50.0, 18.0))
    assert found.yaw == pytest.approx(3.0) and found.pitch == 0.05 and found.radius == 2.4


def test_yaw_continues_around_a_range_at_the_back():
    limits = OrbitLimits.of(CameraPrior(yaw=(2.9, 3.5)), beyond=False)
    position = np.array([math.cos(3.4), math.sin(3.4), 0.0])
    assert limits.camera(position, np.zeros(3), fov=18.0, time=None).yaw == pytest.approx(3.4)


def test_a_shifted_target_does_not_turn_the_camera():
    camera = PathCamera(0.4, 1.5, 1.1, 18.0)
    assert seen_from(camera, target=(0.3, -0.2, 0.1)).yaw == pytest.approx(camera.yaw)


@pytest.mark.parametrize("position", [(0.0, 0.0, 0.0), (math.nan, 0.0, 0.0), (math.inf, 0.0, 0.0)])
def test_a_camera_without_a_direction_is_in_front(position):
    found = TRAINED.camera(np.array(position), np.zeros(3), fov=18.0, time=0.5)
    assert found == TRAINED.front(18.0, 0.5)
    assert (found.yaw, found.pitch, found.radius, found.time) == pytest.approx((0.0, 1.55, 1.1, 0.5))
