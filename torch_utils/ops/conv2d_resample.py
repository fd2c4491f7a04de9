"""Convolution with integrated up- or downsampling (StyleGAN2, Karras et al. 2020, appendix B).

Defined as: upsample by zeros, pad, low-pass filter, convolve, keep every down-th sample. Filter and convolution
commute, so that the cheapest order can be chosen: 1x1 convolutions run at the lower resolution, larger ones with a
stride (down) or transposed with a stride (up).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from torch_utils.custom_ops import transformed
from torch_utils.ops.conv3x3 import convolve, filtered_convolve
from torch_utils.ops.point_linear import point_linear
from torch_utils.ops.upfirdn2d import downsampling_padding, parse_padding, upfirdn2d, upsampling_padding

__all__ = ["conv2d_resample"]


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    *,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    flip_weight: bool = True,
) -> torch.Tensor:
    """Convolve images, upsampling before or downsampling after.

    Args:
        x: Images [N, C, H, W].
        w: Weight [out, C, height, width].
        f: Low-pass filter of `setup_filter` (gain 1), applied only when resampling; None for none.
        up, down: Integer factors.
        padding: Relative to the upsampled image, not counting the padding for the low-pass filter: a number, [x, y] or
            [x before, x after, y before, y after]. With `padding = size//2` for an odd kernel, the result has up/down
            times the size of the input.
        flip_weight: True for correlation (like `torch.nn.functional.conv2d`), False for convolution.

    Returns:
        Images [N, out, H', W'].

    Raises:
        ValueError: shapes that do not match, or factors below one.
    """
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[1]:
        raise ValueError(f"conv2d_resample: images {list(x.shape)} and weight {list(w.shape)} do not fit")
    if up < 1 or down < 1:
        raise ValueError(f"conv2d_resample: up and down must be at least 1, not {up} and {down}")
    f = None if up == down == 1 else f
    kh, kw = w.shape[2:]
    if up > 1:
        padding = upsampling_padding(f, (up, up), padding)
    if down > 1:
        padding = downsampling_padding(f, (down, down), padding)
    px0, px1, py0, py1 = parse_padding(padding)
    if not flip_weight and (kh > 1 or kw > 1):
        w = w.flip([2, 3])  # from here on correlation

    # 1x1 convolutions run at the lower resolution: after downsampling, or before upsampling.
    if kh == kw == 1:
        if up == 1:
            x = _filter(x, f, down=down, padding=[px0, px1, py0, py1])
            return _pointwise(x, w)
        x = _pointwise(x, w)
        return upfirdn2d(x, f, up=up, down=down, padding=[px0, px1, py0, py1], gain=up**2)

    # Downsampling (or none): filter, then convolve with a stride.
    if up == 1:
        # Without a filter the convolution can do the padding, if it is symmetric.
        if f is None and px0 == px1 >= 0 and py0 == py1 >= 0:
            return convolve(x, w, stride=down, padding=(py0, px0))
        if f is None:
            return convolve(_filter(x, f, padding=[px0, px1, py0, py1]), w, stride=down)
        return filtered_convolve(x, w, f, padding=(px0, px1, py0, py1), stride=down)

    # Upsampling: transposed convolution with a stride, then filter. The transposed convolution adds kernel - 1 pixels
    # of padding before and kernel - up after (see upfirdn2d).
    px0, px1, py0, py1 = px0 - (kw - 1), px1 - (kw - up), py0 - (kh - 1), py1 - (kh - up)
    x = F.conv_transpose2d(x, w.transpose(0, 1).flip([2, 3]), stride=up)
    return upfirdn2d(x, f, down=down, padding=[px0, px1, py0, py1], gain=up**2)


def _pointwise(x, w):
    """1x1 convolution; channels_last images on a CPU are rows of points."""
    rows = x.device.type == "cpu" and not transformed()
    if not rows or not x.is_contiguous(memory_format=torch.channels_last):
        return F.conv2d(x, w)
    return point_linear(x.permute(0, 2, 3, 1), w[:, :, 0, 0]).permute(0, 3, 1, 2)


def _filter(x, f, *, down=1, padding):
    """`upfirdn2d`, skipped where it would change nothing."""
    if f is None and down == 1 and not any(padding):
        return x
    return upfirdn2d(x, f, down=down, padding=padding)
