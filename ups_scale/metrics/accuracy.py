"""Errors of predictions against the truth, in physical units; one value per trajectory, step and field.

Dimensions: b trajectory, h step after the last given frame, c field, x space (any number of axes, uniform cells).
Everything is computed and returned in float64; nothing here averages over trajectories (see `accumulate`).
Non-finite predictions give non-finite values.
"""

from __future__ import annotations

import torch
from torch import Tensor

VARIANCE_FLOOR = 1e-7
"""Added to the spatial variance in VRMSE, as The Well does."""


def squared_error(pred_bhcx: Tensor, truth_bhcx: Tensor) -> Tensor:
    """mean_x e^2, (B, H, C) float64. RMSE over many trajectories is the root of the mean of this."""
    return (pred_bhcx.double() - truth_bhcx.double()).square().flatten(3).mean(-1)


def rmse(pred_bhcx: Tensor, truth_bhcx: Tensor) -> Tensor:
    """sqrt(mean_x e^2), (B, H, C) float64, in the field's unit."""
    return squared_error(pred_bhcx, truth_bhcx).sqrt()


def mae(pred_bhcx: Tensor, truth_bhcx: Tensor) -> Tensor:
    """mean_x |e|, (B, H, C) float64, in the field's unit."""
    return (pred_bhcx.double() - truth_bhcx.double()).abs().flatten(3).mean(-1)


def max_error(pred_bhcx: Tensor, truth_bhcx: Tensor) -> Tensor:
    """max_x |e|, (B, H, C) float64, in the field's unit."""
    return (pred_bhcx.double() - truth_bhcx.double()).abs().flatten(3).amax(-1)


def nrmse(pred_bhcx: Tensor, truth_bhcx: Tensor) -> Tensor:
    """sqrt(mean_x e^2) / sqrt(mean_x y^2), (B, H, C) float64 (PDEBench, arXiv 2210.07182, appendix B).

    Not defined where the truth is zero everywhere (see `truth_is_zero`): inf or NaN there.
    """
    return rmse(pred_bhcx, truth_bhcx) / truth_bhcx.double().square().flatten(3).mean(-1).sqrt()


def truth_is_zero(truth_bhcx: Tensor) -> Tensor:
    """Whether the truth is zero at every point, (B, H, C) bool: such frames have no nRMSE."""
    return (truth_bhcx == 0).flatten(3).all(-1)


def vrmse(pred_bhcx: Tensor, truth_bhcx: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(mean_x e^2 / (var_x y + 1e-7)), (B, H, C) float64, and whether var_x y < 1e-7, (B, H, C) bool.

    The variance is the unbiased one over space. Source: The Well (arXiv 2412.00568), section 4. Where the variance is
    under the floor, the value is the floor's doing: count these frames.
    """
    variance = truth_bhcx.double().flatten(3).var(-1, correction=1)
    value = (squared_error(pred_bhcx, truth_bhcx) / (variance + VARIANCE_FLOOR)).sqrt()
    return value, variance < VARIANCE_FLOOR


def rel_l2(pred_bhcx: Tensor, truth_bhcx: Tensor) -> Tensor:
    """Joint ||e|| / ||y||, (B, H) float64: entry h is over space, all fields and steps 1 to h + 1 together."""
    error = (pred_bhcx.double() - truth_bhcx.double()).square().flatten(2).sum(-1).cumsum(1)
    truth = truth_bhcx.double().square().flatten(2).sum(-1).cumsum(1)
    return torch.sqrt(error / truth)
