"""Fixed ×2 resampling of feature rows [N, H, W, C], which are channels_last images, by `upfirdn2d`.

The blur is the FIR filter [1, 3, 3, 1] / 8 per axis with 2 pixels of padding before and 1 after; zeros lie outside. All
filters are symmetric: whether they are mirrored makes no difference.
"""

import functools

import torch

from torch_utils.ops.upfirdn2d import upfirdn2d

__all__ = ["blur_nearest_rows", "blur_rows", "corner_means", "interleave", "upsample_rows"]

_AXES = {
    "blur": torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8,
    # After zeros have been inserted:
    "nearest": torch.ones(2),
    "blur_nearest": torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 8,  # the blur of [1, 1]
    "upsample": torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4,
}
#: What a pixel adds to the corners of its neighbours, outputs 2i - 1 … 2i + 2: half of it to those that touch it.
_TOUCHING = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]]) / 2


@functools.lru_cache(maxsize=64)
def _filter(kind: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    kernel = _TOUCHING if kind == "touching" else torch.outer(_AXES[kind], _AXES[kind])
    return kernel.to(device=device, dtype=dtype)


def _resampled(x: torch.Tensor, kind: str, *, up: int, before: int, after: int) -> torch.Tensor:
    # Made outside of inference mode, so that a filter first used while rendering can serve training later.
    with torch.inference_mode(False):
        f = _filter(kind, x.dtype, x.device)
    return upfirdn2d(x.permute(0, 3, 1, 2), f, up=up, padding=[before, after, before, after]).permute(0, 2, 3, 1)


def interleave(corners: torch.Tensor) -> torch.Tensor:
    """Phases [N, H, W, 2, 2, C] (row parity, column parity) to rows [N, 2H, 2W, C]."""
    n, height, width, _, _, channels = corners.shape
    return corners.transpose(2, 3).reshape(n, 2 * height, 2 * width, channels)


def corner_means(own: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """Per output corner, `own` plus the mean of the two `neighbours` next to that corner.

    Both [N, H, W, C]; the corner (top, left) of a pixel gets (left + up) / 2, and so on. To [N, 2H, 2W, C].
    """
    touching = _resampled(neighbours, "touching", up=2, before=2, after=1)
    return touching + _resampled(own, "nearest", up=2, before=1, after=0)


def blur_nearest_rows(x: torch.Tensor) -> torch.Tensor:
    """blur(nearest ×2 (x)): [N, H, W, C] to [N, 2H, 2W, C]."""
    return _resampled(x, "blur_nearest", up=2, before=3, after=1)


def blur_rows(x: torch.Tensor) -> torch.Tensor:
    """The [1, 3, 3, 1] blur at constant size: [N, H, W, C] to the same."""
    return _resampled(x, "blur", up=1, before=2, after=1)


def upsample_rows(x: torch.Tensor) -> torch.Tensor:
    """FIR ×2: zeros inserted, [1, 3, 3, 1] filter at gain 2 per axis. [N, H, W, C] to [N, 2H, 2W, C]."""
    return _resampled(x, "upsample", up=2, before=2, after=1)
