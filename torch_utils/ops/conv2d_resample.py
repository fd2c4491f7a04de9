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
from torch_utils.ops.upfirdn2d import filter_size, parse_padding, upfirdn2d

__all__ = ["conv2d_resample"]


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    *,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
) -> torch.Tensor:
    """Convolve images, upsampling before or downsampling after.

    Args:
        x: Images [N, C, H, W].
        w: Weight [out, C/groups, height, width].
        f: Low-pass filter of `setup_filter` (gain 1), applied only when resampling; None for none.
        up, down: Integer factors.
        padding: Relative to the upsampled image, not counting the padding for the low-pass filter: a number, [x, y] or
            [x before, x after, y before, y after]. With `padding = size//2` for an odd kernel, the result has up/down
            times the size of the input.
        groups: Number of channel groups.
        flip_weight: True for correlation (like `torch.nn.functional.conv2d`), False for convolution.

    Returns:
        Images [N, out, H', W'].

    Raises:
        ValueError: shapes that do not match, or factors below one.
    """
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[1] * groups or w.shape[0] % groups != 0:
        raise ValueError(
            f"conv2d_resample: images {list(x.shape)} and weight {list(w.shape)} do not fit with groups={groups}"
        )
    if up < 1 or down < 1:
        raise ValueError(f"conv2d_resample: up and down must be at least 1, not {up} and {down}")
    f = None if up == down == 1 else f
    kh, kw = w.shape[2:]
    fw, fh = filter_size(f)
    px0, px1, py0, py1 = parse_padding(padding)
    if up > 1:
        px0, px1, py0, py1 = (
            px0 + (fw + up - 1) // 2,
            px1 + (fw - up) // 2,
            py0 + (fh + up - 1) // 2,
            py1 + (fh - up) // 2,
        )
    if down > 1:
        px0, px1 = px0 + (fw - down + 1) // 2, px1 + (fw - down) // 2
        py0, py1 = py0 + (fh - down + 1) // 2, py1 + (fh - down) // 2
    if not flip_weight and (kh > 1 or kw > 1):
        w = w.flip([2, 3])  # from here on correlation

    # 1x1 convolutions run at the lower resolution: after downsampling, or before upsampling.
    if kh == kw == 1:
        if up == 1:
            x = _filter(x, f, down=down, padding=[px0, px1, py0, py1])
            return _pointwise(x, w, groups)
        x = _pointwise(x, w, groups)
        return upfirdn2d(x, f, up=up, down=down, padding=[px0, px1, py0, py1], gain=up**2)

    # Downsampling (or none): filter, then convolve with a stride.
    if up == 1:
        # Without a filter the convolution can do the padding, if it is symmetric.
        if f is None and px0 == px1 >= 0 and py0 == py1 >= 0:
            return convolve(x, w, stride=down, padding=(py0, px0), groups=groups)
        if f is None:
            return convolve(_filter(x, f, padding=[px0, px1, py0, py1]), w, stride=down, groups=groups)
        return filtered_convolve(x, w, f, padding=(px0, px1, py0, py1), stride=down, groups=groups)

    # Upsampling: transposed convolution with a stride, then filter. The transposed convolution adds kernel - 1 pixels
    # of padding before and kernel - up after (see upfirdn2d).
    px0, px1, py0, py1 = px0 - (kw - 1), px1 - (kw - up), py0 - (kh - 1), py1 - (kh - up)
    x = F.conv_transpose2d(x, _transpose_weight(w, groups), stride=up, groups=groups)
    return upfirdn2d(x, f, down=down, padding=[px0, px1, py0, py1], gain=up**2)


def _pointwise(x, w, groups):
    """1x1 convolution; channels_last images on a CPU are rows of points."""
    rows = groups == 1 and x.device.type == "cpu" and not transformed()
    if not rows or not x.is_contiguous(memory_format=torch.channels_last):
        return F.conv2d(x, w, groups=groups)
    return point_linear(x.permute(0, 2, 3, 1), w[:, :, 0, 0]).permute(0, 3, 1, 2)


def _filter(x, f, *, down=1, padding):
    """`upfirdn2d`, skipped where it would change nothing."""
    if f is None and down == 1 and not any(padding):
        return x
    return upfirdn2d(x, f, down=down, padding=padding)


def _transpose_weight(w, groups):
    """Correlation weight [out, C/groups, h, w] -> weight of the transposed convolution [C, out/groups, h, w]."""
    out_channels, in_per_group, kh, kw = w.shape
    w = w.reshape(groups, out_channels // groups, in_per_group, kh, kw).transpose(1, 2)
    return w.reshape(groups * in_per_group, out_channels // groups, kh, kw).flip([2, 3])
