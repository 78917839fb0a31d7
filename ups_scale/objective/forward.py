"""The forward objective: the relative error of the predicted frames, and the noise that keeps rollouts stable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ups_scale.model.constants import constant

# Dimensions: b sample, t context frame, h predicted frame, c field, x space axes.

# Added to both mean squares, relative to the truth's, so that the root has a gradient where the error is zero.
RELATIVE_EPSILON = 1e-8


def nrmse_loss(
    pred_bhcx: Tensor,
    truth_bhcx: Tensor,
    least_rms_c: Tensor,
    mask_bhcx: Tensor | None = None,
    dynamic: Sequence[int] | None = None,
) -> Tensor:
    """Mean over b, h, c of sqrt(mean_x (pred - truth)^2) / sqrt(mean_x truth^2), a float32 scalar (SPEC O1).

    Shapes (B, H, C, *grid), physical units. A frame whose RMS is under `least_rms_c` (C,) is measured by that instead:
    one that is zero would drown all others. With `mask_bhcx` (bool) the means over x are over the points it holds, and
    frames of a field without any count as 0: the mean over windows is then the same however they are dealt to
    ranks and microsteps. `dynamic` are the numbers of the fields that count
    (`FamilySpec.dynamic`; all by default): the others are given, so nothing is learned from them.
    """
    if dynamic is not None and len(dynamic) < pred_bhcx.shape[2]:
        fields = constant(dynamic, pred_bhcx.device)
        pred_bhcx, truth_bhcx, least_rms_c = pred_bhcx[:, :, fields], truth_bhcx[:, :, fields], least_rms_c[fields]
        mask_bhcx = None if mask_bhcx is None else mask_bhcx[:, :, fields]
    space = list(range(3, pred_bhcx.ndim))
    error, truth = pred_bhcx.float() - truth_bhcx.float(), truth_bhcx.float()
    least = least_rms_c.square().clamp_min(1e-30)
    if mask_bhcx is None:
        square_truth = torch.maximum(truth.square().mean(dim=space), least)
        return (error.square().mean(dim=space) / square_truth + RELATIVE_EPSILON).sqrt().mean()
    count_bhc = mask_bhcx.sum(dim=space)
    square_error, square_truth = (
        torch.where(mask_bhcx, values, 0.0).square().sum(dim=space) / count_bhc.clamp_min(1)
        for values in (error, truth)
    )
    loss_bhc = (square_error / torch.maximum(square_truth, least) + RELATIVE_EPSILON).sqrt()
    return torch.where(count_bhc > 0, loss_bhc, 0.0).mean()


def add_noise(
    context_btcx: Tensor,
    largest_sigma: float,
    mask_btcx: Tensor | None = None,
    dynamic: Sequence[int] | None = None,
) -> Tensor:
    """The context frames with white noise of a standard deviation drawn per sample, uniformly from 0 to
    `largest_sigma` times the RMS of each field over the context. Shape (B, T, C, *grid).

    The target stays the true next frame, so the model learns to take an error out again: on in training by default,
    because models of the change that never saw noise blow up in rollouts (GNS, arXiv 2002.09405, section 4.3). Points
    without a value (False in `mask_btcx`, bool) and fields whose number is not in `dynamic` (all by default) get none:
    rollouts never feed back an error in them.
    """
    if largest_sigma == 0:
        return context_btcx
    sigma = torch.rand(len(context_btcx), *(1,) * (context_btcx.ndim - 1), device=context_btcx.device) * largest_sigma
    return add_white_noise(context_btcx, torch.randn_like(context_btcx), sigma, mask_btcx, dynamic)


def add_white_noise(
    context_btcx: Tensor,
    white_btcx: Tensor,
    sigma: Tensor | float,
    mask_btcx: Tensor | None = None,
    dynamic: Sequence[int] | None = None,
) -> Tensor:
    """The context frames (B, T, C, *grid) with `white_btcx`, noise of standard deviation 1, times `sigma` (a number, or
    one per sample) times the RMS of each field over the context; where and in which fields as for `add_noise`."""
    axes = [1, *range(3, context_btcx.ndim)]
    if mask_btcx is None:
        mean_square = context_btcx.square().mean(dim=axes, keepdim=True)
    else:
        total = torch.where(mask_btcx, context_btcx, 0.0).square().sum(dim=axes, keepdim=True)
        mean_square = total / mask_btcx.sum(dim=axes, keepdim=True).clamp_min(1)
    noise = sigma * mean_square.sqrt() * white_btcx
    if mask_btcx is not None:
        noise = torch.where(mask_btcx, noise, 0.0)
    if dynamic is not None and len(dynamic) < context_btcx.shape[2]:
        shown = constant([float(number in dynamic) for number in range(context_btcx.shape[2])], context_btcx.device)
        noise = noise * shown.reshape(-1, *(1,) * (context_btcx.ndim - 3))
    return context_btcx + noise
