"""Native bias_act and its derivatives as autograd functions.

Every derivative is again one pass over memory. With v = x + b, and m = 1 where the clamp does not act, else 0:

    dx  = dy * gain * act'(v) * m         the gradient, which, being linear in dy, is its own derivative for dy
    ddx * dy * gain * act''(v) * m        the gradient's derivative with respect to x

and the bias gets the sums over the other dimensions, computed in the same pass. The derivatives of piecewise linear
activations follow from the sign and magnitude of y, so that only y is kept; the other activations keep x.
"""

from typing import Any, NamedTuple

import torch

from torch_utils.custom_ops import gradients_recorded, weight_gradients_wanted

__all__ = ["apply", "gradient_from_result"]

# As numbered in csrc/bias_act/bias_act.h.
_ACTIVATIONS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
_FORWARD, _GRADIENT_FROM_OUTPUT, _GRADIENT, _CURVATURE = range(4)
_PIECEWISE_LINEAR = ("linear", "relu", "lrelu")


class _Options(NamedTuple):
    library: Any
    dim: int
    act: str
    alpha: float
    gain: float
    clamp: float | None

    def run(self, operation, x, b=None, dy=None, ddx=None, *, with_bias_sum=False):
        number = _ACTIVATIONS.index(self.act)
        settings = (self.dim, number, self.alpha, self.gain, self.clamp, with_bias_sum)
        return self.library.bias_act(x, b, dy, ddx, operation, *settings)

    def tells_branch(self) -> bool:
        """True if the sign and magnitude of y determine the derivative of a piecewise linear activation."""
        return self.act in _PIECEWISE_LINEAR and self.gain > 0 and self.alpha >= 0


def apply(
    library: Any,
    x: torch.Tensor,
    b: torch.Tensor | None,
    *,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> torch.Tensor:
    """`bias_act` by a native library, for arguments that `bias_act` has checked."""
    if x.ndim == 0:
        return apply(library, x[None], b, dim=0, act=act, alpha=alpha, gain=gain, clamp=clamp)[0]
    # Without a bias any dimension will do, and the caller's need not exist.
    options = _Options(library, 0 if b is None else dim % x.ndim, act, alpha, gain, clamp)
    if gradients_recorded(x, b):
        return _BiasAct.apply(x, b, options)
    return options.run(_FORWARD, x, b)[0]


def gradient_from_result(
    library: Any, dy: torch.Tensor, y: torch.Tensor, *, slope: float, clamp: float | None, dim: int, with_bias_sum: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient dx of y = clamp(leaky_relu(x)), and its sum over all dimensions but `dim` (else an empty tensor).

    Differentiable with respect to dy any number of times; y counts as a constant.
    """
    return _Gradient.apply(dy, y, None, _Options(library, dim, "lrelu", slope, 1.0, clamp), with_bias_sum)


class _BiasAct(torch.autograd.Function):
    """(x, b) → y."""

    @staticmethod
    def forward(ctx, x, b, options):
        y, _ = options.run(_FORWARD, x, b)
        ctx.options, ctx.has_bias = options, b is not None
        ctx.save_for_backward(*((y,) if options.tells_branch() else (x, b)))
        return y

    @staticmethod
    def backward(ctx, dy):
        with_bias_sum = ctx.has_bias and ctx.needs_input_grad[1] and weight_gradients_wanted(dy.device)
        if ctx.options.tells_branch():
            x, b = ctx.saved_tensors[0].detach(), None
        else:
            x, b = ctx.saved_tensors
        dx, db = _Gradient.apply(dy, x, b, ctx.options, with_bias_sum)
        return dx if ctx.needs_input_grad[0] else None, db if with_bias_sum else None, None


class _Gradient(torch.autograd.Function):
    """(dy, x, b) → (dx, db), or (dy, y, None) → the same. Without `with_bias_sum` db is empty."""

    @staticmethod
    def forward(ctx, dy, x, b, options, with_bias_sum):
        ctx.options = options
        ctx.with_bias_sum = with_bias_sum
        ctx.save_for_backward(dy, x, b)
        ctx.set_materialize_grads(False)
        operation = _GRADIENT_FROM_OUTPUT if options.tells_branch() else _GRADIENT
        return options.run(operation, x, b, dy, with_bias_sum=with_bias_sum)

    @staticmethod
    def backward(ctx, ddx, ddb):
        dy, x, b = ctx.saved_tensors
        if ctx.with_bias_sum and ddb is not None:
            # db is the sum of dx, so its gradient adds to that of every element of dx.
            shape = [1] * x.ndim
            shape[ctx.options.dim] = -1
            ddx = ddb.reshape(shape).expand_as(x) if ddx is None else ddx + ddb.reshape(shape)
        if ddx is None:
            return (None,) * 5
        grad_dy = grad_x = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_dy, _ = _Gradient.apply(ddx, x, b, ctx.options, False)
        if ctx.options.act not in _PIECEWISE_LINEAR and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            grad_x, grad_b = _Curvature.apply(dy, ddx, x, b, ctx.options)
        return grad_dy, grad_x, grad_b, None, None


class _Curvature(torch.autograd.Function):
    """(dy, ddx, x, b) → derivatives of the inner product of dx and ddx with respect to x and b."""

    @staticmethod
    def forward(ctx, dy, ddx, x, b, options):
        ctx.options = options
        ctx.save_for_backward(dy, ddx, x, b)
        ctx.set_materialize_grads(False)
        grad_x, grad_b = options.run(_CURVATURE, x, b, dy, ddx, with_bias_sum=b is not None)
        return grad_x, grad_b if b is not None else None

    @staticmethod
    def backward(ctx, grad_x, grad_b):
        raise NotImplementedError("bias_act: third derivatives need impl='ref'")
