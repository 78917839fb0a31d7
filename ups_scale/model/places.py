"""Where the points of a field lie, and the fields of one set of points at another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ups_scale.model.constants import constant
from ups_scale.model.interpolate import (
    near_points,
    nearest_mask,
    resample_grid,
    resample_mask,
    sample_grid,
    weighted_sum,
)
from ups_scale.model.lattice import positions
from ups_scale.model.queries import Queries, grid_queries, point_queries
from ups_scale.physics.families import FamilySpec

# Dimensions: b sample, c field, x space axes or points, p point, q asked point, d axis.

Places = Tensor | tuple[int, ...]
"""Where fields are asked for: points (B, Q, d) in the domain's own coordinates, or a regular grid over the domain."""


BORDER = 1e-4  # how far beyond the domain's end, in extents, a place still counts as on it


def fractions(at_bqd: Tensor, spec: FamilySpec) -> Tensor:
    """Coordinates as fractions of the domain's extent, float32; within it on periodic axes."""
    low, high = (constant([float(ends[side]) for ends in spec.extents], at_bqd.device) for side in (0, 1))
    place_bqd = (at_bqd.float() - low) / (high - low)
    wraps = constant([int(wraps) for wraps in spec.periodic], at_bqd.device).bool()
    return torch.where(wraps, place_bqd - place_bqd.floor(), place_bqd)


def own_places(spec: FamilySpec, last_bcx: Tensor) -> Tensor:
    """(B, P, d) where the points of the fields `last_bcx` lie, as fractions of the domain."""
    if spec.geometry == "grid":
        return positions(spec.grid, last_bcx.device).expand(len(last_bcx), -1, -1)
    numbers = constant([spec.fields.index(name) for name in spec.coordinates], last_bcx.device)
    return fractions(last_bcx[:, numbers].transpose(1, 2), spec)


def own_queries(spec: FamilySpec, lattice: tuple[int, ...], place_bpd: Tensor) -> Queries:
    """The any-point decoder's queries for the input's own points, at `place_bpd`."""
    if spec.geometry == "grid":
        return grid_queries(spec.grid, lattice, place_bpd.device)
    return point_queries(place_bpd, lattice)


@dataclass(frozen=True)
class Asked:
    """Places at which the fields of a rollout are asked for.

    Attributes:
        queries: of the any-point decoder.
        interpolate: takes fields (B, C, *X) from the input's own points to these, (B, C, *shape): cubically from a
            grid, by a linear fit to the nearest points of a point set, whose coordinates become these places'.
        there: (B, C or 1, *shape) bool, whether the place lies in the domain and what is interpolated there has a
            value; None: everywhere.
    """

    queries: Queries
    interpolate: Callable[[Tensor], Tensor]
    there: Tensor | None


def ask(spec: FamilySpec, lattice: tuple[int, ...], at: Places, place_bpd: Tensor, mask_bcx: Tensor | None) -> Asked:
    """The places `at`, of an input at `place_bpd` with a value where `mask_bcx` says so (None: everywhere)."""
    device = place_bpd.device
    if isinstance(at, tuple):
        asked_queries, inside = grid_queries(at, lattice, device), None
        asked_bqd = positions(at, device).expand(len(place_bpd), -1, -1)
    else:
        asked_bqd = fractions(at, spec)
        wraps = constant([int(wraps) for wraps in spec.periodic], device).bool()
        near = (asked_bqd >= -BORDER) & (asked_bqd <= 1 + BORDER)
        inside = (asked_bqd.isfinite() & (wraps | near)).all(dim=-1)[:, None]
        asked_bqd = torch.where(asked_bqd.isfinite(), asked_bqd, 0.5).clamp(0, 1)
        asked_queries = point_queries(asked_bqd, lattice)
    shape = num_places(at)
    if spec.geometry == "points":
        interpolate, there = _from_points(spec, place_bpd, asked_bqd, shape, mask_bcx)
    else:
        interpolate, there = _from_grid(spec, at, asked_bqd, mask_bcx)
    if inside is not None:
        there = inside if there is None else there & inside
    return Asked(asked_queries, interpolate, there)


def _from_grid(
    spec: FamilySpec, at: Places, asked_bqd: Tensor, mask_bcx: Tensor | None
) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    if isinstance(at, tuple):
        there = None if mask_bcx is None else resample_mask(mask_bcx, at, spec.periodic)
        return lambda u_bcx: resample_grid(u_bcx, at, spec.periodic), there
    there = None if mask_bcx is None else nearest_mask(mask_bcx, asked_bqd, spec.periodic)
    return lambda u_bcx: sample_grid(u_bcx, asked_bqd, spec.periodic), there


def _from_points(
    spec: FamilySpec, place_bpd: Tensor, asked_bqd: Tensor, shape: tuple[int, ...], mask_bcx: Tensor | None
) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    low, high = (constant([float(ends[side]) for ends in spec.extents], place_bpd.device) for side in (0, 1))
    lengths = [ends[1] - ends[0] for ends in spec.extents]
    index_bqk, weight_bqk = near_points(place_bpd, asked_bqd, spec.periodic, lengths)
    coordinates = constant([spec.fields.index(name) for name in spec.coordinates], place_bpd.device)
    asked_bdq = (low + asked_bqd * (high - low)).transpose(1, 2)

    def interpolate(u_bcp: Tensor) -> Tensor:
        values_bcq = weighted_sum(u_bcp, index_bqk, weight_bqk)
        return values_bcq.index_copy(1, coordinates, asked_bdq.to(values_bcq.dtype)).unflatten(2, shape)

    if mask_bcx is None:
        return interpolate, None
    absent_bcq = weighted_sum((~mask_bcx).float(), index_bqk, torch.ones_like(weight_bqk))
    return interpolate, (absent_bcq == 0).unflatten(2, shape)


def num_places(at: Places) -> tuple[int, ...]:
    """The shape of the fields' space axes at `at`."""
    return at if isinstance(at, tuple) else tuple(at.shape[1:2])


def describe(at: object) -> str:
    """`at` for a message."""
    if isinstance(at, tuple):
        return f"a grid of {'x'.join(map(str, at))}"
    return f"points of shape {tuple(at.shape)}" if isinstance(at, Tensor) else type(at).__name__
