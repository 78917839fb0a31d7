"""A picture of what the families look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ups_scale.solvers.generate import generate_family
from ups_scale.solvers.setups import setup

COLUMNS = 3
SHOWN = (0, 4, 8, 16)
"""Frames, of those that there are."""


def draw_gallery(path: Path, names: Sequence[str]) -> None:
    """Writes a PNG with the first predicted field of each family's first test trajectory: in 1D over space (across) and
    time (upwards), else some frames side by side, of 3D the middle plane."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 1.5 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for name, axis in zip(names, axes.flat, strict=False):
        chosen = setup(name)
        field = next(number for number, field in enumerate(chosen.family.fields) if not field.static)
        frames_tx = generate_family(name, 1, split="test").fields_btcx[0, :, field]
        if frames_tx.ndim == 2:
            image = frames_tx
        else:
            if frames_tx.ndim == 4:
                frames_tx = frames_tx[..., frames_tx.shape[-1] // 2]
            first = 1 if chosen.family.steady else 0  # frame 0 of a steady problem has no solution yet
            shown = [frames_tx[number].T for number in SHOWN if first <= number < len(frames_tx)] or [frames_tx[-1].T]
            gap = np.full((len(shown[0]), max(1, len(shown[0]) // 16)), np.nan)
            image = np.concatenate([part for frame in shown for part in (frame, gap)][:-1], axis=1)
        top = np.nanmax(np.abs(image))
        signed = np.nanmin(image) < -0.1 * top
        colours = colormaps["RdBu_r" if signed else "viridis"].with_extremes(bad="0.75")
        aspect = "auto" if frames_tx.ndim == 2 else "equal"
        axis.imshow(image, origin="lower", cmap=colours, vmin=-top if signed else None, vmax=top, aspect=aspect)
        axis.set_title(f"{name}: {chosen.family.fields[field].name}", fontsize=8)
    FigureCanvasAgg(figure).print_png(str(path))
