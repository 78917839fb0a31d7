"""Line charts as inline SVG, whose colours are the page's CSS variables."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

from ups_scale.evaluate.page.numbers import number
from ups_scale.evaluate.page.ticks import Scale, span, tick_label

WIDTH, HEIGHT = 430.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 10.0, 10.0, 42.0
COLOURS = {
    "truth": "var(--ink)",
    "model": "var(--model)",
    "fno": "var(--c1)",
    "unet": "var(--c2)",
    "pdetransformer": "var(--c3)",
    "persistence": "var(--trivial)",
    "extrapolation": "var(--c6)",
    "zero": "var(--bad)",
}
"""Of the predictors that are often there; others get one of `PALETTE`."""
PALETTE = tuple(f"var(--c{i})" for i in (4, 5, 1, 2, 3, 6))
DASHES = {"persistence": "5 3", "extrapolation": "1.5 3", "zero": "7 4"}
"""Predictors that nobody trained are dashed."""


@dataclass(frozen=True)
class Line:
    """A line of a chart: `y` over `x`, with gaps where `y` is None or can't be drawn.

    Attributes:
        colour: a CSS colour; "" for that of the label in `COLOURS`, or one of `PALETTE`.
        dash: SVG's stroke-dasharray; "" for that of the label in `DASHES`, or a solid line.
        low, high: of a band around the line, one value for each of `x`.
        dots: whether points are dots, too, as is a line of one point.
        attributes: HTML attributes of the line's path, for a script.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str = ""
    dash: str = ""
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    dots: bool = False
    attributes: str = ""


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    whole_x: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    marks: Sequence[float] = (),
    note: str = "",
    tooltips: bool = True,
) -> str:
    """A figure: the title, an SVG with axes, ticks and lines, a legend (of two lines or more), and the note.

    Values under the pointer stand in a tooltip. `whole_x`: x counts something; `marks` are values of x that get a
    dotted line; `x_range` and `y_range` replace the ranges of the data, lines are clipped to them. All texts are plain.
    """
    drawn = [_styled(line, i) for i, line in enumerate(lines)]
    x_low, x_high = x_range or _x_span(drawn, log_x)
    x = x_scale((x_low, x_high), log_x)
    y = y_scale(y_range or span(_heights(drawn), log_y), log_y)
    clip = f"clip{zlib.crc32(repr((title, x_label, y_label, drawn)).encode()):x}"
    parts = [
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(_told(title, drawn))}">',
        f'<clipPath id="{clip}"><rect x="{LEFT:g}" y="{TOP:g}" width="{WIDTH - LEFT - RIGHT:g}" '
        f'height="{HEIGHT - TOP - BOTTOM:g}"/></clipPath>',
        *_axes(x, y, x_label, y_label, whole_x, marks),
        f'<g clip-path="url(#{clip})">',
        *(_band(line, x, y) for line in drawn),
        *(_line(line, x, y) for line in drawn),
        "</g>",
        *(_tooltips(drawn, x, x_label) if tooltips else ()),
        "</svg>",
    ]
    caption = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    head = f'<div class="title">{escape(title)}</div>' if title else ""
    return f'<figure class="chart">{head}{"".join(parts)}{_legend(drawn)}{caption}</figure>'


def x_scale(values: tuple[float, float], log: bool = False) -> Scale:
    """From values to the units of a chart that shows this range of x."""
    return Scale(*values, LEFT, WIDTH - RIGHT, log)


def y_scale(values: tuple[float, float], log: bool = False) -> Scale:
    """From values to the units of a chart that shows this range of y."""
    return Scale(*values, HEIGHT - BOTTOM, TOP, log)


def colour_of(name: str, others: Sequence[str] = ()) -> str:
    """The CSS colour of a predictor's lines; `others` are the names that have none of their own, in order."""
    if name in COLOURS:
        return COLOURS[name]
    return PALETTE[others.index(name) % len(PALETTE)] if name in others else PALETTE[0]


def _styled(line: Line, place: int) -> Line:
    colour = line.colour or COLOURS.get(line.label) or PALETTE[place % len(PALETTE)]
    return replace(line, colour=colour, dash=line.dash or DASHES.get(line.label, ""))


def _heights(lines: Sequence[Line]) -> Iterator[float | None]:
    for line in lines:
        yield from line.y
        yield from line.low or ()
        yield from line.high or ()


def _x_span(lines: Sequence[Line], log: bool) -> tuple[float, float]:
    there = [x for line in lines for x in line.x if math.isfinite(x) and (x > 0 or not log)]
    if there and min(there) < max(there):
        return min(there), max(there)
    return span(there, log)


def _axes(x: Scale, y: Scale, x_label: str, y_label: str, whole_x: bool, marks: Sequence[float]) -> Iterator[str]:
    left, right, top, bottom = x.start, x.end, y.end, y.start
    for value in y.minor():
        yield f'<path class="minor" d="M{left:g} {y(value):.1f}H{right:g}"/>'
    y_ticks, x_ticks = y.ticks(), x.ticks(whole=whole_x)
    for value in y_ticks:
        at = y(value)
        yield f'<path class="gridline" d="M{left:g} {at:.1f}H{right:g}"/>'
        yield f'<text x="{left - 6:g}" y="{at + 3.6:.1f}" text-anchor="end">{tick_label(value, y_ticks, y.log)}</text>'
    for value in x_ticks:
        at = x(value)
        yield f'<path class="axis" d="M{at:.1f} {bottom:g}v4"/>'
        yield (
            f'<text x="{at:.1f}" y="{bottom + 16:g}" text-anchor="middle">{tick_label(value, x_ticks, x.log)}</text>'
        )
    for value in marks:
        if x.holds(value) and x.low <= value <= x.high:
            yield f'<path class="mark" d="M{x(value):.1f} {top:g}V{bottom:g}"/>'
    yield f'<path class="axis" d="M{left:g} {top:g}V{bottom:g}H{right:g}"/>'
    yield f'<text x="{(left + right) / 2:g}" y="{HEIGHT - 7:g}" text-anchor="middle">{escape(x_label)}</text>'
    turned = f'transform="translate(12 {(top + bottom) / 2:g}) rotate(-90)"'
    yield f'<text {turned} text-anchor="middle">{escape(y_label)}</text>'


def _line(line: Line, x: Scale, y: Scale) -> str:
    stroke = f'stroke="{line.colour}"' + (f' stroke-dasharray="{line.dash}"' if line.dash else "")
    found, dots = [], []
    for piece in _pieces(line, x, y):
        points = [f"{x(a):.1f} {y(b):.1f}" for a, b in piece]
        if len(piece) > 1:
            found.append("M" + "L".join(points))
        if len(piece) == 1 or line.dots:
            dots += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.6" fill="{line.colour}"/>' for a, b in piece]
    more = f" {line.attributes}" if line.attributes else ""
    path = f'<path class="line" {stroke}{more} d="{"".join(found)}"/>' if found or more else ""
    return path + "".join(dots)


def _pieces(line: Line, x: Scale, y: Scale) -> list[list[tuple[float, float]]]:
    """The runs of points that can be drawn."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for a, b in zip(line.x, line.y, strict=True):
        if b is not None and x.holds(a) and y.holds(b):
            pieces[-1].append((a, b))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _band(line: Line, x: Scale, y: Scale) -> str:
    if line.low is None or line.high is None:
        return ""
    there = [
        (a, low, high)
        for a, low, high in zip(line.x, line.low, line.high, strict=True)
        if low is not None and high is not None and x.holds(a) and y.holds(low) and y.holds(high)
    ]
    if len(there) < 2:
        return ""
    upper = [f"{x(a):.1f} {y(high):.1f}" for a, _, high in there]
    lower = [f"{x(a):.1f} {y(low):.1f}" for a, low, _ in reversed(there)]
    return f'<path class="band" fill="{line.colour}" d="M{"L".join(upper + lower)}Z"/>'


def _tooltips(lines: Sequence[Line], x: Scale, x_label: str) -> Iterator[str]:
    """A strip per value of x, with a tooltip of all lines' values there."""
    values: dict[float, list[str]] = {}
    for line in lines:
        for a, b in zip(line.x, line.y, strict=True):
            if x.holds(a) and x.low <= a <= x.high:
                values.setdefault(a, []).append(f"{line.label}: {'-' if b is None else number(b)}")
    places = sorted(values)
    for i, a in enumerate(places):
        left = x.start if i == 0 else (x(places[i - 1]) + x(a)) / 2
        right = x.end if i == len(places) - 1 else (x(a) + x(places[i + 1])) / 2
        told = "\n".join([f"{x_label} {a:g}", *values[a]])
        yield (
            f'<rect class="hit" x="{left:.1f}" y="{TOP:g}" width="{max(0.0, right - left):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM:g}"><title>{escape(told)}</title></rect>'
        )


def _legend(lines: Sequence[Line]) -> str:
    if len(lines) < 2:
        return ""
    entries = "".join(
        f'<li><svg viewBox="0 0 22 10" aria-hidden="true"><path class="line" stroke="{line.colour}"'
        + (f' stroke-dasharray="{line.dash}"' if line.dash else "")
        + f' d="M1 5H21"/></svg>{escape(line.label)}</li>'
        for line in lines
    )
    return f'<ul class="legend">{entries}</ul>'


def _told(title: str, lines: Sequence[Line]) -> str:
    return f"{title or 'chart'}: {', '.join(line.label for line in lines)}"
