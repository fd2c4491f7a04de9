"""Line plots, drawn with Pillow, which the project already requires."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from renderer.video import save_png

__all__ = ["draw_lines"]

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 24, 60
INK, PALE, FLOOR = (30, 30, 30), (220, 220, 220), (190, 90, 30)
LINES = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0))  # Okabe and Ito: for all readers
CORNERS = (4, 3, 5, 6)  # of the points of the lines after the first, which has discs
MOST_TICKS = 7

Points = Sequence[tuple[float, float]]
Scale = Callable[[float], float]  # value → 0 … 1


def draw_lines(
    path: Path,
    lines: Mapping[str, Points],
    *,
    x_label: str,
    y_label: str,
    floor: tuple[float, str] | None = None,
    log_x: bool = False,
) -> None:
    """Lines through (x, y) points, y > 0 on a logarithmic scale.

    Args:
        path: PNG file to write.
        lines: Lines by label; a single label is not shown.
        floor: Dashed horizontal line: value and label.
        log_x: Logarithmic x axis with ticks at the points; else linear from 0, with ticks at round numbers.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    xs = sorted({x for points in lines.values() for x, _ in points})
    ys = [y for points in lines.values() for _, y in points] + ([] if floor is None else [floor[0]])
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    across = _logarithmic(xs[0], xs[-1]) if log_x else (lambda x: x / xs[-1])
    up = _logarithmic(10.0**low, 10.0 ** max(high, low + 1))

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + across(x) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up(y) * (HEIGHT - TOP - BOTTOM)

    for power in range(low, high + 1):
        y = place(xs[-1], 10.0**power)[1]
        draw.line([(LEFT, y), (WIDTH - RIGHT, y)], fill=PALE)
        draw.text((LEFT - 8, y), f"{10.0**power:g}", fill=INK, font=font, anchor="rm")
    for x in xs if log_x else _round_ticks(xs[-1]):
        draw.text((place(x, 10.0**low)[0], HEIGHT - BOTTOM + 8), f"{x:g}", fill=INK, font=font, anchor="mt")
    draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8), x_label, fill=INK, font=font, anchor="mb")
    draw.text((8, 4), y_label, fill=INK, font=font, anchor="lt")
    if floor is not None:
        level = place(xs[-1], floor[0])[1]
        for x in range(LEFT, WIDTH - RIGHT, 12):
            draw.line([(x, level), (x + 6, level)], fill=FLOOR)
        draw.text((LEFT, level - 4), floor[1], fill=FLOOR, font=font, anchor="lb")
    for i, (label, points) in enumerate(lines.items()):
        colour = LINES[i % len(LINES)]
        draw.line([place(x, y) for x, y in points], fill=colour, width=2)
        for a, b in (place(x, y) for x, y in points):
            if i == 0:
                draw.ellipse([a - 3, b - 3, a + 3, b + 3], fill=colour)
            else:
                draw.regular_polygon((a, b, 5), CORNERS[(i - 1) % len(CORNERS)], fill=colour)
        if len(lines) > 1:
            draw.text((LEFT + 10, TOP + 18 * i), label, fill=colour, font=font, anchor="lt")
    save_png(torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()), path)


def _round_ticks(last: float) -> list[float]:
    """Multiples of 1, 2, 4 or 5 times a power of ten from 0 to `last` > 0, as many as fit."""
    power = math.floor(math.log10(last)) - 1
    steps = (digit * 10.0**exponent for exponent in (power, power + 1) for digit in (1, 2, 4, 5))
    step = next(step for step in steps if last / step < MOST_TICKS)
    return [step * i for i in range(math.floor(last / step + 1e-9) + 1)]


def _logarithmic(first: float, last: float) -> Scale:
    span = math.log(last / first) or 1.0
    return lambda value: math.log(value / first) / span
