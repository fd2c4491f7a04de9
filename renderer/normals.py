"""Surface normals of depth maps: neighbouring pixels go back into space, and the surface between them has a normal.

    n = ∂P/∂x × ∂P/∂y,   P(x, y) = origin + depth · direction

with differences between the surface points of neighbouring pixels, so that a plane at any angle gets its exact normal.
Depth maps are those of `renderer.parallax`: [N, H, H], distances along the viewing axis.
"""

import torch

from renderer.cameras import Cameras
from renderer.parallax import surface_points

__all__ = ["normals_from_depth"]


def normals_from_depth(
    cameras: Cameras, depth: torch.Tensor, *, surface: torch.Tensor | None = None, world: bool = False
) -> torch.Tensor:
    """Unit normals [N, H, H, 3] that point to the side of the camera.

    Central differences inside a surface, one-sided ones at its edge, so that no normal leans on a point that is not
    there. The normal is zero where there is no surface and where a pixel has no neighbour to the left or right, or
    none above or below.

    Args:
        cameras: One per depth map.
        depth: [N, H, H] in scene units. Of a volume rendering, use `renderer.parallax.surface_depth`.
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
