"""Camera path files in JSON, recorded by the viewer and rendered by generate.py.

    {"format": "camera-path", "version": 1, "cameras": [
      {"yaw": 0.1, "pitch": 1.57, "radius": 1, "fov": 18, "time": 0.5}, …
    ]}

Cameras look at the origin. Yaw and pitch are radians (pitch from the up axis, so π/2 is the equator), the radius is in
scene units, the field of view in degrees. `time` lies in [0, 1], or is null (or left out) where the file gives the
camera alone; within a file all cameras have a time or none has. This module imports no PyTorch.
"""

import dataclasses
import json
import math
import numbers
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dnnlib import UserError, atomic_write, one_line

if TYPE_CHECKING:
    from renderer.cameras import Cameras

__all__ = ["PathCamera", "path_cameras", "read_camera_path", "write_camera_path"]

FORMAT, VERSION = "camera-path", 1
MAX_BYTES = 32 * 2**20  # of a file: far more than any rendering needs
ANGLES = ("yaw", "pitch", "radius", "fov")


@dataclasses.dataclass(frozen=True)
class PathCamera:
    """A camera that looks at the origin, and the time of its frame.

    Attributes:
        yaw: Radians.
        pitch: Radians from the up axis, between the poles: 0 < pitch < π.
        radius: Distance from the origin in scene units, positive.
        fov: Field of view in degrees, 0 < fov < 180.
        time: In [0, 1], or None.

    Raises:
        ValueError: A value is not a number or out of its range; the message names it.
    """

    yaw: float
    pitch: float
    radius: float
    fov: float
    time: float | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            if type(value) not in (int, float, bool) and isinstance(value, numbers.Real):  # one of NumPy
                object.__setattr__(self, name, float(value))
        _check_number("yaw", self.yaw)
        _check_number("pitch", self.pitch, 0, math.pi)
        _check_number("radius", self.radius, 0, math.inf)
        _check_number("fov", self.fov, 0, 180)
        if self.time is not None:
            _check_number("time", self.time)
            if not 0 <= self.time <= 1:
                raise ValueError(f"time must lie in [0, 1], not {self.time:g}")


def _check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise a ValueError unless the value is a finite number strictly between two bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number, not {_shown(value)}")
    if not low < value < high or abs(value) > 1e12:  # the latter also for integers beyond the range of floats
        bounds = f"lie between {low:.5g} and {high:.5g}" if high < math.inf else "be finite"
        bounds = "be positive and finite" if low == 0 and high == math.inf else bounds
        raise ValueError(f"{name} must {bounds}, not {_shown(value)}")


def _shown(value: Any) -> str:
    text = one_line(json.dumps(value, default=str))
    return text if len(text) <= 40 else f"{text[:40]}…"


def write_camera_path(path: str | os.PathLike, cameras: Iterable[PathCamera]) -> None:
    """Write a camera path file, atomically.

    Raises:
        ValueError: No cameras, or some with and some without a time.
        UserError: The file cannot be written.
    """
    cameras = list(cameras)
    _check_path(cameras)
    lines = ",\n".join(f"  {json.dumps(dataclasses.asdict(camera))}" for camera in cameras)
    with atomic_write(path, "w") as file:
        file.write(f'{{"format": "{FORMAT}", "version": {VERSION}, "cameras": [\n{lines}\n]}}\n')


def read_camera_path(path: str | os.PathLike) -> list[PathCamera]:
    """The cameras of a file, at least one.

    Raises:
        UserError: The file cannot be read, is not a camera path, or has a wrong value, which the message names.
    """
    content = _read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f'{path} is not a camera path: a JSON object with "format": "{FORMAT}" is needed.')
    if content.get("version") != VERSION:
        raise UserError(f"{path} has version {_shown(content.get('version'))} of its format; {VERSION} can be read.")
    entries = content.get("cameras")
    if not isinstance(entries, list):
        raise UserError(f'{path} is not a camera path: "cameras" must be a list of objects.')
    cameras = []
    for i, entry in enumerate(entries):
        try:
            cameras.append(_parse_camera(entry))
        except ValueError as error:
            raise UserError(f"{path}: cameras[{i}]: {error}.") from error
    try:
        _check_path(cameras)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return cameras


def path_cameras(cameras: Sequence[PathCamera]) -> "Cameras":
    """The cameras for a renderer, without their times."""
    import torch  # only here: see the top of the file

    from renderer.cameras import Cameras, cam2world_from_angles

    columns = zip(*((c.yaw, c.pitch, c.radius, c.fov) for c in cameras), strict=True)
    yaw, pitch, radius, fov = (torch.tensor(column, dtype=torch.float64) for column in columns)
    return Cameras(cam2world=cam2world_from_angles(yaw, pitch, radius), fov=fov.float())


def _read_json(path: str | os.PathLike) -> Any:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"Cannot read the camera path {path}: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} is too large for a camera path ({MAX_BYTES >> 20} MiB at most).")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a camera path: it is not valid JSON ({one_line(error)}).") from error


def _parse_camera(entry: Any) -> PathCamera:
    if not isinstance(entry, dict):
        raise ValueError(f"an object with {', '.join(ANGLES)} and time is needed, not {_shown(entry)}")
    missing = [name for name in ANGLES if name not in entry]
    if missing:
        raise ValueError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    unknown = [name for name in entry if name not in (*ANGLES, "time")]
    if unknown:
        raise ValueError(f"{_shown(unknown[0])} is unknown; there are {', '.join(ANGLES)} and time")
    return PathCamera(**entry)


def _check_path(cameras: list[PathCamera]) -> None:
    if not cameras:
        raise ValueError("A camera path needs at least one camera.")
    timed = [camera.time is not None for camera in cameras]
    if any(timed) and not all(timed):
        raise ValueError(f"cameras[{timed.index(False)}] has no time although others have one: give it to all or none.")
