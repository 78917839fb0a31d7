"""Fields of a regular grid, sampled at scattered points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ups_scale.errors import DataError
from ups_scale.solvers.setups.case import Case, Setup

ATTEMPTS = 64


def scatter(
    fields_btcx: np.ndarray, chosen: Setup, case: Case, num_points: int, generators: Sequence[np.random.Generator]
) -> tuple[np.ndarray, np.ndarray]:
    """Values at points that are drawn uniformly in the domain, outside of obstacles, anew for every trajectory.

    Interpolated from the grid by cubic splines; where there are shocks or obstacles, linearly, which neither overshoots
    nor reaches across.

    Args:
        fields_btcx: (B, T, C, X, Y) float32, NaN inside obstacles.
        generators: the trajectories' own, (B,).

    Returns:
        (B, T, C, P) float32 values and (B, 2, P) float64 positions.
    """
    rows, places = [], []
    for fields_tcx, rng in zip(fields_btcx, generators, strict=True):
        solid_xy = np.isnan(fields_tcx[0, 0])
        cells_dp = _draw(solid_xy, case.grid, num_points, rng, chosen.name)
        if solid_xy.any():
            # What lies in an obstacle is given the value of the nearest cell outside.
            near = ndimage.distance_transform_edt(solid_xy, return_distances=False, return_indices=True)
            fields_tcx = fields_tcx[..., near[0], near[1]]
        mode = "grid-wrap" if case.boundary == "periodic" else "nearest"
        shift = 0.5 if chosen.points == "centre" else 0.0
        flat = fields_tcx.reshape(-1, *case.grid)
        order = 1 if chosen.sharp else 3
        values = [ndimage.map_coordinates(field, cells_dp - shift, order=order, mode=mode) for field in flat]
        rows.append(np.stack(values).reshape(*fields_tcx.shape[:2], num_points))
        low, high = np.array(chosen.extents).T
        places.append(low[:, None] + (high - low)[:, None] * cells_dp / np.array(case.grid)[:, None])
    return np.stack(rows), np.stack(places)


def _draw(
    solid_xy: np.ndarray, grid: tuple[int, ...], num_points: int, rng: np.random.Generator, name: str
) -> np.ndarray:
    """(2, P) positions in cells."""
    found: list[np.ndarray] = []
    missing = num_points
    for _ in range(ATTEMPTS):
        cells_dp = rng.uniform(size=(2, num_points)) * np.array(grid)[:, None]
        free = ~solid_xy[tuple(cells_dp.astype(int))]
        found.append(cells_dp[:, free][:, :missing])
        missing -= found[-1].shape[1]
        if missing == 0:
            return np.concatenate(found, axis=1)
    raise DataError(f"{name}: obstacles leave no room for {num_points} points")
