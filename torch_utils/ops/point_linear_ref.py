"""Pointwise linear layers in plain PyTorch: the reference, and the path for half precision and GPUs.

Features [P, I] are bit for bit a channels_last image [1, I, P, 1], so that on a CPU the product is computed by the
convolution library, whose 1x1 kernels were measured to be 2 to 4 times as fast as the matrix library's. Activation and
clamp are applied in place, and only the result is kept for the backward pass, whose activation and bias sum are one
native pass over memory where that is available. Other devices use (batched) matrix products.
"""

from typing import Any

import torch

from torch_utils import custom_ops
from torch_utils.ops import bias_act_native

__all__ = ["SLOPES", "activation_gradient", "gradient_library", "lrelu_", "point_linear_ref", "weight_gradient_ref"]

#: With fewer points or channels a convolution's set-up costs more than its speed gains (CPU).
MIN_ROWS, MIN_CHANNELS = 64, 8
#: Least number of values for which the activation's gradient uses the native operator (CPU), which is about 6 times as
#: fast then (docs/operators.md).
NATIVE_MIN_SIZE = 1 << 15
#: Slopes of the activations below zero.
SLOPES = {"lrelu": 0.2, "relu": 0.0}


def point_linear_ref(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    act: str = "linear",
    clamp: float | None = None,
) -> torch.Tensor:
    """See `torch_utils.ops.point_linear.point_linear`."""
    if bias is not None and bias.ndim == 2 and len(bias) == 1:
        bias = bias[0]
    if x.device.type == "cpu" and not custom_ops.transformed():
        if bias is not None and bias.ndim == 2:
            weight = weight.expand(len(x), -1, -1)
        elif weight.ndim == 2 or len(x) == 1:  # one weight: all rows are one matrix
            rows = x.reshape(1, x.shape[:-1].numel(), x.shape[-1])  # not -1: there may be no features
            y = _product(rows, weight.reshape(1, *weight.shape[-2:]), bias, act, clamp)
            return y.view(*x.shape[:-1], -1)
        return _product(x, weight, bias, act, clamp)
    if weight.ndim == 2 and (bias is None or bias.ndim == 1):
        y = torch.nn.functional.linear(x, weight, bias)
    elif bias is None:
        y = torch.bmm(x, weight.transpose(1, 2))
    else:
        bias = bias.expand(len(x), -1)[:, None]
        y = torch.baddbmm(bias, x, weight.expand(len(x), -1, -1).transpose(1, 2))
    return _activate(y, act, clamp)


def _activate(x: torch.Tensor, act: str, clamp: float | None) -> torch.Tensor:
    return x if act == "linear" else lrelu_(x, clamp, SLOPES[act])


def lrelu_(x: torch.Tensor, clamp: float | None = None, slope: float = 0.2) -> torch.Tensor:
    """Leaky ReLU in place on a fresh intermediate, then clamping to ±clamp.

    In-place leaky ReLU is differentiable (its derivative follows from the sign of its output); the clamp is in place
    only where no gradient is recorded.
    """
    x = torch.nn.functional.leaky_relu_(x, slope)
    if clamp is None:
        return x
    return x.clamp(-clamp, clamp) if x.requires_grad else x.clamp_(-clamp, clamp)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str, clamp: float | None):
    """[B, P, I] with [B, O, I] and [O] or [B, O] to [B, P, O] on CPU."""
    if x.shape[1] < MIN_ROWS or min(weight.shape[1:]) < MIN_CHANNELS or x.dtype == torch.float64:
        if len(x) == 1:
            y = torch.nn.functional.linear(x[0], weight[0], bias if bias is None else bias.reshape(-1))[None]
        else:
            y = torch.bmm(x, weight.transpose(1, 2))
            y = y if bias is None else y + bias.reshape(-1, 1, bias.shape[-1])
        return _activate(y, act, clamp)
    if custom_ops.gradients_recorded(x, weight, bias):
        return _Product.apply(x, weight, bias, act, clamp)
    y = _multiply(x, weight, bias, SLOPES.get(act))
    return y if clamp is None or act == "linear" else y.clamp_(-clamp, clamp)


def _multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, slope: float | None) -> torch.Tensor:
    """leaky_relu(x @ weight.T + bias), one video after another: the library has no batched product of this kind."""
    if len(x) == 1:
        y = _convolve(x[0], weight[0], bias if bias is None else bias.reshape(-1))[None]
        return y if slope is None else torch.nn.functional.leaky_relu_(y, slope)
    y = x.new_empty(*x.shape[:2], weight.shape[1])
    for i, (rows, own) in enumerate(zip(x, weight)):
        own_bias = bias[i] if bias is not None and bias.ndim == 2 else bias
        if torch.get_num_threads() == 1:
            if own_bias is None:
                torch.mm(rows, own.t(), out=y[i])
            else:
                torch.addmm(own_bias, rows, own.t(), out=y[i])
            if slope is not None:
                torch.nn.functional.leaky_relu_(y[i], slope)
        elif slope is None:
            y[i].copy_(_convolve(rows, own, own_bias))
        else:  # the activation writes the result where it belongs
            torch.ops.aten.leaky_relu.out(_convolve(rows, own, own_bias), slope, out=y[i])
    return y


def _convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """[P, I] with [O, I] to [P, O]."""
    if torch.get_num_threads() == 1:  # PyTorch then does not use that library for single images
        return torch.nn.functional.linear(x, weight, bias)
    weight = weight.contiguous()[:, :, None, None]
    return torch.nn.functional.conv2d(_as_image(x), weight, bias).permute(0, 2, 3, 1)[0, :, 0]


def _as_image(rows: torch.Tensor) -> torch.Tensor:
    """[P, C] to [1, C, P, 1] with exactly the strides of channels_last, or the library would copy them."""
    return rows.contiguous()[None, :, None, :].permute(0, 3, 1, 2)


def _reaches(y: torch.Tensor, clamp: float) -> bool:
    low, high = torch.aminmax(y)  # 18 times as fast as the maximum norm
    return bool(high >= clamp or low <= -clamp)


class _Product(torch.autograd.Function):
    """`_product` as one node, with its activation and clamp; gradients are products again."""

    @staticmethod
    def forward(ctx, x, weight, bias, act, clamp):
        y = _multiply(x, weight, bias, SLOPES.get(act))
        ctx.act, ctx.clamp, ctx.bias_dim = act, None, None if bias is None else bias.ndim
        # Values rarely get that large: checking costs less than clamping, here and in the backward pass.
        if act != "linear" and clamp is not None and _reaches(y, clamp):
            y.clamp_(-clamp, clamp)
            ctx.clamp = clamp
        ctx.save_for_backward(x, weight, None if act == "linear" else y)
        return y

    @staticmethod
    def backward(ctx, grad):
        # Made of differentiable operations, which gives the second derivatives; the masks are piecewise constant.
        x, weight, y = ctx.saved_tensors
        wants_bias = ctx.bias_dim is not None and ctx.needs_input_grad[2]
        grad_bias = None
        if ctx.act != "linear":
            channels = grad.shape[-1]
            grad, grad_bias = activation_gradient(
                grad.reshape(-1, channels),
                y.detach().reshape(-1, channels),
                slope=SLOPES[ctx.act],
                clamp=ctx.clamp,
                wants_bias=wants_bias and ctx.bias_dim == 1,
                library=gradient_library(grad),
            )
            grad = grad.view(y.shape)
        if wants_bias and grad_bias is None:
            grad_bias = grad.sum(dim=(0, 1) if ctx.bias_dim == 1 else 1)
        grad_x = _product(grad, weight.transpose(1, 2), None, "linear", None) if ctx.needs_input_grad[0] else None
        grad_weight = _WeightGradient.apply(grad, x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad_bias, None, None


class _WeightGradient(torch.autograd.Function):
    """grad.T @ x of grad [B, P, O] and x [B, P, I], where the convolution library is 1.3 to 2.4 times as fast."""

    @staticmethod
    def forward(ctx, grad, x):
        ctx.save_for_backward(grad, x)
        if torch.get_num_threads() == 1:
            return torch.stack([g.t() @ rows for g, rows in zip(grad, x)]) if len(x) > 1 else (grad[0].t() @ x[0])[None]
        weight = grad.new_empty(grad.shape[2], x.shape[2], 1, 1)  # its values do not matter
        only_weight = (False, True, False)
        results = [
            torch.ops.aten.convolution_backward(
                _as_image(g), _as_image(rows), weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, only_weight
            )[1][:, :, 0, 0]
            for g, rows in zip(grad, x)
        ]
        return results[0][None] if len(results) == 1 else torch.stack(results)

    @staticmethod
    def backward(ctx, grad_weight):
        grad, x = ctx.saved_tensors
        for_grad = _product(x, grad_weight, None, "linear", None) if ctx.needs_input_grad[0] else None
        for_x = _product(grad, grad_weight.transpose(1, 2), None, "linear", None) if ctx.needs_input_grad[1] else None
        return for_grad, for_x


def weight_gradient_ref(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """grad.T @ x [B, O, I] of grad [B, P, O] and x [B, P, I], differentiable."""
    if grad.shape[1] < MIN_ROWS or grad.device.type != "cpu" or grad.dtype == torch.float64:
        return torch.bmm(grad.transpose(1, 2), x)
    return _WeightGradient.apply(grad, x)


def gradient_library(grad: torch.Tensor) -> Any | None:
    """The native library for `activation_gradient`; None for plain PyTorch."""
    if grad.dtype not in (torch.float32, torch.bfloat16) or grad.numel() < NATIVE_MIN_SIZE:
        return None
    return custom_ops.load("bias_act", "cpu")


def activation_gradient(
    grad: torch.Tensor,
    y: torch.Tensor,
    *,
    slope: float,
    clamp: float | None,
    wants_bias: bool,
    library: Any | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradient [P, O] before a clamped leaky ReLU, and its sum over the points [O] with `wants_bias` (else None).

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
