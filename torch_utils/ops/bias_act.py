"""Bias, activation, output gain and clamp in one operator (StyleGAN2, Karras et al. 2020, appendix B).

    y = clamp(gain * act(x + b), -clamp, clamp)

The operation is bound by memory bandwidth, so that one function for all steps saves passes over memory. For activations
with act(s*x) = s*act(x), s > 0 (linear, relu, leaky relu), the gain moves in front of the activation, where the
addition of the bias applies it for free: y = clamp(act(gain*x + gain*b)). The native operator does everything in one
pass, and so do its derivatives (see bias_act_native).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from torch_utils import custom_ops
from torch_utils.argument_checks import check_number, shown
from torch_utils.ops import bias_act_native

__all__ = ["ACTIVATIONS", "Activation", "add_scaled", "bias_act", "bias_act_ref"]

#: 'auto' chooses the native operator on the CPU for these activations from this number of elements on, where fewer
#: passes over memory outweigh calls from Python: in float32 where gradients are recorded, with a clamp 2.3 to 3.6 times
#: as fast (docs/operators.md), and in bfloat16 with and without gradients, 2.3 to 3.4 times. Without gradients the
#: float32 reference works in place.
NATIVE_ACTIVATIONS = ("linear", "relu", "lrelu")
NATIVE_MIN_SIZE = 1 << 14


@dataclass(frozen=True)
class Activation:
    """An activation function: the map, its in-place form, and its default parameters."""

    function: Callable[[torch.Tensor, float], torch.Tensor]  # (x, alpha) -> new tensor
    function_: Callable[[torch.Tensor, float], torch.Tensor]  # (x, alpha) -> result, may overwrite x
    gain: float = 1.0  # output gain that keeps the second moment of a unit normal input near one
    alpha: float = 0.0
    homogeneous: bool = False  # act(s*x) = s*act(x) for s > 0


ACTIVATIONS = {
    "linear": Activation(lambda x, _: x, lambda x, _: x, homogeneous=True),
    "relu": Activation(lambda x, _: torch.relu(x), lambda x, _: torch.relu_(x), gain=math.sqrt(2), homogeneous=True),
    "lrelu": Activation(
        lambda x, alpha: F.leaky_relu(x, alpha),
        lambda x, alpha: F.leaky_relu_(x, alpha),
        gain=math.sqrt(2),
        alpha=0.2,
        homogeneous=True,
    ),
    "tanh": Activation(lambda x, _: torch.tanh(x), lambda x, _: torch.tanh_(x)),
    "sigmoid": Activation(lambda x, _: torch.sigmoid(x), lambda x, _: torch.sigmoid_(x)),
    "elu": Activation(lambda x, _: F.elu(x), lambda x, _: F.elu_(x)),
    "selu": Activation(lambda x, _: torch.selu(x), lambda x, _: torch.selu_(x)),
    "softplus": Activation(lambda x, _: F.softplus(x), lambda x, _: F.softplus(x)),
    "swish": Activation(lambda x, _: F.silu(x), lambda x, _: F.silu(x, inplace=True), gain=math.sqrt(2)),
}


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """Add a bias, apply an activation function, multiply by a gain, clamp. Twice differentiable.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64. Never modified; the result may be `x` itself when there is
            nothing to do.
        b: Bias [x.shape[dim]] or None.
        dim: The dimension of `x` that the bias belongs to.
        act: Key of `ACTIVATIONS`.
        alpha: Slope of "lrelu" for negative inputs; None for 0.2. Ignored by other activations.
        gain: Output gain; None for the activation's default.
        clamp: Largest magnitude of the result; None for no limit.
        impl: 'ref' for plain PyTorch; 'cpu' or 'cuda' for the native operator; 'auto' for the native operator where
            there is one and it is faster.

    Returns:
        Tensor of the shape, type and memory format of `x`.

    Raises:
        ValueError: unknown activation or implementation, input that is not floats, wrong bias shape, or negative clamp.
        RuntimeError: impl='cpu' or 'cuda', but there is no native operator, or the tensors are on another device.
    """
    if not isinstance(act, str) or act not in ACTIVATIONS:
        raise ValueError(f"bias_act: unknown activation {shown(act)}; choose one of {', '.join(ACTIVATIONS)}")
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, torch.Tensor) else shown(x)
        raise ValueError(f"bias_act: the input must be a tensor of floats, not {given}")
    for name, value in (("alpha", alpha), ("gain", gain), ("clamp", clamp)):
        if value is not None:
            check_number(f"bias_act: {name}", value, 0 if name == "clamp" else -math.inf, inclusive=True)
    alpha = ACTIVATIONS[act].alpha if alpha is None else float(alpha)
    gain = ACTIVATIONS[act].gain if gain is None else float(gain)
    if b is not None:
        if not isinstance(b, torch.Tensor):
            raise ValueError(f"bias_act: the bias must be a tensor, not {shown(b)}")
        if b.ndim != 1 or not -x.ndim <= dim < x.ndim or b.shape[0] != x.shape[dim]:
            raise ValueError(
                f"bias_act: a bias of shape {list(b.shape)} does not fit dimension {dim} of an input {list(x.shape)}"
            )
        b = b.to(x.dtype)
    if impl == "auto" and b is None and act == "linear" and (gain == 1 or clamp is None):
        impl = "ref"  # nothing to fuse
    pays = x.dtype == torch.bfloat16 or (x.dtype == torch.float32 and custom_ops.gradients_recorded(x, b))
    pays = pays and x.numel() >= NATIVE_MIN_SIZE and act in NATIVE_ACTIVATIONS
    library = custom_ops.choose("bias_act", impl, x, pays_on_cpu=pays)
    if library is None:
        return bias_act_ref(x, b, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp)
    return bias_act_native.apply(library, x, b, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp)


def add_scaled(y: torch.Tensor, x: torch.Tensor, gain: float) -> torch.Tensor:
    """y + gain · x in one pass."""
    if torch.compiler.is_compiling():  # the compiler of PyTorch 2.14 drops `alpha` if x is a matrix product
        return y + gain * x
    return torch.add(y, x, alpha=gain)


def bias_act_ref(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float,
    gain: float,
    clamp: float | None = None,
) -> torch.Tensor:
    """`bias_act` in plain PyTorch, for arguments that `bias_act` has checked."""
    activation = ACTIVATIONS[act]
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        b = b.reshape(shape)

    needs_grad = custom_ops.gradients_recorded(x, b)
    early_gain = gain if activation.homogeneous and gain > 0 else 1.0
    late_gain = gain if early_gain == 1.0 else 1.0

    # gain*x + gain*b in one pass; `fresh`: y is a new tensor, which may be overwritten.
    if b is not None:
        y, fresh = add_scaled(b if early_gain == 1 else b * early_gain, x, early_gain), True
    elif early_gain != 1:
        y, fresh = x * early_gain, True
    else:
        y, fresh = x, False

    # Autograd accepts an in-place activation if its derivative is a function of the result: relu, and lrelu with a
    # non-negative slope. These keep no copy of their input.
    in_place = fresh and (not needs_grad or act == "relu" or (act == "lrelu" and alpha >= 0))
    y = activation.function_(y, alpha) if in_place else activation.function(y, alpha)
    fresh = fresh or act != "linear"

    if late_gain != 1:
        y = y.mul_(late_gain) if fresh and not needs_grad else y * late_gain
        fresh = True
    if clamp is not None:
        # As an autograd node, hardtanh is a clamp with a faster backward pass (one fused kernel).
        y = y.clamp_(-clamp, clamp) if fresh and not needs_grad else F.hardtanh(y, -clamp, clamp)
    return y
