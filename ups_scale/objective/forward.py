"""The forward objective: the relative error of the predicted frames, and the noise that keeps rollouts stable."""

from __future__ import annotations

import torch
from torch import Tensor

# Dimensions: b sample, t context frame, h predicted frame, c field, x space axes.

# Added to both mean squares, relative to the truth's, so that the root has a gradient where the error is zero.
RELATIVE_EPSILON = 1e-8


def nrmse_loss(pred_bhcx: Tensor, truth_bhcx: Tensor, least_rms_c: Tensor) -> Tensor:
    """Mean over b, h, c of sqrt(mean_x (pred - truth)^2) / sqrt(mean_x truth^2), a float32 scalar (SPEC O1).

    Shapes (B, H, C, *grid), physical units. A frame whose RMS is under `least_rms_c` (C,) is measured by that instead:
    one that is zero would drown all others.
    """
    space = list(range(3, pred_bhcx.ndim))
    square_error = (pred_bhcx.float() - truth_bhcx.float()).square().mean(dim=space)
    square_truth = torch.maximum(truth_bhcx.float().square().mean(dim=space), least_rms_c.square().clamp_min(1e-30))
    return (square_error / square_truth + RELATIVE_EPSILON).sqrt().mean()


def add_noise(context_btcx: Tensor, largest_sigma: float) -> Tensor:
    """The context frames with white noise of a standard deviation drawn per sample, uniformly from 0 to
    `largest_sigma` times the RMS of each field over the context. Shape (B, T, C, *grid).

    The target stays the true next frame, so the model learns to take an error out again: on in training by default,
    because models of the change that never saw noise blow up in rollouts (GNS, arXiv 2002.09405, section 4.3).
    """
    if largest_sigma == 0:
        return context_btcx
    axes = [1, *range(3, context_btcx.ndim)]
    rms = context_btcx.square().mean(dim=axes, keepdim=True).sqrt()
    sigma = torch.rand(len(context_btcx), *(1,) * (context_btcx.ndim - 1), device=context_btcx.device) * largest_sigma
    return context_btcx + sigma * rms * torch.randn_like(context_btcx)
