"""The pictures of the report: a curve, and grids of frames and depth maps.

Drawn with Pillow, which the project needs anyway: one curve is no reason for a plotting library.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from renderer.video import image_grid, save_png

__all__ = ["depth_picture", "draw_curve", "save_grid"]

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 20, 60
INK, PALE, LINE, FLOOR = (30, 30, 30), (220, 220, 220), (31, 98, 176), (190, 90, 30)


def draw_curve(
    path: Path, points: Sequence[tuple[float, float]], *, x_label: str, y_label: str, floor: tuple[float, str]
) -> None:
    """A line through (x, y) points, y on a logarithmic scale, with a dashed line at `floor` (value, label)."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    low = math.floor(math.log10(min([y for _, y in points] + [floor[0]])))
    high = math.ceil(math.log10(max(y for _, y in points)))
    last = max(x for x, _ in points)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / last * (WIDTH - LEFT - RIGHT)
        up = (math.log10(y) - low) / max(high - low, 1)
        return across, HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    for power in range(low, high + 1):
        y = place(0, 10.0**power)[1]
        draw.line([(LEFT, y), (WIDTH - RIGHT, y)], fill=PALE)
        draw.text((LEFT - 8, y), f"{10.0**power:g}", fill=INK, font=font, anchor="rm")
    for step in range(6):
        x = last * step / 5
        draw.text((place(x, 10.0**low)[0], HEIGHT - BOTTOM + 8), f"{x:g}", fill=INK, font=font, anchor="mt")
    draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8), x_label, fill=INK, font=font, anchor="mb")
    draw.text((8, 4), y_label, fill=INK, font=font, anchor="lt")
    level = place(0, floor[0])[1]
    for x in range(LEFT, WIDTH - RIGHT, 12):
        draw.line([(x, level), (x + 6, level)], fill=FLOOR)
    draw.text((WIDTH - RIGHT, level - 4), floor[1], fill=FLOOR, font=font, anchor="rb")
    draw.line([place(x, y) for x, y in points], fill=LINE, width=2)
    for x, y in points:
        a, b = place(x, y)
        draw.ellipse([a - 3, b - 3, a + 3, b + 3], fill=LINE)
    save_png(torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()), path)


def save_grid(path: Path, images: torch.Tensor, columns: int, *, scale: int) -> None:
    """Images [N, 3, H, W] in [0, 1], enlarged so many times without smoothing."""
    grid = image_grid((images * 255).round().clamp(0, 255).to(torch.uint8), columns)
    save_png(grid.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2), path)


def depth_picture(depth: torch.Tensor, weights: torch.Tensor, size: int) -> torch.Tensor:
    """Depth maps [N, h, h] as grey images [N, 3, size, size]: near is bright, black is no surface."""
    near, far = 0.88, 1.03  # where the faces of the scenes lie
    grey = ((far - depth) / (far - near)).clamp(0, 1) * 0.9 + 0.1
    grey = (grey * (weights > 0)).repeat_interleave(size // depth.shape[-1], 1)
    return grey.repeat_interleave(size // depth.shape[-1], 2)[:, None].expand(-1, 3, -1, -1)
