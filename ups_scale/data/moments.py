"""Statistics of fields in one pass, in float64: of u and of its change over one frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Values looked at together, so that what is made of them in float64 stays in the core's cache.
TILE_VALUES = 32_768
TILE_FRAMES = 8
QUANTITIES = ("u", "delta", "rounding")


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of a set of values; sets merge (Chan, Golub, LeVeque 1983)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Adds finite values, float64."""
        if values.size:
            # numpy's own sums: those of BLAS depend on its number of threads, and the shards' bytes with them.
            mean = float(values.sum()) / values.size
            deviations = values - mean
            np.square(deviations, out=deviations)
            self.merge(Moments(values.size, mean, float(deviations.sum())))

    def merge(self, other: Moments) -> None:
        total = self.count + other.count
        if total == 0:
            return
        shift = other.mean - self.mean
        self.squares += other.squares + shift**2 * self.count * other.count / total
        self.mean += shift * other.count / total
        self.count = total

    @property
    def variance(self) -> float:
        return self.squares / self.count if self.count else 0.0

    @property
    def rms(self) -> float:
        return math.sqrt(self.variance + self.mean**2)


@dataclass
class FieldMoments:
    """Moments of one field, `u`, and of its change over one frame, `delta`, over the points that have a value; of what
    float16 takes from the numbers, `rounding`.

    Slabs of one trajectory's frames are added in their order; those of others are merged.
    """

    u: Moments = field(default_factory=Moments)
    delta: Moments = field(default_factory=Moments)
    rounding: Moments = field(default_factory=Moments)
    _last: np.ndarray | None = None

    def add(self, slab: np.ndarray, masked: bool) -> None:
        """Adds the next frames, (F, *grid) float16 or float32; where `masked`, NaN is no value."""
        frames = slab.reshape(len(slab), -1)
        num_frames, num_points = frames.shape
        height = max(TILE_FRAMES, TILE_VALUES // num_points)
        width = max(1, TILE_VALUES // height)
        last = frames[:0] if self._last is None else self._last
        for top in range(0, num_frames, height):
            for left in range(0, num_points, width):
                columns = slice(left, left + width)
                before = (frames[top - 1 : top] if top else last)[:, columns]
                tile = np.concatenate([before, frames[top : top + height, columns]], dtype=np.float64)
                self._add_to(self.u, tile[len(before) :], masked)
                self._add_to(self.delta, np.diff(tile, axis=0), masked)
        self._last = frames[-1:].copy()

    def merge(self, other: FieldMoments) -> None:
        self.u.merge(other.u)
        self.delta.merge(other.delta)
        self.rounding.merge(other.rounding)

    @staticmethod
    def _add_to(moments: Moments, values: np.ndarray, masked: bool) -> None:
        if masked:
            there = ~np.isnan(values)
            values = values if there.all() else values[there]
        moments.add(values)


def to_json(fields: list[FieldMoments]) -> dict[str, dict[str, list[Any]]]:
    """Per "u", "delta" and "rounding": count, mean and squares of every field; exact, to be merged later."""
    return {
        quantity: {
            part: [getattr(getattr(moments, quantity), part) for moments in fields]
            for part in ("count", "mean", "squares")
        }
        for quantity in QUANTITIES
    }


def from_json(content: Mapping[str, Mapping[str, list[Any]]]) -> list[FieldMoments]:
    """The moments that `to_json` gave."""
    u, delta, rounding = (
        [
            Moments(int(count), float(mean), float(squares))
            for count, mean, squares in zip(
                content[quantity]["count"], content[quantity]["mean"], content[quantity]["squares"], strict=True
            )
        ]
        for quantity in QUANTITIES
    )
    return [FieldMoments(*each) for each in zip(u, delta, rounding, strict=True)]


def finish(fields: list[FieldMoments]) -> dict[str, dict[str, list[float]]]:
    """The manifest's statistics: per "u" and "delta" the mean, std and rms of every field; 0 where there is no value
    (the change of a static field)."""
    return {
        quantity: {
            "mean": [part.mean for part in parts],
            "std": [math.sqrt(part.variance) for part in parts],
            "rms": [part.rms for part in parts],
        }
        for quantity, parts in (("u", [m.u for m in fields]), ("delta", [m.delta for m in fields]))
    }
