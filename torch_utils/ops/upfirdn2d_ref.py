"""Reference of `upfirdn2d` in plain PyTorch.

The steps of the definition are combined: without upsampling into a depthwise convolution with stride `down`, with
upsampling into a depthwise transposed convolution with stride `up`, which never multiplies by the inserted zeros. Both
take only equal padding on the two sides of an axis, while even filters need unequal padding: the filter is extended
with zeros on one side instead of copying the image into a padded buffer, which was measured to be slower (CPU, both
memory formats). Two passes with 4 taps each were measured to be slower than one with a 4x4 filter; only filters given
as vectors take two passes.
"""

import torch
import torch.nn.functional as F

__all__ = ["upfirdn2d_ref"]

Pair = tuple[int, int]


def upfirdn2d_ref(
    x: torch.Tensor,
    f: torch.Tensor,
    *,
    up: Pair = (1, 1),
    down: Pair = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """`upfirdn2d` for arguments that it has checked: factors as (x, y), padding as four numbers.

    Differentiable any number of times, but its second derivatives are slow: PyTorch has no dedicated ones for depthwise
    convolutions. `upfirdn2d(impl="ref")` computes the same values, and its derivatives with this function.
    """
    px0, px1, py0, py1 = padding
    paddings = ((py0, py1), (px0, px1))
    taps = (f.shape[0], f.shape[-1])
    factors = list(zip(x.shape[2:], up[::-1], down[::-1], paddings, taps))
    # Images that are empty or cropped away entirely.
    if x.numel() == 0 or any(b < -(size - 1) * u or a <= -size * u for size, u, _, (b, a), _ in factors):
        size = [(size * u + b + a - k) // d + 1 for size, u, d, (b, a), k in factors]
        return (x[:, :, :1, :1].sum(dim=(2, 3), keepdim=True) * 0).expand(-1, -1, *size).clone()

    f = f.to(x.dtype)
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))  # from here on correlation
    if f.ndim == 2:
        return _resample(x, f * gain if gain != 1 else f, up[::-1], down[::-1], paddings)
    # Separable filters: of the two orders of the passes, the one with the smaller intermediate image.
    (upx, upy), (downx, downy) = up, down
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
    """Depthwise transposed convolution, i.e. upsampling by zeros and filtering at once, cropped to the result.

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
