"""The orbit of the mouse's camera, within the trained ranges unless more is requested."""

import dataclasses
import math

import numpy as np

from renderer.cameras import POLE_MARGIN, CameraPrior
from renderer.trajectory_files import PathCamera

__all__ = ["OrbitLimits", "position_of"]

FARTHER = 2.0  # beyond the trained range the radius may be this many times larger or smaller


@dataclasses.dataclass(frozen=True)
class OrbitLimits:
    """Limits of a camera: (low, high) of yaw and pitch in radians and of the radius in scene units."""

    yaw: tuple[float, float]
    pitch: tuple[float, float]
    radius: tuple[float, float]

    @classmethod
    def of(cls, prior: CameraPrior, *, beyond: bool) -> "OrbitLimits":
        """The trained ranges, or all around the scene and between half and twice the trained distance."""
        if not beyond:
            return cls(prior.yaw, prior.pitch, prior.radius)
        middle = sum(prior.yaw) / 2
        near, far = prior.radius
        return cls(
            (middle - math.pi, middle + math.pi), (POLE_MARGIN, math.pi - POLE_MARGIN), (near / FARTHER, far * FARTHER)
        )

    def camera(self, position: np.ndarray, target: np.ndarray, *, fov: float, time: float | None) -> PathCamera:
        """The camera nearest to one at `position` that looks at `target`, both [3] in scene units.

        Trained cameras look at the origin, so only the position relative to the target counts.
        """
        offset = np.asarray(position, dtype=float) - np.asarray(target, dtype=float)
        radius = float(np.linalg.norm(offset))
        if not (math.isfinite(radius) and radius > 0):
            return self.front(fov, time)
        middle = sum(self.yaw) / 2
        turn = math.remainder(math.atan2(offset[1], offset[0]) - middle, 2 * math.pi)
        pitch = math.acos(max(-1.0, min(1.0, offset[2] / radius)))
        place = zip((middle + turn, pitch, radius), (self.yaw, self.pitch, self.radius))
        return PathCamera(*(min(max(value, low), high) for value, (low, high) in place), fov, time)

    def front(self, fov: float, time: float | None = None) -> PathCamera:
        """The camera in the middle of all ranges."""
        return PathCamera(sum(self.yaw) / 2, sum(self.pitch) / 2, sum(self.radius) / 2, fov, time)


def position_of(camera: PathCamera) -> tuple[float, float, float]:
    """The position of a camera, in scene units."""
    across = camera.radius * math.sin(camera.pitch)
    return (across * math.cos(camera.yaw), across * math.sin(camera.yaw), camera.radius * math.cos(camera.pitch))
