"""The 4D generator: content, motion and background codes, times and cameras to video frames.

One fake frame, in order: codes → styles → motion vectors → rays → foreground field, coarse and fine → weights →
composite over the background → 2D upsampler (3D-Aware Video Generation, section 3).

A video's frames share everything but time. Work is organised in groups of videos: on CPU each video is a group (its
working set stays in cache, and a weight per video is an ordinary product), elsewhere all videos are one.
"""

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import nn

from renderer.cameras import CameraPrior, Cameras, camera_rays, lattice_pixel_indices, pixel_centers
from renderer.volume_rendering import (
    NO_NOISE,
    Fields,
    RayNoise,
    Rays,
    Rendered,
    RenderSettings,
    ray_samples,
    render_rays,
)
from training.inference.frame_renderer import Scene
from training.networks.activation_checkpoint import RecomputedField
from training.networks.fields import BackgroundField, BlendedForeground, ForegroundField
from training.networks.mapping import MappingNetwork, MotionNetwork
from training.networks.upsampler import Upsampler

__all__ = ["Generator", "SynthesisOutput"]


@dataclasses.dataclass
class SynthesisOutput:
    """Result of `Generator.synthesize` for B videos of T frames.

    Attributes:
        image: [B, T, 3, H, W], nominally in [-1, 1].
        image_raw: Volume rendered colours before the upsampler [B, T, 3, h, w].
        depth: Expected depth of the foreground's samples [B, T, h, w] in scene units, not normalised by the opacity.
            For display: the weights pass no gradients to it.
        opacity: [B, T, h, w], one minus the transmittance left for the background.
        path_loss: NeRF-path regularisation per frame [B, T], or None where it was not asked for.
    """

    image: torch.Tensor
    image_raw: torch.Tensor
    depth: torch.Tensor
    opacity: torch.Tensor
    path_loss: torch.Tensor | None = None


@dataclasses.dataclass
class _Folded:
    """Per-video weights: a list of groups for the foreground, [block][layer][group] for the upsampler.

    Where frames are rendered without gradients on a CPU, `programs` holds the upsampler's instead ([group][block]).
    """

    foreground: list
    upsampler: list
    programs: list | None = None


class Generator(nn.Module):
    """See the module's docstring.

    Args:
        resolution: Width of the square images in pixels, a power of two.
        c_dim: Size of the labels; 0 for none.
        z_dim, motion_dim, background_dim: Sizes of the content, motion and background codes.
        w_dim: Size of the styles.
        mapping, motion, foreground, background, upsampler, camera, rendering: Keyword arguments of the parts, see
            `MappingNetwork`, `MotionNetwork`, `ForegroundField`, `BackgroundField`, `Upsampler`, `CameraPrior` and
            `RenderSettings`. Further keys: motion.combine 'add' or 'concat' (how the vector enters the field),
            motion.use_content (feed the first style too), foreground.static 'none', 'mask' or 'equal' (blend with a
            second, static field). `motion=None`: no motion network; `background=None`: no background.

    Attributes:
        recompute: Whether backward passes compute hidden states again rather than keep them (see
        training.networks.activation_checkpoint).
    """

    def __init__(
        self,
        *,
        resolution: int,
        c_dim: int = 0,
        z_dim: int = 512,
        motion_dim: int = 512,
        w_dim: int = 512,
        background_dim: int = 32,
        mapping: Mapping = {},  # noqa: B006 (never modified)
        motion: Mapping | None = {},  # noqa: B006
        foreground: Mapping = {},  # noqa: B006
        background: Mapping | None = {},  # noqa: B006
        upsampler: Mapping = {},  # noqa: B006
        camera: Mapping = {},  # noqa: B006
        rendering: Mapping = {},  # noqa: B006
    ):
        super().__init__()
        self.config = {
            "resolution": resolution, "c_dim": c_dim, "z_dim": z_dim, "motion_dim": motion_dim, "w_dim": w_dim,
            "background_dim": background_dim, "mapping": dict(mapping),
            "motion": None if motion is None else dict(motion), "foreground": dict(foreground),
            "background": None if background is None else dict(background), "upsampler": dict(upsampler),
            "camera": dict(camera), "rendering": dict(rendering),
        }  # fmt: skip
        self.resolution, self.c_dim, self.z_dim, self.w_dim = resolution, c_dim, z_dim, w_dim
        self.motion_dim, self.background_dim = motion_dim, background_dim
        self.camera_prior = CameraPrior(**camera)
        self.settings = RenderSettings(**rendering)
        if resolution % self.settings.path_lattice:
            raise ValueError(
                f"rendering.path_lattice must divide the resolution {resolution}, got {self.settings.path_lattice}."
            )

        motion = None if motion is None else dict(motion)
        foreground = dict(foreground)
        static = foreground.pop("static", "none")
        combine = "none"
        if motion is not None:
            combine = motion.pop("combine", "add")
            if combine not in ("add", "concat"):
                raise ValueError(f"motion.combine must be add or concat, got '{combine}'.")
        self.foreground = ForegroundField(w_dim=w_dim, motion=combine, **foreground)
        feature_dim = self.foreground.feature_dim
        self.motion = None
        if motion is not None:
            self.motion_uses_content = motion.pop("use_content", False)
            self.motion = MotionNetwork(
                motion_dim=motion_dim,
                out_features=self.foreground.width,
                content_dim=w_dim if self.motion_uses_content else 0,
                **motion,
            )
        if static != "none":
            second = ForegroundField(w_dim=w_dim, motion="none", **(foreground | {"time_input": "none"}))
            self.foreground = BlendedForeground(dynamic=self.foreground, static=second, blend=static)
        self.background = None
        if background is not None:
            self.background = BackgroundField(code_dim=background_dim, feature_dim=feature_dim, **background)
        self.upsampler = Upsampler(
            in_resolution=self.settings.resolution,
            resolution=resolution,
            in_features=feature_dim,
            w_dim=w_dim,
            **upsampler,
        )
        self.num_ws = self.foreground.num_ws + self.upsampler.num_ws
        self.recompute = False
        self.mapping = MappingNetwork(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws, **mapping)

    def synthesize(
        self,
        ws: torch.Tensor,
        *,
        z_motion: torch.Tensor,
        z_bg: torch.Tensor,
        times: torch.Tensor,
        cameras: Cameras,
        stream=None,
        path_loss: bool = False,
        ray_chunk: int | None = None,
    ) -> SynthesisOutput:
        """Frames of B videos.

        Args:
            ws: Styles [B, num_ws, w_dim].
            z_motion, z_bg: Motion codes [B, motion_dim] and background codes [B, background_dim].
            times: [B, T] in [0, 1].
            cameras: One per video.
            stream: Source of the renderer's random draws (training); None renders deterministically.
            path_loss: Also compute the NeRF-path regularisation (needs `stream`).
            ray_chunk: Composite this many rays at a time, to bound memory; None for all at once.

        In training mode (`self.training`) the magnitude EMAs of the upsampler are updated.
        """
        batch, frames = times.shape
        folded = self.fold(ws)
        motion = self.motion_vectors(ws, z_motion, times)
        pixels = self.pixels(ws).expand(batch, -1, -1)
        num_rays, lattice = pixels.shape[1], None
        if path_loss:
            offset = stream.uniform("render/path_offset", [batch, 2])
            lattice = lattice_pixel_indices(offset, self.resolution, self.settings.path_lattice)
            pixels = torch.cat([pixels, pixel_centers(self.resolution, ws.device).to(ws.dtype)[lattice]], dim=1)
        noise = NO_NOISE
        if stream is not None:
            noise = RayNoise.draw(stream, batch, pixels.shape[1], self.settings, background=self.background is not None)

        rendered, samples = [], []
        for group, weights in zip(self.groups(batch, ws.device), folded.foreground, strict=True):
            origins, directions = camera_rays(cameras[group], pixels[group])
            fields = self.fields(weights, times[group], None if motion is None else motion[group], z_bg[group])
            rays = Rays(origins, directions, noise.select(group))
            image_rays = rays.select(slice(0, num_rays))
            rendered.append(render_rays(fields, image_rays, self.settings, frames=frames, chunk=ray_chunk))
            if path_loss:
                samples.append(ray_samples(fields, rays.select(slice(num_rays, None)), self.settings, frames=frames))
        output = self.upsample(rendered, folded)
        if path_loss:
            output.path_loss = self._path_loss(output.image, samples, folded, lattice)
        return output

    def scene(
        self,
        ws: torch.Tensor,
        *,
        z_motion: torch.Tensor,
        z_bg: torch.Tensor,
        ray_chunk: int | None = None,
        precision: str = "float32",
    ) -> Scene:
        """Videos prepared for rendering frame by frame: see `Scene`."""
        return Scene(self, ws, z_motion=z_motion, z_bg=z_bg, ray_chunk=ray_chunk, precision=precision)

    # Steps of a synthesis, which `Scene` takes as well.

    @staticmethod
    def groups(batch: int, device: torch.device) -> list[slice]:
        """Which videos are worked on together."""
        if device.type == "cpu":
            return [slice(i, i + 1) for i in range(batch)]
        return [slice(0, batch)]

    def pixels(self, like: torch.Tensor, resolution: int | None = None) -> torch.Tensor:
        """Centres of the volume rendered pixels, or of so many per side, [1, R, 2], of the type of `like`."""
        return pixel_centers(resolution or self.settings.resolution, like.device).to(like.dtype)[None]

    def fold(self, ws: torch.Tensor, precision: str = "float32") -> _Folded:
        """Weights for styles ws [B, num_ws, w_dim]; for `precision` see `torch_utils.ops.fused_mlp.DenseProgram`."""
        on_cpu, middle = ws.device.type == "cpu", self.foreground.num_ws
        group = 1 if on_cpu else len(ws)
        folded = _Folded(
            foreground=self.foreground.fold(ws[:, :middle], group, precision),
            upsampler=self.upsampler.fold(ws[:, middle:], group),
        )
        if on_cpu and not self.training and not torch.is_grad_enabled():
            folded.programs = self.upsampler.prepare(folded.upsampler, precision)
        return folded

    def motion_vectors(self, ws: torch.Tensor, z_motion: torch.Tensor, times: torch.Tensor) -> torch.Tensor | None:
        """[B, T, width], or None without motion."""
        if self.motion is None:
            return None
        return self.motion(z_motion, times, ws[:, 0] if self.motion_uses_content else None)

    def fields(self, weights, times: torch.Tensor, motion: torch.Tensor | None, z_bg: torch.Tensor) -> Fields:
        """The fields of one group of videos."""
        background = None if self.background is None else self.background.evaluator(z_bg)
        foreground = self.foreground.evaluator(weights, times=times, motion=motion)
        if self.recompute and torch.is_grad_enabled():
            foreground = RecomputedField(foreground)
            background = None if background is None else RecomputedField(background)
        return Fields(foreground, background)

    def upsample(self, rendered: list[Rendered], folded: _Folded, *, resolution: int | None = None) -> SynthesisOutput:
        """Frames of what each group's rays gave, a square of pixels; for `resolution` see `Upsampler.forward`."""
        size = math.isqrt(rendered[0].rows.shape[2])
        grids = [r.rows.unflatten(2, (size, size)) for r in rendered]
        features, colours = [x[..., 3:] for x in grids], [x[..., :3] for x in grids]
        if folded.programs is None:
            images = self.upsampler(
                features, colours, folded.upsampler, resolution=resolution, recompute=self.recompute
            )
        else:
            images = self.upsampler.render(features, colours, folded.programs, resolution=resolution)

        def join(parts):
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        return SynthesisOutput(
            image=join(images).movedim(-1, 2),
            image_raw=join([x[..., :3] for x in grids]).movedim(-1, 2),
            depth=join([r.depth.unflatten(2, (size, size)) for r in rendered]),
            opacity=1 - join([r.transmittance.unflatten(2, (size, size)) for r in rendered]),
        )

    def _path_loss(self, image: torch.Tensor, samples: list, folded: _Folded, lattice: torch.Tensor) -> torch.Tensor:
        """NeRF-path regularisation (StyleNeRF, section 3.2): the image must equal what its rays would give unaided.

        Every sample of the lattice's rays goes through the upsampler's pointwise layers; composited with the ray's
        own weights, its colours should match the image's pixels. [B, T].
        """
        rows = [x.flatten(1, 3) for _, x in samples]
        features, colours = [x[..., 3:] for x in rows], [x[..., :3] for x in rows]
        colours = self.upsampler.pointwise(features, colours, folded.upsampler, recompute=self.recompute)
        composited = [
            (weights[..., None, :] @ x.unflatten(1, weights.shape[1:]))[..., 0, :]
            for (weights, _), x in zip(samples, colours, strict=True)
        ]
        batch, frames = image.shape[:2]
        index = lattice[:, None, None, :].expand(-1, frames, 3, -1)
        pixels = image.flatten(3).gather(3, index).movedim(2, 3)
        difference = torch.cat(composited) - pixels
        return 2 * difference.square().sum(dim=-1).mean(dim=-1)
