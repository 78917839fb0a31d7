"""Axes of space that a mapping states: even points, and where the domain ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ups_scale.data.source import EVEN_TOLERANCE, is_even
from ups_scale.errors import DataError


def check_even(path: Path, what: str, name: str, points: np.ndarray) -> None:
    """Raises a `DataError` unless points increase or decrease in even steps; it names the first that is amiss."""
    if is_even(points) or is_even(points[::-1]):
        return
    if len(points) < 2:
        raise DataError(
            f"{path}: {what}: {name} has 1 point, at least 2 make an axis; take it out of the fields with index, and "
            "out of space"
        )
    steps = np.diff(points)
    usual = float(np.median(steps))
    uneven = ~(np.abs(steps - usual) <= EVEN_TOLERANCE * abs(usual)) | (steps * usual <= 0)
    bad = int(np.argmax(uneven)) if uneven.any() else int(np.argmax(np.abs(steps - usual)))
    raise DataError(
        f"{path}: {what}: the points of {name} are not even: step {bad}, from {points[bad]:g} to {points[bad + 1]:g}, "
        f"is {steps[bad]:g}, others {usual:g}. Interpolate the fields to an even grid, or convert them as points "
        '("geometry": "points")'
    )


def decreases(points: np.ndarray) -> bool:
    """Whether an axis runs from high to low."""
    return bool(points[0] > points[-1])


def extents_of(
    path: Path, letter: str, axis: Mapping[str, Any], points: np.ndarray | None, periodic: bool
) -> tuple[float, float]:
    """(low, high) of an axis: as the mapping states them, else by the rule for what the array's points are.

    Args:
        axis: the mapping's entry: array, extents, points.
        points: of the array, even; None without one.

    Raises:
        DataError: what is stated does not go with the points.
    """
    stated = (float(axis["extents"][0]), float(axis["extents"][1])) if "extents" in axis else None
    if points is None:
        assert stated is not None, "the mapping is checked"
        return stated
    first, last = float(points.min()), float(points.max())
    step = (last - first) / (len(points) - 1)
    rules = {"centres": (first - step / 2, last + step / 2), "nodes": (first, last), "left": (first, last + step)}
    if stated is None and periodic and "points" not in axis:
        ways = [f'"{name}" ([{rules[name][0]:g}, {rules[name][1]:g}])' for name in ("centres", "left")]
        raise DataError(
            f"{path}: space.{letter}: a periodic axis from {first:g} to {last:g} in steps of {step:g}, and nothing "
            f'says where it closes; write "points": {" or ".join(ways)}, or its extents. If the last point repeats the '
            "first, leave it out of the file"
        )
    if stated is None:
        return rules[axis.get("points", "centres")]
    low, high = stated
    tolerance = EVEN_TOLERANCE * step
    what = (
        f"{path}: space.{letter}.extents: found [{low:g}, {high:g}], but the points run from {first:g} to {last:g} in "
        f"steps of {step:g}"
    )
    if "points" in axis:
        by_rule = rules[axis["points"]]
        if max(abs(by_rule[0] - low), abs(by_rule[1] - high)) > tolerance:
            raise DataError(
                f"{what}, and as {axis['points']} they fill [{by_rule[0]:g}, {by_rule[1]:g}]; correct either, or leave "
                "one out"
            )
    gaps = first - low, high - last
    if min(gaps) < -tolerance or max(gaps) > step + tolerance:
        raise DataError(f"{what}; a domain holds its points and ends at most a step beyond them. Correct the extents")
    if periodic and abs(high - low - step * len(points)) > tolerance:
        raise DataError(
            f"{what}; a periodic axis of {len(points)} such points is {step * len(points):g} long. Correct the "
            "extents; if the last point repeats the first, leave it out of the file"
        )
    return stated
