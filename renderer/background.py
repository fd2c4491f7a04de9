"""The inverted sphere of NeRF++ (section 4): points outside the unit sphere as (unit direction, inverse radius)."""

import torch

__all__ = ["inverted_sphere_points"]


def inverted_sphere_points(
    origins: torch.Tensor, directions: torch.Tensor, inverse_radius: torch.Tensor
) -> torch.Tensor:
    """Where rays meet spheres of radius 1 / inverse_radius >= 1 around the origin.

    Args:
        origins: [..., 3], inside the unit sphere (or on it).
        directions: [..., 3], of unit length.
        inverse_radius: [..., S] in [0, 1]; 0 is the point at infinity.

    Returns:
        [..., S, 4]: a point on the unit sphere and the inverse radius.
    """
    # The ray's point nearest to the centre, and where it leaves the unit sphere.
    s1 = -(directions * origins).sum(-1, keepdim=True)
    middle = origins + s1 * directions
    rho = middle.norm(dim=-1, keepdim=True)
    # The camera's own radius is one, so rounding may put it a hair outside; the half chord is then zero.
    exit_point = origins + (s1 + (1 - rho * rho).clamp(min=0).sqrt()) * directions
    # Towards the sphere of radius r the direction turns by asin(rho) - asin(rho / r) in the plane of ray and centre.
    axis = torch.nn.functional.normalize(torch.linalg.cross(origins.expand_as(directions), exit_point), dim=-1)
    angle = torch.asin(rho.clamp(max=1)) - torch.asin((rho * inverse_radius).clamp(max=1))
    cos, sin = angle.cos()[..., None], angle.sin()[..., None]
    axis, exit_point = axis[..., None, :], exit_point[..., None, :]
    turned = exit_point * cos + torch.linalg.cross(axis, exit_point) * sin
    turned = turned + axis * (axis * exit_point).sum(-1, keepdim=True) * (1 - cos)
    turned = torch.nn.functional.normalize(turned, dim=-1)
    return torch.cat([turned, inverse_radius[..., None].expand(*turned.shape[:-1], 1)], dim=-1)
