"""How much geometry a depth map holds: surface points, planes, and what another camera would see of them.

A picture on a plane can be warped to other views as well, so depth means something only beyond the plane that fits it
best. Of a plane the inverse depth is affine in the image: 1 / depth = a·x + b·y + c, which is fitted by least squares.

Depth maps are [N, H, H], distances along the viewing axis in scene units at the centres of pixels (see
`renderer.cameras`); weights [N, H, H] say how much a pixel counts, 0 where there is no surface.
"""

import torch
from torch.nn import functional as F

from renderer.cameras import Cameras, camera_rays, focal_from_fov, pixel_centers

__all__ = [
    "normals_from_depth",
    "parallax",
    "plane_depth",
    "project",
    "relief",
    "surface_depth",
    "surface_points",
    "warp",
    "weighted_mean",
]

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


# ----------------------------------------------------------------------------------------------------------------------
# Surface normals of depth maps: neighbouring pixels go back into space, and the surface between them has a normal.
#
#     n = ∂P/∂x × ∂P/∂y,   P(x, y) = origin + depth · direction
#
# with differences between the surface points of neighbouring pixels, so that a plane at any angle gets its exact
# normal. Depth maps are those of `renderer.depth`: [N, H, H], distances along the viewing axis.


def normals_from_depth(
    cameras: Cameras, depth: torch.Tensor, *, surface: torch.Tensor | None = None, world: bool = False
) -> torch.Tensor:
    """Unit normals [N, H, H, 3] that point to the side of the camera.

    Central differences inside a surface, one-sided ones at its edge, so that no normal leans on a point that is not
    there. The normal is zero where there is no surface and where a pixel has no neighbour to the left or right, or
    none above or below.

    Args:
        cameras: One per depth map.
        depth: [N, H, H] in scene units. Of a volume rendering, use `renderer.depth.surface_depth`.
        surface: Which pixels show a surface [N, H, H], bool or positive weights; None: those of finite depth.
        world: In the world's axes instead of the camera's (x right, y up, z towards the camera).

    Raises:
        ValueError: The sizes do not fit.
    """
    if depth.ndim != 3 or depth.shape[1] != depth.shape[2] or len(cameras) != len(depth):
        raise ValueError(f"normals need depth [{len(cameras)}, H, H], one map per camera, got {tuple(depth.shape)}.")
    if surface is not None and surface.shape != depth.shape:
        raise ValueError(f"surface must be {tuple(depth.shape)} as the depth is, got {tuple(surface.shape)}.")
    there = depth.isfinite() if surface is None else (surface > 0) & depth.isfinite()
    points = surface_points(cameras, torch.where(there, depth, 1.0))
    across, has_across = _difference(points, there, dim=2)
    down, has_down = _difference(points, there, dim=1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(across, -down), dim=-1, eps=1e-20)
    normals = torch.where((there & has_across & has_down)[..., None], normals, 0.0)
    return normals if world else normals @ cameras.cam2world[:, None, :3, :3].to(normals)


def _difference(points: torch.Tensor, there: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Difference of neighbouring points per step along `dim`, and where there is one."""
    size = points.shape[dim]
    step = points.narrow(dim, 1, size - 1) - points.narrow(dim, 0, size - 1)
    both = there.narrow(dim, 1, size - 1) & there.narrow(dim, 0, size - 1)
    step = torch.where(both[..., None], step, 0.0)
    end = torch.zeros_like(points.narrow(dim, 0, 1)), torch.zeros_like(there.narrow(dim, 0, 1))
    count = torch.cat([both, end[1]], dim).to(points.dtype) + torch.cat([end[1], both], dim).to(points.dtype)
    total = torch.cat([step, end[0]], dim) + torch.cat([end[0], step], dim)
    return total / count.clamp(min=1)[..., None], count > 0
