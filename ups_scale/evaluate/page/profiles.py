"""Rollouts in one dimension: lines at a step, and pictures of space against time; points are ordered by x.

Dimensions: h step after the last given frame, c field, x space, p point.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from ups_scale.evaluate.page.charts import WIDTH, Line, colour_of, line_chart, x_scale, y_scale
from ups_scale.evaluate.page.numbers import number
from ups_scale.evaluate.page.places import points_of
from ups_scale.evaluate.page.sprites import Shades, finite_range, sprite
from ups_scale.evaluate.page.ticks import Scale
from ups_scale.physics.families import FamilySpec

LARGEST_LINE = 512
"""Points of a line, at most."""
ROOM = 0.2
"""Above and below the truth, in parts of its range, for predictions that leave it."""
PER_UNIT, GAP = 64, 65535
"""The player's script reads places in 64ths of the chart's units, and this for a value that isn't there."""


@dataclass(frozen=True)
class Row:
    """What is drawn of a field: a predictor, the truth, or an error, as `values_hx` in the colours of `shades`."""

    name: str
    title: str
    values_hx: np.ndarray
    shades: Shades


def profile(rows: Sequence[Row], first_cx: np.ndarray, c: int, spec: FamilySpec, points: int) -> str:
    """HTML of a chart with the lines of all `rows` but the last, the error, and of a picture for each row, with a mark
    at the step. `first_cx` (C, X) is a frame of the truth; lines have at most so many `points`."""
    (low, high), (place_p, x_p) = spec.extents[0], _ordered(spec, first_cx, points)
    least, largest = finite_range(rows[0].values_hx)
    room = ROOM * ((largest - least) or 1.0)
    y_range = (least - room, largest + room)
    lines = [_line(row, place_p, x_p, y_range) for row in rows[:-1]]
    chart = line_chart(
        lines, title="", x_label="x", y_label=labelled(c, spec), x_range=(low, high), y_range=y_range, tooltips=False
    )
    columns = low + (np.arange(len(x_p)) + 0.5) * (high - low) / max(1, len(x_p))
    nearest = place_p[np.abs(x_p[None] - columns[:, None]).argmin(axis=1)] if len(x_p) else place_p
    pictures = "".join(_space_time(row, nearest, c, spec) for row in rows)
    places = _packed(_units(x_p, x_scale((low, high))))
    return (
        f'<div class="profile" data-x="{places}">{chart}<div><div class="frames" style="--least:180px">{pictures}</div>'
        '<p class="muted">x to the right, steps upwards.</p></div></div>'
    )


def colour_bar(row: Row, c: int, spec: FamilySpec) -> str:
    """HTML of a row's colours and the values at their ends, with the field's unit."""
    shades, unit = row.shades, "" if spec.units[c] in ("", "1") else f" {spec.units[c]}"
    middle = (shades.low + shades.high) / 2
    low, between, high = (
        "0" if abs(value) < 1e-12 * (shades.high - shades.low) else number(value).replace("-", "\u2212", 1)
        for value in (shades.low, middle, shades.high)
    )
    if shades.clipped:
        low, high = f"\u2264 {low}", f"\u2265 {high}"
    return (
        f'<div class="shades"><div style="background:{shades.gradient()}"></div><p><span>{low}</span>'
        f"<span>{between}</span><span>{high}{escape(unit)}</span></p></div>"
    )


def labelled(c: int, spec: FamilySpec) -> str:
    """The field's name, with its unit if it has one."""
    unit = spec.units[c]
    return spec.fields[c] if unit in ("", "1") else f"{spec.fields[c]} ({unit})"


def _ordered(spec: FamilySpec, first_cx: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of at most so many points in the order of x, and their x."""
    low, high = spec.extents[0]
    if spec.geometry == "points":
        x_p = points_of(spec, first_cx)[:, 0].astype(np.float64)
        there = np.flatnonzero(np.isfinite(x_p))
        order = there[np.argsort(x_p[there])]
    else:
        x_p = low + (np.arange(spec.grid[0]) + 0.5) * (high - low) / spec.grid[0]
        order = np.arange(spec.grid[0])
    if len(order) > points:
        order = order[np.linspace(0, len(order) - 1, points).round().astype(int)]
    return order, x_p[order]


def _line(row: Row, place_p: np.ndarray, x_p: np.ndarray, y_range: tuple[float, float]) -> Line:
    """The last step's line, and those of all steps for the player."""
    values_hp = row.values_hx[:, place_p].astype(np.float64)
    last = [float(value) if np.isfinite(value) else None for value in values_hp[-1]]
    heights = _units(values_hp, y_scale(y_range))
    data = _packed(np.where(np.isfinite(values_hp), heights, GAP))
    return Line(row.title, list(map(float, x_p)), last, colour_of(row.name, [row.name]), attributes=f'data-y="{data}"')


def _space_time(row: Row, place_p: np.ndarray, c: int, spec: FamilySpec) -> str:
    """A picture with a row of pixels for each step, the first at the bottom."""
    levels = row.shades.levels(row.values_hx[::-1][:, place_p])
    count, picture = len(levels), sprite(levels[None], row.shades)
    label = escape(f"{row.title}, {spec.fields[c]}: x to the right, steps upwards")
    mark = f'<i style="bottom:calc((var(--k) + .5) * {100 / count:.6g}%)"></i>' if count > 1 else ""
    # One frame holds all steps: whatever the step, the picture shows frame 0.
    return (
        f'<figure><div class="title">{escape(row.title)}</div>'
        f'<div class="frame" role="img" aria-label="{label}" style="aspect-ratio:1.7">'
        f'<div class="frame" style="--k:0;height:100%;{picture.style()}"></div>{mark}</div>'
        f"{colour_bar(row, c, spec)}</figure>"
    )


def _units(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Places on a linear scale, in what the player's script reads, none off the chart."""
    share = (values - scale.low) / (scale.high - scale.low)
    return PER_UNIT * np.clip(scale.start + share * (scale.end - scale.start), 0, WIDTH)


def _packed(values: np.ndarray) -> str:
    """Numbers from 0 to 65535 as text: little-endian, two bytes each, in base64."""
    return base64.b64encode(np.rint(values).astype("<u2").tobytes()).decode()
