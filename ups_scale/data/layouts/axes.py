"""Axes of a file's arrays against its coordinates: which axis is which, even spacing, times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np

from ups_scale.data.source import EVEN_TOLERANCE, extents_of_centres, is_even
from ups_scale.errors import DataError

# Of one file. What is held per trajectory must fit into memory, whatever a damaged file says.
MAX_TRAJECTORIES = 10_000_000


def check_count(path: Path, num: int) -> None:
    """Raises a `DataError` for more trajectories than a file can be believed to have."""
    if not 1 <= num <= MAX_TRAJECTORIES:
        raise DataError(
            f"{path}: {num:,} trajectories; a file may have 1 to {MAX_TRAJECTORIES:,}. If it has, split it; else it is "
            "damaged, get it again"
        )


def check_order(
    path: Path, name: str, shape: Sequence[int], axes: Sequence[str], sizes: Mapping[str, Sequence[int]]
) -> None:
    """Raises a `DataError` if an array's axes can't be `axes`, saying which order its sizes speak for.

    Args:
        axes: a name for each axis of `shape`.
        sizes: for a name, the lengths its axis may have; names without an entry may have any.
    """

    def fits(order: Sequence[str]) -> bool:
        return all(size in sizes.get(letter, (size,)) for letter, size in zip(order, shape, strict=True))

    if fits(axes):
        return
    expected = f"({', '.join(axes)})"
    lengths = ", ".join(f"{letter} {' or '.join(str(size) for size in known)}" for letter, known in sizes.items())
    order = next((order for order in permutations(axes) if fits(order)), None)
    raise DataError(
        f"{path}: {name} has shape {tuple(shape)}, expected {expected}; by the coordinates the axes have the lengths "
        + lengths
        + (
            f", so this looks like ({', '.join(order)}): transpose it to {expected}"
            if order
            else ", which no order of its axes fits: write the coordinates that belong to it"
        )
    )


def even_extents(path: Path, name: str, points: np.ndarray) -> tuple[float, float]:
    """(low, high) of an axis whose points are cell centres: half a step beyond them.

    Raises:
        DataError: they aren't finite, or don't increase in even steps; the message names the first that is amiss.
    """
    if is_even(points):
        return extents_of_centres(points)
    wrong = np.flatnonzero(~np.isfinite(points))
    if len(wrong):
        raise DataError(
            f"{path}: {name} is {points[wrong[0]]} at point {wrong[0]}; write the coordinates of all points"
        )
    steps = np.diff(points)
    usual = float(np.median(steps)) if len(steps) else 0.0
    bad = np.flatnonzero(~(np.abs(steps - usual) <= EVEN_TOLERANCE * abs(usual)) | (steps <= 0))
    if len(points) < 2:
        reason = f"it has {len(points)} point, at least 2 are needed"
    else:
        first = int(bad[0]) if len(bad) else int(np.argmax(np.abs(steps - usual)))
        reason = f"step {first} (from {points[first]:g} to {points[first + 1]:g}) is {steps[first]:g}, others {usual:g}"
    raise DataError(
        f"{path}: {name} does not increase in even steps: {reason}. Interpolate the fields to an even grid, or convert "
        "them as points with a mapping file"
    )


def check_times(path: Path, name: str, times_nt: np.ndarray) -> None:
    """Raises a `DataError` unless the times of every trajectory are finite and increase."""
    bad = ~np.isfinite(times_nt)
    if bad.any():
        row, frame = (int(index) for index in np.argwhere(bad)[0])
        raise DataError(
            f"{path}: {name} is {times_nt[row, frame]} at frame {frame} of trajectory {row}; write the time in s"
        )
    bad = np.diff(times_nt, axis=1) <= 0
    if bad.any():
        row, frame = (int(index) for index in np.argwhere(bad)[0])
        raise DataError(
            f"{path}: {name} goes from {times_nt[row, frame]:g} at frame {frame} to {times_nt[row, frame + 1]:g} at "
            f"frame {frame + 1} (trajectory {row}); times must increase. Sort the frames, or leave out those that were "
            "never written"
        )


def same_points(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two axes have the same points, but for the rounding of float32."""
    if one.shape != other.shape:
        return False
    if np.array_equal(one, other, equal_nan=True):
        return True
    reach = float(np.ptp(other))
    return bool(np.isfinite(reach)) and np.allclose(one, other, rtol=1e-5, atol=1e-7 * reach)
