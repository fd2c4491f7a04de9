"""Point queries of the foreground field of one video at one time step."""

import torch

from renderer.cameras import Cameras
from renderer.rays import Rays, quadrature_weights
from renderer.volume_rendering import march_background, sample_foreground
from torch_utils.argument_checks import check_network, check_number, check_tensors, whole_number
from torch_utils.caller_settings import without_autocast
from torch_utils.ops.composite import weighted_sum
from training.inference.arguments import check_cameras
from training.networks.generator import Generator, conditioned_fields

__all__ = ["PointField"]

RAYS = 4096  # at a time
COLOURED = 4096  # points at a time
SAMPLES = 16  # below a point


class PointField:
    """Density and colour at points [N, 3] in scene units.

    Colours depend on the viewing direction. All points are seen from one camera, by default the frontal one: the field
    was trained with its viewing directions everywhere, unlike the directions of the surface's normals. Points are
    tensors on the generator's device and of its type. After the generator's weights have changed, make it anew: it
    keeps some of them and reads others.

    Args:
        generator: In evaluation mode.
        ws, z_motion, z_bg: Styles and codes of one video, see `Generator.synthesize`.
        time: Time of the time step.
        camera: Camera that colours are seen from; None: the middle of the prior.

    Raises:
        ValueError: The generator is in training mode, codes of several videos or of other sizes, no time, several
            cameras, or points of the wrong form.
    """

    @without_autocast()
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
        check_network("generator", generator, "synthesize")
        if generator.training:  # each query would move the upsampler's running magnitudes
            raise ValueError("points are queried in evaluation mode: call generator.eval() first.")
        codes = {
            "ws": (ws, (1, generator.num_ws, generator.w_dim)),
            "z_motion": (z_motion, (1, generator.motion_dim)),
            "z_bg": (z_bg, (1, generator.background_dim)),
        }
        check_tensors(codes, finite=True)
        check_number("time", time)
        camera = generator.camera_prior.at() if camera is None else camera
        check_cameras("camera", camera, count=1)
        matrix = camera.cam2world[0].to(ws)
        self._position, self._ahead = matrix[:3, 3].clone(), -matrix[:3, 2]  # copies: callers may reuse the matrix
        times = ws.new_full([1, 1], time)
        self._generator = generator
        weights = generator.modulate(ws)
        self._upsampler = weights.upsampler
        self._fields = conditioned_fields(generator, weights, ws, times=times, z_motion=z_motion, z_bg=z_bg)
        self._field = self._fields.foreground

    @without_autocast()
    @torch.no_grad()
    def density(self, points: torch.Tensor) -> torch.Tensor:
        """Density [N] as the renderer uses it, never negative."""
        self._check(points)
        field, rays = self._field, (points[None, None, None], self._ahead[None, None])  # samples of a single ray
        raw = field.raw_density(*rays) if hasattr(field, "raw_density") else field(*rays)[0]
        return torch.relu(raw[0, 0, 0])

    @without_autocast()
    @torch.no_grad()
    def colour(self, points: torch.Tensor) -> torch.Tensor:
        """Colours of the points of a surface [N, 3] as the camera sees them, nominally in [-1, 1].

        The colour of a ray comes from a layer below the surface. Starting at each point, the ray of the camera is
        followed through half the depth of the trained volume; its samples go through the upsampler's pointwise layers,
        which give colours like the image's, and are composited with weights that sum to one (the NeRF path of
        StyleNeRF, section 3).
        """
        self._check(points)
        return torch.cat([self._composite(some) for some in points.split(COLOURED)])

    def _check(self, points: torch.Tensor) -> None:
        check_tensors({"points": (points, ("N", 3))}, device=self._position.device, finite=True)
        if points.dtype != self._position.dtype:
            given, own = (str(x.dtype).removeprefix("torch.") for x in (points, self._position))
            raise ValueError(f"points must be {own}, as the generator is, got {given}.")

    def _rays(self, camera: Cameras, size: int) -> Rays:
        """Rays of one camera through size × size pixels, whose depths move with it as those of frames do."""
        check_cameras("camera", camera, count=1)
        whole_number("size", size, low=1)
        pixels = self._generator.pixels(self._position, size)
        return Rays.through(pixels, camera, self._generator.depth_offsets(camera))

    def _composite(self, points: torch.Tensor) -> torch.Tensor:
        generator = self._generator
        length = (generator.settings.far - generator.settings.near) / 2
        steps = torch.linspace(0, length, SAMPLES, device=points.device, dtype=points.dtype)
        view = torch.nn.functional.normalize(points - self._position, dim=-1)
        raw, features = self._field((points[:, None] + steps[:, None] * view[:, None])[None, None], view[None])
        weights, _ = quadrature_weights(torch.relu(raw[0, 0]), steps, last_opaque=False)
        weights = weights + 1e-6  # on an empty ray all samples count equally
        colours = self._upsampled(self._field.project(features))[0, 0]
        return weighted_sum(weights / weights.sum(dim=-1, keepdim=True), colours)

    def _upsampled(self, values: torch.Tensor) -> torch.Tensor:
        """Colours [1, T, R, S, 3] of samples with the values [1, T, R, S, C] after the upsampler's pointwise layers."""
        rows = values.flatten(1, 3)
        colours = self._generator.upsampler.pointwise(rows[..., 3:], rows[..., :3], self._upsampler)
        return colours.unflatten(1, values.shape[1:4])

    @without_autocast()
    @torch.no_grad()
    def emission(self, points: torch.Tensor) -> torch.Tensor:
        """Colours of the points [N, 3] themselves after the upsampler's pointwise layers, nominally in [-1, 1].

        Composited along rays they give the image of `render`.
        """
        self._check(points)
        return torch.cat([self._emission(some) for some in points.split(COLOURED)])

    def _emission(self, points: torch.Tensor) -> torch.Tensor:
        view = torch.nn.functional.normalize(points - self._position, dim=-1)
        _, features = self._field(points[None, None, :, None], view[None])  # a ray each
        return self._upsampled(self._field.project(features))[0, 0, :, 0]

    @without_autocast()
    @torch.no_grad()
    def render(self, camera: Cameras, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The image of the NeRF path of size × size pixels from one camera, in its parts.

        Every sample of a ray goes through the upsampler's pointwise layers before it is composited; training makes
        these images like those of the generator (StyleNeRF, section 3). The image is foreground + transmittance ·
        background.

        Returns:
            Foreground [size, size, 3], its transmittance [size, size], and background [size, size, 3], nominally in
            [-1, 1] for opaque rays. Without a background the last sample of a ray is opaque: both are zero.

        Raises:
            ValueError: Not one camera, or a size that is not a whole number.
        """
        rays = self._rays(camera, size)
        parts = [self._render(rays.select(slice(start, start + RAYS))) for start in range(0, len(rays), RAYS)]
        foreground, transmittance, background = (torch.cat(kind) for kind in zip(*parts))
        return (
            foreground.unflatten(0, (size, size)),
            transmittance.unflatten(0, (size, size)),
            background.unflatten(0, (size, size)),
        )

    def _render(self, rays: Rays) -> tuple[torch.Tensor, ...]:
        fields, settings = self._fields, self._generator.settings
        samples = sample_foreground(fields, rays, settings, frames=1)
        foreground = sum(
            weighted_sum(weights, self._upsampled(fields.foreground.project(features)))
            for weights, features in samples.parts
        )
        background, transmittance = torch.zeros_like(foreground), torch.zeros_like(samples.transmittance)
        if fields.background is not None:
            far = march_background(fields.background, rays.origins, rays.directions, settings)
            values = fields.background.project(far.features)[:, None]
            background, transmittance = (
                weighted_sum(far.weights[:, None], self._upsampled(values)),
                samples.transmittance,
            )
        return foreground[0, 0], transmittance[0, 0], background[0, 0]

    @without_autocast()
    @torch.no_grad()
    def opacity(self, camera: Cameras, size: int) -> torch.Tensor:
        """Opacity 1 − T of the foreground on the rays of one camera through size × size pixels [size, size], 0 to 1.

        Raises:
            ValueError: Not one camera, or a size that is not a whole number.
        """
        rays, settings = self._rays(camera, size), self._generator.settings
        parts = [rays.select(slice(start, start + RAYS)) for start in range(0, len(rays), RAYS)]
        transmittances = [sample_foreground(self._fields, part, settings, frames=1).transmittance for part in parts]
        return 1 - torch.cat(transmittances, dim=-1).reshape(size, size)
