"""Upsample, apply a finite impulse response filter, downsample (StyleGAN2, Karras et al. 2020, appendix B).

The definition, for every channel on its own and for each axis:

    1. insert up - 1 zeros after every sample,
    2. pad with zeros (negative padding crops),
    3. convolve with the filter (true convolution: the filter is mirrored, unless `flip_filter`), valid positions only,
    4. keep every down-th sample, starting with the first.

No step is carried out literally. Without upsampling it is a depthwise convolution with stride `down`; with upsampling
it is a depthwise transposed convolution with stride `up`, which never multiplies by the inserted zeros. Both take only
equal padding on the two sides of an axis, while even filters need unequal padding: the filter is lengthened with zeros
on one side instead of copying the image into a padded buffer, which was measured to be faster (CPU, both memory
formats). So was one pass with a 4x4 filter against two with 4 taps each; only filters given as vectors take two passes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ["downsample2d", "filter2d", "parse_padding", "parse_pair", "setup_filter", "upfirdn2d", "upsample2d"]

SEPARABLE_TAPS = 8  # filters with at least so many taps are kept as a vector, i.e. run as two passes


def setup_filter(
    f: torch.Tensor | Sequence | float | None,
    *,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Prepare a filter for the functions below.

    Args:
        f: Taps: a vector (both axes), a matrix [height, width], a number, or None for the identity.
        normalize: Divide by the sum of the taps (of the one-dimensional filter if `f` is a vector).
        flip_filter: Mirror the filter.
        gain: Factor on the signal's magnitude.
        separable: Keep a vector as a vector; None for "if it has at least 8 taps".

    Returns:
        float32 tensor [taps] or [height, width].

    Raises:
        ValueError: empty filters and more than two dimensions.
    """
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32)
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"setup_filter: a filter is a number, a vector or a matrix, not of shape {list(f.shape)}")
    f = f[None] if f.ndim == 0 else f
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= SEPARABLE_TAPS
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if separable and f.ndim != 1:
        raise ValueError(f"setup_filter: only a vector can be kept separable, not shape {list(f.shape)}")
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return f * gain ** (f.ndim / 2)


def parse_pair(value: int | Sequence[int], what: str) -> tuple[int, int]:
    """int or [x, y] -> (x, y), each at least 1."""
    x, y = (value, value) if isinstance(value, int) else value
    if x < 1 or y < 1:
        raise ValueError(f"{what} must be at least 1, not {value}")
    return int(x), int(y)


def parse_padding(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """int, [x, y] or [x before, x after, y before, y after] -> the latter."""
    padding = [padding] * 4 if isinstance(padding, int) else list(padding)
    if len(padding) == 2:
        padding = [padding[0], padding[0], padding[1], padding[1]]
    if len(padding) != 4:
        raise ValueError(f"padding must be a number, a pair or four numbers, not {padding}")
    px0, px1, py0, py1 = (int(p) for p in padding)
    return px0, px1, py0, py1


def filter_size(f: torch.Tensor | None) -> tuple[int, int]:
    """(width, height) of a filter."""
    if f is None:
        return 1, 1
    return f.shape[-1], f.shape[0]


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Upsample, pad, filter and downsample every channel of a batch of images.

    Args:
        x: Images [N, C, H, W] of any floating type.
        f: Filter of `setup_filter`: [taps] (applied along both axes), [height, width], or None for the identity.
        up, down: Integer factors, one for both axes or [x, y].
        padding: Relative to the upsampled image: one number, [x, y] or [x before, x after, y before, y after] in
            pixels; negative numbers crop.
        flip_filter: False for convolution, True for correlation.
        gain: Factor on the result.

    Returns:
        Images [N, C, (H*up + padding - height)//down + 1, likewise] in the memory format of `x`.

    Raises:
        ValueError: bad shapes, factors below one, or a result without pixels.
    """
    if x.ndim != 4:
        raise ValueError(f"upfirdn2d: images must be [N, C, H, W], not {list(x.shape)}")
    upx, upy = parse_pair(up, "upfirdn2d: up")
    downx, downy = parse_pair(down, "upfirdn2d: down")
    px0, px1, py0, py1 = parse_padding(padding)
    f = torch.ones([1, 1], device=x.device) if f is None else f
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"upfirdn2d: the filter must be a vector or a matrix, not of shape {list(f.shape)}")
    fw, fh = filter_size(f)
    if x.shape[2] * upy + py0 + py1 < fh or x.shape[3] * upx + px0 + px1 < fw:
        raise ValueError(
            f"upfirdn2d: a {fh}x{fw} filter does not fit into an image {list(x.shape)} with up={up}, padding={padding}"
        )
    f = f.to(x.dtype)
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))  # from here on correlation

    if f.ndim == 2:
        return _resample(x, f * gain if gain != 1 else f, (upy, upx), (downy, downx), ((py0, py1), (px0, px1)))
    # The order of the passes: the smaller intermediate image first.
    column = (f[:, None], (upy, 1), (downy, 1), ((py0, py1), (0, 0)))
    row = (f[None, :] * gain, (1, upx), (1, downx), ((0, 0), (px0, px1)))
    for args in (column, row) if upy * downx <= upx * downy else (row, column):
        x = _resample(x, *args)
    return x


def _resample(x, f, up, down, padding):
    """One pass with a correlation filter f [height, width]; pairs are (y, x)."""
    if up == (1, 1):
        return _strided_convolution(x, f, down, padding)
    x = _transposed_convolution(x, f, up, padding)
    return x if down == (1, 1) else x[:, :, :: down[0], :: down[1]]


def _strided_convolution(x, f, down, padding):
    """Depthwise convolution with stride; unequal padding becomes zeros at an end of the filter."""
    x = _pad(x, [(min(before, 0), min(after, 0)) for before, after in padding])
    padding = [(max(before, 0), max(after, 0)) for before, after in padding]
    both = [max(before, after) for before, after in padding]
    f = _pad(f, [(p - before, p - after) for p, (before, after) in zip(both, padding)])
    return F.conv2d(x, _depthwise(f, x), stride=down, padding=both, groups=x.shape[1])


def _transposed_convolution(x, f, up, padding):
    """Depthwise transposed convolution, i.e. upsampling by zeros and filtering at once, cropped to what is wanted.

    Its uncropped result has (size - 1)*up + taps samples, of which taps - 1 - before are too many at the start and
    taps - up - after at the end.
    """
    taps = f.shape
    crops = [(k - 1 - before, k - u - after) for k, u, (before, after) in zip(taps, up, padding)]
    both = [max(min(crop), 0) for crop in crops]
    x = F.conv_transpose2d(x, _depthwise(f.flip([0, 1]), x), stride=up, padding=both, groups=x.shape[1])
    return _pad(x, [(c - start, c - end) for c, (start, end) in zip(both, crops)])


def _depthwise(f, x):
    return f.expand(x.shape[1], 1, *f.shape)


def _pad(x, padding):
    """Zero-pad or crop the last two axes by ((y before, y after), (x before, x after))."""
    (y0, y1), (x0, x1) = padding
    if y0 == y1 == x0 == x1 == 0:
        return x
    if max(y0, y1, x0, x1) <= 0:
        return x[..., -y0 : x.shape[-2] + y1, -x0 : x.shape[-1] + x1]
    return F.pad(x, [x0, x1, y0, y1])


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    *,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Filter images [N, C, H, W], keeping their size; `padding` comes on top of that. See `upfirdn2d`."""
    px0, px1, py0, py1 = parse_padding(padding)
    fw, fh = filter_size(f)
    padding = [px0 + fw // 2, px1 + (fw - 1) // 2, py0 + fh // 2, py1 + (fh - 1) // 2]
    return upfirdn2d(x, f, padding=padding, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    *,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Upsample images [N, C, H, W] to exactly `up` times their size, keeping their brightness. See `upfirdn2d`."""
    upx, upy = parse_pair(up, "upsample2d: up")
    px0, px1, py0, py1 = parse_padding(padding)
    fw, fh = filter_size(f)
    padding = [px0 + (fw + upx - 1) // 2, px1 + (fw - upx) // 2, py0 + (fh + upy - 1) // 2, py1 + (fh - upy) // 2]
    # Only one of up*up samples is not zero: the gain makes up for it.
    return upfirdn2d(x, f, up=up, padding=padding, flip_filter=flip_filter, gain=gain * upx * upy)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    *,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Downsample images [N, C, H, W] to 1/`down` of their size (rounded down for even filters). See `upfirdn2d`."""
    downx, downy = parse_pair(down, "downsample2d: down")
    px0, px1, py0, py1 = parse_padding(padding)
    fw, fh = filter_size(f)
    padding = [
        px0 + (fw - downx + 1) // 2,
        px1 + (fw - downx) // 2,
        py0 + (fh - downy + 1) // 2,
        py1 + (fh - downy) // 2,
    ]
    return upfirdn2d(x, f, down=down, padding=padding, flip_filter=flip_filter, gain=gain)
