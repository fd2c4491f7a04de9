"""Differentiable augmentation of real and generated videos (DiffAugment, Zhao et al. 2020).

All frames of a video share their random numbers, so that augmentation cannot be mistaken for motion. Every operation is
linear in the pixels; gradients pass to the generator, and second derivatives to R1.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from dnnlib import choices_hint
from torch_utils import custom_ops
from torch_utils.argument_checks import check_images, check_stream, shown

if TYPE_CHECKING:
    from torch_utils.rng import RandomStream

__all__ = ["POLICIES", "diffaugment", "parse_policy"]

TRANSLATION_RATIO = 1 / 8  # largest shift, as a fraction of the image size
CUTOUT_RATIO = 1 / 2  # edge of the zeroed rectangle, as a fraction of the image size


def diffaugment(frames: torch.Tensor, policy: str, stream: "RandomStream", *, prefix: str = "") -> torch.Tensor:
    """Augment videos.

    Args:
        frames: [B, T, 3, H, W], B videos of T frames, floats, nominally in [-1, 1].
        policy: Comma-separated operations in the order of their application, of "color", "translation", "cutout";
            "" for none.
        stream: Source of random numbers (`torch_utils.rng.RandomStream`), under the names
            "diffaugment/brightness", ..., "diffaugment/cutout_y".
        prefix: Prefix of these names, to distinguish several uses.

    Returns:
        [B, T, 3, H, W].

    Raises:
        ValueError: unknown operation, wrong shape or type, or no stream.
    """
    operations = parse_policy(policy)
    check_images("diffaugment: frames", frames, "[B, T, 3, H, W]", ndim=5, channels=3)
    if operations:
        check_stream(stream)
    for operation in operations:
        frames = POLICIES[operation](frames, stream, f"{prefix}diffaugment/")
    return frames


def parse_policy(policy: str) -> list[str]:
    """Split and check a policy. Raises ValueError: no string, or naming the first unknown operation."""
    if not isinstance(policy, str):
        raise ValueError(f"diffaugment must be names of operations, or '' for none, got {shown(policy)}.")
    operations = [name.strip() for name in policy.split(",") if name.strip()]
    for name in operations:
        if name not in POLICIES:
            raise ValueError(f"diffaugment: unknown operation {name!r} in {policy!r}; {choices_hint(name, POLICIES)}")
    return operations


def color(x: torch.Tensor, stream: "RandomStream", prefix: str) -> torch.Tensor:
    """Brightness, then saturation, then contrast.

    With mean_rgb the mean over the channels of a pixel and mean_all that over a frame, the published steps are
        x <- x + b;  x <- (x - mean_rgb)*s + mean_rgb;  x <- (x - mean_all)*c + mean_all.
    Apart from the shift by b, the later steps change neither mean, so together they are
        y = c*s*x + c*(1-s)*mean_rgb + (1-c)*mean_all + b,
    which reads the frames twice instead of six times.
    """
    # One brightness, saturation and contrast per video.
    shape = [x.shape[0], 1, 1, 1]
    b = stream.uniform(prefix + "brightness", shape)[:, None].to(x.dtype) - 0.5  # [B, 1, 1, 1, 1], U(-1/2, 1/2)
    s = stream.uniform(prefix + "saturation", shape)[:, None].to(x.dtype) * 2  # U(0, 2)
    c = stream.uniform(prefix + "contrast", shape)[:, None].to(x.dtype) + 0.5  # U(1/2, 3/2)
    mean_rgb = x.mean(2, keepdim=True)
    mean_all = mean_rgb.mean([3, 4], keepdim=True)
    return torch.addcmul(c * (1 - s) * mean_rgb + ((1 - c) * mean_all + b), x, c * s)


def translation(x: torch.Tensor, stream: "RandomStream", prefix: str) -> torch.Tensor:
    """Translation by integer pixels with zero padding. "x" is the first image axis (rows), as in the published code."""
    shifts = []
    for axis, size in (("x", x.shape[3]), ("y", x.shape[4])):
        limit = int(size * TRANSLATION_RATIO + 0.5)
        shifts.append(stream.integers(f"{prefix}translation_{axis}", -limit, limit + 1, [x.shape[0], 1, 1]).flatten())
    # y[i, j] = x[i + dx, j + dy]. On a CPU, padding by (-d, d) is one copy per video.
    if x.device.type == "cpu":
        shifted = [F.pad(video, [-dy, dy, -dx, dx]) for video, dx, dy in zip(x, *(s.tolist() for s in shifts))]
        return torch.stack(shifted)
    return shift_by_index(x, *shifts)


def shift_by_index(x: torch.Tensor, dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """y[b, ..., i, j] = x[b, ..., i + dx[b], j + dy[b]], zeros outside; the host does not wait for the shifts."""
    return _gather_shifted(x, dx, dy) if custom_ops.transformed() else _Shift.apply(x, dx, dy)


class _Shift(torch.autograd.Function):
    """The shift by (dx, dy). Its transpose shifts back, where autograd would sort all indices and accumulate."""

    @staticmethod
    def forward(ctx, x, dx, dy):
        ctx.save_for_backward(dx, dy)
        return _gather_shifted(x, dx, dy)

    @staticmethod
    def backward(ctx, grad):
        dx, dy = ctx.saved_tensors
        return _Shift.apply(grad, -dx, -dy), None, None


def _gather_shifted(x, dx, dy):
    # Pad by the largest shift, then gather the shifted rows and columns.
    batch, _, _, height, width = x.shape
    limit = max(int(size * TRANSLATION_RATIO + 0.5) for size in (height, width))
    padded = F.pad(x, [limit] * 4)
    rows = torch.arange(height, device=x.device) + limit + dx[:, None]  # [B, H]
    columns = torch.arange(width, device=x.device) + limit + dy[:, None]  # [B, W]
    index = torch.arange(batch, device=x.device)[:, None, None]
    return padded[index, :, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 4, 1, 2)


def cutout(x: torch.Tensor, stream: "RandomStream", prefix: str) -> torch.Tensor:
    """Cutout: a rectangle of half the image size, centred anywhere in the image, is set to zero."""
    # The rectangle is the outer product of an interval of rows and one of columns.
    masks = []
    for axis, size in (("x", x.shape[3]), ("y", x.shape[4])):
        edge = int(size * CUTOUT_RATIO + 0.5)
        centre = stream.integers(f"{prefix}cutout_{axis}", 0, size + (1 - edge % 2), [x.shape[0], 1, 1]).flatten()
        start = centre[:, None] - edge // 2  # [B, 1]
        position = torch.arange(size, device=x.device)
        masks.append((position >= start) & (position < start + edge))  # [B, size]
    rows, columns = masks
    keep = ~(rows[:, :, None] & columns[:, None, :])  # [B, H, W]
    return x * keep[:, None, None].to(x.dtype)


POLICIES = {"color": color, "translation": translation, "cutout": cutout}
