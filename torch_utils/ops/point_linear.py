"""Dense layers on points: one weight for all videos or one weight per video.

A feature row [P, I] is bit for bit a channels_last image [1, I, P, 1], so on CPU the product is handed to the
convolution library, whose 1x1 kernels ran 2-4x faster than the matrix library's there; other devices use batched matrix
products.
"""

import torch

__all__ = ["lrelu_", "point_linear"]


def point_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """y = x @ weight.T + bias.

    Args:
        x: [B, P, I].
        weight: [O, I] for all videos, or [B, O, I].
        bias: [O] or None.

    Returns:
        [B, P, O], contiguous when x is.
    """
    if weight.ndim == 2:
        rows = x.reshape(-1, x.shape[-1])
        return _rows_linear(rows, weight, bias).reshape(*x.shape[:-1], weight.shape[0])
    if len(x) == 1:
        return _rows_linear(x[0], weight[0], bias)[None]
    if x.device.type == "cpu":
        return torch.stack([_rows_linear(row, w, bias) for row, w in zip(x, weight, strict=True)])
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    return torch.baddbmm(bias.expand(len(x), 1, -1), x, weight.transpose(1, 2))


def _rows_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """[P, I] with [O, I] to [P, O]."""
    # Few rows or channels do not repay the convolution's set-up; empty input is not accepted by it.
    if x.device.type != "cpu" or x.shape[0] < 64 or min(weight.shape) < 8 or x.dtype == torch.float64:
        return torch.nn.functional.linear(x, weight, bias)
    # The view's strides must be those of channels_last to the letter, or the library copies to another layout.
    image = x.contiguous()[None, :, None, :].permute(0, 3, 1, 2)
    return torch.nn.functional.conv2d(image, weight[:, :, None, None], bias).permute(0, 2, 3, 1)[0, :, 0]


def lrelu_(x: torch.Tensor, clamp: float | None = None, slope: float = 0.2) -> torch.Tensor:
    """Leaky ReLU in place on a fresh intermediate, then clamping to ±clamp.

    In-place leaky ReLU is differentiable (its derivative follows from the sign of its output); the clamp is made in
    place only where no gradient is recorded.
    """
    x = torch.nn.functional.leaky_relu_(x, slope)
    if clamp is None:
        return x
    return x.clamp(-clamp, clamp) if x.requires_grad else x.clamp_(-clamp, clamp)
