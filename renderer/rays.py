"""Pixels to rays: pixel centres on the image plane and the rays through them.

A ray is `origin + depth * direction` with a direction that is NOT normalised: its component along the viewing axis
is one, so `depth` is the distance along that axis.
"""

import torch

from renderer.cameras import Cameras, focal_from_fov

__all__ = ["camera_rays", "lattice_pixel_indices", "pixel_centers"]


def pixel_centers(resolution: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Centres [resolution**2, 2] (x, y) of a square image's pixels, row-major, top row first, within [-1, 1]."""
    edge = 1 - 1 / resolution
    x = torch.linspace(-edge, edge, resolution, device=device)
    y = torch.linspace(edge, -edge, resolution, device=device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def camera_rays(cameras: Cameras, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays of N cameras through `pixels` [R, 2] or [N, R, 2].

    Returns:
        origins [N, 1, 3] and directions [N, R, 3] in world space.
    """
    focal = focal_from_fov(cameras.fov.double()).to(pixels.dtype)
    on_plane = pixels.expand(len(cameras), -1, -1) / focal[:, None, None]
    in_camera = torch.cat([on_plane, torch.full_like(on_plane[..., :1], -1)], dim=-1)
    cam2world = cameras.cam2world.to(pixels.dtype)
    return cam2world[:, None, :3, 3], in_camera @ cam2world[:, :3, :3].transpose(1, 2)


def lattice_pixel_indices(uniform: torch.Tensor, resolution: int, lattice: int) -> torch.Tensor:
    """Row-major indices [B, lattice**2] of a regular lattice of pixels with one random offset per video.

    Args:
        uniform: [B, 2] in [0, 1): the offset along (x, y) as a fraction of the stride.
        resolution: Image width in pixels, a multiple of `lattice`.
    """
    stride = resolution // lattice
    offset = (uniform * stride).long()
    steps = torch.arange(lattice, device=uniform.device) * stride
    columns = offset[:, 0, None, None] + steps[None, None, :]
    rows = offset[:, 1, None, None] + steps[None, :, None]
    return (rows * resolution + columns).reshape(len(uniform), -1)
