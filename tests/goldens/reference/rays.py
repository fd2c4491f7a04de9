"""Cameras, rays, sampling and compositing, for one ray at a time."""

import math

import torch


def camera(yaw, pitch, radius):
    """Camera-to-world matrix for angles in radians."""
    o = torch.tensor([math.sin(pitch) * math.cos(yaw), math.sin(pitch) * math.sin(yaw), math.cos(pitch)])
    z = o.double() / o.double().norm()
    x = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), z)
    x = x / x.norm()
    y = torch.linalg.cross(z, x)
    y = y / y.norm()
    matrix = torch.eye(4, dtype=torch.float64)
    for i, column in enumerate([x, y, z, o.double() * radius]):
        matrix[:3, i] = column
    return matrix


def pixel_grid(size):
    """(x, y) of all pixel centres, rows from the top."""
    edge = 1 - 1 / size
    centres = [-edge + 2 * edge * i / (size - 1) for i in range(size)]
    return torch.tensor([(x, y) for y in reversed(centres) for x in centres], dtype=torch.float64)


def directions(cam2world, fov, pixels):
    f = 1 / math.tan(math.radians(fov) / 2)
    rows = [cam2world[:3, :3] @ torch.tensor([x / f, y / f, -1.0], dtype=torch.float64) for x, y in pixels.tolist()]
    return torch.stack(rows)


def sphere_points(o, d, inverse_radius):
    """Intersection of a ray (o, d of length 1) with a sphere of that radius: (point of the unit sphere, 1 / radius)."""
    s1 = -(d @ o)
    middle = o + s1 * d
    rho = middle.norm()
    e = o + (s1 + (1 - rho**2).clamp(min=0).sqrt()) * d
    axis = torch.linalg.cross(o, e)
    axis = axis / axis.norm()
    angle = torch.asin(rho) - torch.asin(rho * inverse_radius)
    turned = e * angle.cos() + torch.linalg.cross(axis, e) * angle.sin() + axis * (axis @ e) * (1 - angle.cos())
    return torch.cat([turned / turned.norm(), inverse_radius[None]])


def jittered(positions, uniform):
    """Each position moved between the midpoints to its neighbours."""
    if uniform is None:
        return positions
    count, result = len(positions), []
    for i in range(count):
        low = positions[i] if i == 0 else (positions[i - 1] + positions[i]) / 2
        high = positions[i] if i == count - 1 else (positions[i] + positions[i + 1]) / 2
        result.append(low + (high - low) * uniform[i])
    return torch.stack(result)


def inverse_cdf(edges, weights, uniform):
    """Positions with a piecewise constant density over the bins between `edges`, at the given quantiles."""
    edges, weights = edges.tolist(), [w + 1e-5 for w in weights.tolist()]
    cdf = [0.0]
    for weight in weights:
        cdf.append(cdf[-1] + weight / sum(weights))
    positions = []
    for u in uniform.tolist():
        bin_ = max([i for i in range(len(weights)) if cdf[i] < u], default=0)
        step = cdf[bin_ + 1] - cdf[bin_]
        step = 1.0 if step < 1e-5 else step
        positions.append(edges[bin_] + (u - cdf[bin_]) / step * (edges[bin_ + 1] - edges[bin_]))
    return torch.tensor(positions, dtype=torch.float64)


def weigh(density, deltas, *, last_opaque):
    """Weights of a ray's samples, and the transmittance at the last, which is opaque or transparent.

    `deltas` are the distances from each sample to the next.
    """
    transmittance, weights = torch.ones([], dtype=torch.float64), []
    for i in range(len(density)):
        alpha = torch.as_tensor(float(last_opaque), dtype=torch.float64)
        if i < len(deltas):
            alpha = 1 - torch.exp(-density[i] * deltas[i])
        weights.append(alpha * transmittance)
        at_last = transmittance
        transmittance = transmittance * (1 - alpha + 1e-10)
    return torch.stack(weights), at_last


def even(first, last, count):
    return torch.tensor([first + (last - first) * i / (count - 1) for i in range(count)], dtype=torch.float64)
