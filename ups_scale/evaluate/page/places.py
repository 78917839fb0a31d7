"""How a field's values lie in a picture: grids as they are, the middle of 3D ones, and points as dots.

Dimensions: h step, p point, d axis, y row (from the top), x column, or any axes of space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ups_scale.evaluate.page.sprites import NO_VALUE, NOTHING, Shades, reduced
from ups_scale.physics.families import FamilySpec

LARGEST = 192
"""Pixels of a picture's longer side, at most."""
LEAST_FRAMES = 12
"""Frames of a rollout are left out before the picture gets coarser, but no more than leave so many."""
SLAB = 0.25
"""The part of the third axis whose points stand for the middle slice."""
DOT_SHARE = 0.8
"""A dot's radius, in mean distances between points."""
FLATTEST = 0.2
"""Height of a frame for its width, and the other way round; what is flatter is stretched, to be seen at all."""


@dataclass(frozen=True)
class Canvas:
    """Where values go. `frames` turns values (H, *X) and their colours into levels (H, Y, X) of a picture of `size`;
    `stretched` says by how much which axis is stretched, if one is."""

    frames: Callable[[np.ndarray, Shades], np.ndarray]
    size: tuple[int, int]
    aspect: float
    stretched: str = ""

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]


def canvas(spec: FamilySpec, first_cx: np.ndarray, largest: int) -> Canvas:
    """For a family of two axes or three (of which the middle of the third is shown), whose longer side gets at most
    `largest` pixels. `first_cx` (C, *X) is a frame of the truth, which holds the places of points."""
    (x_low, x_high), (y_low, y_high) = spec.extents[:2]
    aspect = (x_high - x_low) / (y_high - y_low)
    told = ""
    if aspect > 1 / FLATTEST:
        aspect, told = 1 / FLATTEST, f"y stretched {aspect * FLATTEST:.1f} x"
    elif aspect < FLATTEST:
        aspect, told = FLATTEST, f"x stretched {FLATTEST / aspect:.1f} x"
    if spec.geometry == "points":
        size = _size(aspect, largest)
        return Canvas(_dots(spec, first_cx, size, aspect), size, aspect, told)
    grid = spec.grid[:2]
    factor = -(-max(grid) // largest)
    size = (-(-grid[1] // factor), -(-grid[0] // factor))

    def frames(values_hx: np.ndarray, shades: Shades) -> np.ndarray:
        plane = values_hx[..., values_hx.shape[-1] // 2] if values_hx.ndim == 4 else values_hx
        return shades.levels(reduced(plane.transpose(0, 2, 1)[:, ::-1], factor))

    return Canvas(frames, size, aspect, told)


def points_of(spec: FamilySpec, first_cx: np.ndarray) -> np.ndarray:
    """(P, D) coordinates of a point set; NaN for points that are not there."""
    return first_cx[[spec.fields.index(name) for name in spec.coordinates]].T


def kept_frames(steps: Sequence[int], always: Sequence[int], area: int, pixels: int) -> list[int]:
    """The numbers from 0 of the frames that a picture of at most about `pixels` shows, `area` a frame: every one, or
    every second, third, ..., with the steps of `always`, and the last."""
    every = 1
    while True:
        kept = [i for i, k in enumerate(steps) if i % every == 0 or k in always or i == len(steps) - 1]
        if len(kept) * area <= pixels or len(steps) / (every + 1) < LEAST_FRAMES:
            return kept
        every += 1


def _size(aspect: float, largest: int) -> tuple[int, int]:
    """(rows, columns)"""
    return (max(1, round(largest / aspect)), largest) if aspect >= 1 else (largest, max(1, round(largest * aspect)))


def _dots(
    spec: FamilySpec, first_cx: np.ndarray, size: tuple[int, int], aspect: float
) -> Callable[[np.ndarray, Shades], np.ndarray]:
    """Every pixel gets the level of the nearest point, if that is near enough."""
    place_pd = points_of(spec, first_cx)
    there = np.isfinite(place_pd).all(axis=1)
    if spec.dimensions == 3:
        low, high = spec.extents[2]
        there &= np.abs(place_pd[:, 2] - (low + high) / 2) <= SLAB * (high - low) / 2
    chosen = np.flatnonzero(there)
    rows, columns = size
    if not len(chosen):
        return lambda values_hx, _: np.full((len(values_hx), rows, columns), NO_VALUE, np.uint8)
    lows, highs = np.array(spec.extents[:2], dtype=np.float64).T
    unit = np.array([aspect, 1.0]) / max(aspect, 1.0)  # of the picture's longer side
    shown_pd = (place_pd[chosen, :2] - lows) / (highs - lows) * unit
    y, x = np.meshgrid((rows - 0.5 - np.arange(rows)) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    pixels = np.stack([x, y], axis=-1).reshape(-1, 2) * unit
    radius = DOT_SHARE * float(np.sqrt(unit.prod() / len(chosen)))
    distance, nearest = cKDTree(shown_pd).query(pixels)
    outside = (distance > radius).reshape(rows, columns)
    index = chosen[nearest].reshape(rows, columns)

    def frames(values_hp: np.ndarray, shades: Shades) -> np.ndarray:
        return np.where(outside, NOTHING, shades.levels(values_hp)[:, index]).astype(np.uint8)

    return frames
