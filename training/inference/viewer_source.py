"""Views of a generator for the viewer: blends of the codes of seeds, and cached renderers."""

import dataclasses
from collections import OrderedDict
from typing import TypeVar

import torch

from renderer.trajectory_files import path_cameras
from renderer.viewer.views import LatentSelection, ViewRequest
from training.inference.frame_renderer import FrameRenderer
from training.inference.interpolation import lerp, mix_styles, slerp
from training.inference.latents import generator_latents, known_labels, labels_at, lacks_motion, lacks_time
from training.networks.generator import Generator, SynthesisOutput, VolumeOutput

__all__ = ["GeneratorViews"]

Output = TypeVar("Output", bound=VolumeOutput)

KEPT_RENDERERS = 4  # several windows show different videos


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
        self.num_layers = generator.num_ws
        self.num_classes = known_labels(generator) if generator.c_dim else 0
        self.has_background = generator.background is not None
        self.has_motion, self.has_time = not lacks_motion(generator), not lacks_time(generator)
        self._generator = generator
        self._device = next(generator.parameters()).device
        self._renderers: OrderedDict[LatentSelection, FrameRenderer] = OrderedDict()

    @torch.inference_mode()
    def render(self, request: ViewRequest) -> SynthesisOutput:
        """One video of one frame, on the CPU.

        Raises:
            ValueError: A seed, a layer, a class or a width that does not exist.
        """
        time, cameras = request.camera.time or 0.0, path_cameras([request.camera])
        renderer = self._renderer(request.latents)
        return _on_cpu(renderer.output(time, cameras, layers=request.layers, resolution=request.width))

    @torch.inference_mode()
    def volume(self, request: ViewRequest) -> VolumeOutput:
        """The volume rendering alone, of both layers, on the CPU; see `FrameRenderer.volume`.

        Raises:
            ValueError: As for `render`.
        """
        time, cameras = request.camera.time or 0.0, path_cameras([request.camera])
        return _on_cpu(self._renderer(request.latents).volume(time, cameras, resolution=request.width))

    def styles(self, latents: LatentSelection) -> torch.Tensor:
        """The styles [1, num_ws, w_dim] of `latents`."""
        ws = self._mapped(latents.seed, latents)
        if latents.content_mix:
            ws = lerp(ws, self._mapped(latents.other_seed, latents), latents.content_mix)
        if latents.style_seed is None:
            return ws
        first, last = latents.style_layers
        return mix_styles(ws, self._mapped(latents.style_seed, latents), range(first, last + 1))

    def _renderer(self, latents: LatentSelection) -> FrameRenderer:
        if latents in self._renderers:
            self._renderers.move_to_end(latents)
            return self._renderers[latents]
        own = generator_latents(self._generator, latents.seed, latents.motion_seed)
        other = generator_latents(self._generator, latents.other_seed, latents.other_motion_seed)
        renderer = FrameRenderer(
            self._generator,
            self.styles(latents),
            z_motion=slerp(own.z_motion, other.z_motion, latents.motion_mix).to(self._device),
            z_bg=slerp(own.z_bg, other.z_bg, latents.content_mix).to(self._device),
        )
        self._renderers[latents] = renderer
        if len(self._renderers) > KEPT_RENDERERS:
            self._renderers.popitem(last=False)
        return renderer

    def _mapped(self, seed: int, latents: LatentSelection) -> torch.Tensor:
        """Styles of one content seed."""
        label = None
        if self.num_classes:
            if not 0 <= latents.class_idx < self.num_classes:
                raise ValueError(f"there are classes 0 to {self.num_classes - 1}, not {latents.class_idx}.")
            label = labels_at(self._generator, torch.tensor([latents.class_idx], device=self._device))
        z = generator_latents(self._generator, seed, 0).z.to(self._device)
        return self._generator.mapping(z, label, truncation_psi=latents.truncation_psi)


def _on_cpu(output: Output) -> Output:
    maps = {name: value.float().cpu() for name, value in vars(output).items() if value is not None}
    return dataclasses.replace(output, **maps)
