"""How figures are written: three digits, and words where there is none."""

from __future__ import annotations

import math

NOT_FINITE = "not finite"


def number(value: float | None) -> str:
    """A figure to three digits, a count as it is; `-` where there is none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        rounded = float(f"{value:.2e}")
        return f"{value:.{_decimals(rounded)}f}"
    return f"{value:.3g}"


def shown(value: float | None) -> str:
    """A figure to three digits; `not finite` where there is none."""
    return NOT_FINITE if value is None else number(value)


def plural(count: int, one: str, many: str) -> str:
    """`1 family`, `2 families`."""
    return f"{count:,} {one if count == 1 else many}"


def _decimals(value: float) -> int:
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
