"""Single views of a generator, for whoever looks around: codes of seeds, their blends, and scenes that are kept."""

from collections import OrderedDict

import torch

from renderer.trajectory_files import path_cameras
from renderer.viewer.views import Codes, ViewRequest
from training.inference.frame_renderer import FrameRenderer
from training.inference.interpolation import lerp, mix_styles, slerp
from training.inference.latents import SeedLatents, seed_latents
from training.networks.generator import Generator, SynthesisOutput

__all__ = ["GeneratorViews"]

KEPT_SCENES = 4  # several people look at different videos


class GeneratorViews:
    """A `renderer.viewer.views.ViewSource`.

    Two contents are blended linearly in their styles w and spherically in their background codes; two motions
    spherically.

    Args:
        generator: In evaluation mode.
    """

    def __init__(self, generator: Generator):
        settings = generator.settings
        self.prior = generator.camera_prior
        self.depth_range = (settings.near, settings.far)
        self.widths = (settings.resolution, *(int(size) for size in generator.upsampler.blocks))
        self.num_layers, self.num_classes = generator.num_ws, generator.c_dim
        self.has_background = generator.background is not None
        self._generator = generator
        self._device = next(generator.parameters()).device
        self._scenes: OrderedDict[Codes, FrameRenderer] = OrderedDict()

    @torch.inference_mode()
    def render(self, request: ViewRequest) -> SynthesisOutput:
        """One video of one frame, on the CPU.

        Raises:
            ValueError: A seed, a layer, a class or a width that does not exist.
        """
        output = self._scene(request.codes).output(
            request.camera.time or 0.0,
            path_cameras([request.camera]),
            layers=request.layers,
            resolution=request.width,
        )
        parts = (output.image, output.image_raw, output.depth, output.opacity)
        return SynthesisOutput(*(part.float().cpu() for part in parts))

    def styles(self, codes: Codes) -> torch.Tensor:
        """The styles [1, num_ws, w_dim] of `codes`."""
        ws = self._mapped(codes.seed, codes)
        if codes.content_mix:
            ws = lerp(ws, self._mapped(codes.other_seed, codes), codes.content_mix)
        if codes.style_seed is None:
            return ws
        first, last = codes.style_layers
        return mix_styles(ws, self._mapped(codes.style_seed, codes), range(first, last + 1))

    def _scene(self, codes: Codes) -> FrameRenderer:
        if codes in self._scenes:
            self._scenes.move_to_end(codes)
            return self._scenes[codes]
        own = self._latents(codes.seed, codes.motion_seed)
        other = self._latents(codes.other_seed, codes.other_motion_seed)
        scene = FrameRenderer(
            self._generator,
            self.styles(codes),
            z_motion=slerp(own.z_motion, other.z_motion, codes.motion_mix).to(self._device),
            z_bg=slerp(own.z_bg, other.z_bg, codes.content_mix).to(self._device),
        )
        self._scenes[codes] = scene
        if len(self._scenes) > KEPT_SCENES:
            self._scenes.popitem(last=False)
        return scene

    def _latents(self, seed: int, motion_seed: int) -> SeedLatents:
        sizes = {name: getattr(self._generator, name) for name in ("z_dim", "motion_dim", "background_dim")}
        return seed_latents(seed, motion_seed, **sizes)

    def _mapped(self, seed: int, codes: Codes) -> torch.Tensor:
        """Styles of one content seed."""
        label = None
        if self.num_classes:
            if not 0 <= codes.class_idx < self.num_classes:
                raise ValueError(f"there are classes 0 to {self.num_classes - 1}, not {codes.class_idx}.")
            label = torch.zeros(1, self.num_classes, device=self._device)
            label[0, codes.class_idx] = 1
        z = self._latents(seed, 0).z.to(self._device)
        return self._generator.mapping(z, label, truncation_psi=codes.truncation_psi)
