"""Point queries of the foreground field of one video at one time step."""

import torch

from renderer.cameras import Cameras, camera_rays
from renderer.volume_rendering import Rays, march_foreground, ray_weights, render_background, render_rays
from torch_utils.ops.composite import weighted_sum
from training.networks.generator import Generator

__all__ = ["PointField"]

RAYS = 4096  # at a time
COLOURED = 4096  # points at a time
SAMPLES = 16  # below a point


class PointField:
    """Density and colour at points [N, 3] in scene units.

    Colours depend on where one looks from. All points are looked at from one camera, by default the frontal one:
    that is a direction that the field was trained with everywhere, which the surface's normals are not.

    Args:
        generator: In evaluation mode.
        ws, z_motion, z_bg: Styles and codes of one video, see `Generator.synthesize`.
        time: Of the time step.
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
        weights = generator.modulate(ws)
        self._upsampler = weights.upsampler
        self._fields = generator.condition(weights, times=times, motion=motion, z_bg=z_bg)
        self._field = self._fields.foreground

    @torch.no_grad()
    def density(self, points: torch.Tensor) -> torch.Tensor:
        """[N], as the renderer uses it: never negative."""
        raw, _ = self._field(points[None, None, None], self._ahead[None, None])  # as samples of a single ray
        return torch.relu(raw[0, 0, 0])

    @torch.no_grad()
    def colour(self, points: torch.Tensor) -> torch.Tensor:
        """Colours of the points of a surface [N, 3] as the camera sees them, nominally in [-1, 1].

        The light of a field comes from a layer below any surface. From each point on, the ray of the camera is followed
        through half the depth of the trained volume; its samples go through the upsampler's pointwise layers, which
        give colours like the image's, and are composited with weights that add up to one (the NeRF path of StyleNeRF,
        section 3.2).
        """
        return torch.cat([self._composite(some) for some in points.split(COLOURED)])

    def _composite(self, points: torch.Tensor) -> torch.Tensor:
        generator = self._generator
        length = (generator.settings.far - generator.settings.near) / 2
        steps = torch.linspace(0, length, SAMPLES, device=points.device, dtype=points.dtype)
        view = torch.nn.functional.normalize(points - self._position, dim=-1)
        raw, features = self._field((points[:, None] + steps[:, None] * view[:, None])[None, None], view[None])
        weights, _ = ray_weights(torch.relu(raw[0, 0]), steps, last_opaque=False)
        weights = weights + 1e-6  # where there is nothing, all samples count alike
        rows = self._field.project(features).flatten(1, -2)
        colours = generator.upsampler.pointwise(rows[..., 3:], rows[..., :3], self._upsampler)[0]
        return weighted_sum(weights / weights.sum(dim=-1, keepdim=True), colours.unflatten(0, (-1, SAMPLES)))

    @torch.no_grad()
    def emission(self, points: torch.Tensor) -> torch.Tensor:
        """Colours of the field itself at points [N, 3], before the upsampler, nominally in [-1, 1].

        Composited along rays they give the volume rendered image, `SynthesisOutput.image_raw`.
        """
        return torch.cat([self._project(some) for some in points.split(COLOURED)])

    def _project(self, points: torch.Tensor) -> torch.Tensor:
        view = torch.nn.functional.normalize(points - self._position, dim=-1)
        _, features = self._field(points[None, None, :, None], view[None])  # a ray each
        return self._field.project(features)[0, 0, :, 0, :3]

    @torch.no_grad()
    def render(self, camera: Cameras, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The volume rendered image of size × size pixels from one camera, in its parts.

        The image is foreground + transmittance · background, before the upsampler.

        Returns:
            Foreground [size, size, 3], its transmittance [size, size], and background [size, size, 3], nominally in
            [-1, 1] for opaque rays. Without a background the last sample of a ray is opaque: both are zero.
        """
        generator = self._generator
        rays = Rays(*camera_rays(camera, generator.pixels(self._position, size)))
        background = self._position.new_zeros([1, size * size, 3 + generator.foreground.feature_dim])
        if self._fields.background is not None:
            parts = [rays.select(slice(start, start + RAYS)) for start in range(0, len(rays), RAYS)]
            background = torch.cat(
                [render_background(self._fields.background, part, generator.settings) for part in parts], dim=1
            )
        rendered = render_rays(
            self._fields, rays, generator.settings, frames=1, chunk=RAYS, background=torch.zeros_like(background)
        )
        transmittance = rendered.transmittance.reshape(size, size)
        if self._fields.background is None:
            transmittance = torch.zeros_like(transmittance)
        return (
            rendered.values[0, 0, :, :3].reshape(size, size, 3),
            transmittance,
            background[0, :, :3].reshape(size, size, 3),
        )

    @torch.no_grad()
    def opacity(self, camera: Cameras, size: int) -> torch.Tensor:
        """Opacity 1 − T of the foreground on the rays of one camera through size × size pixels [size, size], 0 to 1."""
        generator = self._generator
        origins, directions = camera_rays(camera, generator.pixels(self._position, size))
        transmittances = [
            march_foreground(
                self._field, origins, some, generator.settings, num_frames=1, last_opaque=generator.background is None
            ).transmittance
            for some in directions.split(RAYS, dim=1)
        ]
        return 1 - torch.cat(transmittances, dim=-1).reshape(size, size)
