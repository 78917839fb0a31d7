"""Charts of the pages: ticks at round values, lines where they belong, gaps where there is nothing to draw."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups_scale.evaluate.page.charts import Line, colour_of, line_chart, x_scale, y_scale
from ups_scale.evaluate.page.ticks import Scale, span, tick_label

LABELS = {"title": "t", "x_label": "step", "y_label": "nRMSE"}


def svg_of(figure):
    return ElementTree.fromstring(re.search(r"<svg.*?</svg>", figure, re.DOTALL)[0])


def paths(figure, kind="line"):
    return [path.get("d") for path in svg_of(figure).iter("path") if path.get("class") == kind]


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0.0, 1.0, False, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (1.0, 16.0, True, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0]),
        (1.0, 3.0, True, [1.0, 2.0, 3.0]),
        (-1.2, 1.3, False, [-1.0, -0.5, 0.0, 0.5, 1.0]),
    ],
)
def test_ticks_are_round(low, high, whole, expected):
    assert Scale(low, high, 0, 100).ticks(whole) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.005, 2.0, [0.01, 0.1, 1.0]),
        (1.0, 63.0, [1.0, 3.0, 10.0, 30.0]),
        (0.2, 1.0, [0.2, 0.5, 1.0]),
        (1e-12, 1.0, [1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1.0]),
    ],
)
def test_ticks_of_a_log_axis(low, high, expected):
    assert Scale(low, high, 0, 100, log=True).ticks() == pytest.approx(expected)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_on_the_axis_and_differ(low, width):
    scale = Scale(low, low + width, 0.0, 100.0)
    if scale.high - scale.low < 1e-9 * abs(low):
        return
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 10
    assert all(scale.low - 1e-6 * width <= tick <= scale.high + 1e-6 * width for tick in ticks)


@pytest.mark.parametrize(
    ("value", "ticks", "log", "text"),
    [
        (0.0, [0.0, 0.5], False, "0"),
        (0.5, [0.0, 0.5], False, "0.5"),
        (2.0, [2.0, 4.0], False, "2"),
        (1e-5, [1e-5], True, "1e-5"),
        (0.01, [0.01], True, "0.01"),
        (10.0**-4, [10.0**-4], True, "1e-4"),
        (200000.0, [100000.0, 200000.0], False, "2e5"),
    ],
)
def test_tick_labels_are_short(value, ticks, log, text):
    assert tick_label(value, ticks, log) == text


def test_span_leaves_out_what_an_axis_cannot_show():
    assert span([None, math.nan, math.inf, 0.0, 0.1, 1.0], log=True) == pytest.approx((0.1 / 10**0.05, 10**0.05))
    assert span([], log=True) == (0.1, 1.0)
    low, high = span([3.0, 3.0], log=False)
    assert low < 3.0 < high


def test_lines_lie_where_the_axes_say():
    figure = line_chart([Line("model", (0, 1), (0, 10))], **LABELS, x_range=(0, 1), y_range=(0, 10))
    x, y = x_scale((0, 1)), y_scale((0, 10))
    assert paths(figure) == [f"M{x(0):.1f} {y(0):.1f}L{x(1):.1f} {y(10):.1f}"]
    assert y(10) < y(0)


def test_what_is_missing_or_not_positive_on_a_log_axis_is_a_gap():
    line = Line("model", range(1, 8), (1.0, 2.0, None, 3.0, 4.0, 0.0, math.inf))
    (path,) = paths(line_chart([line], **LABELS, log_y=True))
    assert path.count("M") == 2
    assert path.count("L") == 2


def test_a_line_of_one_point_is_a_dot():
    figure = line_chart([Line("model", (1,), (0.2,)), Line("zero", (1,), (1.0,))], **LABELS, log_y=True)
    assert len(list(svg_of(figure).iter("circle"))) == 2
    assert paths(figure) == []


def test_a_chart_without_any_value_is_drawn():
    figure = line_chart([Line("model", (1, 2), (None, None))], **LABELS, log_y=True)
    assert paths(figure) == []
    assert "nRMSE" in figure


def test_a_band_goes_there_and_back():
    line = Line("model", (1, 2, 3), (2, 2, 2), low=(1, 1, None), high=(3, 3, 3))
    (band,) = paths(line_chart([line], **LABELS), "band")
    assert band.count("L") == 3
    assert band.endswith("Z")


def test_tooltips_and_legend_name_every_line():
    lines = [Line("model", (1, 2), (0.1, 0.2)), Line("a & b", (1, 2), (0.3, None))]
    figure = line_chart(lines, **LABELS)
    tips = [rect.find("title").text for rect in svg_of(figure).iter("rect") if rect.get("class") == "hit"]
    assert tips == ["step 1\nmodel: 0.100\na & b: 0.300", "step 2\nmodel: 0.200\na & b: -"]
    assert "a &amp; b</li>" in figure
    assert 'class="hit"' not in line_chart(lines, **LABELS, tooltips=False)
    assert "<ul" not in line_chart(lines[:1], **LABELS)


def test_colours_follow_the_page_and_differ():
    assert colour_of("model") == "var(--model)"
    others = [colour_of(name, ["x", "y"]) for name in ("x", "y", "fno", "model")]
    assert len(set(others)) == 4
    assert "#" not in line_chart([Line("model", (1, 2), (1, 2))], **LABELS).replace("(#clip", "")


def test_the_same_chart_is_the_same_text():
    line = Line("model", (1, 2), (1, 2))
    assert line_chart([line], **LABELS) == line_chart([line], **LABELS)
