"""Features of clips from a fixed, seeded, untrained 3D convolutional network: those of the `rfvd` metrics.

This is NOT the network behind FVD, and distances in these features are no FVD values. They need no download and respond
to the detail, colours, layout and motion of a clip, so that a training can be monitored on any machine.

The network has three levels of 3×3×3 convolutions over frames and pixels, each followed by ReLU, with 2× downsampling
of the images between levels. Each level has random filters of three kinds: plain filters; filters with zero mean over
the image, which respond to detail but not to flat areas; filters with zero mean over time, which respond to motion but
not to static content. A feature is the mean of a channel, or its root mean square, over a clip; channels of the last
level and the colours are also averaged over the quarters of the image, for the layout. Random convolutions followed by
pooling are selective for frequency and orientation without any training (Saxe et al., 2011).
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from metrics.video_measures import check_clips
from torch_utils.caller_settings import full_float32

__all__ = ["FEATURE_WIDTH", "RandomFeatures", "exact_convolutions"]

SEED = 20220628
CHANNELS = 24  # per level, a third of each kind
LEVELS = 3
MAX_SIZE = 64  # larger images are averaged down: receptive fields are 3 to 12 pixels
QUARTERS = 2
GAIN = 10  # brings distances into the range of 1 to 1000
FEATURE_WIDTH = 2 * CHANNELS * LEVELS + (CHANNELS + 3) * QUARTERS**2


@contextlib.contextmanager
def exact_convolutions() -> Iterator[None]:
    """Context with full float32, and a fixed algorithm for convolutions on a GPU."""
    settings, fixed = torch.backends.cudnn, {"enabled": True, "benchmark": False, "deterministic": True}
    before = {name: getattr(settings, name) for name in fixed}
    try:
        for name, value in fixed.items():
            setattr(settings, name, value)
        with full_float32():
            yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


class RandomFeatures:
    """The random 3D convolutional network: uint8 clips [N, 3, T, H, W] to float32 features [N, FEATURE_WIDTH].

    The weights are sampled by NumPy's legacy generator, whose numbers are the same in every version, and features of a
    clip do not depend on the rest of its batch; machines differ only in the rounding of float32 sums.

    Args:
        device: Device of the network.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        random = np.random.RandomState(SEED)
        sizes = [3] + [CHANNELS] * (LEVELS - 1)
        self._weights = [torch.from_numpy(_filters(random, size)).to(device) for size in sizes]

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """Features of clips.

        Raises:
            ValueError: Not uint8 [N, 3, T, H, W], or images of fewer than 8 pixels a side.
        """
        check_clips(clips)
        if min(clips.shape[3:]) < 8:
            raise ValueError(f"Clips need at least 8×8 pixels, got {list(clips.shape)}.")
        device = self._weights[0].device
        with exact_convolutions():
            # One at a time: convolutions of several clips may sum in another order.
            return torch.stack([self._features(clip[None].to(device).float() / 127.5 - 1) for clip in clips])

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        """Features [width] of one clip [1, 3, T, H, W] in [-1, 1]."""
        frames = x.shape[2]
        size = [min(side, MAX_SIZE) for side in x.shape[3:]]
        x = F.adaptive_avg_pool3d(x, [frames, *size])
        features = [_quarters(x)]
        for level, weight in enumerate(self._weights):
            if level:
                x = F.avg_pool3d(x, [1, 2, 2])
            x = F.conv3d(F.pad(x, [1] * 6, mode="replicate"), weight).relu()
            features += [x.mean(dim=[0, 2, 3, 4]), x.square().mean(dim=[0, 2, 3, 4]).sqrt()]
        features.append(_quarters(x))
        return GAIN * torch.cat(features)


def _filters(random: np.random.RandomState, inputs: int) -> np.ndarray:
    """Random filters [CHANNELS, inputs, 3, 3, 3] of the three kinds, scaled as in He et al., 2015."""
    weights = random.standard_normal([CHANNELS, inputs, 3, 3, 3])
    detail, motion = slice(CHANNELS // 3, 2 * CHANNELS // 3), slice(2 * CHANNELS // 3, None)
    weights[detail] -= weights[detail].mean(axis=(3, 4), keepdims=True)
    weights[motion] -= weights[motion].mean(axis=2, keepdims=True)
    weights *= np.sqrt(2 / np.square(weights).sum(axis=(1, 2, 3, 4), keepdims=True))
    return weights.astype(np.float32)


def _quarters(x: torch.Tensor) -> torch.Tensor:
    """Means over time and the quarters of the image, [C · 4]."""
    return F.adaptive_avg_pool3d(x, [1, QUARTERS, QUARTERS]).flatten()
