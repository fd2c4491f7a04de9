"""Camera trajectories for rendering (render programs), and the time of every frame along them.

A program places one camera at every step of a path. Yaw and pitch are mostly given as fractions of the camera prior's
ranges, ½ being frontal, so that one program suits every model. `<program>_inverse` is the same path in reverse order.
This module imports no PyTorch, so that scripts can list the programs without loading it.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from renderer.cameras import CameraPrior, Cameras

__all__ = [
    "DEFAULT_PROGRAM",
    "FORWARD_PROGRAMS",
    "INVERSE",
    "PROGRAMS",
    "camera_path",
    "frame_schedule",
    "scaled_angles",
]

DEFAULT_PROGRAM = "rotation_camera_yaw"

# Ellipse of rotation_camera_yaw_pitch: half axes in radians.
CIRCLE_YAW = 0.4
CIRCLE_PITCH = 0.2

ZOOM_FROM, ZOOM_TO = 1.1, 0.9  # front_zoom: factors on the field of view

ROUNDING = 1e-9  # radians

INVERSE = "_inverse"


# Programs: fractions ('yaw', 'pitch') or angles in radians ('yaw_angle', 'pitch_angle'), and 'fov_factor', by step.
KEYS = {"yaw", "pitch", "yaw_angle", "pitch_angle", "fov_factor"}


def _front(steps: int, yaw_scale: float, pitch_scale: float) -> dict[str, list[float]]:
    return {"yaw": [0.5] * steps}


def _front_zoom(steps: int, yaw_scale: float, pitch_scale: float) -> dict[str, list[float]]:
    return {"yaw": [0.5] * steps, "fov_factor": _between(ZOOM_FROM, ZOOM_TO, steps)}


def _yaw(steps: int, yaw_scale: float, pitch_scale: float) -> dict[str, list[float]]:
    return {"yaw": _between(0.5 - 0.5 * yaw_scale, 0.5 + 0.5 * yaw_scale, steps)}


def _pitch(steps: int, yaw_scale: float, pitch_scale: float) -> dict[str, list[float]]:
    return {"yaw": [0.5] * steps, "pitch": _between(0.5 - 0.5 * pitch_scale, 0.5 + 0.5 * pitch_scale, steps)}


def _yaw_pitch(steps: int, yaw_scale: float, pitch_scale: float) -> dict[str, list[float]]:
    turns = [2 * math.pi * step / steps for step in range(steps)]  # a loop: the last camera is not the first again
    return {
        "yaw_angle": [CIRCLE_YAW * yaw_scale * math.sin(turn) for turn in turns],
        "pitch_angle": [math.pi / 2 + CIRCLE_PITCH * pitch_scale * math.cos(turn) for turn in turns],
    }


def _between(first: float, last: float, steps: int) -> list[float]:
    """Evenly spaced values, both ends included; a single value lies in the middle."""
    if steps == 1:
        return [(first + last) / 2]
    return [first + (last - first) * step / (steps - 1) for step in range(steps)]


_PATHS: dict[str, Callable[[int, float, float], dict[str, list[float]]]] = {
    "front": _front,
    "front_zoom": _front_zoom,
    "rotation_camera_yaw": _yaw,
    "rotation_camera_pitch": _pitch,
    "rotation_camera_yaw_pitch": _yaw_pitch,
}

FORWARD_PROGRAMS: tuple[str, ...] = tuple(_PATHS)
PROGRAMS: tuple[str, ...] = FORWARD_PROGRAMS + tuple(name + INVERSE for name in FORWARD_PROGRAMS)


def camera_path(
    program: str,
    prior: "CameraPrior",
    n_steps: int,
    *,
    fov: float | None = None,
    yaw_scale: float = 1.0,
    pitch_scale: float = 1.0,
) -> "Cameras":
    """The cameras of a program, one per step.

    * front: the frontal camera at every step.
    * front_zoom: frontal, the field of view shrinks evenly from 1.1 to 0.9 times its value.
    * rotation_camera_yaw, rotation_camera_pitch: from ½ − ½·scale to ½ + ½·scale of that angle's range.
    * rotation_camera_yaw_pitch: on an ellipse, pitch π/2 + 0.2·pitch_scale·cos 2πτ and yaw 0.4·yaw_scale·sin 2πτ
      radians with τ = step / n_steps: around the frontal view if the prior is centred there.
    * `<program>_inverse`: the program's cameras in reverse order.

    Args:
        program: One of PROGRAMS.
        prior: Gives the ranges of the angles, the radius, and the field of view.
        n_steps: Number of cameras, at least 1.
        fov: Field of view in degrees instead of the prior's.
        yaw_scale, pitch_scale: Scale the extent of the path.

    Returns:
        n_steps cameras.

    Raises:
        ValueError: Unknown program, no steps, a field of view that is not between 0 and 180 degrees, or a path beyond
            the poles, where cameras would flip over.
    """
    from torch_utils.argument_checks import check_number, shown, whole_number  # it imports PyTorch

    if not all(hasattr(prior, name) for name in ("at_angles", "yaw", "pitch", "fov")):
        raise ValueError(f"prior must be a renderer.cameras.CameraPrior, got {shown(prior)}.")
    if program not in PROGRAMS:
        raise ValueError(
            f"Unknown render program '{program}'; choose from {', '.join(FORWARD_PROGRAMS)}, or <name>{INVERSE}."
        )
    n_steps = whole_number("n_steps", n_steps, low=1)
    for name, scale in (("yaw_scale", yaw_scale), ("pitch_scale", pitch_scale)):
        check_number(name, scale)
    fov = prior.fov if fov is None else fov
    check_number("fov", fov, 0, 180)
    path = _PATHS[program.removesuffix(INVERSE)](n_steps, yaw_scale, pitch_scale)
    assert path.keys() <= KEYS, f"{program} gives {', '.join(path.keys() - KEYS)}, which nothing reads"
    if program.endswith(INVERSE):
        path = {name: values[::-1] for name, values in path.items()}

    fovs = [fov * factor for factor in path.get("fov_factor", [1.0] * n_steps)]
    smallest = prior.smallest_fov if "fov_factor" in path else 0  # else the cameras' own error names the given value
    if not all(smallest <= value < 180 for value in fovs):
        raise ValueError(
            f"The field of view must stay between {smallest:g} and 180 degrees, but with {fov:g} {program} goes from "
            f"{min(fovs):g} to {max(fovs):g}."
        )
    low, high = prior.pitch
    pitches = path.get("pitch_angle") or [low + (high - low) * fraction for fraction in path.get("pitch", [])]
    if pitches and not (min(0.0, low) - ROUNDING <= min(pitches) and max(pitches) <= max(math.pi, high) + ROUNDING):
        raise ValueError(
            f"The pitch must stay between 0 and π radians, the poles, but this path goes from {min(pitches):.4g} to "
            f"{max(pitches):.4g}: lower its extent in pitch ({pitch_scale:g})."
        )
    if "yaw_angle" in path or "pitch_angle" in path:
        (left, right), fractions = prior.yaw, path.get("yaw", [0.5])
        yaws = path.get("yaw_angle") or [left + (right - left) * fraction for fraction in fractions]
        return prior.at_angles(yaws, pitches or (low + high) / 2, fov=fovs)
    return prior.at(path.get("yaw", 0.5), path.get("pitch", 0.5), fov=fovs)


def scaled_angles(program: str) -> set[str]:
    """The angles ('yaw', 'pitch') that a program of PROGRAMS varies, that is, those whose scale has an effect."""
    path = _PATHS[program.removesuffix(INVERSE)]
    return {
        angle
        for angle, scales in (("yaw", (0.5, 1.0)), ("pitch", (1.0, 0.5)))
        # Seven parts of a loop, or of a path with both ends: no harmonic but the seventh is zero at all of them.
        if any(path(steps, *scales) != path(steps, 1.0, 1.0) for steps in (7, 8))
    }


def frame_schedule(
    n_steps: int, time_steps: int, *, time_range: tuple[float, float] = (0.0, 1.0)
) -> list[tuple[int, float]]:
    """Camera step and time of every frame of a video, in the order of the frames.

    Frame i shows time i of linspace(*time_range, time_steps) from camera step n_steps − 1 − i: camera and time move
    together. With unequal counts the video has as many frames as the larger one and the shorter sequence is spread over
    them in runs of equal length (up to one frame), so that n_steps = 1 keeps the camera still and time_steps = 1
    freezes time at the start of the range.

    Returns:
        (camera step, time) of each of the max(n_steps, time_steps) frames.

    Raises:
        ValueError: A count that is not an integer of at least 1, or a `time_range` that is not two finite times.
    """
    import torch  # only here, see the top. Its linspace, not i / (n − 1), is what the published results used.

    from torch_utils.argument_checks import check_number, is_list, shown, whole_number

    n_steps, time_steps = whole_number("n_steps", n_steps, low=1), whole_number("time_steps", time_steps, low=1)
    if not is_list(time_range) or len(time_range) != 2:
        raise ValueError(f"time_range must be the first and the last time, got {shown(time_range)}.")
    for time in time_range:
        check_number("time_range", time)
    first, last = map(float, time_range)
    times = torch.linspace(first, last, time_steps, dtype=torch.float32, device="cpu").tolist()
    frames = max(n_steps, time_steps)
    return [(n_steps - 1 - i * n_steps // frames, times[i * time_steps // frames]) for i in range(frames)]
