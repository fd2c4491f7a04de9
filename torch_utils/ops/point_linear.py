"""Pointwise linear layers and MLPs, with one weight for all videos or one per video; twice differentiable.

    y_l = act(W_l x + b_l),   x being the inputs or the results of an earlier layer

On a CPU, in both passes, all layers of an MLP run on a tile of rows that stays in the cache, then on the next tile; the
backward pass also sums the gradients of weights and biases. Other devices and types run layer by layer, and so does the
backward pass where it is differentiated again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torch_utils import custom_ops
from torch_utils.custom_ops import weight_gradients_wanted
from torch_utils.ops.point_linear_ref import (
    SLOPES,
    activation_gradient,
    gradient_library,
    lrelu_,
    point_linear_ref,
    weight_gradient_ref,
)

__all__ = ["PointLayer", "lrelu_", "point_linear", "point_mlp"]

#: With fewer rows a native call costs more than it gains.
MIN_ROWS = 64
#: The native operator requires that layers which feed others have more outputs than this.
NARROW = 4


@dataclass(frozen=True)
class PointLayer:
    """A layer of an MLP on points.

    Attributes:
        weight: [O, I] for all videos, or [B, O, I].
        bias: [B, F, R, O] for R runs of equally many successive points in each of F frames of B videos, with size 1
            along each dimension that shares a bias; [O] for all; or None.
        slope: Slope of the leaky ReLU below zero; 1 for a linear layer.
        clamp: With an activation: largest magnitude of the results, or None.
        source: Index of the layer whose results are the inputs; -1, only for the first layer: the MLP's inputs.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    slope: float = 1.0
    clamp: float | None = None
    source: int = -1


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
        x: [B, ..., I].
        weight: [O, I] for all videos, or [B, O, I].
        bias: [O] for all videos, [B, O], or None.
        act: 'linear', 'lrelu' (slope 0.2, no gain) or 'relu'.
        clamp: With an activation: clamp the result to ±clamp.

    Returns:
        [B, ..., O], contiguous when x is. Do not modify it in place where gradients are recorded.
    """
    if _library(x) is None:
        return point_linear_ref(x, weight, bias, act=act, clamp=clamp)
    shared = weight.ndim == 2 and (bias is None or bias.ndim == 1)
    rows = x.reshape(1 if shared else len(x), 1, -1, x.shape[-1])
    if bias is not None and bias.ndim == 2:
        bias = bias[:, None, None]
    clamp = None if act == "linear" else clamp
    (y,) = point_mlp(rows, [PointLayer(weight, bias, slope=SLOPES.get(act, 1.0), clamp=clamp)], frames=1, keep=[0])
    return y.view(*x.shape[:-1], -1)


def point_mlp(x: torch.Tensor, layers: Sequence[PointLayer], *, frames: int, keep: Sequence[int]) -> list[torch.Tensor]:
    """The results of some layers of an MLP.

    Args:
        x: [B, F, N, I], features of N points of F frames; F is T, or 1 where the frames share them.
        layers: Layers in the order of computation.
        frames: T.
        keep: Indices of the layers whose results are returned, each once.

    Returns:
        [B, F, N, O] of each layer of `keep`: F is 1 if the frames share x and no bias up to this layer differs between
        them, else T. Do not modify them in place where gradients are recorded.

    Raises:
        ValueError: The sources are not as described, or a layer after the one at which the frames begin to differ takes
            results from before it.
    """
    _check(layers, shared=x.shape[1] == 1 and frames > 1)
    biases = [b if b is None or b.ndim == 4 else b.reshape(1, 1, 1, -1) for b in (layer.bias for layer in layers)]
    weights = [w if w.ndim == 3 else w[None] for w in (layer.weight for layer in layers)]
    plan = _Plan.of(layers, frames)
    library = _library(x)
    if library is None or any(weights[layer.source].shape[1] <= NARROW for layer in layers[1:]):
        results = _one_by_one(x, weights, biases, plan)
        return [results[i] for i in keep]
    # Weights and biases may have any strides.
    tensors = [*weights, *(_nothing(x) if b is None else b for b in biases)]
    if custom_ops.gradients_recorded(x, *tensors):
        results = _PointMLP.apply(library, plan, x.contiguous(), *tensors)
        return [results[i] for i in keep]
    return library.point_mlp_forward(x.contiguous(), weights, tensors[len(weights) :], *plan.arguments(), keep)


def _nothing(like: torch.Tensor) -> torch.Tensor:
    """An empty tensor, which the native operator takes for None."""
    return like.new_empty(0)


def _check(layers: Sequence[PointLayer], *, shared: bool) -> None:
    split = len(layers)
    for i, layer in enumerate(layers):
        if layer.slope == 1 and layer.clamp is not None:
            raise ValueError(f"layer {i} of the MLP is linear, so it cannot have a clamp, {layer.clamp}.")
        if (i == 0) != (layer.source < 0) or layer.source >= i:
            raise ValueError(f"layer {i} of the MLP takes results of layer {layer.source}; it must be an earlier one.")
        if shared and split == len(layers) and layer.bias is not None and layer.bias.ndim == 4:
            split = i if layer.bias.shape[1] > 1 else split
        if i > split and layer.source < split:
            raise ValueError(f"layer {i} of the MLP takes results of layer {layer.source}, which the frames share.")


@dataclass(frozen=True)
class _Plan:
    """The arguments of a call that are not tensors."""

    sources: tuple[int, ...]
    slopes: tuple[float, ...]
    clamps: tuple[float, ...]
    frames: int

    @classmethod
    def of(cls, layers: Sequence[PointLayer], frames: int) -> "_Plan":
        clamps = tuple(math.inf if layer.clamp is None else layer.clamp for layer in layers)
        return cls(tuple(layer.source for layer in layers), tuple(float(x.slope) for x in layers), clamps, frames)

    def arguments(self) -> tuple:
        """Arguments of the native operator."""
        return self.sources, self.slopes, self.clamps, self.frames


def _library(x: torch.Tensor) -> Any | None:
    """The native library for inputs [..., I]; None where it is unavailable or not faster."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() < MIN_ROWS * max(x.shape[-1], 1):
        return None
    return custom_ops.load("point_mlp", "cpu")


# ----------------------------------------------------------------------------------------------------------------------
# Layer by layer.


def _one_by_one(x, weights, biases, plan: _Plan) -> list[torch.Tensor]:
    """`point_mlp` in operations of PyTorch."""
    results: list[torch.Tensor] = []
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        source = x if i == 0 else results[plan.sources[i]]
        results.append(_layer(source, weight, bias, plan.slopes[i], plan.clamps[i]))
    return results


def _layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, slope: float, clamp: float):
    """One layer: x [B, F, N, I], weight [B or 1, O, I] and bias as in `PointLayer` to [B, F, N, O]."""
    limit = None if math.isinf(clamp) else clamp
    rows = x.flatten(1, 2)
    own = weight[0] if len(weight) == 1 else weight
    act = next((name for name, known in SLOPES.items() if known == slope), None)
    if bias is None or bias.shape[1:3] == (1, 1):  # the bias is part of the product
        bias = None if bias is None else bias[:, 0, 0]
        bias = bias[0] if bias is not None and len(bias) == 1 else bias
        if slope == 1 or act is not None:
            return point_linear_ref(rows, own, bias, act=act or "linear", clamp=limit).unflatten(1, x.shape[1:3])
        y = point_linear_ref(rows, own, bias).unflatten(1, x.shape[1:3])
        return lrelu_(y.clone(), limit, slope)  # y may be a view of an autograd node's result, which must not change
    y = point_linear_ref(rows, own).unflatten(1, x.shape[1:3])
    runs = bias.shape[2]
    y = (y.unflatten(2, (runs, -1)) + bias[:, :, :, None]).flatten(2, 3)
    return y if slope == 1 else lrelu_(y, limit, slope)


# ----------------------------------------------------------------------------------------------------------------------
# Native.


class _PointMLP(torch.autograd.Function):
    """`point_mlp` as one node. All results are outputs, so that its gradient can be differentiated again."""

    @staticmethod
    def forward(ctx, library, plan, x, *tensors):
        count = len(tensors) // 2
        results = library.point_mlp_forward(x, tensors[:count], tensors[count:], *plan.arguments(), range(count))
        ctx.library, ctx.plan = library, plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *tensors, *results)
        return tuple(results)

    @staticmethod
    def backward(ctx, *grads):
        x, *saved = ctx.saved_tensors
        count = len(grads)
        # R1 and the path length regularisation differentiate with respect to inputs alone at first.
        of_weights = weight_gradients_wanted(x.device)
        wanted = [need and (i == 0 or of_weights) for i, need in enumerate(ctx.needs_input_grad[2:])]
        weights, biases, results = saved[:count], saved[count : 2 * count], saved[2 * count :]
        if torch.is_grad_enabled():  # second derivatives
            return None, None, *_differentiable_backward(ctx.plan, wanted, x, weights, biases, results, grads)
        given = [_nothing(x) if g is None else g.contiguous() for g in grads]
        made = ctx.library.point_mlp_backward(x, weights, biases, *ctx.plan.arguments(), results, given, wanted[0])
        reached = _reached(ctx.plan, grads)
        made = [g if a and b else None for g, a, b in zip(made, wanted, [True, *reached, *reached], strict=True)]
        return None, None, *(_like(g, t) for g, t in zip(made, [x, *weights, *biases], strict=True))


def _reached(plan: _Plan, grads: Sequence[torch.Tensor | None]) -> list[bool]:
    """True for the layers that any gradient passes through."""
    reached = [grad is not None for grad in grads]
    for i in reversed(range(1, len(reached))):
        reached[plan.sources[i]] |= reached[i]
    return reached


def _like(gradient: torch.Tensor | None, tensor: torch.Tensor) -> torch.Tensor | None:
    """A gradient summed over the dimensions that the tensor has once."""
    if gradient is None or gradient.shape == tensor.shape:
        return gradient
    return gradient.sum_to_size(tensor.shape)


def _differentiable_backward(
    plan: _Plan, wanted: Sequence[bool], x, weights, biases, results, grads
) -> list[torch.Tensor | None]:
    """The wanted gradients of x, weights and biases, in differentiable operations; activation masks are constants."""
    count = len(weights)
    totals = list(grads)
    for_x: torch.Tensor | None = None
    for_weights: list[torch.Tensor | None] = [None] * count
    for_biases: list[torch.Tensor | None] = [None] * count
    for i in reversed(range(count)):
        grad = totals[i]
        if grad is None:
            continue
        bias = biases[i]
        wants_bias = bias.numel() > 0 and wanted[1 + count + i]
        channels = grad.shape[-1]
        if plan.slopes[i] != 1:
            flat, for_bias = activation_gradient(
                grad.reshape(-1, channels),
                results[i].detach().reshape(-1, channels),
                slope=plan.slopes[i],
                clamp=None if math.isinf(plan.clamps[i]) else plan.clamps[i],
                wants_bias=wants_bias and bias.numel() == channels,
                library=gradient_library(grad),
            )
            grad = flat.view(grad.shape)
            for_biases[i] = None if for_bias is None else for_bias.view(bias.shape)
        if wants_bias and for_biases[i] is None:
            runs = grad.unflatten(2, (bias.shape[2], -1))
            for_biases[i] = runs.sum(dim=3).sum_to_size(bias.shape)
        source = x if i == 0 else results[plan.sources[i]]
        if source.shape[1] < grad.shape[1]:  # the frames share the inputs
            grad = grad.sum(dim=1, keepdim=True)
        rows, inputs = grad.flatten(1, 2), source.flatten(1, 2)
        if wanted[1 + i]:
            shared = len(weights[i]) == 1
            for_weights[i] = _weight_gradient(
                *((t.reshape(1, -1, t.shape[-1]) if shared else t) for t in (rows, inputs))
            )
        if i > 0 or wanted[0]:
            transposed = weights[i].transpose(1, 2)
            own = transposed[0] if len(transposed) == 1 else transposed
            further = point_linear(rows, own).unflatten(1, grad.shape[1:3])
            if i == 0:
                for_x = further
            else:
                previous = totals[plan.sources[i]]
                totals[plan.sources[i]] = further if previous is None else previous + further
    return [for_x, *for_weights, *for_biases]


def _weight_gradient(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """grad.T @ x [B, O, I] of grad [B, P, O] and x [B, P, I], differentiable."""
    library = _library(grad)
    return weight_gradient_ref(grad, x) if library is None else _WeightGradient.apply(library, grad, x)


class _WeightGradient(torch.autograd.Function):
    """`_weight_gradient` natively: the gradient of a linear layer without bias with respect to its weight."""

    @staticmethod
    def forward(ctx, library, grad, x):
        ctx.save_for_backward(grad, x)
        grad, x = grad.contiguous()[:, None], x.contiguous()[:, None]
        none, weight = _nothing(x), x.new_empty(len(x), grad.shape[-1], x.shape[-1])
        plan = (-1,), (1.0,), (math.inf,), 1
        return library.point_mlp_backward(x, [weight], [none], *plan, [grad], [grad], False)[1]

    @staticmethod
    def backward(ctx, grad_weight):
        grad, x = ctx.saved_tensors
        for_grad = point_linear(x, grad_weight) if ctx.needs_input_grad[1] else None
        for_x = point_linear(grad, grad_weight.transpose(1, 2)) if ctx.needs_input_grad[2] else None
        return None, for_grad, for_x
