"""Timing that a busy machine does not fool: methods take turns, and figures are medians with their spread."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Figure:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """The median, with no digit that the quartiles leave open."""
        spread = max(self.high - self.low, 1e-3 * abs(self.median))
        if not (math.isfinite(spread) and spread > 0):
            return f"{self.median:g}"
        place = math.floor(math.log10(spread))
        return f"{round(self.median, -place):.{max(0, -place)}f}"

    def as_json(self) -> dict[str, float]:
        return {"median": self.median, "low": self.low, "high": self.high}


def figure(values: Sequence[float]) -> Figure:
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return Figure(median, low, high)


def take_turns(methods: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Items per second of every method in every round.

    A method does some work and returns how many items that was. Each goes once untimed right before it is timed: what
    the caches hold is then its own doing, not that of the method before it.
    """
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            method()
            start = time.perf_counter()
            count = method()
            rates[name].append(count / (time.perf_counter() - start))
    return rates


def ratio(rates: Mapping[str, Sequence[float]], ours: str, other: str) -> Figure:
    """How many times as fast `ours` is as `other`, round by round."""
    return figure([a / b for a, b in zip(rates[ours], rates[other], strict=True)])


def load() -> list[float]:
    """Runnable processes over the last 1, 5 and 15 minutes: what else the machine was doing."""
    return [round(value, 2) for value in os.getloadavg()]
