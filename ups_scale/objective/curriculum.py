"""The curriculum: how many frames are unrolled at each optimizer step, after the autoencoder's warm-up."""

from __future__ import annotations

from collections.abc import Sequence


def horizon_at(step: int, horizons: Sequence[int], grow_every_steps: int, autoencoder_steps: int = 0) -> int:
    """The horizon of `step` (counted from 0): the next of `horizons` every `grow_every_steps` steps after the first
    `autoencoder_steps`, then the last. In the warm-up windows are as long as for the first horizon."""
    return horizons[min(max(step - autoencoder_steps, 0) // grow_every_steps, len(horizons) - 1)]
