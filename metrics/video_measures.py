"""Measures of single clips: motion, flicker, consistency of views.

Motion: mean length of the optical flow in pixels per frame, by the method of Lucas and Kanade (1981): for a window
around every pixel, the least-squares displacement whose first-order effect explains the difference of two frames. It is
valid for displacements of about a pixel and underestimates larger ones. Pixels whose window has texture in one
direction only show the part of the motion along it (the aperture problem); pixels without texture are left out.

Flicker: root mean square of the second temporal difference of the frames, divided by that of the first. For the
trajectory of a pixel this is 0 for a steady change, √2 for a random walk, √3 for independent noise, and 2 if it
alternates with every frame.

Warping error: the depth of a pixel gives the projection of its surface point into another view of the same time step.
If the depth is right, and colours belong to the surface, both show the same colour there. The error is the mean
absolute difference over pixels that show the foreground and are not occluded in the other view.

Flatness: 1 − √(λ3 / λ1) with the variances λ1 ≥ λ2 ≥ λ3 of the visible surface points along their principal axes: 1 for
a plane at any angle, 1 − √(2/9) = 0.53 for a half sphere seen from far away, 0 for a cloud as thick as wide.
"""

import torch
from torch.nn import functional as F

from torch_utils.argument_checks import check_floats, check_number, check_tensors, shown

__all__ = ["check_clips", "flatness", "flicker", "mean_flow_length", "warping_error"]

WINDOW = 7  # pixels
TEXTURE = 1e-4  # smallest mean square gradient of a window with texture, grey levels from 0 to 1


def check_clips(clips: torch.Tensor, *, frames: int = 1) -> None:
    """Refuse all but pixels uint8 [N, 3, T, H, W] with at least `frames` frames.

    Values in [-1, 1] would seem to have no texture, and videos [N, T, 3, H, W] to move along their colours.
    """
    if not isinstance(clips, torch.Tensor):
        raise ValueError(f"Clips are uint8 [N, 3, T, H, W], got {shown(clips)}.")
    if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[1] != 3 or not len(clips):
        swapped = clips.ndim == 5 and clips.shape[2] == 3 and clips.shape[1] != 3
        hint = "; for videos [N, T, 3, H, W], give videos.transpose(1, 2)" if swapped else ""
        raise ValueError(f"Clips are uint8 [N, 3, T, H, W], got {clips.dtype} {list(clips.shape)}{hint}.")
    if clips.shape[2] < frames:
        raise ValueError(f"Clips need {frames} or more frames here, got {clips.shape[2]}: {list(clips.shape)}.")


# ----------------------------------------------------------------------------------------------------------------------
# Motion and flicker


def mean_flow_length(clips: torch.Tensor) -> torch.Tensor:
    """Mean length of the optical flow over pixels with texture, pixels per frame.

    Args:
        clips: uint8 [N, 3, T, H, W]; T at least 2.

    Returns:
        float64 [N]; 0 for a clip without texture.

    Raises:
        ValueError: Other clips.
    """
    check_clips(clips, frames=2)
    grey = clips.double().mean(dim=1) / 255  # [N, T, H, W]
    middle = (grey[:, 1:] + grey[:, :-1]) / 2
    dt = grey[:, 1:] - grey[:, :-1]
    dx = F.pad(middle[..., 2:] - middle[..., :-2], [1, 1]) / 2
    dy = F.pad(middle[..., 2:, :] - middle[..., :-2, :], [0, 0, 1, 1]) / 2
    xx, xy, yy, xt, yt = (_window(a * b) for a, b in ((dx, dx), (dx, dy), (dy, dy), (dx, dt), (dy, dt)))
    # A small ridge: in a window with texture in one direction only, the equations are singular.
    trace = xx + yy
    ridge = 1e-3 * trace + 1e-12
    determinant = (xx + ridge) * (yy + ridge) - xy * xy
    u = -((yy + ridge) * xt - xy * yt) / determinant
    v = -((xx + ridge) * yt - xy * xt) / determinant
    textured = (trace > TEXTURE).double()
    length = (u.square() + v.square()).sqrt() * textured
    return length.sum(dim=[1, 2, 3]) / textured.sum(dim=[1, 2, 3]).clamp(min=1)


def _window(x: torch.Tensor) -> torch.Tensor:
    """Mean over the window around each pixel, [N, T, H, W]; windows end at the border."""
    return F.avg_pool2d(x, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)


def flicker(clips: torch.Tensor) -> torch.Tensor:
    """Second over first differences in time.

    Args:
        clips: uint8 [N, 3, T, H, W]; T at least 3.

    Returns:
        float64 [N]; 0 for a static clip.

    Raises:
        ValueError: Other clips.
    """
    check_clips(clips, frames=3)
    x = clips.double()
    first = x[:, :, 1:] - x[:, :, :-1]
    second = first[:, :, 1:] - first[:, :, :-1]
    power = first.square().mean(dim=[1, 2, 3, 4])
    return (second.square().mean(dim=[1, 2, 3, 4]) / power.clamp(min=1e-12)).sqrt()


# ----------------------------------------------------------------------------------------------------------------------
# Geometry

VISIBLE_OPACITY = 0.5  # a pixel of lower opacity shows the background, which has no depth


def warping_error(
    images: torch.Tensor,
    grids: torch.Tensor,
    depths: torch.Tensor,
    expected: torch.Tensor,
    opacities: torch.Tensor,
    *,
    tolerance: float,
) -> torch.Tensor:
    """Mean absolute difference between each of two views and the other one warped into it.

    Args:
        images: Two views of N time steps [N, 2, 3, H, W] in [0, 1].
        grids: Projections of the surface points into the other view [N, 2, H, W, 2]: (x, y) in [-1, 1], y down, edges
            at ±1.
        depths: Depth of each view's own pixels [N, 2, H, W].
        expected: Depth of the same surface points seen from the other view [N, 2, H, W].
        opacities: [N, 2, H, W]
        tolerance: A point counts as occluded if the depth of the other view is less than expected by more than this.

    Returns:
        [N, 3]: the error, the same difference without warping, and the fraction of compared pixels. The first two are
        NaN where no pixels are compared.

    Raises:
        ValueError: Tensors of other shapes, images that are not floats, or a tolerance below 0.
    """
    maps = {"depths": depths, "expected": expected, "opacities": opacities}
    shapes = {"images": (images, ("N", 2, 3, "H", "W")), "grids": (grids, ("N", 2, "H", "W", 2))}
    check_tensors(shapes | {name: (value, ("N", 2, "H", "W")) for name, value in maps.items()})
    check_floats("images", images, "in [0, 1]")
    check_number("tolerance", tolerance, 0, inclusive=True)
    layers = torch.cat([images, depths[:, :, None], opacities[:, :, None]], dim=2).flip(1)  # of the other view
    warped = F.grid_sample(layers.flatten(0, 1), grids.flatten(0, 1), padding_mode="border", align_corners=False)
    warped = warped.unflatten(0, images.shape[:2])
    seen_depth, seen_opacity = warped[:, :, 3], warped[:, :, 4]
    mask = (opacities > VISIBLE_OPACITY) & (seen_opacity > VISIBLE_OPACITY) & (grids.abs() <= 1).all(dim=-1)
    mask = (mask & (seen_depth > expected - tolerance)).to(images.dtype)
    count = mask.sum(dim=[1, 2, 3])
    error = ((images - warped[:, :, :3]).abs().mean(dim=2) * mask).sum(dim=[1, 2, 3]) / count
    unwarped = ((images - images.flip(1)).abs().mean(dim=2) * mask).sum(dim=[1, 2, 3]) / count
    return torch.stack([error, unwarped, mask.mean(dim=[1, 2, 3])], dim=1)


def flatness(points: torch.Tensor, opacities: torch.Tensor) -> torch.Tensor:
    """1 − thickness / width of the visible surfaces.

    Args:
        points: Surface points of the pixels in world space [N, H, W, 3]; points that are not finite show no surface.
        opacities: [N, H, W]

    Returns:
        [N]; NaN where fewer than four pixels show the foreground.
    """
    check_tensors({"points": (points, ("N", "H", "W", 3)), "opacities": (opacities, ("N", "H", "W"))})
    points = points.double().flatten(1, 2)
    seen = (opacities > VISIBLE_OPACITY).flatten(1)[..., None] & points.isfinite().all(dim=-1, keepdim=True)
    weights, points = seen.double(), torch.where(seen, points, 0.0)
    count = weights.sum(dim=1, keepdim=True)
    centred = (points - (points * weights).sum(dim=1, keepdim=True) / count.clamp(min=1)) * weights
    variances = torch.linalg.eigvalsh(centred.transpose(1, 2) @ centred).clamp(min=0)
    value = 1 - (variances[:, 0] / variances[:, 2].clamp(min=1e-30)).sqrt()
    return torch.where(count[:, 0, 0] >= 4, value, torch.nan)
