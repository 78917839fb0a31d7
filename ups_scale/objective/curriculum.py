"""The horizon curriculum: how many frames are unrolled at each optimizer step."""

from __future__ import annotations

from collections.abc import Sequence


def horizon_at(step: int, horizons: Sequence[int], grow_every_steps: int) -> int:
    """The horizon of `step` (counted from 0): the next of `horizons` every `grow_every_steps` steps, then the last."""
    return horizons[min(step // grow_every_steps, len(horizons) - 1)]
