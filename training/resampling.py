"""Fixed ×2 resampling of feature rows [N, H, W, C], written by output phase.

An image twice as large is four images of the original size, one per (row, column) parity. Each resampling here is
computed phase by phase from shifted inputs: no zeros are inserted, nothing is computed twice.
The blur is the FIR filter [1, 3, 3, 1] / 8 per axis with 2 pixels of padding before and 1 after; zeros lie outside.
"""

import torch

__all__ = ["blur_nearest_rows", "blur_rows", "corner_means", "interleave"]


def interleave(corners: torch.Tensor) -> torch.Tensor:
    """Phases [N, H, W, 2, 2, C] (row parity, column parity) to rows [N, 2H, 2W, C]."""
    n, height, width, _, _, channels = corners.shape
    return corners.transpose(2, 3).reshape(n, 2 * height, 2 * width, channels)


def corner_means(own: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """Per output corner, `own` plus the mean of the two `neighbours` next to that corner.

    Both [N, H, W, C]; the corner (top, left) of a pixel gets (left + up) / 2, and so on. To [N, 2H, 2W, C].
    """
    half = torch.nn.functional.pad(neighbours * 0.5, [0, 0, 1, 1, 1, 1])
    left, right = own + half[:, 1:-1, :-2], own + half[:, 1:-1, 2:]
    up, down = half[:, :-2, 1:-1], half[:, 2:, 1:-1]
    top = torch.stack([left + up, right + up], dim=3)
    bottom = torch.stack([left + down, right + down], dim=3)
    return torch.stack([top, bottom], dim=2).flatten(3, 4).flatten(1, 2)


def _blur_nearest_axis(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Nearest ×2 and blur along one axis: phases (x[i-1] + x[i]) / 2 and (x[i-1] + 6x[i] + x[i+1]) / 8."""
    before = torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), x.narrow(axis, 0, x.shape[axis] - 1)], dim=axis)
    after = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), torch.zeros_like(x.narrow(axis, 0, 1))], dim=axis)
    even = (before + x) * 0.5
    odd = torch.add(before + after, x, alpha=6) * 0.125
    return torch.stack([even, odd], dim=axis + 1).flatten(axis, axis + 1)


def blur_nearest_rows(x: torch.Tensor) -> torch.Tensor:
    """blur(nearest ×2 (x)): [N, H, W, C] to [N, 2H, 2W, C]."""
    return _blur_nearest_axis(_blur_nearest_axis(x, 2), 1)


def blur_rows(x: torch.Tensor) -> torch.Tensor:
    """The [1, 3, 3, 1] blur at constant size: [N, H, W, C] to the same."""
    for axis in (2, 1):
        pad = [0, 0, 2, 1] if axis == 2 else [0, 0, 0, 0, 2, 1]
        size = x.shape[axis]
        x = torch.nn.functional.pad(x, pad)
        outer = x.narrow(axis, 0, size) + x.narrow(axis, 3, size)
        x = torch.add(outer, x.narrow(axis, 1, size) + x.narrow(axis, 2, size), alpha=3) * 0.125
    return x
