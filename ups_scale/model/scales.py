"""What a family's fields are divided by, and what their predicted change is multiplied by: per sample and field, from
the context frames alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ups_scale.model.constants import constant
from ups_scale.model.embed import wide
from ups_scale.physics.families import FamilySpec

# Dimensions: b sample, t context frame, c field, x space axes.

# A field whose RMS is below this share of the training data's is scaled by that share instead, so that a field that
# happens to be zero divides by something.
RMS_FLOOR = 1e-3
TINY = 1e-30  # for a field that is zero in all of the training data
# Least mean square whose root is taken: the root of zero has no gradient.
TINY_SQUARE = 1e-36


def scales(context_btcx: Tensor, spec: FamilySpec, dt_bt: Tensor, mask_btcx: Tensor | None) -> tuple[Tensor, Tensor]:
    """RMS of the context frames, and the size to expect of the change to the next frame, each (B, C) float32.

    The size is the RMS of the change between the context frames or, with one frame, that of the training data times
    RMS(context) / RMS(training data), as it is for a field that has no point with a value in two frames in a row; then
    it is taken to be in proportion to the time, up to where frames have nothing more in common. A steady family's is
    that of the training data.

    Args:
        context_btcx: (B, T, C, *grid) float32 in physical units.
        dt_bt: (B, T) times between the context frames and from the last of them to the next, in s; NaN: not known.
        mask_btcx: (B, T, C, *grid) bool, where there is a value; None: everywhere. The RMS is over points that have one
            in that frame, the change between two frames over points that have one in both.
    """
    u = wide(context_btcx)
    data_rms = constant(spec.u_rms, u.device).clamp_min(TINY)
    data_delta_rms = constant(spec.delta_rms, u.device)
    rms_bc = _rms(u, RMS_FLOOR * data_rms, mask_btcx).clamp_min(TINY)
    if mask_btcx is not None:  # a field without any value holds what the reader filled in, of the data's size
        rms_bc = torch.where(_num_points(mask_btcx).sum(dim=1) > 0, rms_bc, data_rms)
    if spec.steady:
        return rms_bc, data_delta_rms.expand_as(rms_bc)
    # What is known of the change, (B, C), and the time it is over, (B, C) or of size 1 along an axis.
    delta_rms_bc = rms_bc * (data_delta_rms / data_rms)
    usual_dt_bc = constant([float(spec.dt)], u.device)[:, None]
    if u.shape[1] > 1:
        least_c = RMS_FLOOR * data_delta_rms
        # Means of the times, written so that equal times give exactly that time.
        later_bt = dt_bt[:, :-1] - dt_bt[:, :1]
        if mask_btcx is None:
            delta_rms_bc = _rms(u.diff(dim=1), least_c, None)
            usual_dt_bc = dt_bt[:, :1] + later_bt.mean(dim=1, keepdim=True)
        else:
            both_btcx = mask_btcx[:, 1:] & mask_btcx[:, :-1]
            points_btc = _num_points(both_btcx)
            points_bc = points_btc.sum(dim=1)
            later_bc = (points_btc * later_bt[:, :, None]).sum(dim=1) / points_bc.clamp_min(1)
            delta_rms_bc = torch.where(points_bc > 0, _rms(u.diff(dim=1), least_c, both_btcx), delta_rms_bc)
            usual_dt_bc = torch.where(points_bc > 0, dt_bt[:, :1] + later_bc, usual_dt_bc)
    ratio_bc = dt_bt[:, -1:] / usual_dt_bc
    ratio_bc = torch.where(ratio_bc.isfinite(), ratio_bc, 1.0)
    # Two frames that have nothing more in common differ by sqrt(2) times their RMS, however far apart in time.
    most_bc = torch.maximum(math.sqrt(2) * rms_bc, delta_rms_bc)
    return rms_bc, torch.minimum(delta_rms_bc * ratio_bc, most_bc)


def per_field(size_bc: Tensor, spec: FamilySpec, like_bcx: Tensor) -> Tensor:
    """The sizes of the dynamic fields, (B, C, 1, ...)."""
    size_bc = size_bc if not spec.static else size_bc[:, constant(spec.dynamic, size_bc.device)]
    return size_bc.reshape(*size_bc.shape, *(1,) * (like_bcx.ndim - 2))


def changed(last_bcx: Tensor, change_bcx: Tensor, size_bc: Tensor, spec: FamilySpec, mask_bcx: Tensor | None) -> Tensor:
    """The last frame with the dynamic fields changed by `change_bcx` times their sizes, where they have a value."""
    change_bcx = change_bcx * per_field(size_bc, spec, change_bcx)
    if not spec.static:
        return last_bcx + (change_bcx if mask_bcx is None else torch.where(mask_bcx, change_bcx, 0.0))
    dynamic = constant(spec.dynamic, last_bcx.device)
    if mask_bcx is not None:
        change_bcx = torch.where(mask_bcx[:, dynamic], change_bcx, 0.0)
    return last_bcx.index_add(1, dynamic, change_bcx)


def renewed(last_bcx: Tensor, values_bcx: Tensor, size_bc: Tensor, spec: FamilySpec, mask_bcx: Tensor | None) -> Tensor:
    """The last frame with the dynamic fields replaced by `values_bcx` times their sizes, where they have a value."""
    next_bcx = replaced(last_bcx, values_bcx * per_field(size_bc, spec, values_bcx), spec)
    return next_bcx if mask_bcx is None else torch.where(mask_bcx, next_bcx, last_bcx)


def replaced(last_bcx: Tensor, values_bcx: Tensor, spec: FamilySpec) -> Tensor:
    """The last frame with its dynamic fields replaced."""
    if not spec.static:
        return values_bcx
    return last_bcx.index_copy(1, constant(spec.dynamic, last_bcx.device), values_bcx)


def _rms(u_btcx: Tensor, least_c: Tensor, mask_btcx: Tensor | None) -> Tensor:
    """(B, C) root mean square over frames and space, of the points with a value; at least `least_c` (C,)."""
    axes = [1, *range(3, u_btcx.ndim)]
    if mask_btcx is None:
        mean_square = u_btcx.square().mean(dim=axes)
    else:
        points_bc = _num_points(mask_btcx).sum(dim=1)
        mean_square = torch.where(mask_btcx, u_btcx, 0.0).square().sum(dim=axes) / points_bc.clamp_min(1)
    return torch.maximum(mean_square, least_c.square().clamp_min(TINY_SQUARE)).sqrt()


def _num_points(mask_btcx: Tensor) -> Tensor:
    """(B, T, C) int64, the points of each frame that have a value."""
    return mask_btcx.flatten(3).sum(dim=3)
