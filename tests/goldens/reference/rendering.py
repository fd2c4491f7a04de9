"""The volume rendering of one frame of one video."""

import torch

from tests.goldens.reference.fields import background_field, foreground_field
from tests.goldens.reference.rays import even, inverse_cdf, jittered, sphere_points, weigh
from tests.goldens.reference.spec import Spec

RenderDraws = dict[str, torch.Tensor]  # random draws of one video by the names the renderer asks for them


def render_rays(state, spec: Spec, ws, code, t, motion, origin, rays, noise: RenderDraws):
    """Composited [rgb | features] [R, 3 + F], and per ray (weights, sample colours and features, transmittance).

    `noise` holds draws of this video for these rays, [R, S] each; nothing for deterministic rendering. Fields are
    evaluated for all rays at once, everything else ray by ray.
    """
    count, num = spec.samples, len(rays)
    norms = [ray.norm() for ray in rays]
    view = torch.stack([ray / norm for ray, norm in zip(rays, norms)])

    def evaluate(positions, density_noise):
        """Positions [R, S] → density [R, S], features [R, S, 3 + F]."""
        points = origin + (0.88 + 0.24 * positions)[..., None] * rays[:, None]
        views = view[:, None].expand_as(points).reshape(-1, 3)
        raw, features = foreground_field(state, spec, ws, points.reshape(-1, 3), views, t, motion)
        raw = raw.reshape(positions.shape)
        raw = raw if density_noise is None else raw + density_noise
        return raw.clamp(min=0), features.reshape(*positions.shape, -1)

    def ray_weights(positions, density, norm):
        depths = 0.88 + 0.24 * positions
        return weigh(density, (depths[1:] - depths[:-1]) * norm, last_opaque=not spec.background)

    def draw(name, i):
        return noise[name][i] if name in noise else None

    coarse = torch.stack([jittered(even(0, 1, count), draw("render/depth", i)) for i in range(num)])
    density, features = evaluate(coarse, noise.get("render/density"))
    positions = coarse
    if spec.importance:
        fine = []
        for i in range(num):
            weights, _ = ray_weights(coarse[i], density[i].detach(), norms[i])
            uniform = draw("render/importance", i)
            uniform = even(0, 1, spec.importance) if uniform is None else uniform
            fine.append(inverse_cdf((coarse[i, 1:] + coarse[i, :-1]) / 2, weights[1:-1], uniform))
        fine = torch.stack(fine)
        density_fine, features_fine = evaluate(fine, noise.get("render/density_fine"))
        positions = torch.cat([coarse, fine], dim=1)
        density = torch.cat([density, density_fine], dim=1)
        features = torch.cat([features, features_fine], dim=1)

    if spec.background:
        inverse = [jittered(even(0.5, 0, spec.far_samples), draw("render/background_depth", i)) for i in range(num)]
        points = [sphere_points(origin, view[i], radius) for i in range(num) for radius in inverse[i]]
        raw, far_features = background_field(state, spec, torch.stack(points), code)
        raw, far_features = raw.reshape(num, -1), far_features.reshape(num, spec.far_samples, -1)
        raw = raw + noise.get("render/background_density", 0.0)

    rows, samples = [], []
    for i in range(num):
        order = positions[i].argsort()
        weights, transmittance = ray_weights(positions[i][order], density[i][order], norms[i])
        values = features[i][order]
        if spec.background:
            far_weights, _ = weigh(raw[i].clamp(min=0), inverse[i][:-1] - inverse[i][1:], last_opaque=True)
            weights = torch.cat([weights, transmittance * far_weights])
            values = torch.cat([values, far_features[i]])
        rows.append((weights[:, None] * values).sum(dim=0))
        samples.append((weights, values, transmittance))
    return torch.stack(rows), samples
