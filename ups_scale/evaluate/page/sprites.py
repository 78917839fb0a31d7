"""Frames of a rollout as one PNG with a palette: below each other, so that a page shows any of them by moving it.

A pixel is a level of 0 (no value), 1 (nothing there) or 2 to 255 (the colour map from its low to its high end).

Dimensions: h frame, y row (from the top), x column.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image

BLANK = (154, 165, 177)
NO_VALUE, NOTHING, FIRST = 0, 1, 2
LEVELS = 256 - FIRST
EDGE = 1
"""Rows of a frame that stand above and below it once more, for a browser that rounds to neighbouring pixels."""
BOTH_SIGNS = 0.15
"""A truth has both signs in earnest where the smaller extreme is at least so much of the larger one."""
LARGEST_ERROR = 2.0
"""Of the truth's range: the scale of errors ends there, however far a prediction is off."""


@dataclass(frozen=True)
class Shades:
    """A colour map from `low` to `high`, named as matplotlib names it; `clipped` if values may lie beyond."""

    name: str
    low: float
    high: float
    clipped: bool = False

    def levels(self, values: np.ndarray) -> np.ndarray:
        """The levels of `values`, uint8 in the same shape; what is not finite has no value."""
        there = np.isfinite(values)
        share = (np.where(there, values, self.low) - self.low) / (self.high - self.low)
        found = FIRST + np.clip(np.rint(share * (LEVELS - 1)), 0, LEVELS - 1)
        return np.where(there, found, NO_VALUE).astype(np.uint8)

    def palette(self) -> np.ndarray:
        """(256, 3) uint8: the colour of each level."""
        colours = matplotlib.colormaps[self.name](np.linspace(0, 1, LEVELS))[:, :3]
        return np.concatenate([np.array([BLANK, BLANK]), np.rint(255 * colours)]).astype(np.uint8)

    def gradient(self, stops: int = 13) -> str:
        """The colour map as a CSS gradient from left to right."""
        colours = self.palette()[FIRST + np.rint(np.linspace(0, LEVELS - 1, stops)).astype(int)]
        return f"linear-gradient(to right,{','.join('#' + bytes(colour).hex() for colour in colours)})"


@dataclass(frozen=True)
class Sprite:
    """A PNG of `count` frames of `height` rows each, as `png` makes it, as a data URI."""

    uri: str
    count: int
    height: int

    def style(self) -> str:
        """CSS of an element that shows the frame whose number from 0 is the CSS variable `--k`."""
        pitch = self.height + 2 * EDGE
        whole, travel = self.count * pitch, self.count * pitch - self.height
        return (
            f"background-image:url({self.uri});background-size:100% {100 * whole / self.height:.6g}%;"
            f"background-position:0 calc({100 * pitch / travel:.8g}% * var(--k) + {100 * EDGE / travel:.8g}%)"
        )


def truth_shades(truth: np.ndarray) -> Shades:
    """A diverging colour map about zero where the truth has both signs in earnest, else a sequential one."""
    low, high = finite_range(truth)
    if low < 0 < high and min(-low, high) > BOTH_SIGNS * max(-low, high):
        bound = max(-low, high)
        return Shades("RdBu_r", -bound, bound)
    return Shades("viridis", low, high if high > low else low + 1.0)


def error_shades(error: np.ndarray, truth: np.ndarray) -> Shades:
    """A diverging colour map about zero up to the largest error, or to `LARGEST_ERROR` if that is less."""
    low, high = finite_range(error)
    bound = max(-low, high)
    truth_low, truth_high = finite_range(truth)
    most = LARGEST_ERROR * (truth_high - truth_low)
    clipped = bound > most > 0
    return Shades("PuOr_r", *((-most, most) if clipped else (-(bound or 1.0), bound or 1.0)), clipped)


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """The least and the largest value; 0 and 0 if there is none."""
    there = values[np.isfinite(values)]
    return (float(there.min()), float(there.max())) if there.size else (0.0, 0.0)


def sprite(levels_hyx: np.ndarray, shades: Shades) -> Sprite:
    """All frames in one picture."""
    edged = np.pad(levels_hyx, ((0, 0), (EDGE, EDGE), (0, 0)), mode="edge")
    count, _, width = edged.shape
    return Sprite(data_uri(png(edged.reshape(-1, width), shades)), count, levels_hyx.shape[1])


def png(levels_yx: np.ndarray, shades: Shades) -> bytes:
    """A picture of levels: one byte a pixel, and a palette."""
    image = Image.fromarray(np.ascontiguousarray(levels_yx), mode="P")
    image.putpalette(shades.palette().tobytes())
    out = io.BytesIO()
    has_holes = bool((levels_yx == NOTHING).any())
    image.save(out, format="png", optimize=True, **({"transparency": NOTHING} if has_holes else {}))
    return out.getvalue()


def data_uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def reduced(values_hyx: np.ndarray, factor: int) -> np.ndarray:
    """Means over cells of `factor` x `factor` values, of those that are finite; NaN where none is."""
    if factor == 1:
        return values_hyx
    there = np.isfinite(values_hyx)
    total, count = np.where(there, values_hyx, 0.0).astype(np.float64), there.astype(np.float64)
    for axis in (1, 2):
        starts = np.arange(0, values_hyx.shape[axis], factor)
        total, count = np.add.reduceat(total, starts, axis), np.add.reduceat(count, starts, axis)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
