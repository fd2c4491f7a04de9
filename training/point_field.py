"""The foreground of one video at one moment as plain functions of points in space."""

import torch

from renderer.cameras import Cameras
from training.generator import Generator

__all__ = ["PointField"]


class PointField:
    """Density and colour at points [N, 3] in scene units.

    Colours depend on where one looks from. All points are looked at from one camera, by default the frontal one:
    that is a direction that the field was trained with everywhere, which the surface's normals are not.

    Args:
        generator: In evaluation mode.
        ws, z_motion, z_bg: Styles and codes of one video, see `Generator.synthesize`.
        time: Of the moment.
        camera: Where colours are seen from; None: the middle of the prior.
    """

    @torch.no_grad()
    def __init__(
        self,
        generator: Generator,
        ws: torch.Tensor,
        *,
        z_motion: torch.Tensor,
        z_bg: torch.Tensor,
        time: float,
        camera: Cameras | None = None,
    ):
        camera = generator.camera_prior.at() if camera is None else camera
        matrix = camera.cam2world[0].to(ws)
        self._position, self._ahead = matrix[:3, 3], -matrix[:3, 2]
        times = ws.new_full([1, 1], time)
        motion = generator.motion_vectors(ws, z_motion, times)
        self._field = generator.fields(generator.fold(ws).foreground[0], times, motion, z_bg).foreground

    @torch.no_grad()
    def density(self, points: torch.Tensor) -> torch.Tensor:
        """[N], as the renderer uses it: never negative."""
        raw, _ = self._field(points[None, None, None], self._ahead[None, None])  # as samples of a single ray
        return torch.relu(raw[0, 0, 0])

    @torch.no_grad()
    def colour(self, points: torch.Tensor) -> torch.Tensor:
        """The field's own colours [N, 3], those of the low-resolution image, nominally in [-1, 1]."""
        view = torch.nn.functional.normalize(points - self._position, dim=-1)
        _, features = self._field(points[None, None, :, None], view[None])  # every point a ray of its own
        return self._field.project(features)[..., :3].flatten(0, -2)
