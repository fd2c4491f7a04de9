"""Geometric part of adaptive discriminator augmentation (Karras et al. 2020, "Training Generative Adversarial Networks
with Limited Data", appendix B): flips, rotations, shifts, scalings, carried out as one resampling.

A transform is the homogeneous 3x3 matrix that maps output to input pixels, (0, 0) being the centre of the image. The
inverses of the operations are multiplied on the right, so that the first operation stands leftmost.
"""

import math

import torch
import torch.nn.functional as F

from torch_utils.ops.grid_sample import grid_sample
from torch_utils.ops.upfirdn2d import downsample2d, setup_filter, upsample2d

__all__ = ["SYM6", "rotation", "scaling", "translation", "warp", "wavelet_filter"]

# Low-pass taps of Daubechies' least asymmetric wavelet with 6 vanishing moments.
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)


def wavelet_filter() -> torch.Tensor:
    """The low-pass filter of the resampling, [12]."""
    return setup_filter(SYM6)


def _matrix(*rows: tuple) -> torch.Tensor:
    """Rows of numbers and tensors [B] -> [B, 3, 3]."""
    like = next(entry for row in rows for entry in row if torch.is_tensor(entry))
    entries = [e if torch.is_tensor(e) else torch.full_like(like, e) for row in rows for e in row]
    return torch.stack(entries, dim=-1).reshape(*like.shape, 3, 3)


def translation(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Matrix [B, 3, 3] that adds (x, y), each [B]."""
    return _matrix((1, 0, x), (0, 1, y), (0, 0, 1))


def scaling(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Matrix [B, 3, 3] that multiplies by (x, y), each [B]."""
    return _matrix((x, 0, 0), (0, y, 0), (0, 0, 1))


def rotation(angle: torch.Tensor) -> torch.Tensor:
    """Matrix [B, 3, 3] that turns (1, 0) towards (0, 1) by the angle [B] in radians."""
    cos, sin = angle.cos(), angle.sin()
    return _matrix((cos, -sin, 0), (sin, cos, 0), (0, 0, 1))


def warp(images: torch.Tensor, transform: torch.Tensor, wavelet: torch.Tensor) -> torch.Tensor:
    """Resample images by affine transforms, with little aliasing and mirrored borders.

    The images are padded by reflection as far as the transforms look, upsampled twofold with the wavelet filter,
    sampled bilinearly on a twofold output grid, and downsampled with the same filter.

    Args:
        images: [B, C, H, W].
        transform: [B, 3, 3], from output to input pixels relative to the image centre.
        wavelet: `wavelet_filter()`.

    Returns:
        [B, C, H, W].
    """
    height, width = images.shape[2:]
    support = wavelet.numel() // 4  # pixels that the filter reaches beyond a border at the original resolution
    x0, x1, y0, y1 = _margins(transform, height, width, support)
    images = F.pad(images, [x0, x1, y0, y1], mode="reflect")
    images = upsample2d(images, wavelet, up=2)

    # The coordinates of both sides change, axis by axis.
    # Padding moves the centre of the input.
    to_padded = _diagonal(transform, (1, 1), ((x0 - x1) / 2, (y0 - y1) / 2))
    # Pixel i lands on pixel 2i of a twofold grid (zeros come after it): measured from the centres, x -> 2x - 1/2.
    to_fine = _diagonal(transform, (2, 2), (-0.5, -0.5))
    from_fine = _diagonal(transform, (0.5, 0.5), (0.25, 0.25))
    # Normalised coordinates, [-1, 1] from edge to edge.
    fine_size = [(height + 2 * support) * 2, (width + 2 * support) * 2]
    to_unit = _diagonal(transform, (2 / images.shape[3], 2 / images.shape[2]), (0, 0))
    from_unit = _diagonal(transform, (fine_size[1] / 2, fine_size[0] / 2), (0, 0))
    theta = to_unit @ to_fine @ to_padded @ transform @ from_fine @ from_unit

    size = [*images.shape[:2], *fine_size]
    images = grid_sample(images, F.affine_grid(theta[:, :2], size, align_corners=False).to(images.dtype))
    return downsample2d(images, wavelet, down=2, padding=-2 * support, flip_filter=True)


def _diagonal(like, scale, shift):
    """(x, y) -> scale*(x, y) + shift as a matrix [3, 3] of the type and device of `like`."""
    return like.new_tensor([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1]])


def _margins(transform, height, width, support):
    """Padding (left, right, top, bottom) with which no output pixel looks outside of the padded image.

    One answer for the whole batch. Reflection cannot reach further than one pixel less than the image.
    """
    cx, cy = (width - 1) / 2, (height - 1) / 2
    corners = transform.new_tensor([[-cx, -cy, 1], [cx, -cy, 1], [cx, cy, 1], [-cx, cy, 1]])
    seen = (transform @ corners.T)[:, :2].movedim(1, 0).flatten(1)  # [x and y, corners of all videos]
    (left, top), (right, bottom) = (-seen).amax(1).tolist(), seen.amax(1).tolist()
    limits = ((left - cx, width), (right - cx, width), (top - cy, height), (bottom - cy, height))
    return [math.ceil(min(max(beyond + 2 * support, 0), size - 1)) for beyond, size in limits]
