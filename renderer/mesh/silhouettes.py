"""The density level of the surface: the one whose silhouette agrees with the rendered opacity.

A briefly trained field is fog, a fully trained one has sharp walls: no fixed level serves both, but both have a
rendered opacity. The silhouette of the surface at a density level is the set of rays on which the density somewhere
exceeds it, so all levels can be compared with the opacity at once, without extracting any surface.
"""

from collections.abc import Callable, Sequence

import torch

from renderer.cameras import Cameras, camera_rays, pixel_centers

__all__ = ["agreement", "matching_level", "peak_densities"]

STEPS = 128  # samples along a ray
LEVELS = 256  # levels compared
AS_GOOD = 0.003  # smaller differences in agreement are ignored


@torch.no_grad()
def peak_densities(
    density: Callable[[torch.Tensor], torch.Tensor], cameras: Cameras, size: int, *, near: float, far: float
) -> torch.Tensor:
    """Highest density on the rays through size × size pixels, between two depths: [cameras, size, size]."""
    origins, directions = camera_rays(cameras, pixel_centers(size, cameras.fov.device))
    peak = torch.zeros_like(directions[..., 0])
    for depth in torch.linspace(near, far, STEPS, dtype=torch.float32, device="cpu").tolist():
        points = origins + depth * directions
        peak = torch.maximum(peak, density(points.flatten(0, 1)).reshape(peak.shape))
    return peak.unflatten(1, (size, size)).nan_to_num(0.0)


def agreement(peaks: torch.Tensor, masks: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Intersection over union [L] of {peaks > level} and masks, both [views, H, H], averaged over views."""
    peaks, masks = peaks.flatten(1), masks.flatten(1)
    above = peaks > levels[:, None, None]  # [L, views, pixels]
    union = (above | masks).sum(-1)
    shared = (above & masks).sum(-1).to(torch.float32)  # the quotient of integers would have the default type
    return (shared / union.clamp(min=1) + (union == 0)).mean(-1)


def matching_level(peaks: Sequence[torch.Tensor], opacities: Sequence[torch.Tensor], *, sharp: float) -> float | None:
    """The density level whose outlines agree best with where rays are more than half opaque.

    Args:
        peaks: See `peak_densities`; of one or several time steps.
        opacities: Opacities of the same rays.
        sharp: Among levels that agree equally well, as at sharp walls, the one nearest to this is taken.

    Returns:
        The level, or None if no ray is opaque.
    """
    peaks, masks = torch.cat(list(peaks)), torch.cat(list(opacities)) > 0.5
    highest = float(peaks.max())
    if not masks.any() or not highest > 0:
        return None
    levels = highest * torch.logspace(-4, 0, LEVELS + 1, dtype=torch.float32, device=peaks.device)[:-1]
    scores = agreement(peaks, masks, levels)
    good = levels[scores >= scores.max() - AS_GOOD]
    return float(good[(good.log() - good.new_tensor(sharp).log()).abs().argmin()])
