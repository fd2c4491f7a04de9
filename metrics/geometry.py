"""Is the rendered depth that of what is seen? Warping between views, and how far a surface is from a plane.

Warping error: every pixel of a view has a depth, so it is known where its surface point appears in another view of the
same moment. If the depth is right, and colours belong to the surface, both show the same colour there. The error is the
mean absolute difference over pixels that show the foreground and that nothing hides from the other view.

Flatness: 1 − √(λ3 / λ1) with the variances λ1 ≥ λ2 ≥ λ3 of the visible surface points along their principal axes: 1 for
a plane at any angle, 1 − √(2/9) = 0.53 for a half sphere seen from far away, 0 for a cloud as thick as wide.
"""

import torch
from torch.nn import functional as F

__all__ = ["flatness", "warping_error"]

VISIBLE_OPACITY = 0.5  # a pixel with less shows the background, which has no depth


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
        images: Two views of N moments [N, 2, 3, H, W], values 0 to 1.
        grids: Where the surface point of each pixel appears in the other view [N, 2, H, W, 2]: (x, y) within -1…1,
            y down, edges at ±1.
        depths: Depth of each view's own pixels [N, 2, H, W].
        expected: Depth of the same surface points seen from the other view [N, 2, H, W].
        opacities: [N, 2, H, W]
        tolerance: The other view is taken to show something in front if its depth is less than expected by more.

    Returns:
        [N, 3]: the error, the same difference without warping, and the share of pixels that could be compared. The
        first two are NaN where none could.
    """
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
        points: Surface points of the pixels in space [N, H, W, 3].
        opacities: [N, H, W]

    Returns:
        [N]; NaN where fewer than four pixels show the foreground.
    """
    points = points.double().flatten(1, 2)
    weights = (opacities > VISIBLE_OPACITY).double().flatten(1)[..., None]
    count = weights.sum(dim=1, keepdim=True)
    centred = (points - (points * weights).sum(dim=1, keepdim=True) / count.clamp(min=1)) * weights
    variances = torch.linalg.eigvalsh(centred.transpose(1, 2) @ centred).clamp(min=0)
    value = 1 - (variances[:, 0] / variances[:, 2].clamp(min=1e-30)).sqrt()
    return torch.where(count[:, 0, 0] >= 4, value, torch.nan)
