"""Scales of charts: from values to pixels, and which values get a tick."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

MOST_DECADES = 7
"""Ticks of a log axis over more decades are left out evenly."""


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` onto pixels from `start` to `end`, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def holds(self, value: float | None) -> bool:
        """Whether the value can be drawn: a finite number, and positive on a log axis."""
        return value is not None and math.isfinite(value) and (value > 0 or not self.log)

    def ticks(self, whole: bool = False, most: int = 8) -> list[float]:
        """Round values on the axis, at most about `most` of them; `whole` numbers if so."""
        if self.log:
            return _decades(self.low, self.high)
        return _round_values(self.low, self.high, whole, most)

    def minor(self) -> list[float]:
        """2, 3, ... 9 times the powers of ten of a log axis of at most three decades; none else."""
        if not self.log or math.log10(self.high / self.low) > 3:
            return []
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        values = [m * 10.0**d for d in range(first, last) for m in range(2, 10)]
        return [value for value in values if self.low <= value <= self.high]


def span(values: Iterable[float | None], log: bool, room: float = 0.05) -> tuple[float, float]:
    """The range of an axis that shows `values`: theirs, and a little more. On a log axis only positive ones count."""
    there = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or not log)]
    if not there:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = min(there), max(there)
    if log:
        if high / low < 1.5:
            return low / 1.5, high * 1.5
        more = (high / low) ** room
        return low / more, high * more
    if high == low:
        return low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    return low - room * (high - low), high + room * (high - low)


def tick_label(value: float, ticks: Sequence[float], log: bool) -> str:
    """The text of a tick: only as many decimals as tell it from its neighbours; 1e-5 for the far powers of ten."""
    if value == 0:
        return "0"
    if log:
        return f"{value:.10g}" if 5e-4 < value < 5e4 else _scientific(value)
    gap = min((b - a for a, b in pairwise(ticks)), default=abs(value))
    if max(map(abs, ticks)) >= 1e5 or gap < 1e-4:
        return _scientific(value)
    decimals = max(0, -math.floor(math.log10(gap) + 1e-9))
    return f"{value:.{decimals}f}"


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _decades(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    every = max(1, math.ceil((last - first + 1) / MOST_DECADES))
    decades = [10.0**d for d in range(first, last + 1) if d % every == 0]
    if len(decades) >= 3:
        return decades
    # Within two decades or so, powers of ten alone say too little.
    found: list[float] = []
    for mantissas in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        values = [m * 10.0**d for d in range(first - 1, last + 1) for m in mantissas]
        found = [value for value in values if low <= value <= high]
        if len(found) >= 3:
            break
    return found


def _round_values(low: float, high: float, whole: bool, most: int) -> list[float]:
    raw = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, 5.0 * power if step == 2.5 * power else step)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) for i in range(count)]
