"""Checks of the Python interface's arguments: seeds, times, outputs, labels, codes, cameras, paths.

`torch_utils.argument_checks` has those of numbers and tensors in general.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from renderer.camera_tracks import CameraTrack, program_tracks, recorded_track
from renderer.cameras import CameraPrior, Cameras, require_cameras
from renderer.outputs import OUTPUTS
from renderer.trajectories import DEFAULT_PROGRAM, scaled_angles
from torch_utils.argument_checks import Shaped, check_number, check_tensors, is_list, shown, whole_number
from training.inference.cli_options import MAX_TIME
from training.inference.latents import CODE_SIZES, RowCodes
from training.networks.generator import Generator

__all__ = [
    "SOURCES",
    "check_alone",
    "check_cameras",
    "check_codes",
    "check_path",
    "check_time",
    "label_numbers",
    "label_shape",
    "output_names",
    "seed_list",
    "video_track",
    "warn_idle",
]

SOURCES = "a snapshot, a folder, a URL or an id of the Hub"
DEFAULT_FRAMES = 16  # of a video
ORTHONORMAL = 1e-3  # tolerated error of a pose's axes: far above rounding, far below a missing axis


def seed_list(name: str, seed: Any) -> list[int]:
    """The seeds of a batch, from one seed or several; their range is checked where codes are sampled."""
    if not is_list(seed):
        return [whole_number(name, seed)]
    if len(seed) == 0:
        raise ValueError(f"{name} must be a whole number or several, got none.")
    return [whole_number(f"{name}[{i}]", value) for i, value in enumerate(seed)]


def label_numbers(name: str, label: Any) -> int | list[float] | None:
    """A class, or the numbers of a label; None as it is."""
    if label is None or not is_list(label):
        if getattr(label, "ndim", 0) > 1:
            raise ValueError(f"{name} must be one class, or the numbers of one label, got {shown(label)}.")
        return None if label is None else whole_number(name, label)
    for i, value in enumerate(label):
        check_number(f"{name}[{i}]", value)
    return [float(value) for value in label]


def check_time(name: str, time: Any) -> None:
    """Refuse times beyond the limits of the commands."""
    check_number(name, time, -MAX_TIME, MAX_TIME, inclusive=True)


def time_list(name: str, times: Any, count: int) -> list[float]:
    """A list of `count` times."""
    if not is_list(times) or len(times) != count:
        raise ValueError(f"{name} must be {count} number{'s' if count > 1 else ''}, got {shown(times)}.")
    for i, time in enumerate(times):
        check_time(f"{name}[{i}]", time)
    return [float(time) for time in times]


def output_names(outputs: Any) -> list[str]:
    """The outputs to render, of a name or several, each once; None stands for the image."""
    if outputs is None:
        return ["rgb"]
    names = list(outputs) if is_list(outputs) else [outputs]
    if not names:
        raise ValueError(f"outputs names none; choose from {', '.join(OUTPUTS)}, or leave it out for pixels.")
    for name in names:
        if not isinstance(name, str) or name not in OUTPUTS:
            raise ValueError(f"there is no output {shown(name)}; choose from {', '.join(OUTPUTS)}.")
    return list(dict.fromkeys(names))


# ----------------------------------------------------------------------------------------------------------------------
# Codes and cameras


def label_shape(c: Any, c_dim: int) -> dict[str, Shaped]:
    """Labels and their shape, for `check_tensors`; none where a network has none."""
    if c is None and c_dim:
        raise ValueError(f"c is missing: this network was trained with labels [B, {c_dim}].")
    if c is not None and not c_dim and not (isinstance(c, torch.Tensor) and c.shape[-1:] == (0,)):
        raise ValueError("c has no place here: this network was trained without labels.")
    return {} if c is None else {"c": (c, ("B", c_dim))}


def check_codes(network: Generator | None, *, finite: bool = False, **named: Any) -> None:
    """Refuse all but codes of one batch and of the generator's sizes (None: of one size)."""
    tensors: dict[str, Shaped] = {}
    for name, codes in named.items():
        if not isinstance(codes, RowCodes):
            raise ValueError(f"{name} must be what codes, load_codes, interpolate or mix return, got {shown(codes)}.")
        for part, sizes in CODE_SIZES.items():
            shape = ["B", *(size if network is None else getattr(network, size) for size in sizes)]
            tensors[f"{name}.{part}"] = getattr(codes, part), shape
    check_tensors(tensors, finite=finite)


def check_cameras(
    name: str, cameras: Any, *, count: int | None = None, values: bool = True, smallest_fov: float = 0.0
) -> None:
    """Refuse all but `Cameras`, of some number and with values that give rays.

    Args:
        count: None: one or more.
        values: Check the values, which waits for a GPU.
        smallest_fov: Of `CameraPrior`; 0 for none.
    """
    require_cameras(name, cameras)
    if len(cameras) != count and (count is not None or len(cameras) == 0):
        needed = "one or more" if count is None else count
        raise ValueError(f"{name} must hold {needed} camera{'' if count == 1 else 's'}, got {len(cameras)}.")
    if not values:
        return
    pose, fov = cameras.cam2world.double(), cameras.fov
    axes = pose[:, :3, :3]
    error = (axes.transpose(1, 2) @ axes - torch.eye(3, dtype=axes.dtype, device=axes.device)).abs().amax(dim=(1, 2))
    # Comparisons with NaN are false.
    good = (error < ORTHONORMAL) & pose[:, :3, 3].isfinite().all(dim=1) & (fov > 0) & (fov < 180)
    if not good.all():
        raise ValueError(
            f"{name} must have finite poses with orthonormal axes and fields of view between 0 and 180 degrees; camera "
            f"{good.tolist().index(False)} does not."
        )
    if (fov < smallest_fov).any():
        raise ValueError(f"{name}: fov is in degrees, of at least {smallest_fov:g}, got {fov.min().item():g}.")
    # Poses in other conventions, which would give a wrong image instead of an error.
    whole = ((pose[:, 3] - pose.new_tensor([0, 0, 0, 1])).abs() < ORTHONORMAL).all(dim=1)
    if not whole.all():
        raise ValueError(
            f"{name}: the last row of cam2world must be 0 0 0 1, which that of camera {whole.tolist().index(False)} is "
            "not. Is the matrix transposed?"
        )
    if not (kept := torch.linalg.det(axes) > 0).all():
        raise ValueError(
            f"{name}: camera {kept.tolist().index(False)} is a mirror, its axes are left-handed. They must point to "
            "the right, up, and backwards."
        )


def video_track(
    prior: CameraPrior,
    *,
    program: str | None = None,
    frames: int | None = None,
    time_range: tuple[float, float] | None = None,
    fov: float | None = None,
    yaw_scale: float | None = None,
    pitch_scale: float | None = None,
    cameras: Cameras | None = None,
    times: Sequence[float] | None = None,
) -> CameraTrack:
    """The cameras and times of a video, of a program or as given; see `VideoGenerator.video`.

    A scale without effect is warned of.
    """
    if cameras is None and times is not None:
        raise ValueError("times belong to cameras: give both, or time_range.")
    if times is not None:
        check_alone("times", time_range=time_range)
    first, last = (0.0, 1.0) if time_range is None else time_list("time_range", time_range, 2)
    path = {"fov": fov, "yaw_scale": yaw_scale, "pitch_scale": pitch_scale}
    if cameras is not None:
        check_alone("cameras", program=program, frames=frames, **path)
        check_cameras("cameras", cameras, smallest_fov=prior.smallest_fov)
        count = len(cameras)
        times = (
            torch.linspace(first, last, count, dtype=torch.float32, device="cpu").tolist()
            if times is None
            else time_list("times", times, count)
        )
        return recorded_track("", cameras, times)
    given = {name: value for name, value in path.items() if value is not None}
    for name, value in given.items():
        check_number(name, value, *((0, 180) if name == "fov" else ()))
    count = DEFAULT_FRAMES if frames is None else whole_number("frames", frames, low=1)
    program = DEFAULT_PROGRAM if program is None else program
    steps = {"n_steps": count, "time_steps": count, "time_range": (first, last)}
    [track] = program_tracks([program], prior, **steps, **given)
    for angle in ("yaw", "pitch"):
        if given.get(f"{angle}_scale", 1) != 1 and angle not in scaled_angles(program):
            warn_idle(f"{angle}_scale", f"{program} does not move the camera in {angle}")
    return track


# ----------------------------------------------------------------------------------------------------------------------
# Others


def check_alone(name: str, **others: Any) -> None:
    """Refuse arguments that are given together with `name`, which takes their place."""
    for other, value in others.items():
        if value is not None:
            raise ValueError(f"give {name} or {other}, not both.")


def warn_idle(name: str, reason: str) -> None:
    """Warn the caller of `VideoGenerator.frame` or `video` of an argument without effect."""
    # Between this and the caller are a function of this package, the method, and its two decorators.
    warnings.warn(f"{name} has no effect: {reason}.", stacklevel=6)


def check_path(name: str, path: Any, what: str = "a path") -> None:
    """Refuse anything but a non-empty path, which would be the working folder; `what` says what is allowed."""
    text = path if isinstance(path, str) else os.fspath(path) if isinstance(path, os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise ValueError(f"{name} must be {what}, got {shown(path)}.")
