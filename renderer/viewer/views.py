"""The interface between the viewer and the source of its frames: the viewer itself knows no network."""

import dataclasses
from typing import Protocol

from renderer.cameras import CameraPrior
from renderer.outputs import RenderedFrames, RenderedVolume
from renderer.trajectory_files import PathCamera

__all__ = ["LatentSelection", "ViewRequest", "ViewSource"]


@dataclasses.dataclass(frozen=True)
class LatentSelection:
    """The latent codes of the video that is shown, as seeds and blends.

    Attributes:
        seed, other_seed: Content seeds, and `content_mix` in [0, 1], how far from the first to the second.
        motion_seed, other_motion_seed, motion_mix: The same for the motion.
        truncation_psi: Truncation of the styles.
        style_seed: Content seed whose styles are used in `style_layers`, or None.
        style_layers: First and last of them, counted from 0.
        class_idx: Class, or index of a label of the training data; only for a generator trained with labels.
    """

    seed: int = 0
    other_seed: int = 1
    content_mix: float = 0.0
    motion_seed: int = 0
    other_motion_seed: int = 1
    motion_mix: float = 0.0
    truncation_psi: float = 1.0
    style_seed: int | None = None
    style_layers: tuple[int, int] = (0, 0)
    class_idx: int = 0


@dataclasses.dataclass(frozen=True)
class ViewRequest:
    """One frame.

    Attributes:
        latents: The latents of the video.
        camera: The camera and the time (None counts as 0).
        layers: 'both', 'foreground' (as if it were opaque) or 'background'.
        width: For an image, one of the source's `widths`; for a volume rendering, any number of rays per side.
    """

    latents: LatentSelection
    camera: PathCamera
    layers: str
    width: int


class ViewSource(Protocol):
    """Source of views of one checkpoint; called from one thread.

    Attributes:
        prior: Ranges of the trained cameras.
        depth_range: Nearest and farthest depth of the foreground in scene units, at the trained distances.
        widths: Available image widths, coarse to fine; the first is that of the volume rendering.
        num_layers: Number of style layers.
        num_classes: Number of classes, or of other labels to choose from; 0 without labels.
        has_background: True if the generator has a background.
        has_motion: True if the generator has motion codes.
        has_time: True if time changes the frames, with motion codes or without.
    """

    prior: CameraPrior
    depth_range: tuple[float, float]
    widths: tuple[int, ...]
    num_layers: int
    num_classes: int
    has_background: bool
    has_motion: bool
    has_time: bool

    def render(self, request: ViewRequest) -> RenderedFrames:
        """One video of one frame, on the CPU."""
        ...

    def volume(self, request: ViewRequest) -> RenderedVolume:
        """The volume rendering alone, of both layers."""
        ...
