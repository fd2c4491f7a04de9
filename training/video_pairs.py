"""What a training item is, and the random draws behind it, which are functions of (seed, epoch, index) alone.

An item of a clip of n frames is the pair of frames ⌊n·Beta(2,1)⌋ and ⌊n·Beta(1,2)⌋ (clamped to n−1), sorted, with
Δt = (f1 − f0)/(n − 1): two draws from opposite ends, so that long intervals are as common as the discriminator needs
them (Bahmani et al., "3D-Aware Video Generation", 2023; the sampling is that of DIGAN, Yu et al., 2022).
"""

import math
from typing import NamedTuple

import numpy as np
import torch

__all__ = ["KEY_PAIRS", "KEY_SUBSET", "VideoPair", "draw_pair", "pair_distance", "random_block"]

# Words of the random key beside the seed, so that no two uses of one seed share their numbers.
KEY_PAIRS = 1
KEY_SUBSET = 2


class VideoPair(NamedTuple):
    """One item: frames uint8 [2, 3, H, W]; dt float32 [], 0…1; c float32, the label and, if used, yaw and pitch."""

    frames: torch.Tensor
    dt: torch.Tensor
    c: torch.Tensor


def random_block(seed: int, use: int, *, epoch: int = 0, index: int = 0) -> np.random.Generator:
    """The random numbers that belong to a seed (0 ≤ seed < 2⁶⁴), a use, an epoch and an index."""
    # Philox is made for this: a block of numbers per counter. Drawing advances the lowest word of the counter.
    return np.random.Generator(np.random.Philox(key=[seed, use], counter=[0, index, epoch, 0]))


def draw_pair(generator: np.random.Generator, nframes: int) -> tuple[int, int]:
    """Which two frames of a clip an item shows, f0 ≤ f1."""
    late, early = generator.random(2)
    # Beta(2,1) has the distribution function x², Beta(1,2) has 1 − (1−x)²; these are their inverses.
    drawn = (math.sqrt(late), 1 - math.sqrt(1 - early))
    f0, f1 = sorted(min(int(nframes * x), nframes - 1) for x in drawn)
    return f0, f1


def pair_distance(f0: int, f1: int, nframes: int) -> float:
    """Δt of two frames: 0 for the same one, 1 for the first and the last."""
    return (f1 - f0) / max(nframes - 1, 1)
