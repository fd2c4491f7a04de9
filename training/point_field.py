"""The foreground of one video at one moment as plain functions of points in space."""

import torch

from renderer.cameras import Cameras
from renderer.rays import camera_rays, pixel_centers
from renderer.volume import march_foreground
from training.generator import Generator

__all__ = ["PointField"]

RAYS = 4096  # at a time


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
        self._generator = generator
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

    @torch.no_grad()
    def opacity(self, camera: Cameras, size: int) -> torch.Tensor:
        """What the rays through size × size pixels of one camera lose in the foreground [size, size], 0 to 1."""
        generator = self._generator
        origins, directions = camera_rays(camera, pixel_centers(size, self._position.device))
        transmittances = [
            march_foreground(
                self._field, origins, some, generator.settings, num_frames=1, last_opaque=generator.background is None
            ).transmittance
            for some in directions.split(RAYS, dim=1)
        ]
        return 1 - torch.cat(transmittances, dim=-1).reshape(size, size)
