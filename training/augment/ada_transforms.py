"""Transforms of adaptive discriminator augmentation (ADA, Karras et al. 2020, appendix B): geometry, colours, bands.

A geometric transform is the homogeneous 3x3 matrix that maps output to input pixels, (0, 0) being the centre of the
image. The inverses of the operations are multiplied on the right, so that the first operation is leftmost; all are
carried out as one resampling. Colours are transformed by homogeneous 4x4 matrices; the luma axis is v = (1, 1, 1)/√3.
"""

import functools
import math

import torch
import torch.nn.functional as F

from torch_utils.ops.grid_sample import grid_sample
from torch_utils.ops.upfirdn2d import downsample2d, setup_filter, upsample2d

__all__ = [
    "BAND_POWER",
    "constant",
    "cutout",
    "filter_bands",
    "filter_bank",
    "gray_scaling",
    "hue_rotation",
    "luma_flip",
    "luma_saturation",
    "recolor",
    "rotate2d",
    "scale2d",
    "shift_color",
    "smallest_filtered",
    "translate2d",
    "warp_affine",
    "wavelet_filter",
]

# Low-pass taps of Daubechies' least asymmetric wavelet with 6 vanishing moments.
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)


def wavelet_filter() -> torch.Tensor:
    """The low-pass filter of the resampling, [12]."""
    return setup_filter(SYM6)


Rows = tuple[float, ...] | tuple[tuple[float, ...], ...]


def constant(rows: Rows, like: torch.Tensor) -> torch.Tensor:
    """A constant vector or matrix of the type and on the device of `like`."""
    return like.new_tensor(rows) if like.device.type == "cpu" else _kept(rows, like.dtype, like.device)


@functools.cache
def _kept(rows: Rows, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A constant on a GPU, copied once, as the host would wait for every copy; kept, as CUDA graphs read it."""
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=dtype, device=device)


def _matrix(*rows: tuple) -> torch.Tensor:
    """Rows of numbers and tensors [B] -> [B, 3, 3]."""
    like = next(entry for row in rows for entry in row if torch.is_tensor(entry))
    entries = [e if torch.is_tensor(e) else torch.full_like(like, e) for row in rows for e in row]
    return torch.stack(entries, dim=-1).reshape(*like.shape, 3, 3)


def translate2d(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Matrix [B, 3, 3] that adds (x, y), each [B]."""
    return _matrix((1, 0, x), (0, 1, y), (0, 0, 1))


def scale2d(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Matrix [B, 3, 3] that multiplies by (x, y), each [B]."""
    return _matrix((x, 0, 0), (0, y, 0), (0, 0, 1))


def rotate2d(angle: torch.Tensor) -> torch.Tensor:
    """Matrix [B, 3, 3] that rotates (1, 0) towards (0, 1) by the angle [B] in radians."""
    cos, sin = angle.cos(), angle.sin()
    return _matrix((cos, -sin, 0), (sin, cos, 0), (0, 0, 1))


def warp_affine(images: torch.Tensor, transform: torch.Tensor, wavelet: torch.Tensor) -> torch.Tensor:
    """Resample images by affine transforms, with little aliasing and mirrored borders.

    The images are padded by reflection as far as the transforms reach, upsampled ×2 with the wavelet filter, sampled
    bilinearly on an output grid of twice the resolution, and downsampled with the same filter.

    Args:
        images: [B, C, H, W].
        transform: [B, 3, 3], from output to input pixels relative to the image centre.
        wavelet: `wavelet_filter()`.

    Returns:
        [B, C, H, W].
    """
    # Pad and upsample.
    height, width = images.shape[2:]
    support = wavelet.numel() // 4  # pixels that the filter reaches beyond a border at the original resolution
    x0, x1, y0, y1 = _margins(transform, height, width, support)
    images = F.pad(images, [x0, x1, y0, y1], mode="reflect")
    images = upsample2d(images, wavelet, up=2)

    # Express the transform in the coordinates of the padded, upsampled input and of the ×2 output.
    # Padding moves the centre of the input.
    to_padded = _diagonal(transform, (1, 1), ((x0 - x1) / 2, (y0 - y1) / 2))
    # Pixel i becomes pixel 2i of the ×2 grid (zeros come after it): measured from the centres, x -> 2x - 1/2.
    to_fine = _diagonal(transform, (2, 2), (-0.5, -0.5))
    from_fine = _diagonal(transform, (0.5, 0.5), (0.25, 0.25))
    # Normalised coordinates, [-1, 1] from edge to edge.
    fine_size = [(height + 2 * support) * 2, (width + 2 * support) * 2]
    to_unit = _diagonal(transform, (2 / images.shape[3], 2 / images.shape[2]), (0, 0))
    from_unit = _diagonal(transform, (fine_size[1] / 2, fine_size[0] / 2), (0, 0))
    theta = to_unit @ to_fine @ to_padded @ transform @ from_fine @ from_unit

    # Sample and downsample.
    size = [*images.shape[:2], *fine_size]
    images = grid_sample(images, F.affine_grid(theta[:, :2], size, align_corners=False).to(images.dtype))
    return downsample2d(images, wavelet, down=2, padding=-2 * support, flip_filter=True)


def _diagonal(like, scale, shift):
    """(x, y) -> scale*(x, y) + shift as a matrix [3, 3] of the type and device of `like`."""
    return constant(((scale[0], 0, shift[0]), (0, scale[1], shift[1]), (0, 0, 1)), like)


def _margins(transform, height, width, support):
    """Padding (left, right, top, bottom) for the whole batch, enough for all pixels that the outputs read.

    Reflection padding is limited to one pixel less than the image. On a GPU it is always that large, because the host
    would have to wait for the transforms. More padding than needed changes pixels by rounding only, and by 1e-4 at a
    border that is zoomed out so far that the filter reaches the end of the padding.
    """
    if transform.device.type != "cpu":
        return width - 1, width - 1, height - 1, height - 1
    cx, cy = (width - 1) / 2, (height - 1) / 2
    corners = transform.new_tensor([[-cx, -cy, 1], [cx, -cy, 1], [cx, cy, 1], [-cx, cy, 1]])
    seen = (transform @ corners.T)[:, :2].movedim(1, 0).flatten(1)  # [x and y, corners of all videos]
    (left, top), (right, bottom) = (-seen).amax(1).tolist(), seen.amax(1).tolist()
    limits = ((left - cx, width), (right - cx, width), (top - cy, height), (bottom - cy, height))
    x0, x1, y0, y1 = (math.ceil(min(max(beyond + 2 * support, 0), size - 1)) for beyond, size in limits)
    return x0, x1, y0, y1


# ----------------------------------------------------------------------------------------------------------------------
# Colours, frequency bands, cutout.

# Low-pass taps of Daubechies' least asymmetric wavelet with 2 vanishing moments.
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # of natural images (1/f spectrum), lowest frequencies first


def _homogeneous(linear: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
    """Linear part [B, 3, 3] and offset [B] common to the channels -> [B, 4, 4]."""
    matrix = F.pad(linear, [0, 1, 0, 1])
    matrix[:, 3, 3] = 1
    if offset is not None:
        matrix[:, :3, 3] = offset[:, None]
    return matrix


def _identity_and_luma(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The 3x3 identity and the projection v v^T onto the luma axis."""
    return torch.eye(3, device=like.device, dtype=like.dtype), like.new_full([3, 3], 1 / 3)


def shift_color(offset: torch.Tensor) -> torch.Tensor:
    """Add offset [B] to all channels (brightness) -> [B, 4, 4]."""
    identity, _ = _identity_and_luma(offset)
    return _homogeneous(identity.expand(len(offset), 3, 3), offset)


def gray_scaling(factor: torch.Tensor) -> torch.Tensor:
    """Multiply all channels by factor [B] (contrast) -> [B, 4, 4]."""
    identity, _ = _identity_and_luma(factor)
    return _homogeneous(identity * factor[:, None, None])


def luma_flip(flip: torch.Tensor) -> torch.Tensor:
    """Reflect colours at the plane through black perpendicular to v where flip [B] is 1 -> [B, 4, 4]."""
    identity, luma = _identity_and_luma(flip)
    return _homogeneous(identity - 2 * luma * flip[:, None, None])


def hue_rotation(angle: torch.Tensor) -> torch.Tensor:
    """Rotate colours about v by angle [B] in radians (Rodrigues' formula) -> [B, 4, 4]."""
    identity, luma = _identity_and_luma(angle)
    v = 1 / math.sqrt(3)
    cross = constant(((0, -v, v), (v, 0, -v), (-v, v, 0)), angle)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return _homogeneous(luma + cos * (identity - luma) + sin * cross)


def luma_saturation(factor: torch.Tensor) -> torch.Tensor:
    """Multiply the distance from the grey axis by factor [B] (saturation) -> [B, 4, 4]."""
    identity, luma = _identity_and_luma(factor)
    return _homogeneous(luma + (identity - luma) * factor[:, None, None])


def recolor(frames: torch.Tensor, transform: torch.Tensor) -> torch.Tensor:
    """Transform the colours of frames [B, T, 3, H, W] by one matrix [B, 4, 4] per video."""
    transform = transform.to(frames.dtype)
    pixels = frames.flatten(3)  # [B, T, 3, H*W]
    pixels = transform[:, None, :3, :3] @ pixels + transform[:, None, :3, 3:]
    return pixels.reshape(frames.shape)


def filter_bank() -> torch.Tensor:
    """Symmetric filters [4 bands, 43 taps] that split a signal into octaves, lowest first; they sum to the identity.

    The low- and high-pass filters L and H of the sym2 wavelet, each convolved with its mirror image, are halves of a
    perfect reconstruction: L + H = 1. Starting from the band [1], each step spreads the bands to half the frequency by
    inserting zeros (which repeats their spectrum), removes the repetitions with L, and adds H as the new top band.
    """
    # Wavelet filters, each convolved with its mirror image.
    low = torch.tensor(SYM2, dtype=torch.float64)
    high = low * torch.tensor([1, -1, 1, -1])
    low, high = (_convolve(g[None], g.flip(0))[0] / 2 for g in (low, high))
    bands = torch.eye(4, 1, dtype=torch.float64)
    for band in range(1, 4):
        spread = torch.stack([bands, torch.zeros_like(bands)], dim=2).flatten(1)[:, :-1]
        bands = _convolve(spread, low)
        start = (bands.shape[1] - len(high)) // 2
        bands[band, start : start + len(high)] += high
    return bands.float()


def _convolve(signals, f):
    """Full convolution of signals [n, length] with f [taps]."""
    return F.conv1d(signals[:, None], f.flip(0)[None, None], padding=len(f) - 1)[:, 0]


def smallest_filtered(bank: torch.Tensor) -> int:
    """Smallest width of images in pixels for `filter_bands`: reflection padding is limited to the image."""
    return bank.shape[1] // 2 + 1


def filter_bands(frames: torch.Tensor, gains: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """Amplify the frequency bands of frames [B, T, 3, H, W] by gains [B, bands], along both axes, borders mirrored."""
    videos, _, _, height, width = frames.shape
    channels = frames.shape[1] * frames.shape[2]
    # One filter per video: the bank weighted by the gains.
    taps = (gains @ bank).to(frames.dtype).repeat_interleave(channels, dim=0)[:, None]  # [B*T*3, 1, taps]
    radius = bank.shape[1] // 2
    if min(height, width) < smallest_filtered(bank):
        raise ValueError(
            f"band filtering needs images of more than {radius} pixels, not {height}x{width}: use a pipeline without it"
        )
    # Separable filtering, every channel of every frame as a group.
    x = frames.reshape(1, videos * channels, height, width)
    x = F.pad(x, [radius] * 4, mode="reflect")
    x = F.conv2d(x, taps[:, :, None, :], groups=videos * channels)
    x = F.conv2d(x, taps[:, :, :, None], groups=videos * channels)
    return x.reshape(frames.shape)


def cutout(frames: torch.Tensor, centre: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Cutout: a rectangle of frames [B, T, 3, H, W] is set to zero.

    Args:
        frames: Videos.
        centre: [B, 2], (x, y) as fractions of the image.
        size: [B], edge lengths of the rectangles as fractions of the image; 0 for none.
    """
    height, width = frames.shape[3:]
    outside = []
    for axis, pixels in ((0, width), (1, height)):
        position = (torch.arange(pixels, device=frames.device, dtype=centre.dtype) + 0.5) / pixels
        outside.append((position - centre[:, axis, None]).abs() >= size[:, None] / 2)  # [B, pixels]
    keep = outside[0][:, None, :] | outside[1][:, :, None]  # [B, H, W]
    return frames * keep[:, None, None].to(frames.dtype)
