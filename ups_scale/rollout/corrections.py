"""What guards do to a predicted frame: each takes fields and returns those that keep one property.

Dimensions: b trajectory, c field, x space axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ups_scale.model.constants import constant
from ups_scale.model.lattice import Tiling

MIN_PATCH = 3
"""Points of a patch along an axis, at least: the faces of smaller ones share cells."""


def non_negative(u_bcx: Tensor, mask_bcx: Tensor | None, conserving: bool) -> Tensor:
    """The fields with what is below zero set to zero, where `mask_bcx` says that there is a value (None: everywhere).

    With `conserving`, the mass that this adds is taken from the positive values of the same sample and field in
    proportion, so that the sum over space stays, unless it is negative.
    """
    clamped_bcx = u_bcx.clamp_min(0.0)
    if mask_bcx is not None:
        return torch.where(mask_bcx, clamped_bcx, u_bcx)
    if not conserving:
        return clamped_bcx
    axes = tuple(range(2, u_bcx.ndim))
    before_bc, after_bc = (u.double().sum(dim=axes, keepdim=True) for u in (u_bcx, clamped_bcx))
    share_bc = torch.where((before_bc > 0) & (after_bc > before_bc), before_bc / after_bc, 1.0)
    return (clamped_bcx * share_bc).to(u_bcx.dtype)


def shifted(u_bcx: Tensor, mean_bc: Tensor) -> Tensor:
    """The fields plus one constant per sample and field that makes their means over space `mean_bc` (B, C) float64."""
    axes = tuple(range(2, u_bcx.ndim))
    gap_bc = mean_bc - u_bcx.double().mean(dim=axes)
    return (u_bcx.double() + gap_bc.reshape(*gap_bc.shape, *(1,) * len(axes))).to(u_bcx.dtype)


def face_axes(tiling: Tiling) -> tuple[int, ...]:
    """The axes along which patches have faces whose fluxes can be told apart."""
    return tuple(
        axis
        for axis, (tokens, width) in enumerate(zip(tiling.lattice, tiling.patch, strict=True))
        if width >= MIN_PATCH and tiling.grid[axis] > MIN_PATCH and (tokens > 1 or tiling.periodic[axis])
    )


def continuous_at_faces(u_bcx: Tensor, before_bcx: Tensor, tiling: Tiling) -> Tensor:
    """The fields with the jump of their change at the faces between patches taken out by a flux through the face.

    With d = u - before, the jump at the face between cells i and i + 1 is what d_(i+1) - d_i has beyond the mean of the
    differences beside it, j = (d_(i+1) - d_i) - ((d_i - d_(i-1)) + (d_(i+2) - d_(i+1))) / 2. The flux j / 3 goes into
    cell i and out of cell i + 1: no jump is left, the sum over space stays, and a smooth change, whose third difference
    j is of O(h^3), is left as it is to that order.
    """
    change_bcx = u_bcx - before_bcx
    for axis in face_axes(tiling):
        dim, size = 2 + axis, tiling.grid[axis]
        ends = _face_cells(size, tiling.patch[axis], tiling.periodic[axis])
        cells = [constant([(end + offset) % size for end in ends], u_bcx.device) for offset in (-1, 0, 1, 2)]
        before, left, right, after = (change_bcx.index_select(dim, numbers) for numbers in cells)
        flux = ((right - left) - ((left - before) + (after - right)) / 2) / 3
        change_bcx = change_bcx.index_add(dim, cells[1], flux).index_add(dim, cells[2], -flux)
    return before_bcx + change_bcx


def _face_cells(size: int, width: int, periodic: bool) -> Sequence[int]:
    """The cell before each face along an axis; on a periodic one the last patch ends at a face too."""
    return range(width - 1, size if periodic else size - 1, width)
