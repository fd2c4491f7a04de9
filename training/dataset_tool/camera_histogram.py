"""Histogram of the yaw and pitch of a dataset's cameras, with the prior that fits, as an image."""

import math

import numpy as np
from PIL import Image, ImageDraw

from dnnlib import atomic_write
from training.data.camera_statistics import fit_prior, in_one_turn

__all__ = ["write_histogram"]

PANEL = (400, 240)  # pixels
MARGIN = 30
BINS = (8, 40)  # fewest and most bars
BAR, LINE, INK = (110, 150, 200), (200, 60, 40), (40, 40, 40)


def write_histogram(angles: np.ndarray, file: str) -> None:
    """Write two panels, yaw and pitch, of n clips' cameras [n, 2] in radians; the red line is the fitting prior."""
    angles = in_one_turn(angles)
    prior = fit_prior(angles)
    image = Image.new("RGB", (2 * PANEL[0], PANEL[1]), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for k, (name, (low, high)) in enumerate((("yaw", prior.yaw), ("pitch", prior.pitch))):
        _panel(draw, k * PANEL[0], angles[:, k], f"{name}, {len(angles)} clips", low, high, prior.distribution)
    with atomic_write(file) as stream:
        image.save(stream, format="PNG")


def _panel(
    draw: ImageDraw.ImageDraw, x: int, values: np.ndarray, title: str, low: float, high: float, distribution: str
) -> None:
    width, height = PANEL[0] - 2 * MARGIN, PANEL[1] - 2 * MARGIN
    reach = max(float(np.ptp(values)), high - low, 0.02) * 0.6
    middle = (float(values.min()) + float(values.max())) / 2
    bins = int(np.clip(2 * math.sqrt(len(values)), *BINS))
    edges = np.linspace(middle - reach, middle + reach, bins + 1)
    counts = np.histogram(values, edges)[0]
    places = np.linspace(edges[0], edges[-1], width)
    mean, half = (low + high) / 2, max((high - low) / 2, 1e-6)
    if distribution == "gaussian":
        density = np.exp(-(((places - mean) / half) ** 2) / 2) / (half * math.sqrt(2 * math.pi))
    else:
        density = (np.abs(places - mean) <= half) / (2 * half)
    density = density * len(values) * (edges[1] - edges[0])  # expected counts of a bar
    top = max(counts.max(), density.max())

    def y(count: float) -> float:
        return MARGIN + height * (1 - count / top)

    for number, count in enumerate(counts):
        left = x + MARGIN + width * number / bins
        draw.rectangle((left, y(count), left + width / bins - 1, MARGIN + height), fill=BAR)
    draw.line([(x + MARGIN + i, y(value)) for i, value in enumerate(density)], fill=LINE)
    draw.line((x + MARGIN, MARGIN + height, x + MARGIN + width, MARGIN + height), fill=INK)
    draw.text((x + MARGIN, 8), f"{title}; {distribution} {low:.3f} to {high:.3f}", fill=INK)
    for number in range(5):
        place = edges[0] + (edges[-1] - edges[0]) * number / 4
        draw.text((x + MARGIN + width * number / 4, MARGIN + height + 4), f"{place:.2f}", fill=INK, anchor="ma")
