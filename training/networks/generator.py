"""The 4D generator: content, motion and background codes, times and cameras to video frames.

One fake frame, in order: codes → styles → motion vectors → cameras → rays → stratified depths → field → weights →
importance depths → field → composite → background → upsampler (3D-Aware Video Generation, section 3).

A video's frames share everything but time. Letters: B videos, T frames of a video, R rays of a frame, F features.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from renderer.cameras import CameraPrior, Cameras, lattice_pixel_indices, pixel_centers
from renderer.rays import NO_NOISE, RayNoise, Rays, RenderSettings
from renderer.volume_rendering import Fields, RaySamples, RenderedRays, ray_samples, render_rays
from torch_utils.custom_ops import transformed
from training.networks.activation_checkpoint import CheckpointedField
from training.networks.cpu_inference import FusedNetworks
from training.networks.fields import BackgroundField, BlendedForeground, ForegroundField
from training.networks.mapping import MappingNetwork, MotionNetwork
from training.networks.upsampler import Upsampler

if TYPE_CHECKING:
    from torch_utils.rng import RandomStream

__all__ = ["Generator", "ModulatedWeights", "SynthesisOutput", "VolumeOutput", "conditioned_fields"]


@dataclasses.dataclass
class VolumeOutput:
    """Volume rendering of B videos of T frames, before the upsampler.

    Attributes:
        image_raw: Colours [B, T, 3, h, w].
        depth: Expected depth of the foreground's samples [B, T, h, w] in scene units, not normalised by the opacity.
            Gradients pass through the weights, not through the positions of the samples.
        opacity: [B, T, h, w], one minus the transmittance left for the background.
    """

    image_raw: torch.Tensor
    depth: torch.Tensor
    opacity: torch.Tensor

    @classmethod
    def of_square(cls, rendered: RenderedRays) -> "VolumeOutput":
        """Maps from the rays of a square of pixels, row by row."""
        square = (math.isqrt(rendered.values.shape[2]),) * 2
        return cls(
            image_raw=rendered.values[..., :3].unflatten(2, square).movedim(-1, 2),
            depth=rendered.depth.unflatten(2, square),
            opacity=1 - rendered.transmittance.unflatten(2, square),
        )


@dataclasses.dataclass
class SynthesisOutput(VolumeOutput):
    """Result of `Generator.synthesize`: the volume rendering, the upsampled image and the losses along rays.

    Attributes:
        image: [B, T, 3, H, W], nominally in [-1, 1].
        path_loss: NeRF-path regularisation per frame [B, T], or None.
        distortion: Distortion loss per frame [B, T], or None.
    """

    image: torch.Tensor
    path_loss: torch.Tensor | None = None
    distortion: torch.Tensor | None = None


@dataclasses.dataclass
class ModulatedWeights:
    """Modulated weights of B videos.

    Attributes:
        foreground, upsampler: Results of `modulate` of these parts.
        fused: The same weights for inference on a CPU without gradients; None elsewhere.
    """

    foreground: Any
    upsampler: list[tuple]
    fused: FusedNetworks | None = None


class Generator(nn.Module):
    """The 4D generator; see the module docstring.

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
        activation_checkpointing: Recompute hidden states in backward passes instead of storing them (see
            `training.networks.activation_checkpoint`).
        label_examples: Labels of the training data [n, c_dim], on the CPU, if they are continuous; None for one-hot
            classes, without labels, and where the kind of labels is unknown.
        one_hot_labels: The labels are known to be one-hot classes.
    """

    label_examples: torch.Tensor | None = None
    one_hot_labels: bool = False

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
        self.config: dict[str, Any] = {
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
        field = ForegroundField(w_dim=w_dim, motion=combine, **foreground)
        self.foreground: ForegroundField | BlendedForeground = field
        self.motion = None
        if motion is not None:
            self.motion_uses_content = motion.pop("use_content", False)
            self.motion = MotionNetwork(
                motion_dim=motion_dim,
                out_features=field.width,
                content_dim=w_dim if self.motion_uses_content else 0,
                **motion,
            )
        if static != "none":
            second = ForegroundField(w_dim=w_dim, motion="none", **(foreground | {"time_input": "none"}))
            self.foreground = BlendedForeground(dynamic=field, static=second, blend=static)
        self.background = None
        if background is not None:
            self.background = BackgroundField(code_dim=background_dim, feature_dim=field.feature_dim, **background)
        self.upsampler = Upsampler(
            in_resolution=self.settings.resolution,
            resolution=resolution,
            in_features=field.feature_dim,
            w_dim=w_dim,
            **upsampler,
        )
        self.num_ws = self.foreground.num_ws + self.upsampler.num_ws
        self.activation_checkpointing = False
        self.mapping = MappingNetwork(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws, **mapping)

    @property
    def has_time(self) -> bool:
        """False if nothing but the camera changes the frames of a video."""
        field = getattr(self.foreground, "dynamic", self.foreground)  # of a blend
        return self.motion is not None or getattr(field, "time_input", None) != "none"

    def synthesize(
        self,
        ws: torch.Tensor,
        *,
        z_motion: torch.Tensor,
        z_bg: torch.Tensor,
        times: torch.Tensor,
        cameras: Cameras,
        stream: "RandomStream | None" = None,
        path_loss: bool = False,
        distortion: bool = False,
        ray_chunk: int | None = None,
    ) -> SynthesisOutput:
        """Frames of B videos.

        Args:
            ws: Styles [B, num_ws, w_dim].
            z_motion, z_bg: Motion codes [B, motion_dim] and background codes [B, background_dim].
            times: [B, T] in [0, 1].
            cameras: One per video.
            stream: Source of the renderer's random numbers (training); None renders deterministically.
            path_loss, distortion: Also compute the NeRF-path regularisation and the distortion loss, on the same rays
                (both need `stream`).
            ray_chunk: Composite this many rays at a time, to bound memory; None for all at once.

        Returns:
            image [B, T, 3, H, W]; image_raw [B, T, 3, h, w]; depth and opacity [B, T, h, w]; path_loss and distortion
            [B, T], None unless requested.

        Raises:
            ValueError: A loss along rays is requested without `stream`.

        In training mode (`self.training`) the magnitude EMAs of the upsampler are updated, and the range of sampled
        depths stays where it is: from cameras outside the prior the scene may be cut off.
        """
        batch, frames = times.shape
        # Styles modulate the weights, one set per video (StyleGAN2, section 2.2).
        weights = self.modulate(ws)

        # Motion codes and times give one motion vector per frame (section 3.1). The fields are conditioned on these
        # vectors, the modulated weights and the background codes.
        fields = conditioned_fields(self, weights, ws, times=times, z_motion=z_motion, z_bg=z_bg)

        # One camera per video: its frames share rays and random numbers. The losses along rays also need the rays of a
        # lattice of full-resolution pixels.
        pixels = self.pixels(ws).expand(batch, -1, -1)
        num_rays = pixels.shape[1]
        if path_loss or distortion:
            if stream is None:
                raise ValueError("path_loss and distortion need a stream: the place of their rays is random.")
            offset = stream.uniform("render/path_offset", [batch, 2])
            lattice = lattice_pixel_indices(offset, self.resolution, self.settings.path_lattice)
            pixels = torch.cat([pixels, pixel_centers(self.resolution, ws.device).to(ws.dtype)[lattice]], dim=1)
        noise = NO_NOISE
        if stream is not None:
            noise = RayNoise.draw(stream, batch, pixels.shape[1], self.settings, background=self.background is not None)
        offsets = None if self.training else self.depth_offsets(cameras)
        rays = Rays.through(pixels, cameras, offsets, noise)

        # Volume rendering at the low resolution (NeRF, sections 4 and 5.2): stratified depths, field, weights,
        # importance depths, field, composite over the background (NeRF++, section 4).
        image_rays = rays.select(slice(0, num_rays))
        rendered = render_rays(fields, image_rays, self.settings, frames=frames, chunk=ray_chunk)

        # 2D upsampling in 1x1 layers (StyleNeRF, section 3).
        output = self.upsample(rendered, weights)
        if path_loss or distortion:
            lattice_rays = rays.select(slice(num_rays, None))
            samples = ray_samples(fields, lattice_rays, self.settings, frames=frames)
            if path_loss:
                output.path_loss = self._path_loss(output.image, samples, weights, lattice)
            if distortion:
                output.distortion = samples.foreground.distortion().mean(dim=-1)
        return output

    def set_progress(self, kimg: float) -> None:
        """Set the training progress in thousands of videos, on which the density may depend (`DensityRamp`)."""
        self.foreground.set_progress(kimg)

    # Steps of a synthesis, also used by `FrameRenderer`.

    def modulate(self, ws: torch.Tensor, precision: str = "float32") -> ModulatedWeights:
        """Weights for styles ws [B, num_ws, w_dim]; for the `precision` of inference see `FusedNetworks`."""
        split = self.foreground.num_ws
        weights = ModulatedWeights(self.foreground.modulate(ws[:, :split]), self.upsampler.modulate(ws[:, split:]))
        if ws.device.type == "cpu" and not torch.is_grad_enabled() and not transformed():
            weights.fused = FusedNetworks(self.upsampler, weights.upsampler, precision)
        return weights

    def motion_vectors(self, ws: torch.Tensor, z_motion: torch.Tensor, times: torch.Tensor) -> torch.Tensor | None:
        """Motion vectors [B, T, width], or None without a motion network."""
        if self.motion is None:
            return None
        return self.motion(z_motion, times, ws[:, 0] if self.motion_uses_content else None)

    def condition(
        self, weights: ModulatedWeights, *, times: torch.Tensor, motion: torch.Tensor | None, z_bg: torch.Tensor
    ) -> Fields:
        """The fields of B videos at times [B, T] with motion vectors [B, T, width] and background codes."""
        foreground = self.foreground.condition(weights.foreground, times=times, motion=motion)
        fields = Fields(foreground, None if self.background is None else self.background.condition(z_bg))
        if weights.fused is not None and not torch.is_grad_enabled():
            return weights.fused.fields(fields)
        if self.activation_checkpointing and torch.is_grad_enabled():
            background = None if fields.background is None else CheckpointedField(fields.background)
            return Fields(CheckpointedField(fields.foreground), background)
        return fields

    def depth_offsets(self, cameras: Cameras) -> torch.Tensor:
        """Offsets [N] of sampled depths for cameras at other distances than in training (`CameraPrior`)."""
        return self.camera_prior.depth_offsets(cameras, self.settings.near)

    def depth_range(self, cameras: Cameras) -> tuple[float, float]:
        """Near and far, the range of depths in scene units that is sampled for these cameras."""
        return self.camera_prior.depth_range(cameras, self.settings.near, self.settings.far)

    def pixels(self, like: torch.Tensor, resolution: int | None = None) -> torch.Tensor:
        """Pixel centres [1, R, 2] of a square of `resolution` (None: the volume rendering's), typed as `like`."""
        return pixel_centers(resolution or self.settings.resolution, like.device).to(like.dtype)[None]

    def upsample(
        self, rendered: RenderedRays, weights: ModulatedWeights, *, resolution: int | None = None
    ) -> SynthesisOutput:
        """Frames from the rays of a square of pixels; for `resolution` see `Upsampler.forward`."""
        size = math.isqrt(rendered.values.shape[2])
        grid = rendered.values.unflatten(2, (size, size))
        colours, features = grid[..., :3], grid[..., 3:]
        if weights.fused is not None and not torch.is_grad_enabled() and weights.fused.replaces(self.upsampler):
            image = weights.fused.upsample(features, colours, resolution=resolution)
        else:
            image = self.upsampler(
                features,
                colours,
                weights.upsampler,
                resolution=resolution,
                activation_checkpointing=self.activation_checkpointing,
            )
        return SynthesisOutput(**vars(VolumeOutput.of_square(rendered)), image=image.movedim(-1, 2))

    def _path_loss(
        self,
        image: torch.Tensor,
        samples: RaySamples,
        weights: ModulatedWeights,
        lattice: torch.Tensor,
    ) -> torch.Tensor:
        """NeRF-path regularisation [B, T] (StyleNeRF, section 3): the image must match plain volume rendering.

        Args:
            image: [B, T, 3, H, W].
            samples: Samples along R rays per video.
            lattice: Indices [B, R] of the pixels of these rays.
        """
        # Every sample goes through the upsampler's layers without resampling ...
        points = samples.values.flatten(1, 3)
        colours = self.upsampler.pointwise(
            points[..., 3:],
            points[..., :3],
            weights.upsampler,
            activation_checkpointing=self.activation_checkpointing,
        )
        # ... its colours are composited with the weights of its ray ...
        colours = colours.unflatten(1, samples.weights.shape[1:])
        composited = (samples.weights[..., None, :] @ colours)[..., 0, :]
        # ... and compared with the pixels of the upsampled image.
        index = lattice[:, None, None, :].expand(-1, image.shape[1], 3, -1)
        pixels = image.flatten(3).gather(3, index).movedim(2, 3)
        return 2 * (composited - pixels).square().sum(dim=-1).mean(dim=-1)


def conditioned_fields(
    generator: Generator,
    weights: ModulatedWeights,
    ws: torch.Tensor,
    *,
    times: torch.Tensor,
    z_motion: torch.Tensor,
    z_bg: torch.Tensor,
) -> Fields:
    """The fields of B videos at times [B, T], by the steps `motion_vectors` and `condition` of a generator.

    A function, not a method: a class of the user's own need only have the steps.

    Args:
        weights: Result of `modulate` for the styles `ws`.
        ws, times, z_motion, z_bg: See `Generator.synthesize`.
    """
    motion = generator.motion_vectors(ws, z_motion, times)
    return generator.condition(weights, times=times, motion=motion, z_bg=z_bg)
