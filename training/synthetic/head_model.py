"""Analytic talking heads: density and colour in closed form as functions of position and time.

A head (skull, jaw, nose, ears, eyes, hair) turns about the top of a neck on shoulders. All parts are ellipsoids with
soft surfaces; eyelids, pupils, brows and lips are coloured regions on them. A content code determines the identity, a
motion code the motion, a background code the background; all codes are standard normal.

World coordinates are those of `renderer.cameras`: z is up, a camera at yaw 0 looks along −x at the face, y points right
in its image, and a field of view of 18° shows 0.158 on either side of the origin.

A scene is a field as the renderer expects it, `(points, directions) → (density, features)`, rendered with the same
quadrature as the networks.
"""

import colorsys
import copy
import math

import torch

from training.synthetic.parameters import BACKGROUND_CODE, Person, Pose, between, share

__all__ = ["Backdrop", "TalkingHead"]

DENSITY = 500.0  # inside a part, per scene unit: 0.01 of it hides what is behind
SOFTNESS = 0.0015  # of a surface: the density rises from 12 % to 88 % over four times this length
NOTHING = 0.05  # an invisible density: over a part's whole depth it hides less than a hundredth
NECK_TOP = -0.01  # neck and shoulders lie below this height
HEAD_Z = 0.022  # height of the skull's centre
PIVOT = (-0.012, 0.0, -0.055)  # centre of the head's rotation on the neck
LIGHT = (0.62, -0.45, 0.64)  # unit vector towards the light
AMBIENT = 0.55


class TalkingHead:
    """The field of a person in T poses.

    Called with points [1, T or 1, R, S, 3] it returns the density [1, T, R, S] and one feature, the colour
    [1, T, R, S, 3] in [-1, 1]. The viewing direction has no effect. Most points lie in empty space: the head is
    evaluated only at points near it, and a part's colour only inside the part.
    """

    def __init__(self, person: Person, pose: Pose):
        self.person = person
        self.rotation = pose.rotation().float()
        self.mouth, self.eyes = pose.mouth.float(), pose.eyes.float()

    def project(self, features, accumulation=1.0) -> torch.Tensor:
        """Composited colours as they are; see `renderer.volume_rendering`."""
        return features[0]

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        shape = [len(self.rotation), *points.shape[2:4]]
        points = points[0].expand(*shape, 3).flatten(1, 2)  # [T, R·S, 3]
        mixture = _Mixture(points.shape[:2].numel(), points)
        low = (points[..., 2] < NECK_TOP).flatten().nonzero()[:, 0]
        self._body(mixture.at(low), points.flatten(0, 1)[low].unbind(-1))

        pivot = points.new_tensor(PIVOT)
        head = (points - pivot) @ self.rotation + pivot  # world to head: rows times the matrix
        centre = points.new_tensor([0, 0, HEAD_Z])
        near = ((head - centre).square().sum(-1) < self._reach() ** 2).flatten().nonzero()[:, 0]
        frame = near // points.shape[1]
        at = head.flatten(0, 1)[near].unbind(-1)
        self._head(mixture.at(near), at, self.mouth[frame], self.eyes[frame])
        return mixture.density.reshape(1, *shape), (mixture.mean_colour().reshape(1, *shape, 3) * 2 - 1,)

    def _reach(self) -> float:
        """Largest distance of any part of the head from the skull's centre."""
        p = self.person
        return max(p.height + p.hair_volume + 0.015, p.depth + p.nose, 1.2 * p.hair_length + 0.06) + 0.015

    def _body(self, mixture: "_Mixture", at) -> None:
        """Neck and shoulders, which do not move; `at` are x, y and z of points [N] in world coordinates."""
        p = self.person
        mixture.add(_Ellipsoid(at, (-0.014, 0, -0.085), (0.034, 0.032, 0.065)), p.skin, gain=0.9)

        def clothes(some):
            y, z = at[1][some], at[2][some]
            if p.stripes:
                pattern = torch.sigmoid(20 * torch.sin(2 * math.pi * p.stripes * z))
            else:
                pattern = torch.sigmoid((0.55 * (z + 0.155) - y.abs() + 0.012) * 400)  # a collar open at the front
            base, second = y.new_tensor(p.clothes), y.new_tensor(p.second)
            return base + pattern[:, None] * (second - base)

        mixture.add(_Ellipsoid(at, (-0.020, 0, -0.178), (0.062, p.shoulders, 0.072)), clothes)

    def _head(self, mixture: "_Mixture", at, mouth: torch.Tensor, eyes: torch.Tensor) -> None:
        """Everything that turns with the head; `at` are in the head's own frame, openings per point [N]."""
        p = self.person
        x, y, z = at

        def face(some):
            return self._paint(x[some], y[some], z[some] - HEAD_Z, mouth[some], eyes[some])

        mixture.add(_Ellipsoid(at, (0, 0, HEAD_Z), (p.depth, p.width, p.height)), face)
        lowered = (x, y, z + 0.014 * mouth)
        centre, axes = (0.018, 0, HEAD_Z - 0.55 * p.height), (p.depth * 0.72, p.jaw, p.height * 0.52)
        mixture.add(_Ellipsoid(lowered, centre, axes), face)
        nose = _Ellipsoid(at, (p.depth * 0.97, 0, HEAD_Z - 0.012), (p.nose, 0.011, 0.019))
        mixture.add(nose, p.skin, gain=0.97)
        both = (x, y.abs(), z)
        ear = _Ellipsoid(both, (-0.004, p.width * 1.02, HEAD_Z - 0.004), (0.012, 0.008, 0.019), mirrored=y)
        mixture.add(ear, p.skin, gain=0.92)

        size = 0.007 + p.hair_volume
        cap = _Ellipsoid(at, (-0.012, 0, HEAD_Z + 0.008), (p.depth + size, p.width + size, p.height + size))
        # Hair lies above a plane that slopes from the hairline down to the back of the neck.
        plane = (z - HEAD_Z) - p.hairline * p.height - 1.1 * (x - 0.55 * p.depth)
        cap.density = cap.density * torch.sigmoid(plane / (2 * SOFTNESS))
        mixture.add(cap, p.hair)
        if p.hair_length:
            low = (-0.036, 0, HEAD_Z - p.hair_length * 0.6)
            mixture.add(_Ellipsoid(at, low, (0.040, p.width + size, 0.060 + p.hair_length * 0.6)), p.hair)

    def _paint(self, x, y, z, mouth, eyes) -> torch.Tensor:
        """Colours on the front of the face [N, 3]: eyes, brows, lips. Coordinates [N] from the head's centre."""
        p = self.person
        front = torch.sigmoid((x - 0.25 * p.depth) / 0.004)
        colour = x.new_tensor(p.skin).expand(*x.shape, 3)

        def ellipse(across: torch.Tensor, up: torch.Tensor, width, height) -> torch.Tensor:
            return front * torch.sigmoid((1 - (across / width) ** 2 - (up / height) ** 2) * 4)

        def lay(colour: torch.Tensor, mask: torch.Tensor, rgb) -> torch.Tensor:
            return colour + mask[..., None] * (x.new_tensor(rgb) - colour)

        sideways, up = y.abs() - p.eye_gap, z - 0.012
        opening = 0.0015 + 0.0085 * eyes
        colour = lay(colour, ellipse(sideways, up, 0.016, opening), (0.97, 0.97, 0.97))
        colour = lay(colour, ellipse(sideways, up, 0.0075, opening + 0.001), p.iris)
        brow = [0.6 * h + 0.1 * s for h, s in zip(p.hair, p.skin)]
        colour = lay(colour, ellipse(sideways, up - 0.020, 0.019, 0.0045), brow)
        opening = 0.001 + 0.016 * mouth
        down = z + 0.52 * p.height + 0.5 * opening
        lips = (0.5 * p.skin[0] + 0.30, 0.4 * p.skin[1] + 0.05, 0.4 * p.skin[2] + 0.08)
        colour = lay(colour, ellipse(y, down, p.mouth + 0.003, opening + 0.006), lips)
        return lay(colour, ellipse(y, down, p.mouth, opening), (0.16, 0.03, 0.04))


class _Ellipsoid:
    """A soft ellipsoid at points x, y, z [N]: its density and shading.

    The distance to the surface is k (k − 1) / |∇k²/2|, where k is the length of a point in units of the axes; it is
    exact to first order at the surface.
    """

    def __init__(self, at, centre, axes, *, mirrored: torch.Tensor | None = None):
        self.slopes = [(x - c) / a**2 for x, c, a in zip(at, centre, axes)]
        self.mirrored = mirrored  # the true y where `at` has its absolute value
        k = sum((s * a) ** 2 for s, a in zip(self.slopes, axes)).sqrt_()
        self.slope = sum(s * s for s in self.slopes).sqrt_().clamp_(min=1e-6)
        self.density = DENSITY * torch.sigmoid(k * (1 - k) / (self.slope * SOFTNESS))

    def shade(self, some: torch.Tensor) -> torch.Tensor:
        """Lambert's law with the ellipsoid's own normal."""
        x, y, z = (s[some] for s in self.slopes)
        if self.mirrored is not None:
            y = y * self.mirrored[some].sign()
        light = (x * LIGHT[0] + y * LIGHT[1] + z * LIGHT[2]) / self.slope[some]
        return AMBIENT + (1 - AMBIENT) * light.clamp_(min=0)


class _Mixture:
    """Overlapping parts at N points: densities add up, colours are averages weighted by them."""

    def __init__(self, count: int, like: torch.Tensor):
        self.density, self._colour = like.new_zeros(count), like.new_zeros(count, 3)
        self._chosen: torch.Tensor | None = None

    def at(self, chosen: torch.Tensor) -> "_Mixture":
        """The same mixture for parts that are evaluated only at the points with these indices."""
        view = copy.copy(self)
        view._chosen = chosen
        return view

    def add(self, part: _Ellipsoid, colour, *, gain: float = 1.0) -> None:
        """Add a part with its colour: RGB, or a function of the indices of the points inside it."""
        some = (part.density > NOTHING).nonzero()[:, 0]
        density = part.density[some]
        rgb = colour(some) if callable(colour) else density.new_tensor(colour)
        points = self._chosen[some]
        self.density[points] += density
        self._colour[points] += rgb * (density * part.shade(some) * gain)[:, None]

    def mean_colour(self) -> torch.Tensor:
        """Colours [N, 3]; black in empty space."""
        return self._colour / self.density.clamp(min=NOTHING)[:, None]


class Backdrop:
    """Background at infinity: a colour for every direction, with a gradient and a few soft waves.

    Called with inverted-sphere points [B, R, S, 4] it returns density zero, so that the last, opaque sample counts.
    """

    def __init__(self, code):
        c = [float(x) for x in code]
        if len(c) != BACKGROUND_CODE:
            raise ValueError(f"A background code has {BACKGROUND_CODE} numbers, got {len(c)}.")
        hue, light = share(c[0]), between(c[1], 0.25, 0.85)
        self.base = torch.tensor(colorsys.hsv_to_rgb(hue, between(c[2], 0.05, 0.55), light), dtype=torch.float32)
        self.slope = torch.tensor([between(x, -0.6, 0.6) for x in c[3:5]], dtype=torch.float32)  # along y and z
        self.waves = torch.tensor(
            [[8 * math.cos(c[5]), 8 * math.sin(c[5]), 3 * c[6]], [14 * math.cos(c[7]), 14 * math.sin(c[7]), 3 * c[8]]],
            dtype=torch.float32,
        )
        self.strength = torch.tensor([between(c[9], 0.0, 0.16), between(c[10], 0.0, 0.12)], dtype=torch.float32)
        self.tint = torch.tensor(colorsys.hsv_to_rgb((hue + 0.15 * c[11]) % 1, 0.35, 1.0), dtype=torch.float32)

    def project(self, features, accumulation=1.0) -> torch.Tensor:
        return features[0]

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        y, z = points[..., 1], points[..., 2]
        brightness = self.slope[0] * y + self.slope[1] * z
        for wave, strength in zip(self.waves, self.strength):
            brightness = brightness + strength * torch.sin(wave[0] * y + wave[1] * z + wave[2])
        colour = (self.base + brightness[..., None] * self.tint).clamp(0, 1)
        return torch.zeros_like(y), (colour * 2 - 1,)
