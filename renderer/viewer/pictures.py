"""What was rendered, as pixels: colour, depth, normals, opacity, one layer over a backdrop, the field's own image."""

import numpy as np
import torch

from renderer.camera_files import PathCamera, path_cameras
from renderer.normals import normals_from_depth
from renderer.parallax import surface_depth
from renderer.video import to_uint8
from renderer.viewer.views import ViewOutput, ViewSource

__all__ = ["BACKDROPS", "VIEWS", "draws_field", "layers_of", "letterbox", "picture"]

COLOUR, FOREGROUND, BACKGROUND = "colour", "foreground only", "background only"
DEPTH, NORMALS, OPACITY, FIELD = "depth", "normals", "opacity", "field image"
VIEWS = (COLOUR, DEPTH, NORMALS, OPACITY, FOREGROUND, BACKGROUND, FIELD)
BACKDROPS = ("checkerboard", "black")

SQUARES = 16  # of the checkerboard, along each side
LIGHT, DARK = -0.2, -0.4
MARGIN = 24  # grey level around a picture in a wider window


def draws_field(view: str) -> bool:
    """Whether a view shows what the volume rendering gave, without the upsampler."""
    return view in (DEPTH, NORMALS, OPACITY, FIELD)


def layers_of(view: str) -> str:
    """The layers to render for a view."""
    return {FOREGROUND: "foreground", BACKGROUND: "background"}.get(view, "both")


def picture(view: str, output: ViewOutput, camera: PathCamera, source: ViewSource, *, backdrop: str) -> torch.Tensor:
    """A view as uint8 [3, H, W].

    Depth runs from light (near) to dark (far) over the foreground's range and is black where there is no surface;
    normals are (x right, y up, z towards the camera) as colours, grey where there is no surface. What the volume
    rendering gave at a low resolution is shown in squares, at the full width.

    Raises:
        ValueError: Unknown view.
    """
    if view in (COLOUR, BACKGROUND):
        return to_uint8(output.image)
    if view == FOREGROUND:
        opacity = _enlarge(output.opacity[None], output.image.shape[-1], "bilinear")
        return to_uint8(opacity * output.image + (1 - opacity) * _backdrop(backdrop, output.image.shape[-1]))
    if view == FIELD:
        image = output.image_raw
    elif view == OPACITY:
        image = (2 * output.opacity - 1).expand(3, -1, -1)
    else:
        depth, there = surface_depth(
            output.depth[None], output.opacity[None], background=source.has_background
        )  # fmt: skip
        if view == DEPTH:
            near, far = source.depth_range
            light = ((far - depth[0]) / (far - near)).clamp(0, 1) * there[0]
            image = (2 * light - 1).expand(3, -1, -1)
        elif view == NORMALS:
            image = normals_from_depth(path_cameras([camera]), depth, surface=there)[0].movedim(-1, 0)
        else:
            raise ValueError(f"there is no view '{view}'.")
    return to_uint8(_enlarge(image, source.widths[-1], "nearest"))


def letterbox(image: torch.Tensor, aspect: float) -> np.ndarray:
    """A picture [3, H, W] in the middle of a window of that aspect (width / height): uint8 [H', W', 3].

    Raises:
        ValueError: The aspect is not positive.
    """
    if not aspect > 0:
        raise ValueError(f"a window's aspect must be positive, got {aspect}.")
    height, width = image.shape[1:]
    # A window that is thin beyond reason gets the margins of a reasonable one and is distorted.
    aspect = min(max(aspect, 0.1), 10)
    outer_height, outer_width = max(height, round(width / aspect)), max(width, round(height * aspect))
    canvas = image.new_full([3, outer_height, outer_width], MARGIN)
    top, left = (outer_height - height) // 2, (outer_width - width) // 2
    canvas[:, top : top + height, left : left + width] = image
    return canvas.movedim(0, -1).contiguous().numpy()


def _enlarge(image: torch.Tensor, width: int, mode: str) -> torch.Tensor:
    return torch.nn.functional.interpolate(image[None], size=[width, width], mode=mode)[0]


def _backdrop(name: str, width: int) -> torch.Tensor:
    """[1, W, W]."""
    if name == "black":
        return torch.full([1, width, width], -1.0)
    square = torch.arange(width) * SQUARES // width
    return torch.where((square[:, None] + square) % 2 == 0, LIGHT, DARK)[None]
