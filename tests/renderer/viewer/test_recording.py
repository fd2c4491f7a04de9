"""Recorded camera paths as frames at an even rate."""

import math

import pytest

from renderer.trajectory_files import PathCamera
from renderer.viewer import recording
from renderer.viewer.recording import CameraRecording


def record(*entries):
    path = CameraRecording()
    for stamp, yaw, time in entries:
        assert path.add(PathCamera(yaw, 1.5, 1.0, 18.0, time), stamp)
    return path


def test_frames_lie_on_straight_lines_between_the_recorded_cameras():
    path = record((10.0, 0.0, 0.0), (10.3, 0.3, 0.3), (11.0, -0.4, 0.44))
    frames = path.frames(10)
    assert [c.yaw for c in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.2, 0.1, 0, -0.1, -0.2, -0.3, -0.4], abs=1e-9)
    assert [c.time for c in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.32, 0.34, 0.36, 0.38, 0.4, 0.42, 0.44])
    assert {(c.pitch, c.radius, c.fov) for c in frames} == {(1.5, 1.0, 18.0)}


def test_a_camera_that_passes_behind_the_scene_does_not_cross_its_front():
    frames = record((0.0, 3.0, 0.0), (1.0, -3.0, 0.0)).frames(4)
    behind = 2 * math.pi - 6  # radians on the shorter way
    assert [c.yaw for c in frames] == pytest.approx([3 + behind * i / 4 for i in range(5)], abs=1e-9)


def test_a_loop_that_begins_again_is_no_line():
    frames = record((0.0, 0.0, 0.9), (1.0, 1.0, 0.1)).frames(10)
    assert [c.time for c in frames] == [0.9] * 5 + [0.1] * 6


def test_the_last_moment_is_included_and_nothing_beyond():
    assert len(record((0.0, 0.0, 0.0), (0.99, 0.0, 0.0)).frames(10)) == 10
    assert len(record((0.0, 0.0, 0.0), (1.0, 0.0, 0.0)).frames(10)) == 11
    assert len(record((5.0, 0.0, 0.0)).frames(10)) == 1
    assert CameraRecording().frames(10) == []


def test_cameras_of_one_moment_and_of_wrong_order():
    path = record((1.0, 0.0, 0.0), (1.0, 0.5, 0.0))
    assert [c.yaw for c in path.frames(10)] == [0.0]
    with pytest.raises(ValueError, match="order of time"):
        path.add(PathCamera(0.0, 1.5, 1.0, 18.0), 0.5)


def test_a_camera_at_rest_holds_until_the_next_one_and_to_the_end():
    path = CameraRecording()
    for stamp, yaw, at_rest in ((0.0, 0.0, False), (1.0, 0.5, True), (2.0, 1.0, False), (2.5, 0.0, True)):
        path.add(PathCamera(yaw, 1.5, 1.0, 18.0, 0.0), stamp, at_rest=at_rest)
    path.end(3.0)
    assert [c.yaw for c in path.frames(4)] == [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 1, 0.5, 0, 0, 0]


def test_a_recording_ends_when_it_is_full():
    path = record((0.0, 0.0, 0.0), (recording.MAX_SECONDS, 0.0, 0.0))
    assert not path.add(PathCamera(0.0, 1.5, 1.0, 18.0, 0.0), recording.MAX_SECONDS + 1)
    assert len(path) == 2 and path.seconds == recording.MAX_SECONDS


def test_a_camera_at_rest_holds_to_the_end_of_a_full_recording():
    for stop in (CameraRecording.end, lambda path, stamp: path.add(PathCamera(0.7, 1.5, 1.0, 18.0, 0.0), stamp)):
        path = record((10.0, 0.0, 0.0))
        path.add(PathCamera(0.5, 1.5, 1.0, 18.0, 0.0), 15.0, at_rest=True)
        for stamp in (710.0, 720.0):
            assert not stop(path, stamp)
        assert path.seconds == 600 and len(path) == 3
        assert [camera.yaw for camera in path.frames(0.1)] == [0.0] + [0.5] * 60
