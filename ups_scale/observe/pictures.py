"""Pictures of fields for the board: truth, prediction and error side by side."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import colormaps
from torch import Tensor

MAX_FRAMES = 6
SMALLEST_EDGE = 128  # pixels


def comparison(pred_hx: Tensor, truth_hx: Tensor) -> np.ndarray:
    """(H, W, 3) uint8: rows truth, prediction, error; for one field over time, (steps, *grid) with 1 to 3 space axes.

    1D fields are drawn as space against time, 2D fields as up to 6 frames in a row, 3D fields as their middle slice;
    points that are not finite in the range's lowest colour. Truth and prediction share the
    colours' range; the error has its own, symmetric.
    """
    pred, truth = pred_hx.float().cpu().numpy(), truth_hx.float().cpu().numpy()
    if truth.ndim == 4:
        middle = truth.shape[3] // 2
        pred, truth = pred[..., middle], truth[..., middle]
    low, high = float(np.nanmin(truth)), float(np.nanmax(truth))
    error = pred - truth
    largest = float(np.nanmax(np.abs(error))) if np.isfinite(error).any() else 1.0
    rows = [
        _row(truth, low, high, "viridis"),
        _row(pred, low, high, "viridis"),
        _row(error, -largest, largest, "RdBu_r"),
    ]
    return np.concatenate(rows, axis=0)


def _row(u_hx: np.ndarray, low: float, high: float, colours: str) -> np.ndarray:
    scaled = np.clip((u_hx - low) / max(high - low, 1e-30), 0, 1)
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
