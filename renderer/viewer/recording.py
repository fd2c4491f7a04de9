"""A camera path as the mouse records it, resampled to frames at an even rate."""

import bisect
import dataclasses
import math

from renderer.trajectory_files import PathCamera

__all__ = ["CameraRecording"]

MAX_SECONDS = 600.0
JUMP = 0.5  # a larger change of time means that a loop has begun again


class CameraRecording:
    """Cameras with the times at which they were shown, in seconds of one clock."""

    def __init__(self):
        self._stamps: list[float] = []
        self._cameras: list[PathCamera] = []
        self._at_rest: list[bool] = []

    def __len__(self) -> int:
        return len(self._cameras)

    @property
    def seconds(self) -> float:
        """Duration from the first camera to the last."""
        return self._stamps[-1] - self._stamps[0] if self._stamps else 0.0

    def add(self, camera: PathCamera, stamp: float, *, at_rest: bool = False) -> bool:
        """Append a camera; returns False if the recording is full: then the last camera holds to its end.

        Args:
            at_rest: Nothing moves: the camera holds until the next one.

        Raises:
            ValueError: The time stamp lies before the last one.
        """
        if self._stamps and stamp < self._stamps[-1]:
            raise ValueError("cameras are recorded in the order of time.")
        full = bool(self._stamps) and stamp - self._stamps[0] > MAX_SECONDS
        if full:
            camera, stamp = self._cameras[-1], self._stamps[0] + MAX_SECONDS
        if not full or self._stamps[-1] < stamp:
            self._stamps.append(stamp)
            self._cameras.append(camera)
            self._at_rest.append(at_rest)
        return not full

    def end(self, stamp: float) -> None:
        """Let the last camera hold until the end of the recording."""
        if self._cameras:
            self.add(self._cameras[-1], stamp)

    def frames(self, fps: float) -> list[PathCamera]:
        """One camera every 1 / fps seconds, interpolated linearly between the recorded ones while something moves.

        Where time jumps back, as at the start of a loop, it is not interpolated: that of the nearer camera holds. Yaw
        takes the shorter way: from π to −π the camera passes behind the scene, not through its front.
        """
        if not self._cameras:
            return []
        count = int(self.seconds * fps + 1e-6) + 1
        return [self._at(self._stamps[0] + i / fps) for i in range(count)]

    def _at(self, stamp: float) -> PathCamera:
        after = min(bisect.bisect_left(self._stamps, stamp), len(self._stamps) - 1)
        if after == 0:
            return self._cameras[0]
        a, b = self._cameras[after - 1], self._cameras[after]
        if self._at_rest[after - 1] and stamp < self._stamps[after]:
            return a
        length = self._stamps[after] - self._stamps[after - 1]
        fraction = (stamp - self._stamps[after - 1]) / length if length > 0 else 1.0
        fraction = min(fraction, 1.0)
        near = b if fraction >= 0.5 else a
        values = {
            name: getattr(a, name) + fraction * (getattr(b, name) - getattr(a, name))
            for name in ("pitch", "radius", "fov")
        }
        yaw = a.yaw + fraction * math.remainder(b.yaw - a.yaw, 2 * math.pi)
        time = near.time
        if a.time is not None and b.time is not None and abs(b.time - a.time) <= JUMP:
            time = a.time + fraction * (b.time - a.time)
        return dataclasses.replace(near, **values, yaw=yaw, time=time)
