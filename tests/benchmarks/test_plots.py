"""Plots show what they are given where it belongs."""

import pytest
from PIL import Image

from benchmarks.plots import LINES, _round_ticks, draw_lines


def pixels(path, colour):
    image = Image.open(path).convert("RGB")
    return [(x, y) for x in range(image.width) for y in range(image.height) if image.getpixel((x, y)) == colour]


def test_a_curve_goes_through_its_points(tmp_path):
    path = tmp_path / "curve.png"
    draw_lines(path, {"a": [(0, 1000.0), (10, 10.0)]}, x_label="x", y_label="y", floor=(1.0, "floor"))
    (left, top), (right, bottom) = min(pixels(path, LINES[0])), max(pixels(path, LINES[0]))
    assert right - left > 500 and bottom - top > 150  # from upper left to lower right


def test_powers_are_straight_lines_on_two_logarithmic_scales(tmp_path):
    path = tmp_path / "growth.png"
    lines = {"x²": [(x, x**2 / 1000) for x in (64, 128, 256, 512)], "none": [(64, 5.0), (512, 5.0)]}
    draw_lines(path, lines, x_label="x", y_label="y", log_x=True)
    drawn = [p for p in pixels(path, LINES[0]) if p[1] > 60]  # below the label
    (left, top), (right, bottom) = min(drawn), max(drawn)
    middle = [y for x, y in drawn if abs(x - (left + right) / 2) < 2]
    assert top > bottom and abs(sum(middle) / len(middle) - (top + bottom) / 2) < 4
    level = {y for x, y in pixels(path, LINES[1]) if x > 300}
    assert 1 <= max(level) - min(level) < 9  # flat, but for the points' discs


@pytest.mark.parametrize(
    "last, expected",
    [
        (24, [0, 4, 8, 12, 16, 20, 24]),
        (0.024, [0, 0.004, 0.008, 0.012, 0.016, 0.02, 0.024]),
        (32, [0, 5, 10, 15, 20, 25, 30]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (9.9, [0, 2, 4, 6, 8]),
    ],
)
def test_ticks_are_round_numbers(last, expected):
    assert _round_ticks(last) == pytest.approx(expected)
