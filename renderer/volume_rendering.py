"""Volume rendering (NeRF, sections 4 and 5.2) of a foreground over an inverted-sphere background (NeRF++, section 4).

The renderer sees no network. A field is a callable `(points, directions) -> (raw density, features)` with a tuple of
per-sample features. Its `project(features, accumulation)` turns weighted sums of them (weights that add up to
`accumulation`) into rendered values: linear heads are applied once per ray, not once per sample.

Letters: B videos, T frames of a video (which share camera, rays and random numbers), R rays, S samples of a ray, C
channels. Foreground points are [B, T, R, S, 3], or [B, 1, R, S, 3] where frames share them; background points are
[B, R, S, 4].

Samples stay in the order in which they were evaluated (coarse, then fine): only densities and depths are sorted along
the ray, and the resulting weights are put back into evaluation order, so that wide features are never moved.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import torch

from renderer.rays import (
    NO_NOISE,
    Accumulated,
    BackgroundSamples,
    ForegroundSamples,
    RayNoise,
    Rays,
    RenderSettings,
    importance_samples,
    inverted_sphere_points,
    quadrature_weights,
    stratified,
)
from torch_utils.argument_checks import shown

__all__ = [
    "Field",
    "Fields",
    "RaySamples",
    "RenderedRays",
    "march_background",
    "march_foreground",
    "ray_samples",
    "render_background",
    "render_rays",
    "sample_foreground",
]

Features = tuple[torch.Tensor, ...]


class Field(Protocol):
    """A conditioned field; see the module's docstring."""

    def __call__(self, points: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, Features]:
        """Raw density and features of points seen along unit directions [B, R, 3].

        The raw density of points [B, T, R, S, 3] or [B, 1, R, S, 3] is [B, T, R, S]; negative values are empty space.
        Features are a tuple of [B, T, R, S, C]. A background has neither T nor time: [B, R, S], [B, R, S, C].
        """

    def project(self, features: Features, accumulation: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Values [..., C] of weighted sums of features, whose weights add up to `accumulation`."""


@dataclasses.dataclass(frozen=True)
class Fields:
    """The foreground field and the background field (None for none) of B videos.

    A foreground may also have `march(origins, directions, settings, last_opaque=, offsets=)`: deterministic sampling
    and compositing in one operator, with the result of `march_foreground` followed by `ForegroundSamples.accumulate`.
    `offsets` are those of `Rays`. Point queries use its `raw_density(points, directions)`, if it has one: the raw
    density of a call alone.
    """

    foreground: Field
    background: Field | None


def _evaluate(
    field: Field, points: torch.Tensor, view: torch.Tensor, shape: Sequence[int]
) -> tuple[torch.Tensor, Features]:
    """A field's raw density, which must have the given shape [..., R, S], and its features [..., R, S, C].

    Other shapes would silently broadcast, and a tensor in place of the tuple would pass as a tuple of its videos.

    Raises:
        ValueError: The field returns something else.
    """
    raw, features = field(points, view)
    shape, is_tuple = list(shape), isinstance(features, tuple)
    if list(raw.shape) != shape or not is_tuple or any(list(x.shape[:-1]) != shape for x in features):
        given = [list(x.shape) for x in features] if is_tuple else shown(features)
        raise ValueError(
            f"a field must return densities {shape} and a tuple of features {[*shape, 'C']}, got {list(raw.shape)} and "
            f"{given}."
        )
    return raw, features


def _density(raw: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    """Density from a field's raw output, with noise as a regulariser (NeRF, appendix A)."""
    return torch.relu(raw if noise is None else raw + noise)


def _per_frame(x: torch.Tensor | None) -> torch.Tensor | None:
    """[B, R, S] to [B, 1, R, S]."""
    return None if x is None else x[:, None]


# ----------------------------------------------------------------------------------------------------------------------
# Foreground: coarse and importance samples (NeRF, section 5.2).


def march_foreground(
    field: Field,
    origins: torch.Tensor,
    directions: torch.Tensor,
    settings: RenderSettings,
    *,
    num_frames: int,
    last_opaque: bool,
    noise: RayNoise = NO_NOISE,
) -> ForegroundSamples:
    """Sample the foreground along rays, in one pass or two.

    Args:
        field: See the module's docstring.
        origins, directions: [B, 1, 3] or [B, R, 3], and [B, R, 3]; directions are not normalised.
        num_frames: T.
        last_opaque: True: the last sample ends the ray (there is no background). False: it is transparent.
    """
    # Step lengths along a ray are depth differences times the length of its direction.
    norm = directions.norm(dim=-1)  # [B, R]
    view = directions / norm[..., None]
    norm = norm[:, None]
    batch, num_rays, _ = directions.shape

    def evaluate(positions: torch.Tensor):
        points = origins[:, None, :, None] + settings.depths(positions)[..., None] * directions[:, None, :, None]
        return _evaluate(field, points, view, (batch, num_frames, *positions.shape[2:]))

    def weigh(density: torch.Tensor, positions: torch.Tensor):
        return quadrature_weights(density, settings.depths(positions), direction_norm=norm, last_opaque=last_opaque)

    # First pass: stratified samples (NeRF, equation 2). Frames of a video share them.
    num_coarse, num_fine = settings.samples(random=noise.is_random())
    even = torch.linspace(0, 1, num_coarse, device=directions.device, dtype=directions.dtype)
    coarse = stratified(even, _per_frame(noise.depth)).expand(batch, 1, num_rays, -1)
    raw, features = evaluate(coarse)
    density = _density(raw, _per_frame(noise.density))
    weights, transmittance = weigh(density, coarse)
    if num_fine == 0:
        return ForegroundSamples([(weights, features)], transmittance, [coarse])

    # Second pass: importance samples by the weights of the first, in bins between the midpoints of its samples.
    with torch.no_grad():
        bins = (coarse[..., 1:] + coarse[..., :-1]) / 2
        fine = importance_samples(bins, weights[..., 1:-1], num_fine, _per_frame(noise.importance))
    raw, features_fine = evaluate(fine)
    density_fine = _density(raw, _per_frame(noise.density_fine))

    # Weights of all samples together, sorted along the ray.
    positions, order = torch.cat([coarse.expand(-1, num_frames, -1, -1), fine], dim=-1).sort(dim=-1)
    weights, transmittance = weigh(torch.cat([density, density_fine], dim=-1).gather(-1, order), positions)
    # Back to evaluation order: the inverse permutation of `order`.
    weights = weights.gather(-1, order.argsort(dim=-1))
    parts = [(weights[..., :num_coarse], features), (weights[..., num_coarse:], features_fine)]
    return ForegroundSamples(parts, transmittance, [coarse, fine])


# ----------------------------------------------------------------------------------------------------------------------
# Background on the inverted sphere (NeRF++, section 4).


def march_background(
    field: Field,
    origins: torch.Tensor,
    directions: torch.Tensor,
    settings: RenderSettings,
    *,
    noise: RayNoise = NO_NOISE,
) -> BackgroundSamples:
    """Sample the background along rays (arguments as for `march_foreground`); its last sample is opaque."""
    unit = torch.nn.functional.normalize(directions, dim=-1)
    # Samples are even in the inverse radius, from the foreground to infinity. Its negative increases along the ray and
    # serves as the depth of the quadrature.
    even = torch.linspace(
        -settings.background_start, 0, settings.num_background, device=directions.device, dtype=directions.dtype
    )
    positions = stratified(even, noise.background_depth).expand(*directions.shape[:-1], -1)
    raw, features = _evaluate(field, inverted_sphere_points(origins, unit, -positions), unit, positions.shape)
    weights, _ = quadrature_weights(_density(raw, noise.background_density), positions, last_opaque=True)
    return BackgroundSamples(weights, features)


def render_background(field: Field, rays: Rays, settings: RenderSettings) -> torch.Tensor:
    """Composited background features [B, R, C]."""
    samples = march_background(field, rays.origins, rays.directions, settings, noise=rays.noise)
    return field.project(samples.composite(), samples.weights.sum(-1))


# ----------------------------------------------------------------------------------------------------------------------
# Foreground over background.


@dataclasses.dataclass(frozen=True)
class RenderedRays:
    """Rendered values [B, T, R, C], expected depth and transmittance of the foreground [B, T, R]."""

    values: torch.Tensor
    depth: torch.Tensor
    transmittance: torch.Tensor

    @classmethod
    def of_background(cls, background: torch.Tensor) -> "RenderedRays":
        """A background [B, R, C] with nothing in front of it, as a single frame."""
        values = background[:, None]
        nothing = torch.zeros_like(values[..., 0])
        return cls(values=values, depth=nothing, transmittance=torch.ones_like(nothing))


def sample_foreground(fields: Fields, rays: Rays, settings: RenderSettings, frames: int) -> ForegroundSamples:
    """The foreground's samples of `frames` frames along rays."""
    # Depths that are counted from here on.
    origins = rays.origins if rays.offsets is None else rays.origins + rays.offsets[:, None, None] * rays.directions
    return march_foreground(
        fields.foreground,
        origins,
        rays.directions,
        settings,
        num_frames=frames,
        last_opaque=fields.background is None,
        noise=rays.noise,
    )


def _accumulate_foreground(fields: Fields, rays: Rays, settings: RenderSettings, frames: int) -> Accumulated:
    # One operator for sampling and compositing, where the field has one, nothing is random, and without gradients.
    march = getattr(fields.foreground, "march", None)
    if march is not None and not rays.noise.is_random() and not torch.is_grad_enabled():
        return march(
            rays.origins, rays.directions, settings, last_opaque=fields.background is None, offsets=rays.offsets
        )
    accumulated = sample_foreground(fields, rays, settings, frames).accumulate(settings)
    if rays.offsets is not None:
        accumulated.depth = accumulated.depth + rays.offsets[:, None, None] * accumulated.accumulation
    return accumulated


def render_rays(
    fields: Fields,
    rays: Rays,
    settings: RenderSettings,
    *,
    frames: int,
    chunk: int | None = None,
    background: torch.Tensor | None = None,
) -> RenderedRays:
    """Composite the foreground over the background.

    Args:
        frames: T.
        chunk: Number of rays at a time, to bound memory; None for all at once.
        background: The result of `render_background` for these rays, if already computed.
    """
    total, parts = len(rays), []
    for start in range(0, total, chunk or total):
        some = slice(start, min(start + (chunk or total), total))
        part = rays.select(some)
        # Composite features, then apply the linear heads.
        foreground = _accumulate_foreground(fields, part, settings, frames)
        values = fields.foreground.project(foreground.features, foreground.accumulation)
        # The background, seen through the foreground's transmittance; the same for all frames.
        if fields.background is not None:
            far = render_background(fields.background, part, settings) if background is None else background[:, some]
            values = values + foreground.transmittance[..., None] * far[:, None]
        parts.append((values, foreground.depth, foreground.transmittance))
    return RenderedRays(*(parts[0] if len(parts) == 1 else (torch.cat(x, dim=2) for x in zip(*parts, strict=True))))


@dataclasses.dataclass(frozen=True)
class RaySamples:
    """Weights [B, T, R, S] and projected values [B, T, R, S, C] of every sample, background samples last.

    `foreground` holds the foreground's samples alone.
    """

    weights: torch.Tensor
    values: torch.Tensor
    foreground: ForegroundSamples


def ray_samples(fields: Fields, rays: Rays, settings: RenderSettings, *, frames: int) -> RaySamples:
    """The individual samples along rays that `render_rays` composites."""
    samples = sample_foreground(fields, rays, settings, frames)
    weights = [w for w, _ in samples.parts]
    values = [fields.foreground.project(features) for _, features in samples.parts]
    if fields.background is not None:
        far = march_background(fields.background, rays.origins, rays.directions, settings, noise=rays.noise)
        weights.append(far.weights[:, None] * samples.transmittance[..., None])
        values.append(fields.background.project(far.features)[:, None].expand(-1, frames, -1, -1, -1))
    return RaySamples(torch.cat(weights, dim=-1), torch.cat(values, dim=3), samples)
