"""The horizon guard: a rollout is believed only as long as it correlates with a reference."""

from __future__ import annotations

import torch
from torch import Tensor

from ups_scale.metrics import moments
from ups_scale.metrics.measure import CORRELATED
from ups_scale.physics.families import FamilySpec

# Dimensions: b trajectory, c field, x space axes or points.


def correlation(u_bcx: Tensor, reference_bcx: Tensor, mask_bcx: Tensor | None = None) -> Tensor:
    """(B, C) float64, Pearson's correlation over space of each field, of the points that `mask_bcx` counts (None: all).

    As in `horizon@0.8`: -1, the least there is, where the field is flat or not finite; NaN, no correlation, where the
    reference is, or has fewer than two points.
    """
    reference_bcn = reference_bcx.double().flatten(2)
    error_bcn = u_bcx.double().flatten(2) - reference_bcn
    mask_bcn = None if mask_bcx is None else mask_bcx.flatten(2)
    if mask_bcn is not None:
        reference_bcn, error_bcn = (torch.where(mask_bcn, values, 0.0) for values in (reference_bcn, error_bcn))
    of = moments.measured(error_bcn[:, :, None], reference_bcn, mask_bcn, None)
    found_bcp, flat_bcp = moments.correlation(of)
    exists_bc = ~flat_bcp[..., 0] & (of.points > 1) & of.truth_square.isfinite()
    return torch.where(exists_bc, found_bcp[..., 0].nan_to_num(-1.0), torch.nan)


class HorizonGuard:
    """Says of each trajectory at which step its correlation with a reference falls below `least`: the truth, or another
    member of an ensemble, where the rollout is no better known than its members agree.

    A trajectory's correlation is the mean over the predicted fields that have one. Fields whose reference has none are
    not held against it.

    Attributes:
        first_below: (B,) int64 on the CPU, the first step under `least`; 0: none yet.
    """

    def __init__(self, spec: FamilySpec, num_trajectories: int, least: float = CORRELATED) -> None:
        self._dynamic = list(spec.dynamic)
        self._least = least
        self.first_below = torch.zeros(num_trajectories, dtype=torch.int64)

    @property
    def is_lost(self) -> bool:
        """Whether every trajectory has fallen below."""
        return bool((self.first_below > 0).all())

    def step(self, step: int, u_bcx: Tensor, reference_bcx: Tensor, mask_bcx: Tensor | None = None) -> Tensor:
        """(B,) float64 on the CPU, the correlations at a step; NaN where there is none. Steps come in order."""
        mask_bcx = None if mask_bcx is None else mask_bcx[:, self._dynamic]
        found_bc = correlation(u_bcx[:, self._dynamic], reference_bcx[:, self._dynamic], mask_bcx)
        found_b = found_bc.nanmean(dim=1).cpu()
        falls_b = (found_b < self._least) & (self.first_below == 0)
        self.first_below = torch.where(falls_b, step, self.first_below)
        return found_b
