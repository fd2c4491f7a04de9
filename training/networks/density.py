"""Density prior and density ramp of the foreground: a fixed Gaussian, and a factor that grows during training."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from dnnlib import is_number

__all__ = ["DensityPrior", "DensityRamp", "from_options"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DensityPrior:
    """A fixed Gaussian blob of density (DreamFusion, Poole et al. 2022, section 3.2 and appendix).

    It is added to the raw density of the foreground: p(x) = peak · exp(−|x − center|² / (2 radius²)).

    Attributes:
        peak: Density at the centre, per scene unit; not negative.
        radius: Standard deviation in scene units, above 0.
        center: x, y, z in scene units.

    Raises:
        ValueError: A value out of its range; names it.
    """

    peak: float
    radius: float
    center: Sequence[float] = (0.0, 0.0, 0.0)

    def __post_init__(self):
        if not is_number(self.peak) or self.peak < 0:
            raise ValueError(f"foreground.density_prior.peak must be a number of at least 0, got {self.peak!r}.")
        if not is_number(self.radius) or self.radius <= 0:
            raise ValueError(f"foreground.density_prior.radius must be a number above 0, got {self.radius!r}.")
        center = self.center
        if not isinstance(center, Sequence) or len(center) != 3 or not all(is_number(x) for x in center):
            raise ValueError(f"foreground.density_prior.center must be three numbers [x,y,z], got {center!r}.")

    def __call__(self, points: torch.Tensor, *, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Densities [...] at points [..., 3], times `scale`."""
        # Coordinate by coordinate: a tensor of the centre would have to be copied to the points' device.
        x, y, z = (axis - middle for axis, middle in zip(points.unbind(-1), self.center, strict=True))
        return (scale * self.peak) * torch.exp((x.square() + y.square() + z.square()) / (-2 * self.radius**2))


@dataclasses.dataclass(frozen=True)
class DensityRamp:
    """A factor on the density that grows linearly during training, from 1 at `start` to `factor` at `end`.

    It turns the fog of the first thousands of videos into surfaces, like the inverse standard deviation of NeuS (Wang
    et al. 2021, section 3.1), which is learnt and grows: Adam's steps have a fixed size and do not reach high densities
    in a short training.

    Attributes:
        factor: At least 1.
        start, end: Thousands of videos, 0 <= start < end.

    Raises:
        ValueError: A value out of its range; names it.
    """

    factor: float
    start: float
    end: float

    def __post_init__(self):
        if not is_number(self.factor) or self.factor < 1:
            raise ValueError(f"foreground.density_ramp.factor must be a number of at least 1, got {self.factor!r}.")
        if not is_number(self.start) or self.start < 0:
            raise ValueError(f"foreground.density_ramp.start must be a number of at least 0, got {self.start!r}.")
        if not is_number(self.end) or self.end <= self.start:
            raise ValueError(f"foreground.density_ramp.end must be a number above its start, got {self.end!r}.")

    def __call__(self, kimg: float) -> float:
        """The factor after `kimg` thousand training videos."""
        fraction = (kimg - self.start) / (self.end - self.start)
        return 1 + (self.factor - 1) * min(max(fraction, 0.0), 1.0)


def from_options(cls: type[T], options: Any, name: str) -> T | None:
    """A `DensityPrior` or `DensityRamp` from the option foreground.`name`, a mapping of its attributes; None for None.

    Raises:
        ValueError: Not a mapping, a missing or unknown key, or a value out of its range; names it.
    """
    if options is None:
        return None
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    if not isinstance(options, Mapping):
        raise ValueError(f"foreground.{name} must be null or {{{', '.join(names)}}}, got {options!r}.")
    unknown = [key for key in options if key not in names]
    if unknown:
        raise ValueError(f"foreground.{name} has no '{unknown[0]}'; its keys are {', '.join(names)}.")
    missing = [field.name for field in fields if field.default is dataclasses.MISSING and field.name not in options]
    if missing:
        raise ValueError(f"foreground.{name} lacks {missing[0]}.")
    return cls(**options)
