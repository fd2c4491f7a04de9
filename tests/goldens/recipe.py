"""Parameter values that the measured networks were filled with.

Every tensor is a function of its published name and shape: normal numbers from a generator seeded with the CRC of the
name, scaled and shifted by the first matching row of `RULES`. So whole networks are compared without storing weights.
"""

import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np

# (pattern of the whole name, offset, scale or scale(shape), fold to |normal|). A constant filter has no row.
RULES: list[tuple[str, float, float | Callable[[Sequence[int]], float], bool]] = [
    (r"(.*\.)?alpha", 0, 0, False),  # blending parameter of the published system, without effect
    (r"mapping\.w_avg", 0, 0.1, False),
    (r".*\.w_avg", 1, 0.1, True),  # running mean of squares: positive
    (r"(?!.*motion_generator).*\.affine\.bias", 1, 0.1, False),  # styles scatter around one
    (r"mapping\.fc\d+\.weight", 0, 100, False),  # these layers are used at a hundredth of what is stored
    (r"mapping\.fc\d+\.bias", 0, 10, False),
    # Without a strong density the thin foreground would be nearly transparent.
    (r"synthesis\.fg_nerf\.sigma_out\.bias", 20, 0.1, False),
    (r".*(\.bias|noise_strength)", 0, 0.1, False),
    (r"synthesis\.fg_nerf\.sigma_out\.weight", 0, 30, False),
    (r"synthesis\.bg_nerf\..*(?<!to_rgb)\.weight", 0, lambda shape: np.sqrt(2 / shape[1]), False),  # used unscaled
    (r".*\.weight", 0, 1, False),
]

# Input layers of the fields → coordinates of a point. Octave i of the positional encoding is damped by 2**-i there:
# otherwise the networks are so rough in space that the last bit of a position decides what a pixel looks like.
ENCODED_INPUTS = {"synthesis.fg_nerf.fc_in.weight": 3, "synthesis.bg_nerf.fc_in.weight": 4}
OCTAVES = 10


def value(name: str, shape: Sequence[int]) -> np.ndarray | None:
    """The float32 array of a published tensor, or None for the constant resampling filters."""
    if name.endswith("resample_filter"):
        return None
    offset, scale, positive = next(
        (offset, scale, positive) for pattern, offset, scale, positive in RULES if re.fullmatch(pattern, name)
    )
    if callable(scale):
        scale = scale(shape)
    seed = zlib.crc32(name.encode()) & 0x7FFFFFFF
    array = np.asarray(np.random.RandomState(seed).randn(*shape), dtype=np.float32)
    array = np.float32(offset) + np.float32(scale) * (np.abs(array) if positive else array)
    array = np.asarray(array, dtype=np.float32)
    if name in ENCODED_INPUTS:
        per_octave = 2 * ENCODED_INPUTS[name]
        columns = np.arange(min(OCTAVES * per_octave, shape[1]))
        array[:, columns] *= (2.0 ** -(columns // per_octave)).astype(np.float32).reshape(-1, *[1] * (len(shape) - 2))
    return array
