"""Sample positions along rays: stratified and importance samples (NeRF), points of the inverted sphere (NeRF++).

All functions are deterministic when their random argument is None.
"""

import torch

__all__ = ["importance_samples", "inverted_sphere_points", "stratified"]


def stratified(positions: torch.Tensor, uniform: torch.Tensor | None) -> torch.Tensor:
    """Stratified samples (NeRF, equation 2): positions jittered uniformly between the midpoints to their neighbours.

    Args:
        positions: [S], increasing.
        uniform: [..., S] in [0, 1), or None for no jitter.

    Returns:
        [..., S], increasing ([S] without jitter). The first and last stay within the original end points.
    """
    if uniform is None:
        return positions
    middle = (positions[1:] + positions[:-1]) / 2
    lower = torch.cat([positions[:1], middle])
    upper = torch.cat([middle, positions[-1:]])
    return lower + (upper - lower) * uniform


def importance_samples(
    bins: torch.Tensor, weights: torch.Tensor, num_samples: int, uniform: torch.Tensor | None
) -> torch.Tensor:
    """Importance samples: inverse transform sampling of a piecewise constant density (NeRF, section 5.2).

    Args:
        bins: Bin edges [..., M + 1], broadcastable with `weights`.
        weights: Unnormalised bin masses [..., M].
        num_samples: Number of samples per ray.
        uniform: [..., num_samples] in [0, 1), or None for evenly spaced linspace(0, 1).

    Returns:
        [..., num_samples] positions (unsorted if `uniform` is). No gradient flows through them.
    """
    # Cumulative distribution at the bin edges [..., M + 1], from 0 to 1.
    weights = weights.detach() + 1e-5
    cdf = torch.cumsum(weights / weights.sum(-1, keepdim=True), dim=-1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], dim=-1)
    if uniform is None:
        uniform = torch.linspace(0, 1, num_samples, device=weights.device, dtype=weights.dtype)
    uniform = uniform.expand(*cdf.shape[:-1], num_samples).contiguous()
    # The bin of every u: its upper edge is the first one at or above u, so that u = 1 falls into the last bin.
    above = torch.searchsorted(cdf, uniform)
    below = (above - 1).clamp_(min=0)
    above = above.clamp_(max=cdf.shape[-1] - 1)
    bins = bins.detach().expand(cdf.shape)
    cdf_below, bin_below = cdf.gather(-1, below), bins.gather(-1, below)
    step = cdf.gather(-1, above) - cdf_below
    # Invert the distribution, which is linear within a bin. A nearly empty bin would amplify rounding errors; it is
    # treated as one of unit mass.
    step = torch.where(step < 1e-5, torch.ones_like(step), step)
    return bin_below + (uniform - cdf_below) / step * (bins.gather(-1, above) - bin_below)


def inverted_sphere_points(
    origins: torch.Tensor, directions: torch.Tensor, inverse_radius: torch.Tensor
) -> torch.Tensor:
    """Inverted-sphere points (NeRF++, section 4) of rays, on spheres of radius 1 / inverse_radius >= 1 at the origin.

    Args:
        origins: [..., 3], inside the unit sphere (or on it).
        directions: [..., 3], of unit length.
        inverse_radius: [..., S] in [0, 1]; 0 is the point at infinity.

    Returns:
        [..., S, 4]: the point's direction, a point on the unit sphere, and the inverse radius.
    """
    # The point of the ray nearest to the origin, at distance rho, and the point where the ray leaves the unit sphere.
    s1 = -(directions * origins).sum(-1, keepdim=True)
    middle = origins + s1 * directions
    rho = middle.norm(dim=-1, keepdim=True)
    # A camera on the unit sphere may be slightly outside after rounding; the half chord is then zero.
    exit_point = origins + (s1 + (1 - rho * rho).clamp(min=0).sqrt()) * directions
    # From the unit sphere to the sphere of radius r, the direction of the point turns by asin(rho) - asin(rho / r) in
    # the plane of ray and origin.
    axis = torch.nn.functional.normalize(torch.linalg.cross(origins.expand_as(directions), exit_point), dim=-1)
    angle = torch.asin(rho.clamp(max=1)) - torch.asin((rho * inverse_radius).clamp(max=1))
    # Rotation about the axis (Rodrigues' formula).
    cos, sin = angle.cos()[..., None], angle.sin()[..., None]
    axis, exit_point = axis[..., None, :], exit_point[..., None, :]
    turned = exit_point * cos + torch.linalg.cross(axis, exit_point) * sin
    turned = turned + axis * (axis * exit_point).sum(-1, keepdim=True) * (1 - cos)
    turned = torch.nn.functional.normalize(turned, dim=-1)
    return torch.cat([turned, inverse_radius[..., None].expand(*turned.shape[:-1], 1)], dim=-1)
