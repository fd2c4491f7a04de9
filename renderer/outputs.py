"""Outputs of a rendered frame: image, depth, normals, opacity and the colours of the radiance field.

    rgb      the image
    depth    distance along the viewing axis: white is the near end of the rendered volume, black its far end or nothing
    normal   of the surface in the camera's axes: red is right, green up, blue towards the camera; black is nothing
    opacity  of the foreground: white hides the background
    raw      the volume-rendered colours, before the upsampler

All but rgb have the resolution of the volume rendering. A map [B, C, h, w] holds values: colours, nominally in [-1, 1]
and not clipped, depths in scene units (NaN where there is no surface), unit normals (zero where there is none),
opacities within [0, 1].
`displayed` converts it to pixels. Names can be checked without importing PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from dnnlib import UserError, choices_hint

if TYPE_CHECKING:
    import torch

    from renderer.cameras import Cameras

__all__ = ["CHANNELS", "OUTPUTS", "displayed", "output_maps", "output_stem", "parse_outputs"]

CHANNELS = {"rgb": 3, "depth": 1, "normal": 3, "opacity": 1, "raw": 3}  # C of the maps
OUTPUTS = tuple(CHANNELS)


class RenderedVolume(Protocol):
    """B volume-rendered videos of one frame: image_raw [B, 1, 3, h, w], depth and opacity [B, 1, h, w]."""

    @property
    def image_raw(self) -> torch.Tensor: ...
    @property
    def depth(self) -> torch.Tensor: ...
    @property
    def opacity(self) -> torch.Tensor: ...


class RenderedFrames(RenderedVolume, Protocol):
    """The same with their images [B, 1, 3, H, W]."""

    @property
    def image(self) -> torch.Tensor: ...


def parse_outputs(text: str) -> list[str]:
    """The outputs of a comma-separated list, without repetitions.

    Raises:
        UserError: An output does not exist.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in OUTPUTS:
            raise UserError(f"--outputs: there is no output '{name}'; {choices_hint(name, OUTPUTS)}")
    return list(dict.fromkeys(names))


def output_stem(stem: str, name: str) -> str:
    """Path without extension of an output's video or folder of frames, where `stem` is that of the image."""
    return stem if name == "rgb" else f"{stem}_{name}"


def output_maps(
    volume: RenderedVolume, names: Sequence[str], cameras: Cameras, *, background: bool
) -> dict[str, torch.Tensor]:
    """Maps [B, C, h, w] of some outputs other than the image.

    Args:
        volume: Depth is the expected depth, not normalised by the opacity. Only what the outputs need is read.
        cameras: One per video.
        background: True if there is a background behind the foreground; see `renderer.depth.surface_depth`.
    """
    import torch

    from renderer.depth import normals_from_depth, surface_depth

    maps = {}
    if "raw" in names:
        maps["raw"] = volume.image_raw[:, 0]
    if "opacity" in names:
        maps["opacity"] = volume.opacity
    if "depth" in names or "normal" in names:
        depth, weights = surface_depth(volume.depth[:, 0].float(), volume.opacity[:, 0].float(), background=background)
        maps["depth"] = torch.where(weights > 0, depth, torch.nan)[:, None]
        if "normal" in names:
            maps["normal"] = normals_from_depth(cameras, depth, surface=weights).movedim(-1, 1)
    return {name: maps[name] for name in names}


def displayed(name: str, values: torch.Tensor, *, size: tuple[int, int], near: float, far: float) -> torch.Tensor:
    """Pixels, uint8 [3, H, W], of a map [C, h, w]; a smaller map is enlarged by repeating pixels.

    Args:
        size: (H, W).
        near, far: Depths displayed as white and black.
    """
    import torch

    from renderer.video import to_uint8

    values = values.float()
    if name == "depth":
        values = ((far - values) / (far - near)).clamp(0, 1) * 2 - 1  # NaN, no surface, becomes black
    elif name == "opacity":
        values = values * 2 - 1
    elif name == "normal":
        values = torch.where((values == 0).all(dim=0), -1.0, values)
    if tuple(values.shape[1:]) != size:
        values = torch.nn.functional.interpolate(values[None], size=size, mode="nearest-exact")[0]
    return to_uint8(values).expand(3, -1, -1)
