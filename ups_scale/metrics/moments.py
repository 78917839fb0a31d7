"""What one step of a rollout leaves behind for its figures: sums over space, for all predictors at once.

Dimensions: b trajectory, c predicted field, p predictor, n point. Sums are float64: squares of float32 fields overflow
float32 long before a rollout diverges, and differences of means lose what float32 holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLAT = 1e-12
"""A variance below this share of the mean square is rounding: the field is flat, and correlates with nothing."""


@dataclass(frozen=True)
class Moments:
    """Sums over the points that are measured, weights in them; (B, C, P), and (B, C) of the truth.

    Attributes:
        square: sum of e^2.
        error: sum of e.
        product: sum of e times the truth without its mean.
        truth_square: sum of y^2.
        truth_spread: sum of (y - mean y)^2.
        low, high: the truth's least and largest value; infinite where there is no point.
        points: how many points are measured.
        weight: the sum of their weights, which are 1 on average over all points.
    """

    square: Tensor
    error: Tensor
    product: Tensor
    truth_square: Tensor
    truth_spread: Tensor
    low: Tensor
    high: Tensor
    points: Tensor
    weight: Tensor


def measured(error_bcpn: Tensor, truth_bcn: Tensor, mask_bcn: Tensor | None, weights_n: Tensor | None) -> Moments:
    """The moments of a step; errors and truth are float64, and zero where the mask is False."""
    here = None if mask_bcn is None else mask_bcn.double()
    if weights_n is not None:
        here = weights_n.expand_as(truth_bcn) if here is None else here * weights_n
    if mask_bcn is None:
        points = torch.full(truth_bcn.shape[:2], truth_bcn.shape[-1], device=truth_bcn.device)
        low, high = torch.aminmax(truth_bcn, dim=-1)
    else:
        points = mask_bcn.sum(-1)
        low = truth_bcn.masked_fill(~mask_bcn, torch.inf).amin(-1)
        high = truth_bcn.masked_fill(~mask_bcn, -torch.inf).amax(-1)
    weighted = truth_bcn if here is None else truth_bcn * here
    weight = points.double() if here is None else here.sum(-1)
    mean = weighted.sum(-1) / weight
    centred = truth_bcn - mean[..., None]
    of_centred = centred if here is None else torch.where(here > 0, centred * here, 0.0)
    columns = torch.stack([of_centred, torch.ones_like(centred) if here is None else here], dim=-1)
    with_error = error_bcpn @ columns
    # A norm is one pass without a field of products.
    scaled = error_bcpn if weights_n is None else error_bcpn * weights_n.sqrt()
    return Moments(
        square=torch.linalg.vector_norm(scaled, dim=-1).square(),
        error=with_error[..., 1],
        product=with_error[..., 0],
        truth_square=torch.linalg.vecdot(weighted, truth_bcn),
        truth_spread=torch.linalg.vecdot(of_centred, torch.where(of_centred == 0, 0.0, centred)),
        low=low,
        high=high,
        points=points,
        weight=weight,
    )


def stacked(steps: list[Moments]) -> Moments:
    """The moments of several steps, with a dimension in front."""
    names = Moments.__dataclass_fields__
    return Moments(**{name: torch.stack([getattr(step, name) for step in steps]) for name in names})


def correlation(of: Moments) -> tuple[Tensor, Tensor]:
    """Pearson's correlation of prediction and truth over space, (..., B, C, P), NaN of flat predictions; and whether
    the truth is flat, (..., B, C, 1), so that there is none.

    One ddof in both moments (it cancels); The Well's `PearsonR` mixes two.
    """
    spread = of.truth_spread[..., None]
    predicted = spread + 2 * of.product + of.square - of.error.square() / of.weight[..., None]
    flat = predicted <= FLAT * (spread + of.square)
    found = (spread + of.product) / (spread * torch.where(flat, torch.nan, predicted)).sqrt()
    return found, (of.truth_spread <= FLAT * of.truth_square)[..., None]
