"""Units of time, as files write them."""

from __future__ import annotations

SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600, "day": 86400}


def seconds(unit: str | None) -> int | None:
    """What netCDF's "hours since 1970-01-01" and the like are in s; None for what isn't known, such as months."""
    words = (unit or "").lower().split()
    return SECONDS.get(words[0], SECONDS.get(words[0].removesuffix("s"))) if words else None
