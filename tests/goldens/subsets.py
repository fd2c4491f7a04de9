"""Pixels and rays of a measured image that are stored."""

import numpy as np

NUM_PIXELS = 1024
NUM_RAYS = 64


def chosen(total: int, count: int) -> np.ndarray:
    """A fixed random subset of range(total), in order."""
    return np.sort(np.random.RandomState(total).permutation(total)[:count])


def at_pixels(images):
    """[N, 3, H, W] (array or tensor) to [N, 3, P]: at most a quarter of the pixels, at most NUM_PIXELS."""
    total = images.shape[2] * images.shape[3]
    return images.reshape(*images.shape[:2], total)[:, :, chosen(total, min(total // 4, NUM_PIXELS))]
