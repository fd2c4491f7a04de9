"""From fields and rays to composited rows: the foreground over its background.

Fields here also have `project(features, weight_sum)`, which turns weighted sums of what they return as features
(weights adding up to `weight_sum`) into the values to be shown: what is linear is applied once per ray, not once per
sample. A foreground may also have `march(origins, directions, settings, last_opaque=)`: it then samples and composites
its rays itself where it can, without randomness, and gives what `march_foreground` and compositing would give, or None
where it cannot. Shapes as in `renderer.volume`; G videos of a group, T frames each.
"""

import dataclasses

import torch

from renderer.volume import NO_NOISE, Marched, RayNoise, RenderSettings, march_background, march_foreground

__all__ = ["Fields", "Rays", "Rendered", "ray_samples", "render_background", "render_rays"]


@dataclasses.dataclass(frozen=True)
class Fields:
    """The foreground and the background (None for none) of a group of videos."""

    foreground: object
    background: object | None


@dataclasses.dataclass(frozen=True)
class Rays:
    """Origins [G, 1, 3], directions [G, R, 3] (not normalised), and the rays' random draws."""

    origins: torch.Tensor
    directions: torch.Tensor
    noise: RayNoise = NO_NOISE

    def __len__(self) -> int:
        return self.directions.shape[1]

    def select(self, rays: slice) -> "Rays":
        return Rays(self.origins, self.directions[:, rays], self.noise.select(rays=rays))


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Composited rows [G, T, R, C], expected depth and transmittance of the foreground [G, T, R]."""

    rows: torch.Tensor
    depth: torch.Tensor
    transmittance: torch.Tensor


def _march(fields: Fields, rays: Rays, settings: RenderSettings, frames: int):
    return march_foreground(
        fields.foreground,
        rays.origins,
        rays.directions,
        settings,
        num_frames=frames,
        last_opaque=fields.background is None,
        noise=rays.noise,
    )


def _march_itself(fields: Fields, rays: Rays, settings: RenderSettings) -> Marched | None:
    march = getattr(fields.foreground, "march", None)
    if march is None or rays.noise.drawn():
        return None
    return march(rays.origins, rays.directions, settings, last_opaque=fields.background is None)


def render_background(fields: Fields, rays: Rays, settings: RenderSettings) -> torch.Tensor:
    """What lies behind the foreground, [G, R, C]."""
    samples = march_background(fields.background, rays.origins, rays.directions, settings, noise=rays.noise)
    return fields.background.project(samples.composite(), samples.weights.sum(-1))


def render_rays(
    fields: Fields,
    rays: Rays,
    settings: RenderSettings,
    *,
    frames: int,
    chunk: int | None = None,
    behind: torch.Tensor | None = None,
) -> Rendered:
    """Composite rays.

    Args:
        frames: T.
        chunk: Number of rays at a time, to bound memory; None for all at once.
        behind: The result of `render_background`, where it is known already.
    """
    total, parts = len(rays), []
    for start in range(0, total, chunk or total):
        some = slice(start, min(start + (chunk or total), total))
        part = rays.select(some)
        marched = _march_itself(fields, part, settings)
        if marched is None:
            marched = _march(fields, part, settings, frames).marched(settings)
        rows = fields.foreground.project(marched.features, marched.weight_sum)
        if fields.background is not None:
            far = render_background(fields, part, settings) if behind is None else behind[:, some]
            rows = rows + marched.transmittance[..., None] * far[:, None]
        parts.append((rows, marched.depth, marched.transmittance))
    return Rendered(*(parts[0] if len(parts) == 1 else (torch.cat(x, dim=2) for x in zip(*parts, strict=True))))


def ray_samples(
    fields: Fields, rays: Rays, settings: RenderSettings, *, frames: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every sample by itself: weights [G, T, R, S] and projected rows [G, T, R, S, C], background samples last."""
    samples = _march(fields, rays, settings, frames)
    weights = [w for w, _ in samples.parts]
    rows = [fields.foreground.project(features) for _, features in samples.parts]
    if fields.background is not None:
        far = march_background(fields.background, rays.origins, rays.directions, settings, noise=rays.noise)
        weights.append(far.weights[:, None] * samples.transmittance[..., None])
        rows.append(fields.background.project(far.features)[:, None].expand(-1, frames, -1, -1, -1))
    return torch.cat(weights, dim=-1), torch.cat(rows, dim=3)
