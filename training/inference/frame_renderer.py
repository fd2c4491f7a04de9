"""Videos whose weights are folded once, rendered one frame at a time without gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from renderer.cameras import Cameras, camera_rays
from renderer.volume_rendering import Fields, Rays, Rendered, render_background, render_rays
from torch_utils.ops.fused_mlp import has_native_rows

if TYPE_CHECKING:
    from training.networks.generator import Generator, SynthesisOutput

__all__ = ["LAYERS", "Scene"]

LAYERS = ("both", "foreground", "background")

#: Volume rendered pixels per side of the frame in which programs of bfloat16 measure their inputs.
CENTRE_RESOLUTION = 4


class Scene:
    """Videos whose weights are folded once, rendered one frame at a time without gradients.

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
            raise ValueError("scenes are rendered in evaluation mode: call generator.eval() first.")
        if precision != "float32" and not has_native_rows(ws.device, precision):
            raise ValueError(
                f"{precision} is not available: it needs a CPU that multiplies such numbers (avx512_bf16) and a C++ "
                "compiler. A GPU has its own half precision."
            )
        self.generator, self.ray_chunk = generator, ray_chunk
        self.ws, self.z_motion, self.z_bg = ws, z_motion, z_bg
        self._folded = generator.fold(ws, precision)
        self._resolution = generator.settings.resolution  # volume rendered pixels per side
        self._background_fields = [
            None if generator.background is None else generator.background.evaluator(z_bg[group])
            for group in generator.groups(len(ws), ws.device)
        ]
        self._cameras: Cameras | None = None
        self._rays: list = []
        self._backgrounds: list = []
        if precision == "bfloat16":
            # Programs measure their inputs in the first frame that they see: always this one.
            front = generator.camera_prior.at().repeat(len(ws)).to(ws.device)
            self._resolution = CENTRE_RESOLUTION
            self.output(0.5, front)
            self._resolution, self._cameras = generator.settings.resolution, None

    def _look_through(self, cameras: Cameras) -> None:
        if cameras.equals(self._cameras):
            return
        generator = self.generator
        self._rays, self._backgrounds = [], []
        for group, field in zip(generator.groups(len(self.ws), self.ws.device), self._background_fields, strict=True):
            rays = Rays(*camera_rays(cameras[group], generator.pixels(self.ws, self._resolution)))
            self._rays.append(rays)
            behind = None if field is None else render_background(Fields(None, field), rays, generator.settings)
            self._backgrounds.append(behind)
        self._cameras = cameras

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
        if layers not in LAYERS:
            raise ValueError(f"layers must be {', '.join(LAYERS[:-1])} or {LAYERS[-1]}, got '{layers}'.")
        if layers == "background" and self.generator.background is None:
            raise ValueError("this generator has no background.")
        cameras = cameras.to(self.ws.device)
        self._look_through(cameras)
        rendered = self._behind() if layers == "background" else self._composite(time, over=layers == "both")
        return self.generator.upsample(rendered, self._folded, resolution=resolution)

    def _composite(self, time: float | torch.Tensor, *, over: bool) -> list[Rendered]:
        """The foreground of every group, over the background or as if it were opaque."""
        generator, device = self.generator, self.ws.device
        times = torch.as_tensor(time, dtype=self.ws.dtype, device=device).expand(len(self.ws))[:, None]
        motion = generator.motion_vectors(self.ws, self.z_motion, times)
        rendered = []
        for i, group in enumerate(generator.groups(len(self.ws), device)):
            fields = generator.fields(
                self._folded.foreground[i], times[group], None if motion is None else motion[group], self.z_bg[group]
            )
            rays, behind = self._rays[i], self._backgrounds[i]
            alone = behind is not None and not over
            part = render_rays(
                fields,
                rays,
                generator.settings,
                frames=1,
                chunk=self.ray_chunk,
                behind=torch.zeros_like(behind) if alone else behind,
            )
            if alone:
                opacity = (1 - part.transmittance).clamp(min=1e-6)
                part = Rendered(part.rows / opacity[..., None], part.depth, part.transmittance)
            rendered.append(part)
        return rendered

    def _behind(self) -> list[Rendered]:
        """The background of every group alone."""
        rendered = []
        for behind in self._backgrounds:
            rows = behind[:, None]
            rendered.append(Rendered(rows, torch.zeros_like(rows[..., 0]), torch.ones_like(rows[..., 0])))
        return rendered

    def render(self, time: float | torch.Tensor, cameras: Cameras) -> torch.Tensor:
        """The image [B, 3, H, W] alone; see `output`."""
        return self.output(time, cameras).image[:, 0]
