"""Line charts as SVG: axes with round numbers, lines with gaps at missing values.

The vertical axis is logarithmic where positive values span more than two decades. Where a point stands for several
values, a line shows their mean and an area their range, so that no spike is hidden. Colours are those of the page's
classes c0, c1 and c2.
"""

import html
import math
from collections.abc import Sequence

from training.report.run_reader import Curve

__all__ = ["is_constant", "line_chart", "number_text"]

WIDTH, HEIGHT = 340, 180
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 24
DECADES = 100  # smallest ratio of highest to lowest value for a logarithmic axis


def number_text(value: float) -> str:
    """A number with four digits, all before the point up to ten million; or a dash if it is not finite."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if 9999.5 <= abs(value) < 1e7 else f"{value:.4g}"


def is_constant(curve: Curve) -> bool:
    """True if all values are finite and equal."""
    values = {value for point in curve.points for value in point[1:]}
    return len(values) == 1 and all(map(math.isfinite, values))


def line_chart(curves: Sequence[Curve], *, label: str, threshold: float | None = None) -> str:
    """An <svg> element of curves that share their axes.

    Args:
        curves: One line each, at most three.
        label: Alternative text for screen readers.
        threshold: Value of a dashed line, if it lies within the axis.
    """
    lines = [curve.points for curve in curves]
    points = [point for line in lines for point in line if math.isfinite(point[1])]
    if not points:
        return ""
    x_low, x_high = _range([point[0] for point in points])
    values = [value for point in points for value in point[2:]]
    logarithmic = min(values) > 0 and max(values) > DECADES * min(values)
    scale = math.log10 if logarithmic else float
    y_low, y_high = _range([scale(value) for value in values])

    def x(value: float) -> float:
        return LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (scale(value) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">']
    for tick in [10.0**i for i in _powers(y_low, y_high)] if logarithmic else _ticks(y_low, y_high):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 3:.1f}" text-anchor="end">{number_text(tick)}</text>')
    for tick in _ticks(x_low, x_high):
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number_text(tick)}</text>')
    if threshold is not None and min(values) <= threshold <= max(values):
        height = f"{y(threshold):.1f}"
        parts.append(f'<line class="threshold" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}"/>')
    for i, line in enumerate(lines):
        parts.extend(_line_elements(line, x, y, colour=i))
    return "".join([*parts, "</svg>"])


def _line_elements(line: list[tuple[float, float, float, float]], x, y, *, colour: int) -> list[str]:
    parts = []
    for run in _runs(line):
        if any(high > low for _, _, low, high in run):
            upper = [f"{x(k):.1f},{y(high):.1f}" for k, _, _, high in run]
            lower = [f"{x(k):.1f},{y(low):.1f}" for k, _, low, _ in reversed(run)]
            parts.append(f'<polygon class="range c{colour}" points="{" ".join(upper + lower)}"/>')
        if len(run) == 1:
            parts.append(f'<circle class="c{colour}" cx="{x(run[0][0]):.1f}" cy="{y(run[0][1]):.1f}" r="2"/>')
        else:
            points = " ".join(f"{x(k):.1f},{y(mean):.1f}" for k, mean, _, _ in run)
            parts.append(f'<polyline class="c{colour}" points="{points}"/>')
    return parts


def _runs(line: list[tuple[float, float, float, float]]) -> list[list[tuple[float, float, float, float]]]:
    """Runs of consecutive points with finite values."""
    runs: list[list] = [[]]
    for point in line:
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _range(values: list[float]) -> tuple[float, float]:
    """Lowest and highest value, widened if equal, and clamped so that their difference is finite."""
    low, high = max(min(values), -1e300), min(max(values), 1e300)
    if not high > low:
        spread = abs(low) * 0.1 or 0.5
        low, high = low - spread, high + spread
    return low, high


def _powers(low: float, high: float) -> range:
    """Integer exponents within a range, at most six."""
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    return range(first, last + 1, max(1, math.ceil((last - first + 1) / 6)))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within a range, three to six."""
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(factor for factor in (5, 2, 1) if (high - low) / (step * factor) >= 2.5 or factor == 1)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, first + 12) if i * step <= high + step * 1e-9]
