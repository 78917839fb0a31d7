"""Rollouts to look at: of a good, the median and the worst trajectory.

Dimensions: h step after the last given frame, c field, x space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ups_scale.evaluate.entrants import MODEL, Entrant
from ups_scale.evaluate.share import counted_points, frames_of
from ups_scale.evaluate.testset import TestSet, read_rollouts


@dataclass(frozen=True)
class Example:
    """A rollout to look at; arrays are (H, C, *X) in physical units, NaN where the truth has no value and where the
    prediction doesn't count. `others` are the zoo's predictions."""

    label: str
    key: str
    nrmse: float
    truth_hcx: np.ndarray
    pred_hcx: np.ndarray
    others: Mapping[str, np.ndarray] = field(default_factory=dict)


@torch.inference_mode()
def examples(
    entrants: Sequence[Entrant],
    test: TestSet,
    ranking: Mapping[int, float],
    given: int,
    device: torch.device,
) -> list[Example]:
    """Rollouts of the model, the first of `entrants`, and the others, on a good trajectory (best tenth), the median and
    the worst one, each once; `ranking` holds their nRMSE by number, best first.
    One process may call it."""
    numbers, last = list(ranking), len(ranking) - 1
    picks = {"good": numbers[round(0.1 * last)], "median": numbers[last // 2], "worst": numbers[last]}
    by_index = {index: label for label, index in picks.items()}
    found = []
    for index, label in by_index.items():
        start, truth = read_rollouts(test, [index], given, max(test.steps), device)
        streams = {
            entrant.name: frames_of(entrant, test, start, max(test.steps))
            for entrant in entrants
            if test.name in entrant.families
        }
        shown: dict[str, list[Tensor]] = {name: [] for name in ("truth", *streams)}
        for truth_bcx, there_bcx in truth:
            counted_bcx = counted_points(start, there_bcx)
            there = truth_bcx if there_bcx is None else torch.where(there_bcx, truth_bcx, torch.nan)
            shown["truth"].append(there[0].cpu())
            for name, stream in streams.items():
                _, u_bcx = next(stream)
                kept = u_bcx if counted_bcx is None else torch.where(counted_bcx, u_bcx, torch.nan)
                shown[name].append(kept[0].cpu())
        arrays = {name: torch.stack(steps).numpy() for name, steps in shown.items()}
        truth_hcx, pred_hcx = arrays.pop("truth"), arrays.pop(MODEL)
        found.append(Example(label, start.keys[0], ranking[index], truth_hcx, pred_hcx, arrays))
    return found
