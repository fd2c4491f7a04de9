"""Rendering of frames without gradients: one at a time, with weights that are modulated once per video."""

import torch

from renderer.cameras import Cameras, camera_rays
from renderer.volume_rendering import Rays, RenderedRays, render_background, render_rays
from torch_utils.ops.fused_mlp import has_fused_mlp
from training.networks.generator import Generator, SynthesisOutput

__all__ = ["LAYERS", "FrameRenderer"]

LAYERS = ("both", "foreground", "background")

#: Volume rendered pixels per side of the frame in which fused MLPs of bfloat16 measure the means of their inputs.
MEANS_RESOLUTION = 4


class FrameRenderer:
    """Videos rendered one frame at a time without gradients, their weights modulated once.

    The background, which does not change in time, is kept while the cameras stay the same.

    Args:
        generator: In evaluation mode.
        ws, z_motion, z_bg: Styles and codes of B videos, see `Generator.synthesize`.
        ray_chunk: Composite this many rays at a time, to bound memory; None for all at once.
        precision: 'float32', or 'bfloat16' for the factors of products on a CPU that multiplies such numbers, see
            `torch_utils.ops.fused_mlp`. The background, whose products are few, stays in float32.

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
        if precision != "float32" and not has_fused_mlp(ws.device, precision):
            raise ValueError(
                f"{precision} is not available: it needs a CPU that multiplies such numbers (avx512_bf16) and a C++ "
                "compiler. A GPU has its own half precision."
            )
        self.generator, self.ray_chunk = generator, ray_chunk
        self.ws, self.z_motion, self.z_bg = ws, z_motion, z_bg
        self._weights = generator.modulate(ws, precision)
        self._resolution = generator.settings.resolution  # volume rendered pixels per side
        self._cameras: Cameras | None = None
        self._rays: Rays | None = None
        self._background: torch.Tensor | None = None  # composited, [B, R, 3 + F]
        if precision == "bfloat16":
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
        return generator.upsample(rendered, self._weights, resolution=resolution)

    def render(self, time: float | torch.Tensor, cameras: Cameras) -> torch.Tensor:
        """The image [B, 3, H, W] alone; see `output`."""
        return self.output(time, cameras).image[:, 0]
