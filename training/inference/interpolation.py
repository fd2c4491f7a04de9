"""Interpolation of latent codes: spherical and linear interpolation, loops through several codes, style mixing.

Codes sampled from a normal distribution (content z, motion, background) lie near a sphere and are interpolated
spherically (White, Sampling generative networks, 2016), as a straight line would pass through improbably short codes.
The distribution of styles w has no such shape, and they are interpolated linearly. Style mixing takes some layers'
styles from another content (StyleGAN, section 3.1).
"""

from collections.abc import Callable, Sequence

import torch

__all__ = ["lerp", "loop_position", "mix_styles", "slerp", "through_loop"]

PARALLEL = 1e-6  # sine of the angle below which the arc between two directions is a line, or undetermined


def lerp(a: torch.Tensor, b: torch.Tensor, fraction: float) -> torch.Tensor:
    """(1 − fraction) · a + fraction · b, exactly a at 0 and b at 1."""
    return b.clone() if fraction == 1 else a + fraction * (b - a)


def slerp(a: torch.Tensor, b: torch.Tensor, fraction: float) -> torch.Tensor:
    """Spherical interpolation between codes a and b [N, D], exactly a at 0 and b at 1.

    Directions turn at constant speed and lengths change linearly, so codes of equal length keep it. Opposite directions
    do not determine a great circle and are interpolated linearly.
    """
    if fraction in (0, 1):
        return (b if fraction else a).clone()
    x, y = a.double(), b.double()
    lengths = [v.norm(dim=-1, keepdim=True) for v in (x, y)]
    x, y = (v / length.clamp(min=1e-12) for v, length in zip((x, y), lengths))
    angle = torch.atan2((x - y).norm(dim=-1, keepdim=True), (x + y).norm(dim=-1, keepdim=True)) * 2
    sine = angle.sin()
    arc = (((1 - fraction) * angle).sin() * x + (fraction * angle).sin() * y) / sine.clamp(min=PARALLEL)
    length = lengths[0] + fraction * (lengths[1] - lengths[0])
    return torch.where(sine < PARALLEL, lerp(a.double(), b.double(), fraction), length * arc).to(a.dtype)


def loop_position(count: int, phase: float) -> tuple[int, int, float]:
    """The two of `count` stations between which a loop is at `phase` (0 ≤ phase < 1), and the fraction of the way.

    The loop takes equal times from station to station, and from the last back to the first.
    """
    if not 0 <= phase < 1:
        raise ValueError(f"a loop is at a phase of 0 to 1, got {phase}.")
    here = min(int(phase * count), count - 1)
    return here, (here + 1) % count, phase * count - here


def through_loop(
    stations: Sequence[torch.Tensor],
    phase: float,
    between: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor],
) -> torch.Tensor:
    """The code at a phase of the loop through `stations`; `between` is `slerp` or `lerp`. One station is constant."""
    first, second, fraction = loop_position(len(stations), phase)
    return between(stations[first], stations[second], fraction) if first != second else stations[first].clone()


def mix_styles(ws: torch.Tensor, other: torch.Tensor, layers: Sequence[int]) -> torch.Tensor:
    """Styles [B, num_ws, w_dim] with those of some layers taken from `other`, of the same size.

    Raises:
        ValueError: The sizes differ, or there is no such layer.
    """
    if ws.shape != other.shape:
        raise ValueError(f"styles {tuple(ws.shape)} and {tuple(other.shape)} cannot be mixed.")
    if not all(0 <= layer < ws.shape[1] for layer in layers):
        raise ValueError(f"layers must lie between 0 and {ws.shape[1] - 1}, got {min(layers)} to {max(layers)}.")
    mixed = ws.clone()
    mixed[:, list(layers)] = other[:, list(layers)]
    return mixed
