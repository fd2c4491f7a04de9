"""Line charts: where points lie, gaps, axes."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from training.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, is_constant, line_chart, number_text
from training.report.page import PAGE
from training.report.run_reader import Curve

NAN = math.nan


def chart(*curves, **arguments):
    text = line_chart([Curve.of(str(i), x, y) for i, (x, y) in enumerate(curves)], label="a <b>", **arguments)
    return ElementTree.fromstring(text)


def lines(svg, kind="polyline"):
    return [
        [tuple(map(float, point.split(","))) for point in element.get("points").split()]
        for element in svg.findall(kind)
    ]


def test_lines_fill_the_axes_and_break_at_gaps():
    svg = chart(([0, 1, 2, 3, 4], [1.0, 3.0, NAN, 2.0, 2.5]))
    first, second = lines(svg)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    assert first == [(LEFT, bottom), (pytest.approx(LEFT + (right - LEFT) / 4, abs=0.1), TOP)]
    assert second[-1][0] == right and second[0][1] == pytest.approx((bottom + TOP) / 2)
    assert svg.get("aria-label") == "a <b>"
    texts = [element.text for element in svg.findall("text")]
    assert texts == ["1", "1.5", "2", "2.5", "3", "0", "1", "2", "3", "4"]


def test_a_lonely_value_is_a_dot_and_no_value_is_no_chart():
    svg = chart(([5.0], [7.0]))
    (dot,) = svg.findall("circle")
    assert float(dot.get("cy")) == pytest.approx((HEIGHT - BOTTOM + TOP) / 2)
    assert line_chart([Curve.of("x", [1, 2], [NAN, math.inf])], label="") == ""


def test_a_point_that_stands_for_several_shows_their_range():
    values = [0.0] * 1000
    values[500] = 1.0
    svg = chart((range(1000), values))
    (area,) = lines(svg, "polygon")
    assert min(y for _, y in area) == TOP  # the spike
    (line,) = lines(svg)
    assert min(y for _, y in line) > HEIGHT / 2


def test_curves_share_axes_and_have_colours_of_their_own():
    svg = chart(([0, 1], [0, 1]), ([0, 1], [1, 3]), ([0, 1], [2, 2]))  # X/fake, X/real and X
    low, high, _ = lines(svg)
    assert low[1][1] == high[0][1]
    classes = [element.get("class") for element in svg.findall("polyline")]
    assert classes == ["c0", "c1", "c2"] and all(f".{name} {{{{ stroke:" in PAGE for name in classes)


def test_many_decades_have_a_logarithmic_axis():
    svg = chart(([0, 1, 2], [0.01, 1.0, 100.0]))
    (line,) = lines(svg)
    assert line[1][1] == pytest.approx((line[0][1] + line[2][1]) / 2, abs=0.1)
    assert {"0.01", "1", "100"} <= {element.text for element in svg.findall("text")}
    (line,) = lines(chart(([0, 1, 2], [-0.01, 1.0, 100.0])))  # a negative value has no logarithm
    assert line[1][1] == pytest.approx(line[0][1], abs=2)


def test_a_threshold_is_drawn_where_the_axis_reaches():
    def drawn(threshold):
        svg = chart(([0, 1], [1.0, 3.0]), threshold=threshold)
        return [float(element.get("y1")) for element in svg.findall("line") if element.get("class") == "threshold"]

    assert drawn(2.0) == [pytest.approx((HEIGHT - BOTTOM + TOP) / 2)] and drawn(4.0) == []


@pytest.mark.parametrize("values", [[1e308, -1e308], [1e-320, 0.0], [5.0, 5.0], [1e300, 1e-300], [-3e-9, 2e-9]])
def test_extreme_values_give_finite_coordinates(values):
    text = line_chart([Curve.of("x", [0.0, 1e-9], values)], label="")
    assert text.count("<polyline") == 1 and not re.search(r"nan|inf", text)
    assert text.count("<text") < 30


def test_constants_and_numbers():
    assert is_constant(Curve.of("x", range(900), [2.0] * 900))
    alternating = Curve.of("x", range(900), [1.0, 3.0] * 450)
    assert {mean for _, mean, _, _ in alternating.points} == {2.0} and not is_constant(alternating)
    assert not is_constant(Curve.of("x", [1, 2], [2.0, 2.5])) and not is_constant(Curve.of("x", [1, 2], [2.0, NAN]))
    assert (number_text(12345.6), number_text(0.5), number_text(NAN)) == ("12346", "0.5", "–")
    assert [number_text(x) for x in (9999.4, 9999.7, -5e4, 123456789)] == ["9999", "10000", "-50000", "1.235e+08"]
