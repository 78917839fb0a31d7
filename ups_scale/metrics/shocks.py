"""Whether predicted fronts stand where the truth's do: sets of steep cells compared.

Dimensions: p predictor, x space (cells of a uniform grid), any before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ups_scale.physics.families import FamilySpec

FLATTER = 0.95
"""The share of the truth's cells that are flatter than its fronts."""


def shock_overlap(pred_px: Tensor, truth_x: Tensor, spec: FamilySpec) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection over union, and precision, of the steep cells of predictions (..., P, *X) against those of the truth
    (..., *X): both (..., P) float64; and where the truth has steep cells, (...) bool.

    Steep is where |grad| is above the truth's 95th percentile: as steep as the steepest twentieth of the truth's cells,
    and not flat. Both sets grow by a cell in all directions. A prediction without a steep cell has 0 in both, one that
    is not finite has NaN.
    """
    of_truth = steepness(truth_x, spec)
    flat = of_truth.flatten(-spec.dimensions)
    rank = math.floor(flat.shape[-1] * FLATTER) + 1
    bar = flat.kthvalue(rank, dim=-1).values.view(*flat.shape[:-1], *(1,) * spec.dimensions)
    known = grown((of_truth >= bar) & (of_truth > 0), spec).flatten(-spec.dimensions).unsqueeze(-2)
    of_pred = steepness(pred_px, spec)
    at_least = bar.unsqueeze(-spec.dimensions - 1)
    found = grown((of_pred >= at_least) & (of_pred > 0), spec).flatten(-spec.dimensions)
    both, either = (found & known).sum(-1).double(), (found | known).sum(-1)
    size = found.sum(-1)
    finite = of_pred.flatten(-spec.dimensions).sum(-1).isfinite()
    iou = torch.where(finite, both / either.clamp(min=1), torch.nan)
    precision = torch.where(finite, both / size.clamp(min=1), torch.nan)
    return iou, precision, known.any(-1).squeeze(-1)


def steepness(u_x: Tensor, spec: FamilySpec) -> Tensor:
    """|grad u| by central differences, one-sided at sides that are not periodic: (..., *X), in the field's unit per
    that of the coordinates."""
    total = torch.zeros((), dtype=u_x.dtype, device=u_x.device)
    for axis, (points, (low, high), periodic) in enumerate(zip(spec.grid, spec.extents, spec.periodic, strict=True)):
        dim = axis - spec.dimensions
        both = u_x.roll(-1, dim) - u_x.roll(1, dim)
        if not periodic:
            first = 2 * (u_x.narrow(dim, 1, 1) - u_x.narrow(dim, 0, 1))
            last = 2 * (u_x.narrow(dim, points - 1, 1) - u_x.narrow(dim, points - 2, 1))
            both = torch.cat([first, both.narrow(dim, 1, points - 2), last], dim)
        total = total + (both * (points / (2 * (high - low)))).square()
    return total.sqrt()


def grown(cells_x: Tensor, spec: FamilySpec) -> Tensor:
    """The set (..., *X), bool, and the neighbours of its cells, across corners too."""
    for axis, periodic in enumerate(spec.periodic):
        dim = axis - spec.dimensions
        before, after = cells_x.roll(1, dim), cells_x.roll(-1, dim)
        if not periodic:
            none = torch.zeros_like(cells_x.narrow(dim, 0, 1))
            before = torch.cat([none, before.narrow(dim, 1, before.shape[dim] - 1)], dim)
            after = torch.cat([after.narrow(dim, 0, after.shape[dim] - 1), none], dim)
        cells_x = cells_x | before | after
    return cells_x
