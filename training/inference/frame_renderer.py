"""Rendering of frames without gradients: one at a time, with weights that are modulated once per video."""

import contextlib
import dataclasses
import math

import torch

from renderer.cameras import Cameras, require_cameras
from renderer.rays import Rays, RenderSettings
from renderer.volume_rendering import Fields, RenderedRays, render_background, render_rays
from torch_utils.argument_checks import check_network, check_tensors, shown, whole_number
from torch_utils.caller_settings import without_autocast
from torch_utils.ops.fused_mlp import has_fused_mlp
from training.networks.generator import Generator, SynthesisOutput, VolumeOutput, conditioned_fields
from training.networks.mixed_precision import half_precision, multiplies_bfloat16

__all__ = ["LAYERS", "FrameRenderer", "can_render"]

LAYERS = ("both", "foreground", "background")
PRECISIONS = ("float32", "bfloat16")

#: Volume rendered pixels per side of the frame in which fused MLPs of bfloat16 measure the means of their inputs.
MEANS_RESOLUTION = 4

#: Rays composited at a time in a volume rendering of a given resolution, which may have a hundred times a frame's rays.
VOLUME_CHUNK = 4096


def can_render(precision: str, device: torch.device) -> bool:
    """True if frames can be rendered in this precision, 'float32' or 'bfloat16', on a device.

    Raises:
        ValueError: Another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {' or '.join(PRECISIONS)}, got {shown(precision)}.")
    return precision == "float32" or has_fused_mlp(device, precision) or multiplies_bfloat16(device)


@dataclasses.dataclass(frozen=True)
class _View:
    """Rays of the cameras at a resolution, and the composited background [B, R, 3 + F] behind them, or None."""

    cameras: Cameras
    rays: Rays
    background: torch.Tensor | None


class FrameRenderer:
    """Videos rendered one frame at a time without gradients, their weights modulated once.

    The background, which does not depend on time, is cached while the cameras stay the same. After the generator's
    weights have changed, make it anew: it keeps some of them and reads others.

    Args:
        generator: In evaluation mode.
        ws, z_motion, z_bg: Styles and codes of B videos, see `Generator.synthesize`.
        ray_chunk: Composite this many rays at a time, to bound memory; None for all at once.
        precision: 'float32', or 'bfloat16', see `can_render`: on a CPU for the factors of matrix products
            (`torch_utils.ops.fused_mlp`) except the background's, which are few; on a GPU for the layers that otherwise
            run in float16 (`training.networks.mixed_precision`).

    Raises:
        ValueError: The generator is in training mode, the precision is not available, codes of other sizes or of
            different numbers of videos, or a chunk that is no whole number of at least 1.
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
        ray_chunk: int | None = None,
        precision: str = "float32",
    ):
        check_network("generator", generator, "synthesize")
        if generator.training:
            raise ValueError("frames are rendered in evaluation mode: call generator.eval() first.")
        check_tensors(
            {
                "ws": (ws, ("B", generator.num_ws, generator.w_dim)),
                "z_motion": (z_motion, ("B", generator.motion_dim)),
                "z_bg": (z_bg, ("B", generator.background_dim)),
            }
        )
        if not can_render(precision, ws.device):
            raise ValueError(
                f"{precision} is not available: it needs a CPU with bfloat16 products (avx512_bf16) and a C++ "
                "compiler, or a GPU of NVIDIA's Ampere generation or later."
            )
        self.generator = generator
        self.ray_chunk = None if ray_chunk is None else whole_number("ray_chunk", ray_chunk, low=1)
        # Copies, like those of cameras: callers may put other values into the same tensors.
        self.ws, self.z_motion, self.z_bg = ws.clone(), z_motion.clone(), z_bg.clone()
        self._weights = generator.modulate(self.ws, precision)
        self._views: dict[int, _View] = {}  # the last one of each resolution
        self._layers = torch.bfloat16 if precision == "bfloat16" and ws.device.type == "cuda" else None
        if precision == "bfloat16" and ws.device.type == "cpu":
            # Fused MLPs measure the means of their inputs in the first frame that they render: always this one.
            front = generator.camera_prior.at().repeat(len(ws)).to(ws.device)
            few = dataclasses.replace(generator.settings, resolution=MEANS_RESOLUTION)
            generator.upsample(self._render(0.5, front, few), self._weights)

    @without_autocast()
    @torch.no_grad()
    def output(
        self, time: float | torch.Tensor, cameras: Cameras, *, layers: str = "both", resolution: int | None = None
    ) -> SynthesisOutput:
        """Frame at `time` (a number or [B]) from one camera per video, with raw colours, depth and opacity (T = 1).

        Args:
            time: 0 to 1 in training.
            cameras: B cameras.
            layers: 'both'; 'foreground' alone, as if it were opaque (blend the image by the opacity to show it over
                something else); 'background' alone, with zero depth and opacity.
            resolution: Width of a draft image that leaves out the last blocks of the upsampler; None for all blocks.

        Returns:
            image [B, 1, 3, H, W] (H and W are `resolution` if it is given) and image_raw [B, 1, 3, h, w], nominally in
            [-1, 1]; depth [B, 1, h, w] in scene units, not divided by the opacity; opacity [B, 1, h, w], 0 to 1.

        Raises:
            ValueError: Unknown `layers`, the background of a generator without one, no such resolution, another number
                of cameras or of times, or a value of another type.
        """
        generator = self.generator
        if layers not in LAYERS:
            raise ValueError(f"layers must be {', '.join(LAYERS[:-1])} or {LAYERS[-1]}, got {shown(layers)}.")
        if layers == "background" and generator.background is None:
            raise ValueError("this generator has no background.")
        rendered = self._render(time, cameras, generator.settings, layers=layers, chunk=self.ray_chunk)
        with contextlib.nullcontext() if self._layers is None else half_precision(self._layers, generator):
            return generator.upsample(rendered, self._weights, resolution=resolution)

    @without_autocast()
    @torch.no_grad()
    def volume(self, time: float | torch.Tensor, cameras: Cameras, *, resolution: int | None = None) -> VolumeOutput:
        """Raw colours, depth and opacity of a frame without its image, at any resolution.

        The fields are continuous. With k times as many rays per side as in training, rays are k times as dense. There
        are then also k times as many samples along them (never fewer than in frames), so that surfaces are resolved as
        finely in depth as across.

        Args:
            time, cameras: See `output`.
            resolution: Rays per side, h; None: those of the frames.

        Returns:
            image_raw [B, 1, 3, h, h], depth and opacity [B, 1, h, h]; see `output`.

        Raises:
            ValueError: The resolution is not a positive whole number; for times and cameras see `output`.
        """
        settings, chunk = self.generator.settings, self.ray_chunk
        if resolution is not None:
            resolution = whole_number("resolution", resolution)
            if resolution < 1:
                raise ValueError(f"the resolution of a volume rendering must be positive, got {resolution}.")
            multiplier = max(settings.sampling_multiplier, math.ceil(resolution / settings.resolution))
            settings = dataclasses.replace(settings, resolution=resolution, sampling_multiplier=multiplier)
            chunk = VOLUME_CHUNK if chunk is None else chunk
        return VolumeOutput.of_square(self._render(time, cameras, settings, chunk=chunk))

    def render(self, time: float | torch.Tensor, cameras: Cameras) -> torch.Tensor:
        """The image [B, 3, H, W] alone; see `output`."""
        return self.output(time, cameras).image[:, 0]

    def _render(
        self,
        time: float | torch.Tensor,
        cameras: Cameras,
        settings: RenderSettings,
        *,
        layers: str = "both",
        chunk: int | None = None,
    ) -> RenderedRays:
        """The rays of a square of pixels, row by row."""
        generator, count = self.generator, len(self.ws)
        require_cameras("cameras", cameras)
        if len(cameras) != count:
            raise ValueError(f"{count} videos need as many cameras, got {len(cameras)}: see Cameras.repeat.")
        place = time.device if isinstance(time, torch.Tensor) else "cpu"
        try:
            times = torch.as_tensor(time, dtype=self.ws.dtype, device=place).expand(count)[:, None]
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"time must be a number or [{count}], got {shown(time)}.") from error
        times = times.to(self.ws.device)  # outside: a full GPU is no wrong time
        codes = {"z_motion": self.z_motion, "z_bg": self.z_bg}
        fields = conditioned_fields(generator, self._weights, self.ws, times=times, **codes)
        view = self._view(fields, cameras.to(self.ws.device), settings)
        if layers == "background":
            return RenderedRays.of_background(view.background.clone())  # callers may edit it
        hidden = layers == "foreground" and view.background is not None
        background = torch.zeros_like(view.background) if hidden else view.background
        rendered = render_rays(fields, view.rays, settings, frames=1, chunk=chunk, background=background)
        if hidden:
            opacity = (1 - rendered.transmittance).clamp(min=1e-6)[..., None]
            rendered = dataclasses.replace(rendered, values=rendered.values / opacity)
        return rendered

    def _view(self, fields: Fields, cameras: Cameras, settings: RenderSettings) -> _View:
        known = self._views.get(settings.resolution)
        if known is not None and cameras.equals(known.cameras):
            return known
        cameras = Cameras(cam2world=cameras.cam2world.clone(), fov=cameras.fov.clone())
        pixels = self.generator.pixels(self.ws, settings.resolution)
        rays = Rays.through(pixels, cameras, self.generator.depth_offsets(cameras))
        background = None if fields.background is None else render_background(fields.background, rays, settings)
        view = _View(cameras, rays, background)
        self._views[settings.resolution] = view  # not read back: another thread may have stored its own
        return view
