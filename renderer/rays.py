"""Rays and their samples: settings, random numbers, positions, weights and weighted sums.

Stratified samples, importance samples and weights are those of NeRF (sections 4 and 5.2); background points follow the
inverted sphere of NeRF++.

Letters: B videos, T frames of a video, R rays, S samples of a ray, C channels.

Samples stay in the order in which they were evaluated (coarse, then fine), so that wide features are never moved.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING

import torch

from renderer.cameras import Cameras, camera_rays
from torch_utils.argument_checks import check_number, whole_number
from torch_utils.ops import composite as operators

if TYPE_CHECKING:
    from torch_utils.rng import RandomStream

__all__ = [
    "NO_NOISE",
    "Accumulated",
    "BackgroundSamples",
    "ForegroundSamples",
    "RayNoise",
    "RenderSettings",
    "Rays",
    "importance_samples",
    "inverted_sphere_points",
    "quadrature_weights",
    "stratified",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """Resolution and sampling of the volume rendering.

    Attributes:
        resolution: Width in pixels of the volume-rendered image.
        num_samples, num_importance: Coarse and importance samples of the foreground (0 importance samples: one pass).
        sampling_multiplier: Factor on both numbers for deterministic rays, as in inference.
        num_background: Background samples.
        near, far: The foreground's depth range in scene units.
        background_start: Inverse radius where the background begins, at most 1; it ends at 0, infinity.
        path_lattice: Width of the pixel lattice of the NeRF-path regularisation.

    Raises:
        ValueError: A value out of its range, or of another type.
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
        for name, value in vars(self).items():
            if name in ("near", "far", "background_start"):
                check_number(name, value)
            else:
                whole_number(name, value)
        if self.num_samples < 3 or self.num_importance < 0 or self.num_background < 2:
            raise ValueError("rendering needs num_samples >= 3, num_importance >= 0 and num_background >= 2.")
        for name in ("resolution", "sampling_multiplier"):
            if getattr(self, name) < 1:
                raise ValueError(f"rendering needs {name} >= 1, got {getattr(self, name)}.")
        if not 0 < self.near < self.far:
            raise ValueError(f"rendering needs 0 < near < far, got near {self.near} and far {self.far}.")
        if not 0 < self.background_start <= 1:
            raise ValueError(f"rendering needs 0 < background_start <= 1, got {self.background_start}.")

    def depths(self, positions: torch.Tensor) -> torch.Tensor:
        """Depths in scene units of positions along the foreground, fractions of the range from near to far."""
        return self.near + (self.far - self.near) * positions

    def samples(self, *, random: bool) -> tuple[int, int]:
        """Numbers of coarse and importance samples per ray, with random numbers or without.

        Over many training steps, jittered samples cover the gaps between them; evenly spaced ones, the same for all
        rays, cut a surface into slices at their spacing. EG3D (Chan et al. 2022) renders videos with twice the samples
        of its training.
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
    def draw(
        cls, stream: "RandomStream", batch: int, num_rays: int, settings: RenderSettings, *, background: bool
    ) -> "RayNoise":
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

    def select(self, rays: slice) -> "RayNoise":
        """The noise of some rays."""
        return RayNoise(**{name: None if x is None else x[:, rays] for name, x in vars(self).items()})

    def to(self, like: torch.Tensor) -> "RayNoise":
        """The noise on the device and of the type of a tensor; streams draw float32."""
        return RayNoise(**{name: None if x is None else x.to(like) for name, x in vars(self).items()})

    def is_random(self) -> bool:
        """True if any of the numbers are given."""
        return any(x is not None for x in vars(self).values())


NO_NOISE = RayNoise()


@dataclasses.dataclass(frozen=True)
class Rays:
    """Origins [B, 1, 3], directions [B, R, 3] (not normalised), and the rays' random numbers.

    `offsets` [B] are added to all depths of the foreground (`CameraPrior.depth_offsets`); None: zero.
    """

    origins: torch.Tensor
    directions: torch.Tensor
    noise: RayNoise = NO_NOISE
    offsets: torch.Tensor | None = None

    @classmethod
    def through(
        cls, pixels: torch.Tensor, cameras: Cameras, offsets: torch.Tensor | None, noise: RayNoise = NO_NOISE
    ) -> "Rays":
        """Rays of cameras through pixels (see `camera_rays`), all of the pixels' type and on their device."""
        return cls(*camera_rays(cameras, pixels), noise.to(pixels), None if offsets is None else offsets.to(pixels))

    def __len__(self) -> int:
        return self.directions.shape[1]

    def select(self, rays: slice) -> "Rays":
        """Some of the rays."""
        return Rays(self.origins, self.directions[:, rays], self.noise.select(rays), self.offsets)


# ----------------------------------------------------------------------------------------------------------------------
# Positions along rays. Without the random argument they are deterministic.


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


# ----------------------------------------------------------------------------------------------------------------------
# Samples and their quadrature (NeRF, equation 3).


def quadrature_weights(
    density: torch.Tensor,
    depths: torch.Tensor,
    *,
    direction_norm: torch.Tensor | None = None,
    last_opaque: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of a ray's samples and the transmittance at the last one (NeRF, equation 3).

    Args:
        density: Non-negative densities [..., S].
        depths: Sample positions [..., S], increasing; broadcastable with `density`.
        direction_norm: Length of the ray directions [...], or None for unit rays.
        last_opaque: True: the last sample is opaque whatever its density (its step length is infinite). False: it is
            transparent (its step length is zero) and leaves the transmittance to a background.

    Returns:
        weights [..., S] and transmittance [...].
    """
    deltas = depths[..., 1:] - depths[..., :-1]
    if direction_norm is not None:
        deltas = deltas * direction_norm[..., None]
    return operators.ray_weights(density, deltas, last_opaque=last_opaque)


@dataclasses.dataclass
class Accumulated:
    """Accumulated features, weights and depth along rays.

    Attributes:
        features: Weighted sum of every feature, each [B, T, R, C].
        accumulation: Sum of the weights [B, T, R].
        depth: Expected depth in scene units, not normalised by the accumulation [B, T, R].
        transmittance: Fraction of the background's light that reaches the camera [B, T, R].
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
        return tuple(functools.reduce(torch.add, terms) for terms in zip(*sums, strict=True))

    def sorted_along_ray(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(positions, weights), each [B, T, R, S], near to far."""
        weights = self.weights()
        positions = torch.cat([p.expand(*weights.shape[:-1], p.shape[-1]) for p in self.positions], dim=-1)
        positions, order = positions.sort(dim=-1)
        return positions, weights.gather(-1, order)

    def distortion(self) -> torch.Tensor:
        """Distortion of the weights along each ray [B, T, R] (mip-NeRF 360, Barron et al. 2022, equation 15).

        It is small where the weights of a ray are concentrated in one place. Distances are fractions of the range from
        near to far; the interval of each sample ends at the next one, and that of the last sample is empty. Unlike in
        the paper, the weights are normalised by their sum A and the result is multiplied by A without gradient: the
        value is the same for opaque rays, and a ray cannot lower its loss by becoming transparent, that is, by leaving
        the object to the background.
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
        """The samples composited into features, accumulation and expected depth."""
        weights = [w for w, _ in self.parts]
        depths = [settings.depths(p) for p in self.positions]
        depth = functools.reduce(torch.add, ((w * d).sum(-1) for w, d in zip(weights, depths, strict=True)))
        accumulation = functools.reduce(torch.add, (w.sum(-1) for w in weights))
        return Accumulated(self.composite(), accumulation, depth, self.transmittance)


@dataclasses.dataclass
class BackgroundSamples:
    """Samples of the background along rays: weights [B, R, S] (before the transmittance) and features."""

    weights: torch.Tensor
    features: tuple[torch.Tensor, ...]

    def composite(self) -> tuple[torch.Tensor, ...]:
        """Weighted sum of every feature over all samples, each [B, R, C]."""
        return tuple(operators.weighted_sum(self.weights, x) for x in self.features)
