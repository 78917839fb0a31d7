"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math


def lr_at(
    step: int, *, name: str, peak: float, steps: int, warmup_ratio: float, final_lr_ratio: float, decay_ratio: float
) -> float:
    """The learning rate of optimizer step `step` (counted from 0) out of `steps`.

    Rises linearly to `peak` over the first `warmup_ratio` of the steps, then: `cosine` or `linear` falls to
    `final_lr_ratio * peak` at the end; `constant` stays; `wsd` (warmup-stable-decay) stays, and falls linearly over the
    last `decay_ratio` of the steps.
    """
    warmup = math.ceil(warmup_ratio * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min((step - warmup) / max(steps - warmup, 1), 1.0)
    floor = final_lr_ratio
    if name == "constant":
        factor = 1.0
    elif name == "linear":
        factor = 1 - (1 - floor) * done
    elif name == "cosine":
        factor = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
    else:
        assert name == "wsd", name
        decay = max(decay_ratio * steps, 1)
        factor = 1 - (1 - floor) * min(max((step - (steps - decay)) / decay, 0.0), 1.0)
    return peak * factor
