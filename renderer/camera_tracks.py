"""Camera tracks: a camera path and the time of every frame along it, from programs, files, or a recording."""

import dataclasses
from collections.abc import Sequence

from renderer.cameras import CameraPrior, Cameras
from renderer.trajectories import camera_path, frame_schedule
from renderer.trajectory_files import PathCamera, path_cameras
from torch_utils.argument_checks import check_number, is_list, shown

__all__ = ["CameraTrack", "file_track", "program_tracks", "recorded_track"]


@dataclasses.dataclass(frozen=True)
class CameraTrack:
    """Cameras and times of one video.

    Attributes:
        name: Name of the video's files.
        cameras: N cameras.
        schedule: Camera index (0 … N − 1) and time of every frame.
        note: A remark for the user, or "".
    """

    name: str
    cameras: Cameras
    schedule: list[tuple[int, float]]
    note: str = ""


def program_tracks(
    programs: Sequence[str],
    prior: CameraPrior,
    *,
    n_steps: int,
    time_steps: int,
    time_range: tuple[float, float] = (0.0, 1.0),
    fov: float | None = None,
    yaw_scale: float = 1.0,
    pitch_scale: float = 1.0,
) -> list[CameraTrack]:
    """One track per program; see `camera_path` and `frame_schedule`, also for errors.

    Args:
        programs: Names of `renderer.trajectories.PROGRAMS`.
        prior: Gives ranges of the angles, radius and field of view.
        n_steps, time_steps: Numbers of cameras and of times; the video has as many frames as the larger one.
        time_range: First and last time; training covered 0 to 1.
        fov: Field of view in degrees instead of the prior's.
        yaw_scale, pitch_scale: Extent of the path relative to the prior's range.
    """
    if not is_list(programs):
        raise ValueError(f"programs must be a list of names, got {shown(programs)}.")
    schedule, note = frame_schedule(n_steps, time_steps, time_range=time_range), _spread(n_steps, time_steps)
    scales = {"yaw_scale": yaw_scale, "pitch_scale": pitch_scale}
    paths = {name: camera_path(name, prior, n_steps, fov=fov, **scales) for name in programs}
    return [CameraTrack(name, cameras, schedule, note) for name, cameras in paths.items()]


def file_track(
    name: str,
    cameras: Sequence[PathCamera],
    *,
    time_steps: int | None = None,
    time_range: tuple[float, float] = (0.0, 1.0),
) -> CameraTrack:
    """The cameras of a file in their order, each at its own time.

    Cameras without times get `time_steps` evenly spaced times in `time_range`, by default one per camera.
    """
    times = [camera.time for camera in cameras if camera.time is not None]
    if len(times) == len(cameras):
        return recorded_track(name, path_cameras(cameras), times)
    count = len(cameras)
    schedule = frame_schedule(count, time_steps or count, time_range=time_range)
    # frame_schedule runs from the last camera step to the first; the cameras of a file are shown in their order.
    forwards = [(count - 1 - step, time) for step, time in schedule]
    return CameraTrack(name, path_cameras(cameras), forwards, _spread(count, time_steps or count))


def recorded_track(name: str, cameras: Cameras, times: Sequence[float]) -> CameraTrack:
    """A track that shows camera i at times[i].

    Raises:
        ValueError: Unequal numbers of cameras and times, or a time that is not a finite number.
    """
    if len(times) != len(cameras):
        raise ValueError(f"a track needs one time for each camera, got {len(cameras)} cameras and {len(times)} times.")
    for i, time in enumerate(times):
        check_number(f"times[{i}]", time)
    return CameraTrack(name, cameras, [(i, float(time)) for i, time in enumerate(times)])


def _spread(n_steps: int, time_steps: int) -> str:
    if n_steps == time_steps:
        return ""
    short, long = sorted([(n_steps, "camera step"), (time_steps, "time step")])
    fewer = f"{short[0]} {short[1]} is" if short[0] == 1 else f"{short[0]} {short[1]}s are"
    return f"{long[0]} frames: the {fewer} spread over the {long[0]} {long[1]}s."
