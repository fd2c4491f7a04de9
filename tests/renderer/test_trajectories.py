import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from renderer.cameras import CameraPrior, focal_from_fov
from renderer.trajectories import FORWARD_PROGRAMS, INVERSE, PROGRAMS, camera_path, frame_schedule, scaled_angles

NOT_FRONTAL = {"rotation_camera_yaw_pitch"}  # with a single step
DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "programs.npz"


def angles(cameras):
    """Yaw and pitch of every camera, from its position."""
    x, y, z = cameras.cam2world[:, :3, 3].unbind(1)
    return torch.atan2(y, x), torch.acos(z / cameras.cam2world[:, :3, 3].norm(dim=1))


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=2e-6, rtol=0)


@pytest.mark.parametrize("program", ["rotation_camera_yaw", "front"])
def test_cameras_equal_the_published_renderer(program):
    golden = np.load(DATA)
    cameras = camera_path(program, CameraPrior(), 3)
    close(cameras.cam2world, golden[f"{program}/world"])
    close(1 / focal_from_fov(cameras.fov), golden[f"{program}/inverse_intrinsics"][:, 0, 0])


def test_front():
    prior = CameraPrior(yaw=(-0.4, 0.6), pitch=(1.4, 1.8), fov=12)
    yaw, pitch = angles(camera_path("front", prior, 4))
    close(yaw, [0.1] * 4)
    close(pitch, [1.6] * 4)


def test_front_zoom_narrows_the_view_evenly():
    cameras = camera_path("front_zoom", CameraPrior(fov=20), 5)
    close(cameras.fov, [22.0, 21.0, 20.0, 19.0, 18.0])
    assert torch.equal(cameras.cam2world, camera_path("front", CameraPrior(), 5).cam2world)
    close(camera_path("front_zoom", CameraPrior(), 3, fov=10).fov, [11.0, 10.0, 9.0])


def test_yaw_and_pitch_run_over_their_ranges():
    prior = CameraPrior(yaw=(-0.5, 0.7), pitch=(1.4, 1.8))
    yaw, pitch = angles(camera_path("rotation_camera_yaw", prior, 4, yaw_scale=0.5, pitch_scale=9))
    close(yaw, [-0.2, 0.0, 0.2, 0.4])
    close(pitch, [1.6] * 4)
    yaw, pitch = angles(camera_path("rotation_camera_pitch", prior, 3, yaw_scale=9, pitch_scale=0.5))
    close(yaw, [0.1] * 3)
    close(pitch, [1.5, 1.6, 1.7])


@pytest.mark.parametrize(
    "program, pitch, scale",
    [
        ("rotation_camera_pitch", (0.2, 1.4), 1.5),
        ("rotation_camera_pitch_inverse", (1.4, 3.0), 1.5),
        ("rotation_camera_yaw_pitch", (1.4, 1.8), 8),
    ],
)
def test_a_path_beyond_the_poles_is_refused(program, pitch, scale):
    prior = CameraPrior(pitch=pitch)
    camera_path(program, prior, 3)
    with pytest.raises(ValueError, match="pitch must stay between 0 and π radians"):
        camera_path(program, prior, 3, pitch_scale=scale)


@pytest.mark.parametrize("fov, reached", [(1.05, "0.945 to 1.155"), (170, "153 to 187")])
def test_a_field_of_view_that_a_path_changes_too_far_is_refused_by_its_given_value(fov, reached):
    with pytest.raises(ValueError) as error:
        camera_path("front_zoom", CameraPrior(), 3, fov=fov)
    assert str(error.value) == (
        f"The field of view must stay between 1 and 180 degrees, but with {fov} front_zoom goes from {reached}."
    )


def test_a_range_from_pole_to_pole_can_be_travelled():
    cameras = camera_path("rotation_camera_pitch", CameraPrior(pitch=(0.0, math.pi)), 3)
    axes = cameras.cam2world[:, :3, :3]
    torch.testing.assert_close(axes.transpose(1, 2) @ axes, torch.eye(3).expand(3, 3, 3))
    close(axes[:, :, 0], [[0.0, 1.0, 0.0]] * 3)  # the roll stays that of the yaw


def test_yaw_pitch_is_an_ellipse_that_does_not_repeat_its_first_camera():
    yaw, pitch = angles(camera_path("rotation_camera_yaw_pitch", CameraPrior(), 4))
    close(yaw, [0.0, 0.4, 0.0, -0.4])
    close(pitch, [math.pi / 2 + 0.2, math.pi / 2, math.pi / 2 - 0.2, math.pi / 2])
    yaw, pitch = angles(camera_path("rotation_camera_yaw_pitch", CameraPrior(), 8, yaw_scale=0.5, pitch_scale=2))
    close(yaw[1], 0.2 * math.sqrt(0.5))
    close(pitch[1], math.pi / 2 + 0.4 * math.sqrt(0.5))


@pytest.mark.parametrize("program", FORWARD_PROGRAMS)
def test_inverses_walk_backwards(program):
    forward = camera_path(program, CameraPrior(), 5)
    backward = camera_path(f"{program}_inverse", CameraPrior(), 5)
    assert torch.equal(backward.cam2world, forward.cam2world.flip(0))
    assert torch.equal(backward.fov, forward.fov.flip(0))


@pytest.mark.parametrize("program", [name for name in PROGRAMS if name.removesuffix(INVERSE) not in NOT_FRONTAL])
def test_a_single_step_is_frontal(program):
    """It is the middle of the path, which closed paths do not have."""
    cameras = camera_path(program, CameraPrior(), 1)
    assert cameras.equals(CameraPrior().at()), f"add {program} to NOT_FRONTAL if it has no frontal middle"


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_takes_a_field_of_view(program):
    cameras, trained = (camera_path(program, CameraPrior(fov=18), 3, fov=fov) for fov in (30, None))
    assert len(cameras) == 3
    torch.testing.assert_close(cameras.fov, trained.fov * (30 / 18))


class NoRanges:
    at_angles, fov, smallest_fov = CameraPrior().at_angles, 18.0, 1.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"program": "sideways"}, "Unknown render program 'sideways'; choose from front"),
        ({"n_steps": 0}, "^n_steps must be a whole number of at least 1, got 0"),
        ({"n_steps": 2.5}, "^n_steps must be a whole number of at least 1, got 2.5"),
        ({"fov": "18"}, "^fov must be a number between 0 and 180, got '18'"),
        ({"yaw_scale": "1"}, "^yaw_scale must be a finite number, got '1'"),
        ({"program": ["front"]}, r"Unknown render program '\['front'\]'"),
        ({"prior": None}, "^prior must be a renderer.cameras.CameraPrior, got None"),
        ({"prior": NoRanges()}, "^prior must be a renderer.cameras.CameraPrior, got NoRanges.$"),
        ({"program": "front_zoom", "fov": 170}, "with 170 front_zoom goes from 153 to 187"),
        ({"fov": 0}, "between 0 and 180"),
        ({"yaw_scale": math.nan}, "yaw_scale must be a finite number"),
        ({"pitch_scale": math.inf}, "pitch_scale must be a finite number"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        camera_path(**{"program": "front", "prior": CameraPrior(), "n_steps": 2, **arguments})


def test_schedule_moves_camera_and_time_together():
    schedule = frame_schedule(4, 4)
    assert [step for step, _ in schedule] == [3, 2, 1, 0]
    assert [time for _, time in schedule] == np.load(DATA)["Ts"].ravel().tolist()


@pytest.mark.parametrize(
    "n_steps, time_steps, expected",
    [
        (1, 1, [(0, 0.0)]),
        (2, 2, [(1, 0.0), (0, 1.0)]),
        (1, 3, [(0, 0.0), (0, 0.5), (0, 1.0)]),  # a camera that stands still
        (3, 1, [(2, 0.0), (1, 0.0), (0, 0.0)]),  # a moment that stands still
        (2, 5, [(1, 0.0), (1, 0.25), (1, 0.5), (0, 0.75), (0, 1.0)]),
        (4, 2, [(3, 0.0), (2, 0.0), (1, 1.0), (0, 1.0)]),
    ],
)
def test_schedule_spreads_the_shorter_over_the_longer(n_steps, time_steps, expected):
    assert frame_schedule(n_steps, time_steps) == expected


@pytest.mark.parametrize("n_steps, time_steps", [(7, 16), (16, 7), (16, 16), (1, 16), (5, 3)])
def test_schedule_shows_every_step_and_every_time(n_steps, time_steps):
    schedule = frame_schedule(n_steps, time_steps)
    assert len(schedule) == max(n_steps, time_steps)
    assert {step for step, _ in schedule} == set(range(n_steps))
    assert len({time for _, time in schedule}) == time_steps


@pytest.mark.parametrize("counts", [(0, 1), (1, 0), (1.5, 2), ("2", 2)])
def test_schedule_needs_something_to_show(counts):
    with pytest.raises(ValueError, match="_steps must be a whole number of at least 1, got "):
        frame_schedule(*counts)


@pytest.mark.parametrize("time_range", [1.0, (0.0,), (0.0, 0.5, 1.0), "01", (0.0, None)])
def test_a_range_has_two_times(time_range):
    with pytest.raises(ValueError, match="^time_range must be "):
        frame_schedule(2, 2, time_range=time_range)


def test_programs_are_listed_without_loading_torch():
    """The scripts check their arguments before they load anything large."""
    code = "import sys, renderer.trajectories; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=DATA.parent.parent.parent).returncode == 0


def test_a_program_may_give_one_angle_in_radians(monkeypatch):
    """The other one is a fraction, or the middle of its range; what nothing reads is an error."""
    own = {
        "turn": lambda steps, *scales: {"yaw_angle": [0.1, 0.3]},
        "nod": lambda steps, *scales: {"pitch_angle": [1.5, 1.6], "yaw": [0.5, 1.0]},
        "dolly": lambda steps, *scales: {"radius": [1.0, 2.0]},
    }
    monkeypatch.setattr("renderer.trajectories._PATHS", own)
    monkeypatch.setattr("renderer.trajectories.PROGRAMS", tuple(own))
    prior = CameraPrior(yaw=(-0.4, 0.8), pitch=(1.2, 1.6))
    yaw, pitch = angles(camera_path("turn", prior, 2))
    close(yaw, [0.1, 0.3])
    close(pitch, [1.4, 1.4])
    yaw, pitch = angles(camera_path("nod", prior, 2))
    close(yaw, [0.2, 0.8])
    close(pitch, [1.5, 1.6])
    with pytest.raises(AssertionError, match="dolly gives radius"):
        camera_path("dolly", prior, 2)


def test_scaled_angles_are_those_that_a_scale_changes(monkeypatch):
    expected = {
        "front": set(),
        "front_zoom": set(),
        "rotation_camera_yaw": {"yaw"},
        "rotation_camera_pitch": {"pitch"},
        "rotation_camera_yaw_pitch": {"yaw", "pitch"},
    }
    assert expected.keys() == set(FORWARD_PROGRAMS)
    for program, moved in expected.items():
        assert scaled_angles(program) == scaled_angles(program + INVERSE) == moved

    # Of any shape.
    def eight(steps, yaw_scale, pitch_scale):
        turns = [2 * math.pi * step / steps for step in range(steps)]
        pitch = [math.pi / 2 + 0.1 * pitch_scale * math.sin(2 * turn) for turn in turns]
        return {"yaw_angle": [0.2 * yaw_scale * math.sin(turn) for turn in turns], "pitch_angle": pitch}

    def wave(steps, yaw_scale, pitch_scale):
        turns = [3 * 2 * math.pi * step / (steps - 1) for step in range(steps)]
        return {"pitch_angle": [math.pi / 2 + 0.1 * pitch_scale * math.sin(turn) for turn in turns]}

    monkeypatch.setattr("renderer.trajectories._PATHS", {"eight": eight, "wave": wave})
    assert scaled_angles("eight") == {"yaw", "pitch"} and scaled_angles("wave") == {"pitch"}
    # Of any name, also without angles that stay.
    nod = {"nod": lambda steps, yaw_scale, pitch_scale: {"pitch": [0.5 - 0.1 * pitch_scale * i for i in range(steps)]}}
    monkeypatch.setattr("renderer.trajectories._PATHS", nod)
    monkeypatch.setattr("renderer.trajectories.PROGRAMS", ("nod",))
    assert scaled_angles("nod") == {"pitch"}
    yaw, pitch = angles(camera_path("nod", CameraPrior(), 2))
    close(yaw, [0.0, 0.0])
    assert float(pitch[0] - pitch[1]) == pytest.approx(
        0.1 * (CameraPrior().pitch[1] - CameraPrior().pitch[0]), abs=1e-6
    )
