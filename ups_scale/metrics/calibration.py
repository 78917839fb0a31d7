"""Whether an ensemble's spread tells its error: fair CRPS, spread over skill, and coverage per level.

Dimensions: b trajectory, m member, c predicted field, x space, n all its points, l level. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ups_scale.metrics.accumulate import ALL_FIELDS, Accumulator
from ups_scale.model.constants import constant
from ups_scale.physics.families import FamilySpec

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the central intervals whose coverage is counted."""


def fair_crps(sorted_bcmn: Tensor, truth_bcn: Tensor) -> Tensor:
    """mean|X_i - y| - 1/2 1/(M(M-1)) sum|X_i - X_j| at every point, (B, C, N), from sorted members.

    Its expectation is that of an ensemble without end. Source: Ferro, Q. J. R. Meteorol. Soc. 140 (2014) 1917.
    """
    members = sorted_bcmn.shape[2]
    error = (sorted_bcmn - truth_bcn[:, :, None]).abs().mean(2)
    # Of sorted members, sum_ij |X_i - X_j| / 2 = sum_i (2 i - M - 1) X_i.
    rank = torch.arange(1 - members, members, 2, dtype=torch.float64, device=sorted_bcmn.device)
    apart = torch.einsum("m,bcmn->bcn", rank, sorted_bcmn)
    return error - apart / (members * (members - 1))


def coverage(members_bcmn: Tensor, truth_bcn: Tensor, levels: Sequence[float]) -> list[Tensor]:
    """Per level, the share of each point's truth within the ensemble's central interval, (B, C, N) in [0, 1].

    From the i-th smallest to the i-th largest of M members, the truth lies with probability (M + 1 - 2 i) / (M + 1) if
    it is as the members are. Levels between two such take both intervals in proportion, so that a calibrated ensemble
    of any size has a coverage of just the level; beyond the outermost members lies a part of everything. NaN where a
    member is not finite.
    """
    members = members_bcmn.shape[2]
    known = truth_bcn[:, :, None]
    depth = torch.minimum((members_bcmn <= known).sum(2), (members_bcmn >= known).sum(2))
    lost = ~members_bcmn.sum(2).isfinite()
    found = []
    for level in levels:
        place = (members + 1) * (1 - level) / 2
        outer = math.floor(place)
        next_in = min(outer + 1, (members + 1) / 2)  # halfway through the members the interval is empty
        inner = (place - outer) / (next_in - outer)
        share = (1 - inner) * (depth >= outer).double() + inner * (depth >= next_in).double()
        found.append(torch.where(lost, torch.nan, share))
    return found


class EnsembleMeasure:
    """The reliability of ensembles of M members, added to `accumulator` at the steps `horizons`.

    Attributes:
        covered: by step, (B, L) float64: how many values of each trajectory, over its fields and points, lie within the
            interval of each of the `LEVELS`; NaN where a member is not finite.
        counted: by step, (B,): how many there are.

    Raises:
        ValueError: fewer than two members, which have no spread.
    """

    def __init__(
        self,
        spec: FamilySpec,
        accumulator: Accumulator,
        horizons: Sequence[int],
        members: int,
        predictor: str = "model",
    ) -> None:
        if members < 2:
            raise ValueError(f"{members} members, expected 2 or more: one has no spread")
        self.covered: dict[int, Tensor] = {}
        self.counted: dict[int, Tensor] = {}
        self._spec, self._accumulator, self._members = spec, accumulator, members
        self._measured, self._prefix = tuple(horizons), f"{spec.name}/{predictor}"

    def step(self, k: int, truth_bcx: Tensor, members_mbcx: Tensor, mask_bcx: Tensor | None = None) -> None:
        """Takes step k: the truth (B, C, *X) and the members (M, B, C, *X), in physical units; the mask (bool) as in
        `RolloutMeasure.step`. Steps that are no horizon are passed over.

        Raises:
            ValueError: another shape or another number of members than expected.
        """
        if k not in self._measured:
            return
        if tuple(members_mbcx.shape) != (self._members, *truth_bcx.shape):
            raise ValueError(
                f"members of shape {tuple(members_mbcx.shape)}, expected {(self._members, *truth_bcx.shape)}: "
                f"{self._members} members of the truth's shape"
            )
        dynamic = constant(self._spec.dynamic, truth_bcx.device)
        truth = truth_bcx[:, dynamic].double().flatten(2)
        members = members_mbcx[:, :, dynamic].double().flatten(3).permute(1, 2, 0, 3).sort(dim=2).values
        here = torch.ones_like(truth, dtype=torch.bool)
        if mask_bcx is not None:
            here = mask_bcx[:, dynamic].flatten(2)
            truth, members = torch.where(here, truth, 0.0), torch.where(here[:, :, None], members, 0.0)
        crps, within = fair_crps(members, truth), coverage(members, truth, LEVELS)
        spread = members.var(2, correction=1)
        error = (members.mean(2) - truth).square()
        scale = torch.tensor([self._spec.u_rms[c] or 1.0 for c in self._spec.dynamic], dtype=torch.float64)
        square = scale.square().to(truth.device)[:, None]  # fields of all units together
        inflated = (self._members + 1) / self._members
        names = [self._spec.fields[number] for number in self._spec.dynamic]
        same_units = len({self._spec.units[number] for number in self._spec.dynamic}) == 1
        fields = {name: slice(c, c + 1) for c, name in enumerate(names)}
        for label, c in ({ALL_FIELDS: slice(None)} | fields).items():
            at, where = f"{self._prefix}/{label}", here[:, c]
            if label != ALL_FIELDS or same_units:
                self._accumulator.add(f"{at}/crps@{k}", crps[:, c], where)
            self._accumulator.add(f"{at}/spread_skill@{k}#spread", inflated * (spread / square)[:, c], where)
            self._accumulator.add(f"{at}/spread_skill@{k}#error", (error / square)[:, c], where)
            self._accumulator.add(f"{at}/sharpness@{k}", (spread / square)[:, c], where)
            for level, share in zip(LEVELS, within, strict=True):
                self._accumulator.add(f"{at}/ece@{k}#{level}", share[:, c], where)
                self._accumulator.add(f"{at}/coverage_{round(100 * level)}@{k}", share[:, c], where)
        self.counted[k] = here.flatten(1).sum(1)
        self.covered[k] = torch.stack([torch.where(here, share, 0.0).flatten(1).sum(1) for share in within], dim=1)
