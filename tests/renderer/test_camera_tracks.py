"""Camera tracks: cameras with their times."""

import math

import pytest
import torch

from renderer.camera_tracks import file_track, program_tracks, recorded_track
from renderer.cameras import CameraPrior
from renderer.trajectories import camera_path, frame_schedule
from renderer.trajectory_files import PathCamera

PRIOR = CameraPrior()


def cameras(*times):
    return [PathCamera(0.1 * i, math.pi / 2, 1.0, 18.0 + i, time) for i, time in enumerate(times)]


def test_programs():
    front, yaw = program_tracks(["front", "rotation_camera_yaw"], PRIOR, n_steps=2, time_steps=4, yaw_scale=0.5, fov=20)
    assert (front.name, yaw.name) == ("front", "rotation_camera_yaw")
    assert yaw.cameras.equals(camera_path("rotation_camera_yaw", PRIOR, 2, yaw_scale=0.5, fov=20))
    assert front.schedule == yaw.schedule == frame_schedule(2, 4)
    assert front.note == "4 frames: the 2 camera steps are spread over the 4 time steps."
    assert program_tracks(["front"], PRIOR, n_steps=4, time_steps=4)[0].note == ""
    note = program_tracks(["front"], PRIOR, n_steps=5, time_steps=1)[0].note
    assert note == "5 frames: the 1 time step is spread over the 5 camera steps."


def test_times_beyond_those_of_training():
    (track,) = program_tracks(["front"], PRIOR, n_steps=5, time_steps=5, time_range=(0.5, 2.5))
    assert track.schedule == [(4, 0.5), (3, 1.0), (2, 1.5), (1, 2.0), (0, 2.5)]
    assert [time for _, time in frame_schedule(3, 3, time_range=(1.0, -1.0))] == [1.0, 0.0, -1.0]
    assert frame_schedule(7, 16) == frame_schedule(7, 16, time_range=(0.0, 1.0))
    with pytest.raises(ValueError, match="finite"):
        frame_schedule(2, 2, time_range=(0.0, math.inf))


def test_a_file_with_times_is_shown_as_it_is():
    track = file_track("path-a", cameras(0.5, 0.25, 1.0))
    assert track.schedule == [(0, 0.5), (1, 0.25), (2, 1.0)] and track.note == ""
    yaw = torch.tensor([0.0, 0.1, 0.2])
    assert torch.allclose(torch.atan2(track.cameras.cam2world[:, 1, 3], track.cameras.cam2world[:, 0, 3]), yaw)
    assert track.cameras.fov.tolist() == [18, 19, 20]


def test_a_file_without_times_runs_forwards_through_the_range():
    assert file_track("a", cameras(None, None, None)).schedule == [(0, 0.0), (1, 0.5), (2, 1.0)]
    track = file_track("a", cameras(None, None), time_steps=4, time_range=(0.0, 3.0))
    assert track.schedule == [(0, 0.0), (0, 1.0), (1, 2.0), (1, 3.0)]
    assert track.note == "4 frames: the 2 camera steps are spread over the 4 time steps."


def test_a_recorded_track_shows_camera_i_at_time_i():
    times = torch.tensor([0.0, 0.1], dtype=torch.float64)
    assert recorded_track("own-path", PRIOR.at([0.0, 1.0]), times).schedule == [(0, 0.0), (1, 0.1)]
    for some in ([0.0], [0.0, 0.5, 1.0]):
        with pytest.raises(ValueError, match=f"one time for each camera, got 2 cameras and {len(some)} times"):
            recorded_track("own-path", PRIOR.at([0.0, 1.0]), some)
    with pytest.raises(ValueError, match=r"^times\[1\] must be a finite number, got nan"):
        recorded_track("own-path", PRIOR.at([0.0, 1.0]), [0.0, math.nan])
