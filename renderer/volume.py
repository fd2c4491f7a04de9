"""Hierarchical volume rendering of a foreground in a thin shell before an inverted-sphere background.

The renderer sees no network: a field is a callable `(points, directions) -> (raw density, features)` with a tuple of
per-sample features. Shapes: B videos, T frames of a video (which share camera, rays and random draws), R rays,
S samples; foreground points are [B, T, R, S, 3] or [B, 1, R, S, 3], background points [B, R, S, 4].

Samples stay in the order in which they were evaluated (coarse, then fine): only densities and depths are sorted along
the ray, and the resulting weights are put back into evaluation order, so that wide features are never moved.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch

from renderer.background import inverted_sphere_points
from renderer.compositing import composite, ray_weights
from renderer.sampling import importance_samples, stratified

__all__ = [
    "BackgroundSamples",
    "ForegroundSamples",
    "Marched",
    "RenderSettings",
    "march_background",
    "march_foreground",
]

Field = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, tuple[torch.Tensor, ...]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """How rays are sampled.

    Attributes:
        resolution: Width in pixels of the volume rendered image.
        num_samples, num_importance: Coarse and importance samples of the foreground (0 importance samples: one pass).
        num_background: Background samples.
        near, far: The foreground's depth range in scene units.
        background_start: Inverse radius where the background begins; it ends at 0, infinity.
        path_lattice: Width of the pixel lattice of the NeRF-path regularisation.
    """

    resolution: int = 32
    num_samples: int = 14
    num_importance: int = 14
    num_background: int = 4
    near: float = 0.88
    far: float = 1.12
    background_start: float = 0.5
    path_lattice: int = 16

    def __post_init__(self):
        if self.num_samples < 3 or self.num_importance < 0 or self.num_background < 2:
            raise ValueError("rendering needs num_samples >= 3, num_importance >= 0 and num_background >= 2.")
        if not 0 < self.near < self.far:
            raise ValueError(f"rendering needs 0 < near < far, got near {self.near} and far {self.far}.")


@dataclasses.dataclass
class ForegroundSamples:
    """What the foreground contributes to rays.

    Attributes:
        parts: One (weights [B, T, R, S], features) per pass, coarse first.
        transmittance: [B, T, R], what is left for the background.
        positions: Normalised positions along the ray, per pass.
    """

    parts: list[tuple[torch.Tensor, tuple[torch.Tensor, ...]]]
    transmittance: torch.Tensor
    positions: list[torch.Tensor]

    def weights(self) -> torch.Tensor:
        """All weights in evaluation order, [B, T, R, S_coarse + S_fine]."""
        return torch.cat([weights for weights, _ in self.parts], dim=-1)

    def composite(self) -> tuple[torch.Tensor, ...]:
        """Weighted sum of every feature over all samples, each [B, T, R, C]."""
        sums = [[composite(weights, x) for x in features] for weights, features in self.parts]
        return tuple(sum(terms[1:], terms[0]) for terms in zip(*sums, strict=True))

    def sorted_along_ray(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(positions, weights), each [B, T, R, S], near to far."""
        weights = self.weights()
        positions = torch.cat([p.expand(*weights.shape[:-1], p.shape[-1]) for p in self.positions], dim=-1)
        positions, order = positions.sort(dim=-1)
        return positions, weights.gather(-1, order)

    def marched(self, settings: RenderSettings) -> "Marched":
        """The samples composited; the depth passes no gradients to the weights."""
        weights = [w for w, _ in self.parts]
        depths = [settings.near + (settings.far - settings.near) * p for p in self.positions]
        depth = sum((w.detach() * d).sum(-1) for w, d in zip(weights, depths, strict=True))
        return Marched(self.composite(), sum(w.sum(-1) for w in weights), depth, self.transmittance)


@dataclasses.dataclass
class Marched:
    """What is left of the foreground's samples when they are composited.

    Attributes:
        features: Weighted sum of every feature, each [B, T, R, C].
        weight_sum: Sum of the weights [B, T, R].
        depth: Expected depth in scene units, not normalised by that sum [B, T, R].
        transmittance: [B, T, R], what is left for the background.
    """

    features: tuple[torch.Tensor, ...]
    weight_sum: torch.Tensor
    depth: torch.Tensor
    transmittance: torch.Tensor

    @classmethod
    def of_frames(cls, frames: Sequence["Marched"]) -> "Marched":
        """Several frames of the same rays as one."""
        features = tuple(torch.cat(x, dim=1) for x in zip(*(frame.features for frame in frames), strict=True))
        totals = ((frame.weight_sum, frame.depth, frame.transmittance) for frame in frames)
        return cls(features, *(torch.cat(x, dim=1) for x in zip(*totals, strict=True)))


@dataclasses.dataclass
class BackgroundSamples:
    """What the background contributes: weights [B, R, S] (before the transmittance) and features."""

    weights: torch.Tensor
    features: tuple[torch.Tensor, ...]

    def composite(self) -> tuple[torch.Tensor, ...]:
        return tuple(composite(self.weights, x) for x in self.features)


@dataclasses.dataclass(frozen=True)
class RayNoise:
    """The random draws of a set of rays, shared by a video's frames; None everywhere renders deterministically."""

    depth: torch.Tensor | None = None  # [B, R, num_samples], uniform
    density: torch.Tensor | None = None  # [B, R, num_samples], normal
    importance: torch.Tensor | None = None  # [B, R, num_importance], uniform
    density_fine: torch.Tensor | None = None  # [B, R, num_importance], normal
    background_depth: torch.Tensor | None = None  # [B, R, num_background], uniform
    background_density: torch.Tensor | None = None  # [B, R, num_background], normal

    @classmethod
    def draw(cls, stream, batch: int, num_rays: int, settings: RenderSettings, *, background: bool) -> "RayNoise":
        """All draws for `num_rays` rays of each of `batch` videos."""
        coarse, fine = [batch, num_rays, settings.num_samples], [batch, num_rays, settings.num_importance]
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
        """The draws of some videos and rays."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return RayNoise(**{name: None if x is None else x[videos, rays] for name, x in fields.items()})

    def drawn(self) -> bool:
        """Whether anything is random."""
        return any(getattr(self, field.name) is not None for field in dataclasses.fields(self))


NO_NOISE = RayNoise()


def _density(raw: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    return torch.relu(raw if noise is None else raw + noise)


def _per_frame(x: torch.Tensor | None) -> torch.Tensor | None:
    """[B, R, S] to [B, 1, R, S]."""
    return None if x is None else x[:, None]


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
        last_opaque: Whether the last sample ends the ray (nothing lies behind) or leaves it to the background.
    """
    norm = directions.norm(dim=-1)  # [B, R]
    view = directions / norm[..., None]
    norm = norm[:, None]
    batch, num_rays, _ = directions.shape

    def evaluate(positions: torch.Tensor):
        depths = settings.near + (settings.far - settings.near) * positions
        points = origins[:, None, :, None] + depths[..., None] * directions[:, None, :, None]
        return field(points, view)

    def weigh(density: torch.Tensor, positions: torch.Tensor):
        depths = settings.near + (settings.far - settings.near) * positions
        return ray_weights(density, depths, direction_norm=norm, last_opaque=last_opaque)

    even = torch.linspace(0, 1, settings.num_samples, device=directions.device, dtype=directions.dtype)
    coarse = stratified(even, _per_frame(noise.depth)).expand(batch, 1, num_rays, -1)
    raw, features = evaluate(coarse)
    density = _density(raw, _per_frame(noise.density))
    weights, transmittance = weigh(density, coarse)
    if settings.num_importance == 0:
        return ForegroundSamples([(weights, features)], transmittance, [coarse])

    with torch.no_grad():
        bins = (coarse[..., 1:] + coarse[..., :-1]) / 2
        fine = importance_samples(bins, weights[..., 1:-1], settings.num_importance, _per_frame(noise.importance))
    raw, features_fine = evaluate(fine)
    density_fine = _density(raw, _per_frame(noise.density_fine))

    positions, order = torch.cat([coarse.expand(-1, num_frames, -1, -1), fine], dim=-1).sort(dim=-1)
    weights, transmittance = weigh(torch.cat([density, density_fine], dim=-1).gather(-1, order), positions)
    # Back to evaluation order: the inverse permutation of `order`.
    weights = weights.gather(-1, order.argsort(dim=-1))
    parts = [(weights[..., : settings.num_samples], features), (weights[..., settings.num_samples :], features_fine)]
    return ForegroundSamples(parts, transmittance, [coarse, fine])


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
    # Increasing along the ray, as the weights want it: minus the inverse radius.
    even = torch.linspace(
        -settings.background_start, 0, settings.num_background, device=directions.device, dtype=directions.dtype
    )
    positions = stratified(even, noise.background_depth).expand(*directions.shape[:-1], -1)
    raw, features = field(inverted_sphere_points(origins, unit, -positions), unit)
    weights, _ = ray_weights(_density(raw, noise.background_density), positions, last_opaque=True)
    return BackgroundSamples(weights, features)
