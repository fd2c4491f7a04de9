"""Twice differentiable bilinear sampling of images, for R1 through an augmentation pipeline.

Sampling is linear in the image: y = S(grid) x. So the gradient is dx = S^T dy, and its gradient with respect to dy is S
again: two functions that are each other's backward. S^T needs no kernel of its own: it is the ordinary gradient of
PyTorch's `grid_sample`, taken at an image of zeros. The price is that first derivatives cost one extra sampling, far
less than the alternative of gathering four neighbours by index (which autograd differentiates any number of times, but
through scatter-additions). That alternative is used only where gradients of the grid are needed.
"""

import torch
import torch.nn.functional as F

from torch_utils import custom_ops

__all__ = ["grid_sample"]


def grid_sample(image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Sample images bilinearly, with zeros outside.

    Args:
        image: [N, C, H, W].
        grid: [N, H', W', 2]: (x, y) in [-1, 1], where -1 and 1 are the outer edges of the outermost pixels.

    Returns:
        [N, C, H', W'].

    Raises:
        ValueError: shapes that do not match.
    """
    if image.ndim != 4 or grid.ndim != 4 or grid.shape[3] != 2 or grid.shape[0] != image.shape[0]:
        raise ValueError(
            f"grid_sample: an image [N, C, H, W] and a grid [N, H', W', 2] are needed, "
            f"not {list(image.shape)} and {list(grid.shape)}"
        )
    if (torch.is_grad_enabled() and grid.requires_grad) or custom_ops.transformed():
        return _gather_sample(image, grid)
    return _Sample.apply(image, grid.to(image.dtype))


class _Sample(torch.autograd.Function):
    """S(grid)."""

    @staticmethod
    def forward(ctx, image, grid):
        ctx.save_for_backward(grid)
        ctx.size = image.shape[2:]
        return _native_sample(image, grid)

    @staticmethod
    def backward(ctx, grad_output):
        (grid,) = ctx.saved_tensors
        return _SampleTransposed.apply(grad_output, grid, ctx.size), None


class _SampleTransposed(torch.autograd.Function):
    """S(grid)^T."""

    @staticmethod
    def forward(ctx, grad_output, grid, size):
        ctx.save_for_backward(grid)
        with torch.enable_grad():
            image = grad_output.new_zeros(*grad_output.shape[:2], *size).requires_grad_()
            sampled = _native_sample(image, grid)
            return torch.autograd.grad(sampled, image, grad_output)[0]

    @staticmethod
    def backward(ctx, grad_grad):
        (grid,) = ctx.saved_tensors
        return _Sample.apply(grad_grad, grid), None, None


def _native_sample(image, grid):
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _gather_sample(image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Bilinear sampling by gathering four neighbours: image and grid get gradients of every order."""
    # Pixel coordinates, the four neighbours of every sample, and their bilinear weights; zeros lie outside.
    n, c, h, w = image.shape
    x = (grid[..., 0] + 1) * (w / 2) - 0.5  # [N, H', W'] in pixels, pixel centres at integers
    y = (grid[..., 1] + 1) * (h / 2) - 0.5
    left, top = x.detach().floor(), y.detach().floor()
    right_weight, bottom_weight = x - left, y - top
    flat = image.reshape(n, c, h * w)
    result = 0
    for column, x_weight in ((left, 1 - right_weight), (left + 1, right_weight)):
        for row, y_weight in ((top, 1 - bottom_weight), (top + 1, bottom_weight)):
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            index = row.clamp(0, h - 1).long() * w + column.clamp(0, w - 1).long()  # [N, H', W']
            pixels = flat.gather(2, index.reshape(n, 1, -1).expand(-1, c, -1)).reshape(n, c, *grid.shape[1:3])
            result = result + pixels * (x_weight * y_weight * inside)[:, None]
    return result
