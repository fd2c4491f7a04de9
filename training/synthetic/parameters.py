"""Codes of synthetic videos, standard normal vectors, and their meaning: identity and motion of a person."""

import colorsys
import dataclasses
import math

import torch

__all__ = ["BACKGROUND_CODE", "CONTENT_CODE", "MOTION_CODE", "Person", "Pose", "between", "pose_at", "share"]

CONTENT_CODE = 16  # numbers in a content code
MOTION_CODE = 10
BACKGROUND_CODE = 12
SKINS = ((0.98, 0.83, 0.74), (0.90, 0.70, 0.55), (0.76, 0.55, 0.40), (0.55, 0.37, 0.26), (0.36, 0.23, 0.17))
HAIRS = ((0.07, 0.06, 0.06), (0.26, 0.15, 0.08), (0.50, 0.30, 0.14), (0.85, 0.68, 0.38), (0.62, 0.22, 0.10),
         (0.70, 0.70, 0.72))  # fmt: skip


def share(code: float) -> float:
    """The normal distribution function: a code as a uniformly distributed fraction."""
    return 0.5 * (1 + math.erf(code / math.sqrt(2)))


def between(code: float, low: float, high: float) -> float:
    return low + (high - low) * share(code)


def _choose(code: float, choices):
    return choices[min(int(share(code) * len(choices)), len(choices) - 1)]


def _blend(code: float, colours) -> tuple[float, ...]:
    """A colour interpolated along a list of colours."""
    place = share(code) * (len(colours) - 1)
    first = min(int(place), len(colours) - 2)
    part = place - first
    return tuple((1 - part) * a + part * b for a, b in zip(colours[first], colours[first + 1]))


@dataclasses.dataclass(frozen=True)
class Person:
    """Shape and colours of a content code: sizes in scene units, colours as RGB in [0, 1]."""

    width: float  # half axis of the skull along y
    height: float  # half axis along z
    depth: float  # half axis along x
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
        width = between(c[0], 0.058, 0.076)
        hue = share(c[12])
        return cls(
            width=width,
            height=between(c[1], 0.078, 0.096),
            depth=between(c[2], 0.070, 0.084),
            jaw=width * between(c[3], 0.60, 0.92),
            nose=between(c[4], 0.012, 0.028),
            eye_gap=width * between(c[5], 0.36, 0.46),
            mouth=width * between(c[6], 0.30, 0.48),
            shoulders=between(c[7], 0.120, 0.165),
            hair_volume=between(c[8], 0.004, 0.016),
            hairline=between(c[9], 0.38, 0.66),
            hair_length=_choose(c[10], (0.0, 0.0, 0.05, 0.10)),
            skin=_blend(c[11], SKINS),
            hair=_choose(c[13], HAIRS),
            iris=_choose(c[14], ((0.20, 0.12, 0.06), (0.15, 0.30, 0.50), (0.18, 0.35, 0.20))),
            clothes=colorsys.hsv_to_rgb(hue, 0.75, between(c[15], 0.30, 0.90)),
            second=colorsys.hsv_to_rgb((hue + 0.45) % 1, 0.25, 0.90),
            stripes=_choose(c[15] * 0.6 + c[12] * 0.8, (0.0, 0.0, 26.0)),
        )


@dataclasses.dataclass(frozen=True)
class Pose:
    """Pose of the head at T times: each a tensor [T]. Angles in radians, openings from 0 (closed) to 1."""

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
    """The pose of a motion code [MOTION_CODE] at times [T] in [0, 1]: swings, a syllable or two, a blink."""
    m = [float(x) for x in code]
    if len(m) != MOTION_CODE:
        raise ValueError(f"A motion code has {MOTION_CODE} numbers, got {len(m)}.")
    times = times.double()

    def swing(strength: float, phase: float, cycles: float) -> torch.Tensor:
        return strength * torch.sin(2 * math.pi * (cycles * times + share(phase)))

    syllables = between(m[3], 0.6, 1.6)
    mouth = (0.5 - 0.5 * torch.cos(2 * math.pi * (syllables * times + share(m[4])))) * between(m[5], 0.35, 1.0)
    blink = torch.exp(-((times - between(m[9], -0.3, 1.3)) ** 2) / (2 * 0.09**2))
    return Pose(
        turn=swing(between(m[0], 0.04, 0.24), m[1], 0.6),
        nod=swing(between(m[6], 0.02, 0.12), m[7], 0.9),
        tilt=swing(between(m[8], 0.0, 0.10), m[2], 0.5),
        mouth=mouth,
        eyes=1 - blink,
    )
