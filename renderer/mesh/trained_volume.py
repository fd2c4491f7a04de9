"""The trained volume of a foreground field.

A camera sees the foreground between two planes that are parallel to its image, at depths `near` and `far` (depths are
distances along the viewing axis, see `renderer.cameras`), inside the pyramid of its field of view: a truncated pyramid
around the origin, which all cameras look at. The trained volume is the union of these pyramids over the cameras of the
prior's range. Elsewhere the discriminators saw the field less often.

With the paper's faces (radius 1, depths 0.88 to 1.12, field of view 18°, yaw ±0.8, pitch π/2 ± 0.155) one pyramid is
0.24 deep and 0.28 to 0.35 wide, and the union fits into a box of 0.43 × 0.46 × 0.39.
"""

import itertools
import math

import torch

from renderer.cameras import CameraPrior, Cameras

__all__ = ["TrainedVolume"]

STEP = 0.1  # radians between neighbouring cameras of a range: at the pyramids' corners about 0.005 is missed
MAX_STEPS = 64  # of one angle


class TrainedVolume:
    """The union of the cameras' truncated pyramids.

    Args:
        prior: Ranges of the cameras. (A Gaussian prior also samples cameras outside, more rarely with distance.)
        near, far: Depths of the foreground in scene units.

    Attributes:
        low, high: Corners [3] of its bounding box in scene units; x is towards the frontal camera, z is up.
    """

    def __init__(self, prior: CameraPrior, *, near: float, far: float):
        if not 0 < near < far:
            raise ValueError(f"a volume needs 0 < near < far, got near {near} and far {far}.")
        self.near, self.far, self.tangent = near, far, math.tan(math.radians(prior.fov / 2))
        self.cameras = _cameras_of_range(prior)
        corners = torch.cat([self._corners(depth) for depth in (near, far)], dim=1).reshape(-1, 3)
        self.low, self.high = corners.amin(dim=0), corners.amax(dim=0)

    def signed_distance(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance [N] of points [N, 3] in scene units, to the nearest face of the pyramid they are deepest in.

        Negative outside: minus a lower bound of the distance.
        """
        deepest = torch.full_like(points[:, 0], -math.inf)
        cosine = 1 / math.sqrt(1 + self.tangent**2)
        columns = points.t().contiguous()  # a coordinate at a time is twice as fast as a point at a time
        for matrix in self.cameras.cam2world.to(points):
            across, up, back = matrix[:3, :3].t() @ (columns - matrix[:3, 3:])
            depth = -back
            sides = (depth * self.tangent - torch.maximum(across.abs(), up.abs())) * cosine
            deepest = torch.maximum(deepest, torch.minimum(sides, torch.minimum(depth - self.near, self.far - depth)))
        return deepest

    def within_all_depths(self, points: torch.Tensor) -> torch.Tensor:
        """True [N] for points [N, 3] between the depths near and far of every camera of the range.

        Other points of the volume are seen by some cameras and lie outside the depth range of others, which do not
        render them.
        """
        seen = torch.ones_like(points[:, 0], dtype=torch.bool)
        for matrix in self.cameras.cam2world.to(points):
            depth = (matrix[:3, 3] - points) @ matrix[:3, 2]
            seen &= (depth > self.near) & (depth < self.far)
        return seen

    def _corners(self, depth: float) -> torch.Tensor:
        """Corners [cameras, 4, 3] of the pyramids at a depth."""
        width = depth * self.tangent
        matrices = self.cameras.cam2world
        local = matrices.new_tensor([[x, y, -depth] for x in (-width, width) for y in (-width, width)])
        return local @ matrices[:, :3, :3].transpose(1, 2) + matrices[:, None, :3, 3]


def _cameras_of_range(prior: CameraPrior) -> Cameras:
    angles = list(itertools.product(_steps(*prior.yaw), _steps(*prior.pitch), sorted(set(prior.radius))))
    return prior.at_angles(*zip(*angles))


def _steps(low: float, high: float) -> list[float]:
    count = min(max(math.ceil((high - low) / STEP), 1), MAX_STEPS) if high > low else 0
    return [low + (high - low) * i / count for i in range(count + 1)] if count else [low]
