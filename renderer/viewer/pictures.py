"""Rendered maps as pixels: colour, depth, normals, opacity, one layer over a backdrop, the field's own image."""

import numpy as np
import torch

from renderer.outputs import RenderedFrames, RenderedVolume, displayed, output_maps
from renderer.trajectory_files import PathCamera, path_cameras
from renderer.video import to_uint8
from renderer.viewer.views import ViewSource

__all__ = ["BACKDROPS", "VIEWS", "draws_field", "field_picture", "layers_of", "letterbox", "picture"]

COLOUR, FOREGROUND, BACKGROUND = "colour", "foreground only", "background only"
DEPTH, NORMALS, OPACITY, FIELD = "depth", "normals", "opacity", "field image"
OUTPUT_OF = {DEPTH: "depth", NORMALS: "normal", OPACITY: "opacity", FIELD: "raw"}  # names in renderer.outputs
VIEWS = (COLOUR, DEPTH, NORMALS, OPACITY, FOREGROUND, BACKGROUND, FIELD)
BACKDROPS = ("checkerboard", "black")

SQUARES = 16  # of the checkerboard, along each side
LIGHT, DARK = -0.2, -0.4
MARGIN = 24  # grey level around a picture in a wider window


def draws_field(view: str) -> bool:
    """True for views of the volume rendering, without the upsampler."""
    return view in OUTPUT_OF


def layers_of(view: str) -> str:
    """The layers to render for a view."""
    return {FOREGROUND: "foreground", BACKGROUND: "background"}.get(view, "both")


def field_picture(view: str, volume: RenderedVolume, camera: PathCamera, source: ViewSource) -> torch.Tensor:
    """A view of the volume rendering as uint8 [3, H, W]; see `renderer.outputs`.

    It has at least the full width of images: a coarser map is enlarged without smoothing.

    Raises:
        ValueError: Not a view of the volume rendering.
    """
    if view not in OUTPUT_OF:
        raise ValueError(f"the volume rendering has no view '{view}'.")
    name, cameras = OUTPUT_OF[view], path_cameras([camera])
    near, far = source.prior.depth_range(cameras, *source.depth_range)
    maps = output_maps(volume, [name], cameras, background=source.has_background)
    width = max(source.widths[-1], maps[name].shape[-1])
    return displayed(name, maps[name][0], size=(width, width), near=near, far=far)


def picture(view: str, frame: RenderedFrames, *, backdrop: str) -> torch.Tensor:
    """A view of one frame's image as uint8 [3, H, W].

    Raises:
        ValueError: Not a view of the image.
    """
    if view not in VIEWS or view in OUTPUT_OF:
        raise ValueError(f"the image has no view '{view}'.")
    image = frame.image[0, 0]
    if view == FOREGROUND:
        size = image.shape[1:]
        opacity = torch.nn.functional.interpolate(frame.opacity, size=size, mode="bilinear")[0]
        image = opacity * image + (1 - opacity) * _backdrop(backdrop, size[1])
    return to_uint8(image)


def letterbox(image: torch.Tensor, aspect: float) -> np.ndarray:
    """A picture [3, H, W] in the middle of a window of that aspect (width / height): uint8 [H', W', 3].

    Raises:
        ValueError: The aspect is not positive.
    """
    if not aspect > 0:
        raise ValueError(f"a window's aspect must be positive, got {aspect}.")
    height, width = image.shape[1:]
    # An extremely thin window gets the margins of a less thin one, and the picture is distorted.
    aspect = min(max(aspect, 0.1), 10)
    outer_height, outer_width = max(height, round(width / aspect)), max(width, round(height * aspect))
    canvas = image.new_full([3, outer_height, outer_width], MARGIN)
    top, left = (outer_height - height) // 2, (outer_width - width) // 2
    canvas[:, top : top + height, left : left + width] = image
    return canvas.movedim(0, -1).contiguous().numpy()


def _backdrop(name: str, width: int) -> torch.Tensor:
    """[1, W, W]."""
    if name == "black":
        return torch.full([1, width, width], -1.0)
    square = torch.arange(width) * SQUARES // width
    return torch.where((square[:, None] + square) % 2 == 0, LIGHT, DARK)[None]
