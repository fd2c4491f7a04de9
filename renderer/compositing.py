"""Volume rendering quadrature: density and step lengths to weights, weights and features to pixels.

With alpha_i = 1 - exp(-density_i * delta_i) and T_i = prod_{j<i} (1 - alpha_j + 1e-10), the weight of sample i is
alpha_i * T_i (NeRF, equation 3).
"""

import torch

__all__ = ["composite", "ray_weights"]


def ray_weights(
    density: torch.Tensor, depths: torch.Tensor, *, direction_norm: torch.Tensor | None = None, last_opaque: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of a ray's samples and the transmittance at the last one.

    Args:
        density: Non-negative densities [..., S].
        depths: Sample positions [..., S], increasing; broadcastable with `density`.
        direction_norm: Length of the ray directions [...], or None for unit rays.
        last_opaque: Whether the last sample ends the ray, whatever its density (its step length is infinite), or is
            transparent (its step length is zero) and leaves the transmittance to a background.

    Returns:
        weights [..., S] and transmittance [...].
    """
    deltas = depths[..., 1:] - depths[..., :-1]
    if direction_norm is not None:
        deltas = deltas * direction_norm[..., None]
    alpha = 1 - torch.exp(-density[..., :-1] * deltas)
    passed = torch.cumprod(1 - alpha + 1e-10, dim=-1)
    last = torch.full_like(alpha[..., :1], float(last_opaque))
    alpha = torch.cat([alpha, last], dim=-1)
    transmittance = torch.cat([torch.ones_like(alpha[..., :1]), passed], dim=-1)
    return alpha * transmittance, transmittance[..., -1]


def composite(weights: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Sum over samples: weights [..., S] with features [..., S, C] to [..., C]."""
    return (weights[..., None, :] @ features)[..., 0, :]
