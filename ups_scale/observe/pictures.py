"""Pictures of fields for the board: truth, prediction and error side by side."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import colormaps
from torch import Tensor

MAX_FRAMES = 6
SMALLEST_EDGE = 128  # pixels
POINTS_EDGE, LARGEST_DOT = 192, 8  # pixels, of a frame of scattered points and of a point
BACKGROUND = 210  # grey between points: a point may be white


def comparison(pred_hx: Tensor, truth_hx: Tensor, place_pd: Tensor | None = None) -> np.ndarray:
    """(H, W, 3) uint8: rows truth, prediction, error; for one field over time, (steps, *grid) with 1 to 3 space axes.

    1D fields are drawn as space against time, 2D fields as up to 6 frames in a row, 3D fields as their middle slice;
    points that are not finite in the range's lowest colour. Truth and prediction share the
    colours' range; the error has its own, symmetric. Of a point set, (steps, P), `place_pd` (P, d) says where the
    points lie: 1D ones are drawn in the order of x, 2D ones as dots, 3D ones as the dots of the middle third.
    """
    pred, truth = pred_hx.float().cpu().numpy(), truth_hx.float().cpu().numpy()
    dots_pd = None
    if place_pd is not None:
        place = place_pd.float().cpu().numpy()
        shown = _shown(place)
        pred, truth = pred[:, shown], truth[:, shown]
        dots_pd = place[shown, :2] if place.shape[1] > 1 else None
    if truth.ndim == 4:
        middle = truth.shape[3] // 2
        pred, truth = pred[..., middle], truth[..., middle]
    low, high = float(np.nanmin(truth)), float(np.nanmax(truth))
    error = pred - truth
    largest = float(np.nanmax(np.abs(error))) if np.isfinite(error).any() else 1.0
    rows = [
        _row(truth, low, high, "viridis", dots_pd),
        _row(pred, low, high, "viridis", dots_pd),
        _row(error, -largest, largest, "RdBu_r", dots_pd),
    ]
    return np.concatenate(rows, axis=0)


def _shown(place_pd: np.ndarray) -> np.ndarray:
    """The numbers of the points that are drawn, those in 1D from left to right."""
    if place_pd.shape[1] == 1:
        return np.argsort(place_pd[:, 0], kind="stable")
    if place_pd.shape[1] == 2:
        return np.arange(len(place_pd))
    rank = np.argsort(np.argsort(place_pd[:, 2], kind="stable"), kind="stable")
    return np.flatnonzero((3 * rank >= len(rank) - 2) & (3 * rank <= 2 * len(rank)))


def _row(u_hx: np.ndarray, low: float, high: float, colours: str, dots_pd: np.ndarray | None = None) -> np.ndarray:
    scaled = np.clip((u_hx - low) / max(high - low, 1e-30), 0, 1)
    if dots_pd is not None:
        frames = np.linspace(0, len(u_hx) - 1, min(MAX_FRAMES, len(u_hx))).astype(int)
        return np.concatenate([_dots(scaled[k], dots_pd, colours) for k in frames], axis=1)
    if u_hx.ndim == 2:
        panels = [scaled]  # time downwards, space to the right
    else:
        panels = [scaled[k] for k in np.linspace(0, len(u_hx) - 1, min(MAX_FRAMES, len(u_hx))).astype(int)]
    images = []
    for panel in panels:
        down, right = (max(1, math.ceil(SMALLEST_EDGE / size)) for size in panel.shape)
        image = (colormaps[colours](np.nan_to_num(panel))[..., :3] * 255).astype(np.uint8)
        images.append(np.pad(image.repeat(down, 0).repeat(right, 1), ((2, 2), (2, 2), (0, 0)), constant_values=255))
    return np.concatenate(images, axis=1)


def _dots(values_p: np.ndarray, place_pd: np.ndarray, colours: str) -> np.ndarray:
    """A frame of scattered points, (edge, edge, 3) uint8: a square per point, x down and y to the right as of grids."""
    size = min(LARGEST_DOT, max(2, round(POINTS_EDGE / math.sqrt(max(1, len(place_pd))))))
    low, high = place_pd.min(axis=0), place_pd.max(axis=0)
    corner = ((place_pd - low) / np.maximum(high - low, 1e-30) * (POINTS_EDGE - size)).astype(int)
    image = np.full((POINTS_EDGE, POINTS_EDGE, 3), BACKGROUND, dtype=np.uint8)
    dots = (colormaps[colours](np.nan_to_num(values_p))[..., :3] * 255).astype(np.uint8)
    for down in range(size):
        for right in range(size):
            image[corner[:, 0] + down, corner[:, 1] + right] = dots
    return np.pad(image, ((2, 2), (2, 2), (0, 0)), constant_values=255)
