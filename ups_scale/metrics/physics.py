"""How far predictions leave the physics: conservation gaps, divergence, and what is stated at the sides.

Dimensions: b trajectory, c field, p predictor, x space (cells of a uniform grid). Everything is float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ups_scale.physics.boundaries import conditions, residual
from ups_scale.physics.families import FamilySpec
from ups_scale.physics.invariants import Fields, Quantity, domain_integral
from ups_scale.physics.projections import relative_divergence

NO_CELLS = "scattered points have no cells to integrate over"


class Budget:
    """One quantity of a batch of trajectories, held against its integral at the last given frame.

    `start` holds the fields of that frame, (B, *lead, *X) with any dimensions that broadcast.
    """

    def __init__(self, quantity: Quantity, start: Fields, spec: FamilySpec) -> None:
        assert spec.geometry == "grid", NO_CELLS
        self.quantity, self._extents = quantity, spec.extents
        density = [q.double() for q in quantity.components(start)]
        self._start = [domain_integral(q, spec.extents) for q in density]
        amount = domain_integral(_length(density), spec.extents)
        self._scale = torch.maximum(_length(self._start), amount)

    def gap(self, fields: Fields, truth: Fields | None = None) -> Tensor:
        """|Q(t) - Q(0)| / max(|Q(0)|, ||q(0)||_L1), one value per leading dimension of the `fields` at t.

        With the `truth`'s fields at t, |Q(t) - Q_truth(t)| over the same. What is zero at the start and stays so has
        gap 0. Of a vector, lengths are taken.
        """
        found = [domain_integral(q, self._extents) for q in self.quantity.components(fields)]
        against = self._start
        if truth is not None:
            against = [domain_integral(q, self._extents) for q in self.quantity.components(truth)]
        drift = _length([now - then for now, then in zip(found, against, strict=True)])
        return torch.where(drift == 0, 0.0, drift / self._scale)


def bc_missed(u_bcpx: Tensor, spec: FamilySpec) -> tuple[tuple[int, ...], Tensor]:
    """The fields (numbers among the predicted ones) of which something is stated at a side, and the RMS over all those
    cells of what they miss it by: (B, F, P) float64, in the field's unit.

    `u_bcpx` are the predicted fields of P predictors. See `physics.boundaries` for what is stated and how it is
    measured.
    """
    squares: dict[int, list[Tensor]] = {}
    for condition in conditions(spec):
        missed = residual(u_bcpx[:, spec.dynamic.index(condition.field)].double(), condition, spec)
        squares.setdefault(spec.dynamic.index(condition.field), []).append(missed.square().flatten(2))
    fields = tuple(sorted(squares))
    if not fields:
        return (), u_bcpx.new_zeros(0)
    return fields, torch.stack([torch.cat(squares[c], dim=-1).mean(-1).sqrt() for c in fields], dim=1)


def divergence(u_bdpx: Tensor, spec: FamilySpec) -> Tensor:
    """RMS(div u) L / RMS(u), (B, P) float64, of the velocities (B, D, P, *X) of P predictors, in the projection's
    stencil (`physics.projections.relative_divergence`). Data of another stencil have a floor: the truth's figure."""
    found = relative_divergence(u_bdpx.transpose(1, 2).flatten(0, 1), spec)
    return found.view(len(u_bdpx), u_bdpx.shape[2])


def _length(parts: Sequence[Tensor]) -> Tensor:
    """Of a vector given by its components; of one component, its magnitude."""
    if len(parts) == 1:
        return parts[0].abs()
    return torch.stack(list(parts)).square().sum(0).sqrt()
