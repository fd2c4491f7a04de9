"""Talking heads that are known exactly: density and colour as closed formulas of place and time.

A head (skull, jaw, nose, ears, eyes, hair) turns about the top of a neck that stands in shoulders. All parts are
ellipsoids with soft surfaces; eyelids, pupils, brows and lips are colours of places on them. Who it is follows from a
content code, what it does from a motion code, what lies behind from a background code; all codes are standard normal.

The world is that of `renderer.cameras`: z is up, a camera at yaw 0 looks along −x at the face, y points right in its
picture, and a field of view of 18° shows 0.158 on either side of the origin.

A scene is a field as the renderer wants it, `(points, directions) → (density, features)`, so that the same quadrature
renders it that renders the networks.
"""

import colorsys
import copy
import dataclasses
import math

import torch

__all__ = ["BACKGROUND_CODE", "CONTENT_CODE", "MOTION_CODE", "Backdrop", "Person", "Pose", "TalkingHead", "pose_at"]

CONTENT_CODE = 16  # numbers in a content code
MOTION_CODE = 10
BACKGROUND_CODE = 12

DENSITY = 500.0  # inside a part, per scene unit: a part hides what is behind 0.01 of it
SOFTNESS = 0.0015  # of a surface: the density rises from 12 % to 88 % over four times that
NOTHING = 0.05  # a density that is not seen: within a part's whole depth it hides less than a hundredth
NECK_TOP = -0.01  # neck and shoulders lie below
HEAD_Z = 0.022  # height of the skull's centre
PIVOT = (-0.012, 0.0, -0.055)  # where the head turns on the neck

SKINS = ((0.98, 0.83, 0.74), (0.90, 0.70, 0.55), (0.76, 0.55, 0.40), (0.55, 0.37, 0.26), (0.36, 0.23, 0.17))
HAIRS = ((0.07, 0.06, 0.06), (0.26, 0.15, 0.08), (0.50, 0.30, 0.14), (0.85, 0.68, 0.38), (0.62, 0.22, 0.10),
         (0.70, 0.70, 0.72))  # fmt: skip
LIGHT = (0.62, -0.45, 0.64)  # unit vector towards the light
AMBIENT = 0.55


def _share(code: float) -> float:
    """The distribution function of the normal law: a code as a fraction, evenly spread."""
    return 0.5 * (1 + math.erf(code / math.sqrt(2)))


def _between(code: float, low: float, high: float) -> float:
    return low + (high - low) * _share(code)


def _choose(code: float, choices):
    return choices[min(int(_share(code) * len(choices)), len(choices) - 1)]


def _blend(code: float, colours) -> tuple[float, ...]:
    """A colour somewhere along a list of them."""
    place = _share(code) * (len(colours) - 1)
    first = min(int(place), len(colours) - 2)
    part = place - first
    return tuple((1 - part) * a + part * b for a, b in zip(colours[first], colours[first + 1]))


@dataclasses.dataclass(frozen=True)
class Person:
    """What a content code says: sizes in scene units, colours as RGB in [0, 1]."""

    width: float  # half axes of the skull: y,
    height: float  # z,
    depth: float  # x
    jaw: float  # half width of the jaw
    nose: float  # how far it sticks out
    eye_gap: float  # half the distance of the eyes
    mouth: float  # half width
    shoulders: float  # half width
    hair_volume: float  # thickness over the skull
    hairline: float  # height on the forehead, as a fraction of the skull's
    hair_length: float  # lower end of the hair at the back, below the head's centre; 0 for short
    skin: tuple[float, ...]
    hair: tuple[float, ...]
    iris: tuple[float, ...]
    clothes: tuple[float, ...]
    second: tuple[float, ...]  # colour of stripes or collar
    stripes: float  # per scene unit; 0 for a collar

    @classmethod
    def from_code(cls, code) -> "Person":
        """The person of a content code [CONTENT_CODE]."""
        c = [float(x) for x in code]
        if len(c) != CONTENT_CODE:
            raise ValueError(f"A content code has {CONTENT_CODE} numbers, got {len(c)}.")
        width = _between(c[0], 0.058, 0.076)
        hue = _share(c[12])
        return cls(
            width=width,
            height=_between(c[1], 0.078, 0.096),
            depth=_between(c[2], 0.070, 0.084),
            jaw=width * _between(c[3], 0.60, 0.92),
            nose=_between(c[4], 0.012, 0.028),
            eye_gap=width * _between(c[5], 0.36, 0.46),
            mouth=width * _between(c[6], 0.30, 0.48),
            shoulders=_between(c[7], 0.120, 0.165),
            hair_volume=_between(c[8], 0.004, 0.016),
            hairline=_between(c[9], 0.38, 0.66),
            hair_length=_choose(c[10], (0.0, 0.0, 0.05, 0.10)),
            skin=_blend(c[11], SKINS),
            hair=_choose(c[13], HAIRS),
            iris=_choose(c[14], ((0.20, 0.12, 0.06), (0.15, 0.30, 0.50), (0.18, 0.35, 0.20))),
            clothes=colorsys.hsv_to_rgb(hue, 0.75, _between(c[15], 0.30, 0.90)),
            second=colorsys.hsv_to_rgb((hue + 0.45) % 1, 0.25, 0.90),
            stripes=_choose(c[15] * 0.6 + c[12] * 0.8, (0.0, 0.0, 26.0)),
        )


@dataclasses.dataclass(frozen=True)
class Pose:
    """What the head does at T moments: each a tensor [T]. Angles in radians, openings from 0 (closed) to 1."""

    turn: torch.Tensor  # to its left, about the up axis
    nod: torch.Tensor  # downwards
    tilt: torch.Tensor  # towards a shoulder
    mouth: torch.Tensor
    eyes: torch.Tensor

    def rotation(self) -> torch.Tensor:
        """Head to world, [T, 3, 3]."""
        zero, one = torch.zeros_like(self.turn), torch.ones_like(self.turn)
        turn = [self.turn.cos(), -self.turn.sin(), zero, self.turn.sin(), self.turn.cos(), zero, zero, zero, one]
        nod = [self.nod.cos(), zero, self.nod.sin(), zero, one, zero, -self.nod.sin(), zero, self.nod.cos()]
        tilt = [one, zero, zero, zero, self.tilt.cos(), -self.tilt.sin(), zero, self.tilt.sin(), self.tilt.cos()]
        a, b, c = (torch.stack(x, dim=-1).reshape(-1, 3, 3) for x in (turn, nod, tilt))
        return a @ b @ c


def pose_at(code, times: torch.Tensor) -> Pose:
    """The pose of a motion code [MOTION_CODE] at times [T] in [0, 1]: slow swings, one or two syllables, maybe a blink."""
    m = [float(x) for x in code]
    if len(m) != MOTION_CODE:
        raise ValueError(f"A motion code has {MOTION_CODE} numbers, got {len(m)}.")
    times = times.double()

    def swing(strength: float, phase: float, cycles: float) -> torch.Tensor:
        return strength * torch.sin(2 * math.pi * (cycles * times + _share(phase)))

    syllables = _between(m[3], 0.6, 1.6)
    mouth = (0.5 - 0.5 * torch.cos(2 * math.pi * (syllables * times + _share(m[4])))) * _between(m[5], 0.35, 1.0)
    blink = torch.exp(-((times - _between(m[9], -0.3, 1.3)) ** 2) / (2 * 0.09**2))
    return Pose(
        turn=swing(_between(m[0], 0.04, 0.24), m[1], 0.6),
        nod=swing(_between(m[6], 0.02, 0.12), m[7], 0.9),
        tilt=swing(_between(m[8], 0.0, 0.10), m[2], 0.5),
        mouth=mouth,
        eyes=1 - blink,
    )


class TalkingHead:
    """The field of a person in T poses.

    Called with points [1, T or 1, R, S, 3] it returns the density [1, T, R, S] and one feature, the colour
    [1, T, R, S, 3] in [-1, 1]. The direction of view makes no difference. Most points lie in empty space: only those
    near the head are looked at for the head, and a part's colour only where the part is.
    """

    def __init__(self, person: Person, pose: Pose, *, dtype: torch.dtype = torch.float32):
        self.person = person
        self.rotation = pose.rotation().to(dtype)
        self.mouth, self.eyes = pose.mouth.to(dtype), pose.eyes.to(dtype)

    def project(self, features, weight_sum=1.0) -> torch.Tensor:
        """Colours are shown as they are composited; see `renderer.rendering`."""
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
        """No part of the head is farther from the skull's centre."""
        p = self.person
        return max(p.height + p.hair_volume + 0.015, p.depth + p.nose, 1.2 * p.hair_length + 0.06) + 0.015

    def _body(self, mixture: "_Mixture", at) -> None:
        """Neck and shoulders, which stand still; `at` are x, y and z of points [N] in the world."""
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
        # Hair is what lies above a plane that falls from the hairline to the back of the neck.
        plane = (z - HEAD_Z) - p.hairline * p.height - 1.1 * (x - 0.55 * p.depth)
        cap.density = cap.density * torch.sigmoid(plane / (2 * SOFTNESS))
        mixture.add(cap, p.hair)
        if p.hair_length:
            low = (-0.036, 0, HEAD_Z - p.hair_length * 0.6)
            mixture.add(_Ellipsoid(at, low, (0.040, p.width + size, 0.060 + p.hair_length * 0.6)), p.hair)

    def _paint(self, x, y, z, mouth, eyes) -> torch.Tensor:
        """Colours on the front of the face [N, 3]: eyes, brows, lips. Places [N] from the head's centre."""
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
    """A soft ellipsoid at points x, y, z [N]: its density, and how light its surface is.

    The distance to the surface is k (k − 1) / |∇k²/2| with k the length of a point in units of the axes, to first order
    exact at the surface.
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
    """Parts that overlap, at N points: densities add up, colours are averaged with them."""

    def __init__(self, count: int, like: torch.Tensor):
        self.density, self._colour = like.new_zeros(count), like.new_zeros(count, 3)
        self._chosen: torch.Tensor | None = None

    def at(self, chosen: torch.Tensor) -> "_Mixture":
        """The same mixture for parts that are known at the points of these indices only."""
        view = copy.copy(self)
        view._chosen = chosen
        return view

    def add(self, part: _Ellipsoid, colour, *, gain: float = 1.0) -> None:
        """Add a part with its colour: RGB, or a function of the indices of those points that are in it."""
        some = (part.density > NOTHING).nonzero()[:, 0]
        density = part.density[some]
        rgb = colour(some) if callable(colour) else density.new_tensor(colour)
        points = self._chosen[some]
        self.density[points] += density
        self._colour[points] += rgb * (density * part.shade(some) * gain)[:, None]

    def mean_colour(self) -> torch.Tensor:
        """[N, 3]; black where there is nothing."""
        return self._colour / self.density.clamp(min=NOTHING)[:, None]


class Backdrop:
    """What lies behind, at infinity: a colour for every direction, a slope and a few soft waves.

    Called with inverted-sphere points [B, R, S, 4] it returns density zero, so that the last, opaque sample counts.
    """

    def __init__(self, code, *, dtype: torch.dtype = torch.float32):
        c = [float(x) for x in code]
        if len(c) != BACKGROUND_CODE:
            raise ValueError(f"A background code has {BACKGROUND_CODE} numbers, got {len(c)}.")
        hue, light = _share(c[0]), _between(c[1], 0.25, 0.85)
        self.base = torch.tensor(colorsys.hsv_to_rgb(hue, _between(c[2], 0.05, 0.55), light), dtype=dtype)
        self.slope = torch.tensor([_between(x, -0.6, 0.6) for x in c[3:5]], dtype=dtype)  # along y and z
        self.waves = torch.tensor(
            [[8 * math.cos(c[5]), 8 * math.sin(c[5]), 3 * c[6]], [14 * math.cos(c[7]), 14 * math.sin(c[7]), 3 * c[8]]],
            dtype=dtype,
        )
        self.strength = torch.tensor([_between(c[9], 0.0, 0.16), _between(c[10], 0.0, 0.12)], dtype=dtype)
        self.tint = torch.tensor(colorsys.hsv_to_rgb((hue + 0.15 * c[11]) % 1, 0.35, 1.0), dtype=dtype)

    def project(self, features, weight_sum=1.0) -> torch.Tensor:
        return features[0]

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        y, z = points[..., 1], points[..., 2]
        brightness = self.slope[0] * y + self.slope[1] * z
        for wave, strength in zip(self.waves, self.strength):
            brightness = brightness + strength * torch.sin(wave[0] * y + wave[1] * z + wave[2])
        colour = (self.base + brightness[..., None] * self.tint).clamp(0, 1)
        return torch.zeros_like(y), (colour * 2 - 1,)
