"""Errors of predictions against the truth, in physical units; one value per trajectory, step and field.

Dimensions: b trajectory, h step after the last given frame, c field, x space (any number of axes, uniform cells).
Everything is computed and returned in float64; nothing here averages over trajectories (see `accumulate`).
Non-finite predictions give non-finite values. Where `mask_bhcx` (bool) is False nothing is measured: what stands there
changes nothing, means over x are over the other points, and a frame without any (see `num_points`) has no error at all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

VARIANCE_FLOOR = 1e-7
"""Added to the spatial variance in VRMSE, as The Well does."""


def counted_points(mask_btcx: Tensor | None, context_frames: int) -> Tensor | None:
    """(B, H, C, *X) bool, the points that count in loss and figures: those with a value in the truth and in the last of
    the `context_frames` given frames. None: all.

    `mask_btcx` (B, context_frames + H, C, *X), bool, says where there is a value; None: everywhere.
    From a point without a value nothing can be predicted: the model leaves it as it was filled in.
    """
    if mask_btcx is None:
        return None
    return mask_btcx[:, context_frames:] & mask_btcx[:, context_frames - 1 : context_frames]


def num_points(truth_bhcx: Tensor, mask_bhcx: Tensor | None = None) -> Tensor:
    """The number of points that are measured, (B, H, C) int64."""
    if mask_bhcx is None:
        return torch.full(truth_bhcx.shape[:3], math.prod(truth_bhcx.shape[3:]), device=truth_bhcx.device)
    return mask_bhcx.flatten(3).sum(-1)


def squared_error(pred_bhcx: Tensor, truth_bhcx: Tensor, mask_bhcx: Tensor | None = None) -> Tensor:
    """mean_x e^2, (B, H, C) float64."""
    error_bhcx = _valid(pred_bhcx.double() - truth_bhcx.double(), mask_bhcx)
    return _mean(error_bhcx.square(), mask_bhcx)


def nrmse(pred_bhcx: Tensor, truth_bhcx: Tensor, mask_bhcx: Tensor | None = None) -> Tensor:
    """sqrt(mean_x e^2) / sqrt(mean_x y^2), (B, H, C) float64 (PDEBench, arXiv 2210.07182, appendix B).

    Not defined where the truth is zero everywhere (see `truth_is_zero`): inf or NaN there.
    """
    square_truth = _mean(_valid(truth_bhcx.double(), mask_bhcx).square(), mask_bhcx)
    return squared_error(pred_bhcx, truth_bhcx, mask_bhcx).sqrt() / square_truth.sqrt()


def truth_is_zero(truth_bhcx: Tensor, mask_bhcx: Tensor | None = None) -> Tensor:
    """Whether the truth is zero at every point that is measured (or none is), (B, H, C) bool: such frames have no
    nRMSE."""
    return (_valid(truth_bhcx, mask_bhcx) == 0).flatten(3).all(-1)


def vrmse(pred_bhcx: Tensor, truth_bhcx: Tensor, mask_bhcx: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """sqrt(mean_x e^2 / (var_x y + 1e-7)), (B, H, C) float64, and whether var_x y < 1e-7, (B, H, C) bool.

    The variance is the unbiased one over space, NaN for a single point. Source: The Well (arXiv 2412.00568), section 4.
    Where the variance is under the floor, the value is the floor's doing: count these frames.
    """
    truth = truth_bhcx.double()
    if mask_bhcx is None:
        variance = truth.flatten(3).var(-1, correction=1)
    else:
        count = num_points(truth, mask_bhcx)
        mean = _mean(_valid(truth, mask_bhcx), mask_bhcx).reshape(*count.shape, *(1,) * (truth.ndim - 3))
        variance = _valid(truth - mean, mask_bhcx).square().flatten(3).sum(-1) / (count - 1)
        variance = torch.where(count > 1, variance, torch.nan)
    value = (squared_error(pred_bhcx, truth_bhcx, mask_bhcx) / (variance + VARIANCE_FLOOR)).sqrt()
    return value, variance < VARIANCE_FLOOR


def non_finite(pred_bhcx: Tensor, mask_bhcx: Tensor | None = None) -> Tensor:
    """Whether a prediction is not finite at a point that is measured, (B, H, C) bool."""
    return ~_valid(pred_bhcx, mask_bhcx).isfinite().flatten(3).all(-1)


def _valid(values_bhcx: Tensor, mask_bhcx: Tensor | None) -> Tensor:
    """The values, and zero where nothing is measured."""
    return values_bhcx if mask_bhcx is None else torch.where(mask_bhcx, values_bhcx, 0.0)


def _mean(values_bhcx: Tensor, mask_bhcx: Tensor | None) -> Tensor:
    """Mean over space of values that are zero outside the mask; NaN where it holds no point."""
    if mask_bhcx is None:
        return values_bhcx.flatten(3).mean(-1)
    return values_bhcx.flatten(3).sum(-1) / num_points(values_bhcx, mask_bhcx)
