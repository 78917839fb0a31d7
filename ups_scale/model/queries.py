"""Where a decoder is asked: points in groups that lie in one cell of the lattice, so that a group shares its keys."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# Dimensions: b sample (1: the same places for all), g group, v point of a group, d space axis, q point, c field,
# n queried point in the order of `shape`, r axis-wise slot.

# A point on the border of two cells belongs to the upper one; places in float32 may lie just below it.
BORDER = 1e-5


@dataclass(frozen=True)
class Queries:
    """Places to decode at.

    Attributes:
        place_bgvd: (B or 1, G, V, d) float32, fractions of the domain's extent: G groups of V places each.
        cell_bgd: (B or 1, G, d) int64, the lattice cell of each group, per axis.
        shape: what the places are, as axes of the result: the grid, or (Q,).
        order_n: (N,) int64, for each place of `shape`, row-major, its number among the G * V; None: it is the same.
    """

    place_bgvd: Tensor
    cell_bgd: Tensor
    shape: tuple[int, ...]
    order_n: Tensor | None = None

    def restore(self, values_bgvc: Tensor) -> Tensor:
        """(B, C, *shape) from the values (B, G, V, C) at the places."""
        values_bnc = values_bgvc.flatten(1, 2)
        if self.order_n is not None:
            values_bnc = values_bnc.index_select(1, self.order_n)
        return values_bnc.transpose(1, 2).unflatten(2, self.shape)


def grid_queries(grid: Sequence[int], lattice: Sequence[int], device: torch.device) -> Queries:
    """The cell centres of a regular grid over the whole domain, a group for each of the lattice's cells.

    Where the lattice divides the grid, a group is the patch of its token. Otherwise cells hold different numbers of
    points: the smaller groups are filled up with the cell's centre, and `restore` leaves those out. Shared between
    calls: never to be written to.
    """
    return _grid_queries(tuple(grid), tuple(lattice), torch.device(device))


@lru_cache(maxsize=64)
def _grid_queries(grid: tuple[int, ...], lattice: tuple[int, ...], device: torch.device) -> Queries:
    # Kept for later steps, so not inference tensors even if they are first asked for in inference mode.
    with torch.inference_mode(False):
        members = [_members(size, tokens) for size, tokens in zip(grid, lattice, strict=True)]
        widths = [max(map(len, of_axis)) for of_axis in members]
        cell_gd = _indices(lattice, device)
        slot_vd = _indices(widths, device)
        places, order_n = [], torch.zeros(1, dtype=torch.int64, device=device)
        for axis, (of_axis, size, width) in enumerate(zip(members, grid, widths, strict=True)):
            table = torch.tensor(
                [
                    [(point + 0.5) / size for point in points] + [(cell + 0.5) / len(of_axis)] * (width - len(points))
                    for cell, points in enumerate(of_axis)
                ],
                device=device,
            )
            places.append(table.flatten()[cell_gd[:, None, axis] * width + slot_vd[:, axis]])
            group_stride = math.prod(lattice[axis + 1 :]) * math.prod(widths)
            slot_stride = math.prod(widths[axis + 1 :])
            steps = [
                cell * group_stride + slot * slot_stride
                for cell, points in enumerate(of_axis)
                for slot in range(len(points))
            ]
            order_n = (order_n[:, None] + torch.tensor(steps, device=device)).flatten()
        return Queries(torch.stack(places, dim=-1)[None], cell_gd[None], grid, order_n)


def _members(size: int, tokens: int) -> list[list[int]]:
    """For each cell of an axis, the points of the grid in it."""
    cells = [(2 * point + 1) * tokens // (2 * size) for point in range(size)]
    return [[point for point in range(size) if cells[point] == cell] for cell in range(tokens)]


def _indices(sizes: Sequence[int], device: torch.device) -> Tensor:
    """(N, d) int64, the indices of an array of these sizes, row-major."""
    return torch.tensor(list(itertools.product(*map(range, sizes))), dtype=torch.int64, device=device)


def point_queries(place_bqd: Tensor, lattice: Sequence[int]) -> Queries:
    """Scattered places (B or 1, Q, d) float32, fractions of the domain's extent from 0 to 1 (whoever asks wraps them on
    periodic axes), every one a group of its own."""
    cells = [
        (place_bqd[..., axis] * tokens + BORDER).floor().long().clamp(0, tokens - 1)
        for axis, tokens in enumerate(lattice)
    ]
    return Queries(place_bqd[:, :, None], torch.stack(cells, dim=-1), (place_bqd.shape[1],))
