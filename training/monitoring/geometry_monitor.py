"""Monitoring of the geometry during training: depth variance and view parallax, and a warning when it becomes flat.

The best-known failure of 3D-aware GANs is a scene that collapses to an image on a plane: every single view looks
right, the discriminators cannot detect it, and the camera moves around a billboard. Measured on the depth maps of fixed
content codes seen from the front:

    Geometry/surface         share of pixels that show the foreground (opacity above one half)
    Geometry/depth_variance  variance of the visible surface's depth, in squared scene units
    Geometry/relief          root mean square distance of depths from the plane that fits them best, in scene units
    Geometry/parallax        root mean square distance, in a view turned by half the range of yaw (of pitch, where yaw
                             is fixed), at most a right angle, between surface points and their projections onto that
                             plane, as a fraction of the image's width; left out where all cameras look from one
                             direction

Parallax measures what the geometry shows beyond a plane, on the scale on which the discriminators would see it. Below
`FLAT_PARALLAX` it is less than a tenth of a pixel at 32×32 and less than a pixel at 256×256, practically a plane, and
the log warns of it. The heads of `training.synthetic` have 0.044 over ±0.6 rad, fifteen times the threshold, and 0.023
over ±0.3.

A model with a density prior shows one object in front of a background. If its foreground still covers the whole image
after some training, it shows the background as well, and its depth is that of a wall: the log warns of this, too.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from renderer.cameras import Cameras
from renderer.depth import parallax, relief, surface_depth, weighted_mean
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import SeedLatents, generator_latents
from training.networks.generator import Generator

__all__ = ["FLAT_PARALLAX", "GeometryFigures", "GeometryMonitor", "measure_geometry"]

FLAT_PARALLAX = 0.003  # of the image's width
THIN_SURFACE = 0.02  # share of pixels; with fewer there is no foreground to speak of
FULL_SURFACE = 0.9  # share of pixels; with more, a single object fills the image
CONTENTS = 16  # content codes
CHUNK = 4  # content codes rendered at a time
TIME = 0.5  # of a clip
FIRST_FIT = 1000  # videos before the first warning: until then there is no geometry that could go flat
FIRST_CARVED = 4000  # videos before a full image is warned of: until then fog may surround the prior's body


@dataclasses.dataclass(frozen=True)
class GeometryFigures:
    """The measures listed at the top of this file, means over contents with a visible surface; NaN if there is none.

    `parallax` is None if there is no other view.
    """

    surface: float
    depth_variance: float
    relief: float
    parallax: float | None

    def warning(self, *, one_object: bool) -> str | None:
        """The warning if the geometry is flat or gone, or one object fills the image; else None."""
        if not self.surface >= THIN_SURFACE:
            return (
                f"the foreground covers {self.surface:.1%} of the image: the background, which has no geometry, shows "
                "everything"
            )
        if self.parallax is not None and self.parallax < FLAT_PARALLAX:
            return (
                f"the geometry is flat: its parallax beyond a plane's is {self.parallax:.2%} of the image's width "
                f"(below {FLAT_PARALLAX:.1%})"
            )
        if one_object and self.surface > FULL_SURFACE:
            return f"the foreground covers {self.surface:.1%} of the image: it shows the background, too"
        return None


def measure_geometry(
    depth: torch.Tensor, weights: torch.Tensor, cameras: Cameras, others: Cameras | None
) -> GeometryFigures:
    """Measure depth maps [N, H, H] with weights (1 where there is a surface) seen by `cameras`.

    Args:
        others: The turned views that parallax is measured in, one per map; None if there are none.
    """
    surface = weights.mean(dim=[-2, -1])
    # Three pixels always lie on a plane; diverged networks are reported by the divergence check.
    seen = (weights.flatten(1).sum(1) >= 4) & depth.isfinite().all(dim=-1).all(dim=-1)
    if not seen.any():
        nan = float("nan")
        return GeometryFigures(float(surface.mean()), nan, nan, None if others is None else nan)
    depth, weights = depth[seen], weights[seen]
    mean = weighted_mean(depth, weights)[:, None, None]
    return GeometryFigures(
        surface=float(surface.mean()),
        depth_variance=float(weighted_mean((depth - mean).square(), weights).mean()),
        relief=float(relief(depth, weights).mean()),
        # NaN where a part is behind the other camera.
        parallax=None if others is None else float(parallax(cameras[seen], others[seen], depth, weights).nanmean()),
    )


class GeometryMonitor:
    """Measurement of a generator's geometry on fixed content codes, without influence on the training.

    Args:
        generator: In evaluation mode; its parameters may change between calls.
        c: Labels [N, c_dim] of the contents, for a conditional generator; N contents are measured then.
    """

    def __init__(self, generator: Generator, *, device: torch.device | str = "cpu", c: torch.Tensor | None = None):
        self.generator, self.device = generator, torch.device(device)
        contents = range(CONTENTS if c is None else len(c))
        self.latents = SeedLatents.join(generator_latents(generator, i, i) for i in contents).to(self.device)
        self.c = None if c is None else c.to(self.device)
        settings = generator.config.get("foreground")
        prior = settings.get("density_prior") if isinstance(settings, Mapping) else None
        self.one_object = prior is not None and generator.background is not None
        prior = generator.camera_prior
        self.front = prior.at().to(self.device)
        turns = {name: _turned_fraction(getattr(prior, name, None)) for name in ("yaw", "pitch")}
        self._others = [prior.at(**{name: fraction}).to(self.device) for name, fraction in turns.items()]

    @property
    def turned(self) -> Cameras | None:
        """The view in which parallax is measured; None if all cameras look from one direction."""
        return next((camera for camera in self._others if not camera.equals(self.front)), None)

    @torch.no_grad()
    def measure(self) -> GeometryFigures:
        """The measures of the generator as it is now."""
        maps = []
        for part in torch.arange(len(self.latents.z), device=self.device).split(CHUNK):
            latents, c = self.latents[part], None if self.c is None else self.c[part]
            renderer = FrameRenderer(self.generator, **vars(latents.with_styles(self.generator.mapping(latents.z, c))))
            out = renderer.output(TIME, self.front.repeat(len(part)))
            background = self.generator.background is not None
            maps.append(surface_depth(out.depth[:, 0], out.opacity[:, 0], background=background))
        depth, weights = (torch.cat(x).float() for x in zip(*maps))
        count = len(depth)
        turned = self.turned
        others = None if turned is None else turned.repeat(count)
        return measure_geometry(depth, weights, self.front.repeat(count), others)

    def report(self, statistics, *, cur_nimg: int) -> str | None:
        """Measure and report to the run's statistics; returns a warning for the log if the geometry is not sound."""
        figures = self.measure()
        for name, value in dataclasses.asdict(figures).items():
            if value is not None:
                statistics.report(f"Geometry/{name}", value)
        warning = figures.warning(one_object=self.one_object and cur_nimg >= FIRST_CARVED)
        if warning is None or cur_nimg < FIRST_FIT:
            return None
        return f"warning: at {cur_nimg / 1000:g} kimg {warning}. See 'Flat geometry' in docs/training.md."


def _turned_fraction(limits: Any) -> float:
    """The fraction of a range, for `CameraPrior.at`, at its end, but at most a right angle from its middle.

    The end of a range of a whole turn is the back view, in which there is little parallax. A prior of the user's own
    need not have ranges.
    """
    try:
        low, high = map(float, limits)
    except (TypeError, ValueError):
        return 1.0
    return 0.5 + min(0.5, math.pi / 2 / (high - low)) if high > low else 1.0
