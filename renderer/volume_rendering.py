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
import functools
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch

from renderer.sampling import importance_samples, inverted_sphere_points, stratified
from torch_utils.argument_checks import shown
from torch_utils.ops import composite as operators

__all__ = [
    "NO_NOISE",
    "Accumulated",
    "BackgroundSamples",
    "Fields",
    "ForegroundSamples",
    "RayNoise",
    "RenderSettings",
    "RenderedRays",
    "Rays",
    "march_background",
    "march_foreground",
    "RaySamples",
    "ray_samples",
    "ray_weights",
    "render_background",
    "render_rays",
]

Features = tuple[torch.Tensor, ...]


class Field(Protocol):
    """A conditioned field; see the module's docstring."""

    def __call__(self, points: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, Features]:
        """Raw density and features of points seen along unit directions [B, R, 3].

        The density of points [B, T, R, S, 3] or [B, 1, R, S, 3] is [B, T, R, S] and may be negative, where there is
        nothing; features are a tuple of [B, T, R, S, C]. A background has neither T nor time: [B, R, S], [B, R, S, C].
        """

    def project(self, features: Features, accumulation: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Values [..., C] of weighted sums of features, whose weights add up to `accumulation`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """Resolution and sampling of the volume rendering.

    Attributes:
        resolution: Width in pixels of the volume rendered image.
        num_samples, num_importance: Coarse and importance samples of the foreground (0 importance samples: one pass).
        sampling_multiplier: Deterministic rays, as in inference, take this many times as many of both.
        num_background: Background samples.
        near, far: The foreground's depth range in scene units.
        background_start: Inverse radius where the background begins; it ends at 0, infinity.
        path_lattice: Width of the pixel lattice of the NeRF-path regularisation.
    """

    resolution: int = 32
    num_samples: int = 14
    num_importance: int = 14
    sampling_multiplier: int = 1
    num_background: int = 4
    near: float = 0.88
    far: float = 1.12
    background_start: float = 0.5
    path_lattice: int = 16

    def __post_init__(self):
        if self.num_samples < 3 or self.num_importance < 0 or self.num_background < 2:
            raise ValueError("rendering needs num_samples >= 3, num_importance >= 0 and num_background >= 2.")
        for name in ("resolution", "sampling_multiplier"):
            if getattr(self, name) < 1:
                raise ValueError(f"rendering needs {name} >= 1, got {getattr(self, name)}.")
        if not 0 < self.near < self.far:
            raise ValueError(f"rendering needs 0 < near < far, got near {self.near} and far {self.far}.")

    def samples(self, *, random: bool) -> tuple[int, int]:
        """Coarse and importance samples of a ray, with random numbers or without.

        Jittered samples of many training steps see what lies between them; evenly spaced ones, which are the same for
        all rays, cut a surface into slices as far apart as they are. EG3D (Chan et al. 2022) renders videos with twice
        the samples of its training.
        """
        factor = 1 if random else self.sampling_multiplier
        return factor * self.num_samples, factor * self.num_importance


@dataclasses.dataclass(frozen=True)
class RayNoise:
    """Random numbers of a set of rays, shared by a video's frames; None everywhere renders deterministically."""

    depth: torch.Tensor | None = None  # [B, R, num_samples], uniform
    density: torch.Tensor | None = None  # [B, R, num_samples], normal
    importance: torch.Tensor | None = None  # [B, R, num_importance], uniform
    density_fine: torch.Tensor | None = None  # [B, R, num_importance], normal
    background_depth: torch.Tensor | None = None  # [B, R, num_background], uniform
    background_density: torch.Tensor | None = None  # [B, R, num_background], normal

    @classmethod
    def draw(cls, stream, batch: int, num_rays: int, settings: RenderSettings, *, background: bool) -> "RayNoise":
        """Random numbers for `num_rays` rays of each of `batch` videos."""
        coarse, fine = ([batch, num_rays, count] for count in settings.samples(random=True))
        far = [batch, num_rays, settings.num_background]
        second = settings.num_importance > 0
        return cls(
            depth=stream.uniform("render/depth", coarse),
            density=stream.normal("render/density", coarse),
            importance=stream.uniform("render/importance", fine) if second else None,
            density_fine=stream.normal("render/density_fine", fine) if second else None,
            background_depth=stream.uniform("render/background_depth", far) if background else None,
            background_density=stream.normal("render/background_density", far) if background else None,
        )

    def select(self, videos: slice = slice(None), rays: slice = slice(None)) -> "RayNoise":
        """The noise of some videos and rays."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return RayNoise(**{name: None if x is None else x[videos, rays] for name, x in fields.items()})

    def is_random(self) -> bool:
        """True if any of it is random."""
        return any(getattr(self, field.name) is not None for field in dataclasses.fields(self))


NO_NOISE = RayNoise()


@dataclasses.dataclass(frozen=True)
class Rays:
    """Origins [B, 1, 3], directions [B, R, 3] (not normalised), and the rays' random numbers."""

    origins: torch.Tensor
    directions: torch.Tensor
    noise: RayNoise = NO_NOISE

    def __len__(self) -> int:
        return self.directions.shape[1]

    def select(self, rays: slice) -> "Rays":
        """Some of the rays."""
        return Rays(self.origins, self.directions[:, rays], self.noise.select(rays=rays))


@dataclasses.dataclass(frozen=True)
class Fields:
    """The foreground field and the background field (None for none) of B videos.

    A foreground may also have `march(origins, directions, settings, last_opaque=)`: deterministic sampling and
    compositing in one operator, with the result of `march_foreground` followed by `ForegroundSamples.accumulate`.
    """

    foreground: Field
    background: Field | None


# ----------------------------------------------------------------------------------------------------------------------
# Quadrature (NeRF, equation 3).


def ray_weights(
    density: torch.Tensor,
    depths: torch.Tensor,
    *,
    direction_norm: torch.Tensor | None = None,
    last_opaque: bool,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of a ray's samples and the transmittance at the last one (NeRF, equation 3).

    Args:
        density: Non-negative densities [..., S].
        depths: Sample positions [..., S], increasing; broadcastable with `density`.
        direction_norm: Length of the ray directions [...], or None for unit rays.
        last_opaque: True: the last sample is opaque whatever its density (its step length is infinite). False: it is
            transparent (its step length is zero) and leaves the transmittance to a background.
        impl: See `torch_utils.ops.composite.composite`.

    Returns:
        weights [..., S] and transmittance [...].
    """
    deltas = depths[..., 1:] - depths[..., :-1]
    if direction_norm is not None:
        deltas = deltas * direction_norm[..., None]
    return operators.ray_weights(density, deltas, last_opaque=last_opaque, impl=impl)


def _evaluate(
    field: Field, points: torch.Tensor, view: torch.Tensor, shape: Sequence[int]
) -> tuple[torch.Tensor, Features]:
    """A field's raw density, which must be of a shape [..., R, S], and its features [..., R, S, C].

    Other shapes would broadcast: a tensor in the place of the tuple is a tuple of its videos.

    Raises:
        ValueError: It returns something else.
    """
    raw, features = field(points, view)
    shape, several = list(shape), isinstance(features, tuple)
    if list(raw.shape) != shape or not several or any(list(x.shape[:-1]) != shape for x in features):
        given = [list(x.shape) for x in features] if several else shown(features)
        raise ValueError(
            f"a field must return densities {shape} and a tuple of features {[*shape, 'C']}, got {list(raw.shape)} and "
            f"{given}."
        )
    return raw, features


def _density(raw: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    """Density from a field's raw output, with noise as a regulariser (NeRF, appendix A)."""
    return torch.relu(raw if noise is None else raw + noise)


def _total(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    """Sum of at least one tensor."""
    return functools.reduce(torch.add, terms)


def _per_frame(x: torch.Tensor | None) -> torch.Tensor | None:
    """[B, R, S] to [B, 1, R, S]."""
    return None if x is None else x[:, None]


# ----------------------------------------------------------------------------------------------------------------------
# Foreground: coarse and importance samples (NeRF, section 5.2).


@dataclasses.dataclass
class Accumulated:
    """Accumulated features, weights and depth along rays.

    Attributes:
        features: Weighted sum of every feature, each [B, T, R, C].
        accumulation: Sum of the weights [B, T, R].
        depth: Expected depth in scene units, not normalised by the accumulation [B, T, R].
        transmittance: Light from the background that reaches the camera [B, T, R].
    """

    features: tuple[torch.Tensor, ...]
    accumulation: torch.Tensor
    depth: torch.Tensor
    transmittance: torch.Tensor


@dataclasses.dataclass
class ForegroundSamples:
    """Samples of the foreground along rays.

    Attributes:
        parts: One (weights [B, T, R, S], features) per pass, coarse first.
        transmittance: [B, T, R], left for the background.
        positions: Depths of each pass as fractions of the range from near to far.
    """

    parts: list[tuple[torch.Tensor, tuple[torch.Tensor, ...]]]
    transmittance: torch.Tensor
    positions: list[torch.Tensor]

    def weights(self) -> torch.Tensor:
        """All weights in evaluation order, [B, T, R, S_coarse + S_fine]."""
        return torch.cat([weights for weights, _ in self.parts], dim=-1)

    def composite(self) -> tuple[torch.Tensor, ...]:
        """Weighted sum of every feature over all samples, each [B, T, R, C]."""
        sums = [[operators.weighted_sum(weights, x) for x in features] for weights, features in self.parts]
        return tuple(_total(terms) for terms in zip(*sums, strict=True))

    def sorted_along_ray(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(positions, weights), each [B, T, R, S], near to far."""
        weights = self.weights()
        positions = torch.cat([p.expand(*weights.shape[:-1], p.shape[-1]) for p in self.positions], dim=-1)
        positions, order = positions.sort(dim=-1)
        return positions, weights.gather(-1, order)

    def distortion(self) -> torch.Tensor:
        """Distortion of the weights along each ray [B, T, R] (mip-NeRF 360, Barron et al. 2022, equation 15).

        The smaller, the more the weights of a ray are at one place. Distances are fractions of the range from near to
        far; every sample's interval ends at the next one, the last one's has no length. Unlike in the paper the weights
        are divided by their sum A and the result multiplied by it as a constant: the same for opaque rays, and a ray
        cannot lower its loss by becoming transparent, that is, by leaving the object to the background.
        """
        positions, weights = self.sorted_along_ray()
        accumulation = weights.sum(-1)
        weights = weights / accumulation.clamp(min=1e-3)[..., None]
        ends = torch.cat([positions[..., 1:], positions[..., -1:]], dim=-1)
        middles = (positions + ends) / 2
        # Σ_ij w_i w_j |m_i - m_j| over sorted m: twice the sum over i of w_i (m_i Σ_{j<i} w_j - Σ_{j<i} w_j m_j).
        moments = weights * middles
        before = middles * (weights.cumsum(-1) - weights) - (moments.cumsum(-1) - moments)
        within = weights.square() * (ends - positions) / 3
        return accumulation.detach() * (2 * weights * before + within).sum(-1)

    def accumulate(self, settings: RenderSettings) -> Accumulated:
        """The samples composited."""
        weights = [w for w, _ in self.parts]
        depths = [settings.near + (settings.far - settings.near) * p for p in self.positions]
        depth = _total((w * d).sum(-1) for w, d in zip(weights, depths, strict=True))
        return Accumulated(self.composite(), _total(w.sum(-1) for w in weights), depth, self.transmittance)


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
        origins, directions: [B, 1, 3] and [B, R, 3]; directions are not normalised.
        num_frames: T.
        last_opaque: True: the last sample ends the ray (there is no background). False: it is transparent.
    """
    # Step lengths along a ray are depth differences times the length of its direction.
    norm = directions.norm(dim=-1)  # [B, R]
    view = directions / norm[..., None]
    norm = norm[:, None]
    batch, num_rays, _ = directions.shape

    def evaluate(positions: torch.Tensor):
        depths = settings.near + (settings.far - settings.near) * positions
        points = origins[:, None, :, None] + depths[..., None] * directions[:, None, :, None]
        return _evaluate(field, points, view, (batch, num_frames, *positions.shape[2:]))

    def weigh(density: torch.Tensor, positions: torch.Tensor):
        depths = settings.near + (settings.far - settings.near) * positions
        return ray_weights(density, depths, direction_norm=norm, last_opaque=last_opaque)

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


@dataclasses.dataclass
class BackgroundSamples:
    """Samples of the background along rays: weights [B, R, S] (before the transmittance) and features."""

    weights: torch.Tensor
    features: tuple[torch.Tensor, ...]

    def composite(self) -> tuple[torch.Tensor, ...]:
        """Weighted sum of every feature over all samples, each [B, R, C]."""
        return tuple(operators.weighted_sum(self.weights, x) for x in self.features)


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
    weights, _ = ray_weights(_density(raw, noise.background_density), positions, last_opaque=True)
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


def _sample_foreground(fields: Fields, rays: Rays, settings: RenderSettings, frames: int) -> ForegroundSamples:
    return march_foreground(
        fields.foreground,
        rays.origins,
        rays.directions,
        settings,
        num_frames=frames,
        last_opaque=fields.background is None,
        noise=rays.noise,
    )


def _accumulate_foreground(fields: Fields, rays: Rays, settings: RenderSettings, frames: int) -> Accumulated:
    # One operator for sampling and compositing, where the field has one and nothing is random.
    march = getattr(fields.foreground, "march", None)
    if march is not None and not rays.noise.is_random():
        return march(rays.origins, rays.directions, settings, last_opaque=fields.background is None)
    return _sample_foreground(fields, rays, settings, frames).accumulate(settings)


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
        background: The result of `render_background` for these rays, if it is known already.
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

    `foreground` are the foreground's samples alone.
    """

    weights: torch.Tensor
    values: torch.Tensor
    foreground: ForegroundSamples


def ray_samples(fields: Fields, rays: Rays, settings: RenderSettings, *, frames: int) -> RaySamples:
    """The samples along rays one by one, which `render_rays` composites."""
    samples = _sample_foreground(fields, rays, settings, frames)
    weights = [w for w, _ in samples.parts]
    values = [fields.foreground.project(features) for _, features in samples.parts]
    if fields.background is not None:
        far = march_background(fields.background, rays.origins, rays.directions, settings, noise=rays.noise)
        weights.append(far.weights[:, None] * samples.transmittance[..., None])
        values.append(fields.background.project(far.features)[:, None].expand(-1, frames, -1, -1, -1))
    return RaySamples(torch.cat(weights, dim=-1), torch.cat(values, dim=3), samples)
