"""Volume compositing: weights from densities and step lengths, pixels from weights and features (NeRF, equation 3).

With alpha_i = 1 - exp(-density_i * delta_i) and T_i = prod_{j<i} (1 - alpha_j + 1e-10), the weight of sample i is
alpha_i * T_i; the T of the last sample is the transmittance, by which a background is multiplied.

`ray_weights` and `weighted_sum` are its two halves: features are so much larger than weights that one operator for both
would save little, and a renderer needs the weights of samples before it has all the features. All are twice
differentiable. The native operators compute first derivatives in one pass; second derivatives of the weights come from
the reference; those of the weighted sum are products of the same three kinds (see csrc/composite/composite.h).
"""

import torch

from torch_utils import custom_ops

__all__ = ["ray_weights", "ray_weights_ref", "weighted_sum", "weighted_sum_ref"]

RAY_TYPES = (torch.float32, torch.float64)
#: Least number of feature values for which 'auto' chooses the native weighted sum on the CPU where gradients are
#: recorded: including its gradients it is 2.0 times as fast. Native weights are 1.3 times as fast, which is not worth
#: another code path (docs/operators.md).
NATIVE_MIN_SIZE = 1 << 21


def ray_weights(
    density: torch.Tensor, deltas: torch.Tensor, *, last_opaque: bool, impl: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of the samples of rays and the transmittance at the last one.

    Args:
        density: Non-negative densities [..., S], float32 or float64 (in half precision the native operator computes in
            float32, plain PyTorch does not).
        deltas: Step lengths [..., S - 1] from a sample to the next; broadcastable with the densities.
        last_opaque: True: the last sample ends the ray, whatever its density. False: it is transparent and leaves the
            transmittance to a background.
        impl: 'ref' for plain PyTorch; 'cpu' or 'cuda' for the native operator; 'auto' for the native operator where
            there is one that is faster.

    Returns:
        Weights [..., S] and transmittance [...].

    Raises:
        ValueError: shapes that do not match, or an unknown implementation.
        RuntimeError: impl='cpu' or 'cuda', but there is no native operator, or the tensors are on another device.
    """
    samples = density.shape[-1] if density.ndim else 0
    if samples < 1 or deltas.ndim < 1 or deltas.shape[-1] != samples - 1 or deltas.ndim > density.ndim:
        raise ValueError(
            f"ray_weights: density [..., S] and deltas [..., S - 1] are needed, "
            f"not {list(density.shape)} and {list(deltas.shape)}"
        )
    library = custom_ops.choose("composite", impl, density, pays_on_cpu=False)
    if library is None:
        return ray_weights_ref(density, deltas, last_opaque=last_opaque)
    dtype = density.dtype if density.dtype in RAY_TYPES else torch.float32
    count = density.shape[:-1].numel()  # of rays; -1 would be ambiguous for empty tensors
    rows = density.to(dtype).reshape(count, samples)
    steps = deltas.to(dtype).expand(*density.shape[:-1], -1).reshape(count, samples - 1)
    if custom_ops.gradients_recorded(density, deltas):
        weights, transmittance = _RayWeights.apply(rows, steps, last_opaque, library)
    else:
        weights, transmittance = library.ray_weights(rows, steps, last_opaque)
    return weights.view(density.shape).to(density.dtype), transmittance.view(density.shape[:-1]).to(density.dtype)


def weighted_sum(weights: torch.Tensor, features: torch.Tensor, *, impl: str = "auto") -> torch.Tensor:
    """Sum over samples: weights [..., S] with features [..., S, C] to [..., C], of the type of the features.

    The features are of any floating type, and the leading dimensions are broadcast. See `ray_weights` for `impl` and
    errors.
    """
    if features.ndim < 2 or weights.ndim < 1 or weights.shape[-1] != features.shape[-2]:
        raise ValueError(
            f"weighted_sum: weights [..., S] and features [..., S, C] are needed, "
            f"not {list(weights.shape)} and {list(features.shape)}"
        )
    if weights.shape != features.shape[:-1]:
        leading = torch.broadcast_shapes(weights.shape, features.shape[:-1])
        weights, features = weights.expand(leading), features.expand(*leading, -1)
    differentiated = custom_ops.gradients_recorded(weights, features)
    pays = differentiated and features.numel() >= NATIVE_MIN_SIZE
    library = custom_ops.choose("composite", impl, features, pays_on_cpu=pays)
    if library is None:
        return weighted_sum_ref(weights, features)
    samples, channels = features.shape[-2:]
    compute = torch.float64 if features.dtype == torch.float64 else torch.float32
    count = features.shape[:-2].numel()
    arguments = weights.to(compute).reshape(count, samples), features.reshape(count, samples, channels)
    if differentiated:
        rows = _Sum.apply(*arguments, library)
    else:
        rows = library.weighted_sum(*arguments)
    return rows.view(*features.shape[:-2], channels)


def ray_weights_ref(
    density: torch.Tensor, deltas: torch.Tensor, *, last_opaque: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """`ray_weights` in plain PyTorch."""
    # Opacity of every interval, and the light that passes all intervals up to it (NeRF, equation 3).
    alpha = 1 - torch.exp(-density[..., :-1] * deltas)
    passed = _running_product(1 - alpha + 1e-10)
    # The last sample has no interval: it is opaque or transparent.
    last = torch.full_like(density[..., :1], float(last_opaque))
    alpha = torch.cat([alpha, last], dim=-1)
    transmittance = torch.cat([torch.ones_like(alpha[..., :1]), passed], dim=-1)
    return alpha * transmittance, transmittance[..., -1]


def _running_product(light: torch.Tensor) -> torch.Tensor:
    """Cumulative products along the last dimension; all factors are positive."""
    return torch.cumprod(light, dim=-1) if light.device.type == "cpu" else product_by_logarithms(light)


def product_by_logarithms(light: torch.Tensor) -> torch.Tensor:
    """The same on a GPU, where the derivative of `cumprod` would look for zeros and make the host wait."""
    return light.log().cumsum(dim=-1).exp()


def weighted_sum_ref(weights: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """`weighted_sum` in plain PyTorch."""
    return (weights.to(features.dtype)[..., None, :] @ features)[..., 0, :]


class _RayWeights(torch.autograd.Function):
    """(density [R, S], deltas [R, S - 1]) → (weights, transmittance)."""

    @staticmethod
    def forward(ctx, density, deltas, last_opaque, library):
        ctx.save_for_backward(density, deltas)
        ctx.last_opaque, ctx.library = last_opaque, library
        return library.ray_weights(density, deltas, last_opaque)

    @staticmethod
    def backward(ctx, grad_weights, grad_transmittance):
        settings = ctx.last_opaque, ctx.needs_input_grad[1], ctx.library
        density, deltas = _RayWeightsGradient.apply(*ctx.saved_tensors, grad_weights, grad_transmittance, *settings)
        return density, deltas if ctx.needs_input_grad[1] else None, None, None


class _RayWeightsGradient(torch.autograd.Function):
    """Gradient of `_RayWeights`, as a function of its arguments and of the gradients of its results."""

    @staticmethod
    def forward(ctx, density, deltas, grad_weights, grad_transmittance, last_opaque, with_deltas, library):
        ctx.save_for_backward(density, deltas, grad_weights, grad_transmittance)
        ctx.last_opaque, ctx.with_deltas = last_opaque, with_deltas
        grads = grad_weights, grad_transmittance
        return library.ray_weights_gradient(density, deltas, last_opaque, *grads, with_deltas)

    @staticmethod
    def backward(ctx, grad_density, grad_deltas):
        arguments = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            results = ray_weights_ref(*arguments[:2], last_opaque=ctx.last_opaque)
            wanted, grads = (arguments[:2], [grad_density, grad_deltas]) if ctx.with_deltas else (
                arguments[:1], [grad_density])  # fmt: skip
            first = torch.autograd.grad(results, wanted, arguments[2:], create_graph=True)
            second = torch.autograd.grad(first, arguments, grads, allow_unused=True)
        return *second, None, None, None


class _Sum(torch.autograd.Function):
    """(weights [R, S], features [R, S, C]) → rows [R, C]."""

    @staticmethod
    def forward(ctx, weights, features, library):
        ctx.save_for_backward(weights, features)
        ctx.library = library
        return library.weighted_sum(weights, features)

    @staticmethod
    def backward(ctx, grad):
        weights, features = ctx.saved_tensors
        grad_weights = _Dots.apply(grad, features, ctx.library) if ctx.needs_input_grad[0] else None
        grad_features = _Outer.apply(weights, grad, ctx.library) if ctx.needs_input_grad[1] else None
        return grad_weights, grad_features, None


class _Dots(torch.autograd.Function):
    """(rows [R, C], features [R, S, C]) → weights [R, S]."""

    @staticmethod
    def forward(ctx, rows, features, library):
        ctx.save_for_backward(rows, features)
        ctx.library = library
        return library.weighted_sum_dots(rows, features)

    @staticmethod
    def backward(ctx, grad):
        rows, features = ctx.saved_tensors
        grad_rows = _Sum.apply(grad, features, ctx.library) if ctx.needs_input_grad[0] else None
        grad_features = _Outer.apply(grad, rows, ctx.library) if ctx.needs_input_grad[1] else None
        return grad_rows, grad_features, None


class _Outer(torch.autograd.Function):
    """(weights [R, S], rows [R, C]) → features [R, S, C]."""

    @staticmethod
    def forward(ctx, weights, rows, library):
        ctx.save_for_backward(weights, rows)
        ctx.library = library
        return library.weighted_sum_outer(weights, rows)

    @staticmethod
    def backward(ctx, grad):
        weights, rows = ctx.saved_tensors
        grad_weights = _Dots.apply(rows, grad, ctx.library) if ctx.needs_input_grad[0] else None
        grad_rows = _Sum.apply(weights, grad, ctx.library) if ctx.needs_input_grad[1] else None
        return grad_weights, grad_rows, None
