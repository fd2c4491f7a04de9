"""Image grids of the report: frames and depth maps."""

from pathlib import Path

import torch

from renderer.video import image_grid, save_png

__all__ = ["depth_picture", "save_grid"]


def save_grid(path: Path, images: torch.Tensor, columns: int, *, scale: int) -> None:
    """Write images [N, 3, H, W] in [0, 1] as a grid, enlarged `scale` times without smoothing."""
    grid = image_grid((images * 255).round().clamp(0, 255).to(torch.uint8), columns)
    save_png(grid.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2), path)


def depth_picture(depth: torch.Tensor, weights: torch.Tensor, size: int) -> torch.Tensor:
    """Depth maps [N, h, h] as grey images [N, 3, size, size]: near is bright, black is no surface."""
    near, far = 0.88, 1.03  # where the faces of the scenes lie
    grey = ((far - depth) / (far - near)).clamp(0, 1) * 0.9 + 0.1
    grey = (grey * (weights > 0)).repeat_interleave(size // depth.shape[-1], 1)
    return grey.repeat_interleave(size // depth.shape[-1], 2)[:, None].expand(-1, 3, -1, -1)
