"""Volume rendering quadrature: density and depths to weights, weights and features to pixels (NeRF, equation 3).

What the renderer's rays ask of `torch_utils.ops.composite`.
"""

import torch

from torch_utils.ops import composite as operators

__all__ = ["composite", "ray_weights"]


def ray_weights(
    density: torch.Tensor,
    depths: torch.Tensor,
    *,
    direction_norm: torch.Tensor | None = None,
    last_opaque: bool,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of a ray's samples and the transmittance at the last one.

    Args:
        density: Non-negative densities [..., S].
        depths: Sample positions [..., S], increasing; broadcastable with `density`.
        direction_norm: Length of the ray directions [...], or None for unit rays.
        last_opaque: Whether the last sample ends the ray, whatever its density (its step length is infinite), or is
            transparent (its step length is zero) and leaves the transmittance to a background.
        impl: See `torch_utils.ops.composite.composite`.

    Returns:
        weights [..., S] and transmittance [...].
    """
    deltas = depths[..., 1:] - depths[..., :-1]
    if direction_norm is not None:
        deltas = deltas * direction_norm[..., None]
    return operators.ray_weights(density, deltas, last_opaque=last_opaque, impl=impl)


def composite(weights: torch.Tensor, features: torch.Tensor, *, impl: str = "auto") -> torch.Tensor:
    """Sum over samples: weights [..., S] with features [..., S, C] to [..., C]."""
    return operators.weighted_sum(weights, features, impl=impl)
