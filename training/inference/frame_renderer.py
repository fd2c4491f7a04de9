"""Rendering of frames without gradients: one at a time, with weights that are modulated once per video."""

import contextlib

import torch

from renderer.cameras import Cameras, camera_rays
from renderer.volume_rendering import Rays, RenderedRays, render_background, render_rays
from torch_utils.ops.fused_mlp import has_fused_mlp
from training.networks.generator import Generator, SynthesisOutput
from training.networks.mixed_precision import half_precision, multiplies_bfloat16

__all__ = ["LAYERS", "FrameRenderer", "can_render"]

LAYERS = ("both", "foreground", "background")

#: Volume rendered pixels per side of the frame in which fused MLPs of bfloat16 measure the means of their inputs.
MEANS_RESOLUTION = 4


def can_render(precision: str, device: torch.device) -> bool:
    """True if frames can be rendered in this precision, 'float32' or 'bfloat16', on a device."""
    return precision == "float32" or has_fused_mlp(device, precision) or multiplies_bfloat16(device)


class FrameRenderer:
    """Videos rendered one frame at a time without gradients, their weights modulated once.

    The background, which does not change in time, is kept while the cameras stay the same.

    Args:
        generator: In evaluation mode.
        ws, z_motion, z_bg: Styles and codes of B videos, see `Generator.synthesize`.
        ray_chunk: Composite this many rays at a time, to bound memory; None for all at once.
        precision: 'float32', or 'bfloat16', see `can_render`: on a CPU for the factors of products
            (`torch_utils.ops.fused_mlp`) except for the background's, which are few; on a GPU for the layers that are
            float16 otherwise (`training.networks.mixed_precision`).

    Raises:
        ValueError: The generator is in training mode, or the precision is not available.
    """

    @torch.no_grad()
    def __init__(
        self,
        generator: Generator,
        ws: torch.Tensor,
        *,
        z_motion: torch.Tensor,
        z_bg: torch.Tensor,
        ray_chunk: int | None = None,
        precision: str = "float32",
    ):
        if generator.training:
            raise ValueError("frames are rendered in evaluation mode: call generator.eval() first.")
        if not can_render(precision, ws.device):
            raise ValueError(
                f"{precision} is not available: it needs a CPU that multiplies such numbers (avx512_bf16) and a C++ "
                "compiler, or a GPU of NVIDIA's Ampere generation or later."
            )
        self.generator, self.ray_chunk = generator, ray_chunk
        self.ws, self.z_motion, self.z_bg = ws, z_motion, z_bg
        self._weights = generator.modulate(ws, precision)
        self._resolution = generator.settings.resolution  # volume rendered pixels per side
        self._cameras: Cameras | None = None
        self._rays: Rays | None = None
        self._background: torch.Tensor | None = None  # composited, [B, R, 3 + F]
        self._layers = torch.bfloat16 if precision == "bfloat16" and ws.device.type == "cuda" else None
        if precision == "bfloat16" and ws.device.type == "cpu":
            # Fused MLPs measure the means of their inputs in the first frame that they see: always this one.
            front = generator.camera_prior.at().repeat(len(ws)).to(ws.device)
            self._resolution = MEANS_RESOLUTION
            self.output(0.5, front)
            self._resolution, self._cameras = generator.settings.resolution, None

    @torch.no_grad()
    def output(
        self, time: float | torch.Tensor, cameras: Cameras, *, layers: str = "both", resolution: int | None = None
    ) -> SynthesisOutput:
        """Frame at `time` (a number or [B]) from one camera per video, with raw colours, depth and opacity (T = 1).

        Args:
            layers: 'both'; 'foreground' alone, as if it were opaque: to be shown over something else, blend the image
                by the opacity; 'background' alone, with zero depth and opacity.
            resolution: Width of the image, as a draft that leaves out the last blocks of the upsampler; None for all.

        Raises:
            ValueError: Another `layers`, a background where there is none, no such resolution.
        """
        generator = self.generator
        if layers not in LAYERS:
            raise ValueError(f"layers must be {', '.join(LAYERS[:-1])} or {LAYERS[-1]}, got '{layers}'.")
        if layers == "background" and generator.background is None:
            raise ValueError("this generator has no background.")
        times = torch.as_tensor(time, dtype=self.ws.dtype, device=self.ws.device).expand(len(self.ws))[:, None]
        motion = generator.motion_vectors(self.ws, self.z_motion, times)
        fields = generator.condition(self._weights, times=times, motion=motion, z_bg=self.z_bg)
        cameras = cameras.to(self.ws.device)
        if not cameras.equals(self._cameras):
            self._rays = Rays(*camera_rays(cameras, generator.pixels(self.ws, self._resolution)))
            if fields.background is not None:
                self._background = render_background(fields.background, self._rays, generator.settings)
            self._cameras = cameras
        if layers == "background":
            values = self._background[:, None]
            rendered = RenderedRays(values, torch.zeros_like(values[..., 0]), torch.ones_like(values[..., 0]))
        else:
            hidden = layers == "foreground" and self._background is not None
            background = torch.zeros_like(self._background) if hidden else self._background
            rendered = render_rays(
                fields, self._rays, generator.settings, frames=1, chunk=self.ray_chunk, background=background
            )
            if hidden:
                opacity = (1 - rendered.transmittance).clamp(min=1e-6)[..., None]
                rendered = RenderedRays(rendered.values / opacity, rendered.depth, rendered.transmittance)
        with contextlib.nullcontext() if self._layers is None else half_precision(self._layers, generator):
            return generator.upsample(rendered, self._weights, resolution=resolution)

    def render(self, time: float | torch.Tensor, cameras: Cameras) -> torch.Tensor:
        """The image [B, 3, H, W] alone; see `output`."""
        return self.output(time, cameras).image[:, 0]
