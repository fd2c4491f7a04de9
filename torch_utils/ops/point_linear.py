"""Dense layers on points: one weight for all videos or one weight per video, with an optional leaky ReLU.

A feature row [P, I] is bit for bit a channels_last image [1, I, P, 1], so on CPU the product is handed to the
convolution library, whose 1x1 kernels ran 2-4x faster than the matrix library's there. Activation and clamp are applied
in place, and only the result is kept for the backward pass, whose activation and sum for the bias are one native pass
over memory where that is available. Other devices use (batched) matrix products.
"""

from typing import Any

import torch

from torch_utils import custom_ops
from torch_utils.ops import bias_act_native

__all__ = ["activation_gradient", "lrelu_", "point_linear"]

#: Below so many rows or channels a convolution's set-up costs more than its speed gains (CPU).
MIN_ROWS, MIN_CHANNELS = 64, 8
#: From so many values on, the activation's gradient takes the native operator (CPU), which is about 4 times as
#: fast there (docs/operators.md).
NATIVE_MIN_SIZE = 1 << 15
SLOPES = {"lrelu": 0.2, "relu": 0.0}


def point_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    act: str = "linear",
    clamp: float | None = None,
) -> torch.Tensor:
    """act(x @ weight.T + bias).

    Args:
        x: [B, P, I].
        weight: [O, I] for all videos, or [B, O, I].
        bias: [O] or None.
        act: 'linear', 'lrelu' (slope 0.2, no gain) or 'relu'.
        clamp: With an activation: clamp the result to ±clamp.

    Returns:
        [B, P, O], contiguous when x is. Do not modify it in place where gradients are recorded.
    """
    if x.device.type == "cpu":
        if weight.ndim == 2 or len(x) == 1:
            rows = _rows(x.reshape(-1, x.shape[-1]), weight if weight.ndim == 2 else weight[0], bias, act, clamp)
            return rows.view(*x.shape[:-1], -1)
        return torch.stack([_rows(row, w, bias, act, clamp) for row, w in zip(x, weight, strict=True)])
    if weight.ndim == 2:
        y = torch.nn.functional.linear(x, weight, bias)
    elif bias is None:
        y = torch.bmm(x, weight.transpose(1, 2))
    else:
        y = torch.baddbmm(bias.expand(len(x), 1, -1), x, weight.transpose(1, 2))
    return _activate(y, act, clamp)


def _activate(x: torch.Tensor, act: str, clamp: float | None) -> torch.Tensor:
    return x if act == "linear" else lrelu_(x, clamp, SLOPES[act])


def lrelu_(x: torch.Tensor, clamp: float | None = None, slope: float = 0.2) -> torch.Tensor:
    """Leaky ReLU in place on a fresh intermediate, then clamping to ±clamp.

    In-place leaky ReLU is differentiable (its derivative follows from the sign of its output); the clamp is made in
    place only where no gradient is recorded.
    """
    x = torch.nn.functional.leaky_relu_(x, slope)
    if clamp is None:
        return x
    return x.clamp(-clamp, clamp) if x.requires_grad else x.clamp_(-clamp, clamp)


def _rows(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str, clamp: float | None):
    """[P, I] with [O, I] to [P, O] on CPU."""
    if x.shape[0] < MIN_ROWS or min(weight.shape) < MIN_CHANNELS or x.dtype == torch.float64:
        y = torch.nn.functional.linear(x, weight, bias)
        return _activate(y, act, clamp)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _ConvolvedRows.apply(x, weight, bias, act, clamp)
    return _activate(_convolve(x, weight, bias), act, clamp)


def _convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if torch.get_num_threads() == 1:  # PyTorch then does not use that library for single images
        return torch.nn.functional.linear(x, weight, bias)
    weight = weight.contiguous()[:, :, None, None]
    return torch.nn.functional.conv2d(_as_image(x), weight, bias).permute(0, 2, 3, 1)[0, :, 0]


def _as_image(rows: torch.Tensor) -> torch.Tensor:
    """[P, C] to [1, C, P, 1], whose strides are those of channels_last to the letter: else the library copies them."""
    return rows.contiguous()[None, :, None, :].permute(0, 3, 1, 2)


def _reaches(y: torch.Tensor, clamp: float) -> bool:
    low, high = torch.aminmax(y)  # 18 times as fast as the maximum norm
    return bool(high >= clamp or low <= -clamp)


class _ConvolvedRows(torch.autograd.Function):
    """Convolution, activation and clamp as one node; gradients by one convolution each."""

    @staticmethod
    def forward(ctx, x, weight, bias, act, clamp):
        y = _convolve(x, weight, bias)
        ctx.act, ctx.clamp, ctx.has_bias = act, None, bias is not None
        if act != "linear":
            torch.nn.functional.leaky_relu_(y, SLOPES[act])
            # Values rarely get that large: looking costs less than clamping, here and in the backward pass.
            if clamp is not None and _reaches(y, clamp):
                y.clamp_(-clamp, clamp)
                ctx.clamp = clamp
        ctx.save_for_backward(x, weight, None if act == "linear" else y)
        return y

    @staticmethod
    def backward(ctx, grad):
        # Made of differentiable operations, which gives the second derivatives; the masks are piecewise constant.
        x, weight, y = ctx.saved_tensors
        wants_bias = ctx.has_bias and ctx.needs_input_grad[2]
        if ctx.act == "linear":
            grad_bias = grad.sum(dim=0) if wants_bias else None
        else:
            grad, grad_bias = activation_gradient(
                grad,
                y.detach(),
                slope=SLOPES[ctx.act],
                clamp=ctx.clamp,
                wants_bias=wants_bias,
                library=_gradient_library(grad),
            )
        grad_x = _rows(grad, weight.t(), None, "linear", None) if ctx.needs_input_grad[0] else None
        grad_weight = _WeightGradient.apply(grad, x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad_bias, None, None


class _WeightGradient(torch.autograd.Function):
    """grad.T @ x of rows grad [P, O] and x [P, I], where the convolution library is 1.3 to 2.4 times as fast."""

    @staticmethod
    def forward(ctx, grad, x):
        ctx.save_for_backward(grad, x)
        if torch.get_num_threads() == 1:
            return grad.t() @ x
        weight = grad.new_empty(grad.shape[1], x.shape[1], 1, 1)  # its values do not matter
        only_weight = (False, True, False)
        _, result, _ = torch.ops.aten.convolution_backward(
            _as_image(grad), _as_image(x), weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, only_weight
        )
        return result[:, :, 0, 0]

    @staticmethod
    def backward(ctx, grad_weight):
        grad, x = ctx.saved_tensors
        for_grad = _rows(x, grad_weight, None, "linear", None) if ctx.needs_input_grad[0] else None
        for_x = _rows(grad, grad_weight.t(), None, "linear", None) if ctx.needs_input_grad[1] else None
        return for_grad, for_x


def _gradient_library(grad):
    """The native library for `activation_gradient`; None for plain PyTorch."""
    if grad.dtype not in (torch.float32, torch.bfloat16) or grad.numel() < NATIVE_MIN_SIZE:
        return None
    return custom_ops.load("bias_act", "cpu")


def activation_gradient(
    grad: torch.Tensor, y: torch.Tensor, *, slope: float, clamp: float | None, wants_bias: bool, library: Any | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradient [P, O] before a clamped leaky ReLU, and its sum over rows [O] if that is wanted.

    Args:
        grad: Gradient with respect to the result.
        y: The result; a constant for further derivatives.
        library: The native bias_act, or None.
    """
    if library is not None:
        grad, grad_bias = bias_act_native.gradient_from_result(
            library, grad, y, slope=slope, clamp=clamp, dim=1, with_bias_sum=wants_bias
        )
        return grad, grad_bias if wants_bias else None
    grad = torch.where(y > 0, grad, grad * slope)
    if clamp is not None:
        grad = grad * (y.abs() < clamp)
    return grad, grad.sum(dim=0) if wants_bias else None
