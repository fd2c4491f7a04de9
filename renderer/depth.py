"""Geometry of depth maps: surface points, the best-fitting plane, parallax to another view, and normals.

A flat picture can be warped to other views as well, so the geometry of a depth map is its deviation from the plane that
fits it best. The inverse depth of a plane is affine in the image, 1 / depth = a·x + b·y + c, and fitted by least
squares.

Depth maps are [N, H, H], distances along the viewing axis in scene units at pixel centres (see `renderer.cameras`);
weights [N, H, H] are per pixel, 0 where there is no surface.
"""

import math

import torch
from torch.nn import functional as F

from renderer.cameras import Cameras, along_axes, camera_rays, focal_from_fov, pixel_centers, require_cameras
from torch_utils.argument_checks import check_floats, shown

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

NEAREST = 1e-6  # depth in scene units up to which points have no projection
OPAQUE = 0.5  # smallest opacity of a surface


def surface_depth(depth: torch.Tensor, opacity: torch.Tensor, *, background: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth of the visible surface, and weights: 1 where there is a surface.

    Args:
        depth: Expected depth [N, H, H] in scene units as rendered, a sum over samples that is not normalised.
        opacity: Sum of the foreground's weights [N, H, H].
        background: True if there is a background. Without one the last sample is opaque and the weights add up to one.

    Returns:
        Depth in scene units, valid where the weight is 1, and weights 0 or 1 (1 everywhere without a background).
    """
    if not background:
        return depth, torch.ones_like(depth)
    return depth / opacity.clamp(min=1e-6), (opacity > OPAQUE).to(depth.dtype)


def weighted_mean(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean over pixels [N]; NaN where all weights are 0.

    Raises:
        ValueError: Weights whose shape is not that of `x`; they would silently be broadcast.
    """
    _check_weights(x, weights)
    return (x * weights).sum(dim=[-2, -1]) / weights.sum(dim=[-2, -1])


def _check_weights(x: torch.Tensor, weights: torch.Tensor) -> None:
    if not isinstance(weights, torch.Tensor) or weights.shape != x.shape:
        raise ValueError(f"weights must be {list(x.shape)}, one for each value, got {shown(weights)}.")


def plane_depth(depth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Depth [N, H, H] of the best-fitting plane (least squares in inverse depth), also where the weights are 0.

    Raises:
        ValueError: Maps of another shape, or weights whose shape is not that of the depth.
    """
    if not isinstance(depth, torch.Tensor) or depth.ndim != 3 or depth.shape[1] != depth.shape[2]:
        raise ValueError(f"depth must be a tensor [N, H, H], got {shown(depth)}.")
    check_floats("depth", depth, "in scene units")
    _check_weights(depth, weights)
    # Normal equations for (a, b, c) in double precision.
    xy = pixel_centers(depth.shape[-1], depth.device).double()
    basis = torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)  # [H·H, 3]
    w = weights.flatten(1).double()
    target = torch.where(w > 0, 1 / depth.flatten(1).double().clamp(min=1e-6), 0.0)
    normal = torch.einsum("np,pi,pj->nij", w, basis, basis)
    right = torch.einsum("np,pi,np->ni", w, basis, target)
    # Slight ridge regularisation: with fewer than three pixels the plane is not determined.
    ridge = 1e-9 * normal.diagonal(dim1=1, dim2=2).sum(-1).clamp(min=1e-12)
    coefficients = torch.linalg.solve(
        normal + ridge[:, None, None] * torch.eye(3, dtype=normal.dtype, device=normal.device), right
    )
    inverse = coefficients @ basis.T
    # The depth is unbounded near the plane's horizon.
    return (1 / inverse.clamp(min=1e-3)).reshape(depth.shape).to(depth.dtype)


def surface_points(cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    """Surface points in world space [N, H, H, 3] of depth maps [N, H, H] or [N, 1, H, H], with N cameras or one.

    Raises:
        ValueError: Maps of another shape, integer maps, such as those of 16-bit files, or no cameras.
    """
    require_cameras("cameras", cameras)
    if not isinstance(depth, torch.Tensor):
        raise ValueError(f"depth must be a tensor [N, H, H], got {shown(depth)}.")
    size = depth.shape[-1] if depth.ndim else 0
    if list(depth.shape[1:]) not in ([size, size], [1, size, size]) or len(cameras) not in (1, len(depth)):
        raise ValueError(
            f"depth must be [N, H, H] or [N, 1, H, H] with one camera or one per map, got {list(depth.shape)} and "
            f"{len(cameras)} cameras."
        )
    check_floats("depth", depth, "in scene units")
    origins, directions = camera_rays(cameras, pixel_centers(size, depth.device).to(depth.dtype))
    return (origins + depth.flatten(1)[..., None] * directions).unflatten(1, (size, size))


def project(cameras: Cameras, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Projection of points [N, H, W, 3] into one camera each, the inverse of `surface_points`.

    Returns:
        (x, y) on the image plane [N, H, W, 2], y up, within [-1, 1] inside the image, NaN for points that are not in
        front of the camera; depth [N, H, W], negative behind it.

    Raises:
        ValueError: Points of another shape; integer points, to whose type camera and focal length would be rounded; or
            neither one camera nor N.
    """
    require_cameras("cameras", cameras)
    if not isinstance(points, torch.Tensor) or points.ndim != 4 or points.shape[-1] != 3:
        raise ValueError(f"points must be a tensor [N, H, W, 3], got {shown(points)}.")
    if len(cameras) not in (1, len(points)):
        raise ValueError(f"points [{len(points)}, H, W, 3] need one camera or {len(points)}, got {len(cameras)}.")
    check_floats("points", points, "in scene units")
    cameras = cameras.to(points.device)
    cam2world = cameras.cam2world.to(points.dtype)
    local = along_axes(points - cam2world[:, None, None, :3, 3], cam2world[:, :3, :3])
    depth = -local[..., 2]
    focal = focal_from_fov(cameras.fov.double()).to(points.dtype)[:, None, None, None]
    places = focal * local[..., :2] / depth.clamp(min=NEAREST)[..., None]
    return torch.where((depth > NEAREST)[..., None], places, math.nan), depth


def warp(images: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Images [N, C, H, H] sampled bilinearly at places (x, y) [N, h, w, 2] of the image plane: [N, C, h, w].

    x points right and y up, with edges at ±1; beyond them the border is repeated.
    """
    grid = torch.stack([places[..., 0], -places[..., 1]], dim=-1)  # rows run downwards
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def relief(depth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Relief [N]: root mean square distance of depths from their best-fitting plane, in scene units.

    Raises:
        ValueError: See `plane_depth`.
    """
    residual = torch.where(weights > 0, depth - plane_depth(depth, weights), 0.0)
    return weighted_mean(residual.square(), weights).sqrt()


def parallax(cameras: Cameras, others: Cameras, depth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Parallax: distance in another view between surface points and their counterparts on the best-fitting plane.

    Args:
        cameras: The cameras of the depth maps.
        others: The other views, one each.

    Returns:
        [N], root mean square, as a fraction of the image's width; 0 for every plane, NaN without a surface, or if a
        part of it is behind the other camera.

    Raises:
        ValueError: See `plane_depth`, `surface_points` and `project`.
    """
    true, _ = project(others, surface_points(cameras, depth))
    flat, _ = project(others, surface_points(cameras, plane_depth(depth, weights)))
    distance = torch.where(weights > 0, (true - flat).square().sum(dim=-1), 0.0)
    return weighted_mean(distance, weights).sqrt() / 2  # the image plane is 2 wide


# ----------------------------------------------------------------------------------------------------------------------
# Surface normals.


def normals_from_depth(
    cameras: Cameras, depth: torch.Tensor, *, surface: torch.Tensor | None = None, world: bool = False
) -> torch.Tensor:
    """Unit normals [N, H, H, 3] of depth maps, pointing towards the camera.

    n = ∂P/∂x × ∂P/∂y with P(x, y) = origin + depth · direction, from differences between the surface points of
    neighbouring pixels, so that the normal of a plane is exact at any angle: central differences inside a surface,
    one-sided ones at its edge. The normal is zero where there is no surface and where a pixel lacks both neighbours to
    the left and right, or both above and below.

    Args:
        cameras: One per depth map.
        depth: [N, H, H] in scene units. For a volume rendering, pass the result of `surface_depth`.
        surface: Mask of the surface [N, H, H], bool or positive weights; None: pixels of finite depth.
        world: Return normals in world axes instead of the camera's (x right, y up, z towards the camera).

    Raises:
        ValueError: The shapes do not match, integer depths, or no cameras or tensors.
    """
    require_cameras("cameras", cameras)
    for name, value in {"depth": depth, **({} if surface is None else {"surface": surface})}.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name} must be a tensor [N, H, H], got {shown(value)}.")
    check_floats("depth", depth, "in scene units")
    if depth.ndim != 3 or depth.shape[1] != depth.shape[2] or len(cameras) != len(depth):
        raise ValueError(f"normals need depth [{len(cameras)}, H, H], one map per camera, got {tuple(depth.shape)}.")
    if surface is not None and surface.shape != depth.shape:
        raise ValueError(f"surface must be {tuple(depth.shape)} as the depth is, got {tuple(surface.shape)}.")
    valid = depth.isfinite() if surface is None else (surface > 0) & depth.isfinite()
    points = surface_points(cameras, torch.where(valid, depth, 1.0))
    # Tangents along the image's rows and columns, and their cross product.
    across, has_across = _difference(points, valid, dim=2)
    down, has_down = _difference(points, valid, dim=1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(across, -down), dim=-1, eps=1e-20)
    normals = torch.where((valid & has_across & has_down)[..., None], normals, 0.0)
    return normals if world else along_axes(normals, cameras.cam2world[:, :3, :3].to(normals))


def _difference(points: torch.Tensor, valid: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tangents along `dim` from differences of neighbouring valid points, and the mask of points with a neighbour.

    Only their directions count: they are as long as one step or two.
    """
    size = points.shape[dim]
    step = points.narrow(dim, 1, size - 1) - points.narrow(dim, 0, size - 1)
    both = valid.narrow(dim, 1, size - 1) & valid.narrow(dim, 0, size - 1)
    step = torch.where(both[..., None], step, 0.0)
    # Sum of the steps to the two neighbours, or the only step.
    end = torch.zeros_like(points.narrow(dim, 0, 1)), torch.zeros_like(valid.narrow(dim, 0, 1))
    total = torch.cat([step, end[0]], dim) + torch.cat([end[0], step], dim)
    return total, torch.cat([both, end[1]], dim) | torch.cat([end[1], both], dim)
