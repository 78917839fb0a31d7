"""The horizon guard: a rollout is believed only as long as it correlates with a reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ups_scale.physics.families import FamilySpec

# Dimensions: b trajectory, c field, x space axes or points.

LEAST_CORRELATION = 0.8
FLAT = 1e-12
"""Deviations from the mean whose product is below this share of the fields' are rounding: a constant field."""


def correlation(u_bcx: Tensor, reference_bcx: Tensor, mask_bcx: Tensor | None = None) -> Tensor:
    """(B, C) float64, Pearson's correlation over space of each field, of the points that `mask_bcx` counts (None: all).

    NaN where either is constant in space; -1, the least there is, where the reference is finite and the other isn't.
    """
    counted = torch.ones_like(u_bcx, dtype=torch.bool) if mask_bcx is None else mask_bcx
    counted = counted.flatten(2)
    number_bc = counted.sum(dim=2).clamp_min(1)
    parts = []
    for values in (u_bcx, reference_bcx):
        values = torch.where(counted, values.flatten(2).double(), 0.0)
        mean_bc = values.sum(dim=2) / number_bc
        parts.append(torch.where(counted, values - mean_bc[..., None], 0.0))
    one, other = parts
    size_bc = (one.square().sum(dim=2) * other.square().sum(dim=2)).sqrt()
    least_bc = FLAT * _size(u_bcx, counted) * _size(reference_bcx, counted)
    found_bc = torch.where(size_bc > least_bc, (one * other).sum(dim=2) / size_bc, torch.nan)
    lost_bc = ~one.isfinite().all(dim=2) & other.isfinite().all(dim=2)
    return torch.where(lost_bc, -1.0, found_bc)


class HorizonGuard:
    """Says of each trajectory at which step its correlation with a reference falls below `least`: the truth, or another
    member of an ensemble, where the rollout is no better known than its members agree.

    A trajectory's correlation is the mean over the predicted fields that have one. What has none, as two fields that
    are both constant, is not held against it.

    Attributes:
        first_below: (B,) int64, the first step under `least`; 0: none yet.
    """

    def __init__(self, spec: FamilySpec, num_trajectories: int, least: float = LEAST_CORRELATION) -> None:
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

    def watch(
        self, frames: Iterable[tuple[int, Tensor]], references: Iterable[tuple[int, Tensor]]
    ) -> Iterator[tuple[int, Tensor]]:
        """The stream `frames`, up to the first step at which no trajectory correlates with `references` any more; that
        frame is the last. Both have the same steps; it ends where the shorter one does.

        Raises:
            ValueError: the steps of the two differ.
        """
        for (step, u_bcx), (other, reference_bcx) in zip(frames, references, strict=False):
            if step != other:
                raise ValueError(f"step {step} of the rollout meets step {other} of the reference")
            self.step(step, u_bcx, reference_bcx)
            yield step, u_bcx
            if self.is_lost:
                return


def _size(u_bcx: Tensor, counted: Tensor) -> Tensor:
    """(B, C) the root of the sum of squares over the points that count."""
    return torch.where(counted, u_bcx.flatten(2).double(), 0.0).square().sum(dim=2).sqrt()
