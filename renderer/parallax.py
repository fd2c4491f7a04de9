"""How much geometry a depth map holds: surface points, planes, and what another camera would see of them.

A picture on a plane can be warped to other views as well, so depth means something only beyond the plane that fits it
best. Of a plane the inverse depth is affine in the image: 1 / depth = a·x + b·y + c, which is fitted by least squares.

Depth maps are [N, H, H], distances along the viewing axis in scene units at the centres of pixels (see
`renderer.rays`); weights [N, H, H] say how much a pixel counts, 0 where there is no surface.
"""

import torch
from torch.nn import functional as F

from renderer.cameras import Cameras, focal_from_fov
from renderer.rays import camera_rays, pixel_centers

__all__ = [
    "parallax", "plane_depth", "project", "relief", "surface_depth", "surface_points", "warp", "weighted_mean",
]  # fmt: skip

OPAQUE = 0.5  # less is no surface


def surface_depth(depth: torch.Tensor, opacity: torch.Tensor, *, background: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth of the visible surface, and weights: 1 where there is one.

    Args:
        depth: Expected depth as rendered, a sum over samples that is not normalised.
        opacity: What the samples before a background add up to.
        background: Whether there is one; without, the last sample of a ray ends it and the weights add up to one.
    """
    if not background:
        return depth, torch.ones_like(depth)
    return depth / opacity.clamp(min=1e-6), (opacity > OPAQUE).to(depth.dtype)


def weighted_mean(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over pixels [N]; NaN where nothing counts."""
    return (x * weights).sum(dim=[-2, -1]) / weights.sum(dim=[-2, -1])


def plane_depth(depth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Depth [N, H, H] of the plane that fits best, in terms of inverse depth; it continues where the weights are 0."""
    xy = pixel_centers(depth.shape[-1], depth.device).double()
    basis = torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)  # [H·H, 3]
    w = weights.flatten(1).double()
    target = torch.where(w > 0, 1 / depth.flatten(1).double().clamp(min=1e-6), 0.0)
    normal = torch.einsum("np,pi,pj->nij", w, basis, basis)
    right = torch.einsum("np,pi,np->ni", w, basis, target)
    # A trace of ridge: with fewer than three pixels the plane is not determined.
    ridge = 1e-9 * normal.diagonal(dim1=1, dim2=2).sum(-1).clamp(min=1e-12)
    coefficients = torch.linalg.solve(normal + ridge[:, None, None] * torch.eye(3).to(normal), right)
    inverse = coefficients @ basis.T
    # Near the plane's horizon the depth is without bound; nothing is seen there.
    return (1 / inverse.clamp(min=1e-3)).reshape(depth.shape).to(depth.dtype)


def surface_points(cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    """Points in the world [N, H, H, 3] of depth maps seen by one camera each."""
    size = depth.shape[-1]
    origins, directions = camera_rays(cameras, pixel_centers(size, depth.device).to(depth.dtype))
    return (origins + depth.flatten(1)[..., None] * directions).unflatten(1, (size, size))


def project(cameras: Cameras, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where points [N, H, W, 3] appear to one camera each, the inverse of `surface_points`.

    Returns:
        (x, y) on the image plane [N, H, W, 2], y up, within [-1, 1] if in the picture; depth [N, H, W].
    """
    cam2world = cameras.cam2world.to(points.dtype)
    local = (points - cam2world[:, None, None, :3, 3]) @ cam2world[:, None, :3, :3]
    depth = -local[..., 2]
    focal = focal_from_fov(cameras.fov.double()).to(points.dtype)[:, None, None, None]
    return focal * local[..., :2] / depth.clamp(min=1e-6)[..., None], depth


def warp(images: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Images [N, C, H, H] looked up, bilinearly, at places (x, y) [N, h, w, 2] of the image plane: [N, C, h, w]."""
    grid = torch.stack([places[..., 0], -places[..., 1]], dim=-1)  # rows run downwards
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def relief(depth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Root mean square distance [N], in scene units, of depths from the plane that fits them best."""
    residual = torch.where(weights > 0, depth - plane_depth(depth, weights), 0.0)
    return weighted_mean(residual.square(), weights).sqrt()


def parallax(cameras: Cameras, others: Cameras, depth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """How far surface points lie, in another view, from where the best-fitting plane would put them.

    Args:
        cameras: Whose depth maps these are.
        others: The other views, one each.

    Returns:
        [N], root mean square, as a fraction of the image's width; 0 for every plane, NaN without a surface.
    """
    true, _ = project(others, surface_points(cameras, depth))
    flat, _ = project(others, surface_points(cameras, plane_depth(depth, weights)))
    distance = torch.where(weights > 0, (true - flat).square().sum(dim=-1), 0.0)
    return weighted_mean(distance, weights).sqrt() / 2  # the image plane is 2 wide
