"""The report's pictures, as PNG bytes: error growth, power spectra, and rollouts beside the truth.

Dimensions: h step after the last given frame, c field, x space.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ups_scale.evaluate.suite import Example
from ups_scale.physics.families import FamilySpec

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
TRUTH, MODEL, PERSISTENCE, LIMIT = "#1f2933", "#2563eb", "#d97706", "#b42318"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}
DPI = 132
NUM_COLUMNS = 5
SLAB = 0.25
"""The part of the third axis whose points stand for the middle slice."""
FILLED, LARGEST_DOT = 0.6, 60.0
"""Dots' share of a panel's area, and the largest dot's area in square points."""
BLANK = "#9aa5b1"
FLATTEST = 0.2
"""Height of a frame for its width; what is flatter is stretched, to be seen at all."""


def growth(curves: Mapping[str, Mapping[str, Sequence[float | None]]], horizons: Sequence[int]) -> bytes:
    """nRMSE against step on a log axis: mean of model and persistence, band from the 10 % to the 90 % quantile."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(5.0, 3.1)
        for name, colour in (("persistence", PERSISTENCE), ("model", MODEL)):
            lines = {key: _positive(values) for key, values in curves[name].items()}
            steps = np.arange(1, len(lines["mean"]) + 1)
            axes.fill_between(steps, lines["q10"], lines["q90"], color=colour, alpha=0.16, linewidth=0)
            axes.plot(steps, lines["mean"], color=colour, label=name, marker="o" if len(steps) == 1 else None)
        axes.axhline(1.0, color=LIMIT, linewidth=1.0, linestyle=(0, (4, 3)), label="zero predictor")
        for k in horizons:
            axes.axvline(k, color=GRID, linewidth=0.8, zorder=0)
        axes.set_yscale("log")
        axes.set_xlabel("step after the last given frame")
        axes.set_ylabel("nRMSE")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axes, grid=True)
        axes.legend(loc="best", ncols=1)
        return _png(figure)


def spectrum(spectra: Mapping[str, np.ndarray], spec: FamilySpec, horizon: int) -> bytes:
    """Mean power per radial wavenumber of truth (solid) and model (dashed) at the last horizon, each field a panel."""
    with matplotlib.rc_context(STYLE):
        num_fields = len(spec.dynamic)
        figure = Figure(figsize=(5.0, 3.1), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, num_fields, sharey=True))
        for c, axes in zip(spec.dynamic, panels, strict=True):
            truth, model = (_positive(spectra[name][c]) for name in ("truth", "model"))
            k = np.arange(len(truth))
            axes.plot(k[1:], truth[1:], color=TRUTH, label="truth")
            axes.plot(
                k[1:],
                model[1:],
                color=MODEL,
                linestyle=(0, (4, 2)),
                label="model" if np.isfinite(model).any() else "model: not finite",
            )
            axes.set_yscale("log")
            axes.set_xscale("log")
            floor = np.nanmax(truth) * 1e-10 if np.isfinite(truth).any() else None
            axes.set_ylim(bottom=max(floor, np.nanmin(truth[1:]) / 5) if floor else None)
            axes.set_title(f"{spec.fields[c]}, step {horizon}")
            axes.set_xlabel("wavenumber (cycles per domain)" if num_fields == 1 else "cycles per domain")
            _tidy(axes, grid=True)
        panels[0].set_ylabel("power")
        panels[0].legend(loc="lower left")
        return _png(figure)


def rollout(example: Example, c: int, spec: FamilySpec, horizons: Sequence[int]) -> bytes:
    """Truth, prediction and error of one field: x-t images and a line plot in 1D, rows of frames in 2D (of a point set,
    its points), the middle slice in 3D.

    Truth and prediction share the truth's colour scale; the error has its own.
    """
    truth_hx, pred_hx = example.truth_hcx[:, c], example.pred_hcx[:, c]
    place_pd = None
    if spec.geometry == "points":
        place_pd = example.truth_hcx[0, [spec.fields.index(name) for name in spec.coordinates]].T
    with matplotlib.rc_context(STYLE):
        if spec.dimensions == 1:
            return _png(_space_time(truth_hx, pred_hx, c, spec, place_pd))
        if spec.dimensions == 3 and place_pd is None:
            middle = spec.grid[2] // 2
            truth_hx, pred_hx = truth_hx[..., middle], pred_hx[..., middle]
        elif spec.dimensions == 3 and place_pd is not None:
            slab = _slab(place_pd[:, 2], spec.extents[2])
            truth_hx, pred_hx, place_pd = truth_hx[:, slab], pred_hx[:, slab], place_pd[slab]
        return _png(_frames(truth_hx, pred_hx, _columns(horizons, len(truth_hx)), c, spec, place_pd))


def _slab(z_p: np.ndarray, extent: tuple[float, float]) -> np.ndarray:
    """Which points lie in the middle of the third axis: enough of them to be seen in front of each other's gaps."""
    low, high = extent
    return np.abs(z_p - (low + high) / 2) <= SLAB * (high - low) / 2


def _space_time(
    truth_hx: np.ndarray, pred_hx: np.ndarray, c: int, spec: FamilySpec, place_pd: np.ndarray | None = None
) -> Figure:
    steps, (low, high) = len(truth_hx), spec.extents[0]
    scale, error = _scale(truth_hx), _error_scale(pred_hx - truth_hx)
    x = low + (np.arange(truth_hx.shape[1]) + 0.5) * (high - low) / truth_hx.shape[1]
    if place_pd is not None:
        there = np.flatnonzero(np.isfinite(place_pd[:, 0]))
        order = there[np.argsort(place_pd[there, 0])]
        x, truth_hx, pred_hx = place_pd[order, 0], truth_hx[:, order], pred_hx[:, order]
    edges = np.concatenate([[low], (x[1:] + x[:-1]) / 2, [high]])
    figure = Figure(figsize=(10.4, 2.7), layout="constrained")
    panels = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.45])
    images = []
    for axes, title, values, shades in zip(
        panels,
        ("truth", "prediction", "error"),
        (truth_hx, pred_hx, pred_hx - truth_hx),
        (scale, scale, error),
        strict=False,
    ):
        images.append(axes.pcolormesh(edges, np.arange(steps + 1) + 0.5, np.ma.masked_invalid(values), **shades))
        axes.set_facecolor(BLANK)
        axes.set_title(f"{title}, {_label(c, spec)}")
        axes.set_xlabel("x")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        _tidy(axes)
    panels[0].set_ylabel("step")
    for axes in panels[1:3]:
        axes.set_yticklabels([])
    _colorbar(figure, images[0], list(panels[:2]), "")
    _colorbar(figure, images[2], panels[2], "")
    dots = {} if place_pd is None else {"marker": ".", "markersize": 3.5, "linewidth": 0.8}
    panels[3].plot(x, truth_hx[-1], color=TRUTH, label="truth", **dots)
    panels[3].plot(x, pred_hx[-1], color=MODEL, linestyle=(0, (4, 2)), label="prediction", **dots)
    least, largest = _range(truth_hx[-1])
    room = 0.35 * ((largest - least) or 1.0)
    panels[3].set_ylim(least - room, largest + room)
    panels[3].set_title(f"step {steps}")
    panels[3].set_xlabel("x")
    _tidy(panels[3], grid=True)
    panels[3].legend(loc="upper right", ncols=2)
    return figure


def _frames(
    truth_hx: np.ndarray,
    pred_hx: np.ndarray,
    steps: Sequence[int],
    c: int,
    spec: FamilySpec,
    place_pd: np.ndarray | None = None,
) -> Figure:
    shown = [step - 1 for step in steps]
    truth_hx, pred_hx = truth_hx[shown], pred_hx[shown]
    scale, error = _scale(truth_hx), _error_scale(pred_hx - truth_hx)
    (x_low, x_high), (y_low, y_high) = spec.extents[:2]
    cell = min(3.1, 9.25 / len(steps))
    shape = (y_high - y_low) / (x_high - x_low)
    stretch = max(1.0, FLATTEST / shape)
    height = min(2.5, max(0.7, cell * shape * stretch))
    figure = Figure(figsize=(cell * len(steps) + 1.1, 3 * height + 0.5), layout="constrained")
    panels = figure.subplots(3, len(steps), squeeze=False)
    rows = (("truth", truth_hx, scale), ("prediction", pred_hx, scale), ("error", pred_hx - truth_hx, error))
    images = []
    for place, (row, (title, values, shades)) in enumerate(zip(panels, rows, strict=True)):
        for axes, frame, step in zip(row, values, steps, strict=True):
            if place_pd is None:
                image = axes.imshow(
                    np.ma.masked_invalid(frame).T,
                    extent=(x_low, x_high, y_low, y_high),
                    aspect=stretch,
                    origin="lower",
                    interpolation="nearest",
                    **shades,
                )
            else:
                image = _scatter(axes, place_pd, frame, 72**2 * cell * height, shades)
                axes.set_facecolor(GRID)  # a dot may be white
                axes.set(xlim=(x_low, x_high), ylim=(y_low, y_high), aspect=stretch)
            axes.set_xticks([])
            axes.set_yticks([])
            if place == 0:
                axes.set_title(f"step {step}" + (f", y stretched {stretch:.1f} x" if stretch > 1 else ""))
        row[0].set_ylabel(title, fontsize=9.5)
        images.append(image)
    _colorbar(figure, images[0], [axes for row in panels[:2] for axes in row], _label(c, spec))
    _colorbar(figure, images[2], list(panels[2]), "error")
    return figure


def _scatter(axes: Axes, place_pd: np.ndarray, values_p: np.ndarray, area: float, shades: Mapping[str, Any]) -> Any:
    """Points in the colours of their values, so large that they about fill a panel of `area` square points."""
    size = min(LARGEST_DOT, FILLED * area / max(1, len(place_pd)))
    there = np.isfinite(place_pd).all(axis=1)
    x, y = place_pd[there, 0], place_pd[there, 1]
    # Without smooth edges the pictures take less than half the bytes.
    return axes.scatter(x, y, c=values_p[there], s=size, linewidths=0, plotnonfinite=True, antialiaseds=False, **shades)


def _columns(horizons: Sequence[int], num_steps: int) -> list[int]:
    """The steps to show: the horizons, then the middle of the widest gap until there are `NUM_COLUMNS`."""
    steps = sorted({k for k in horizons if k <= num_steps})[-NUM_COLUMNS:]
    while len(steps) < NUM_COLUMNS:
        gap, low = max(((b - a, a) for a, b in pairwise([0, *steps])), key=lambda pair: (pair[0], -pair[1]))
        if gap < 2:
            break
        steps = sorted([*steps, low + gap // 2])
    return steps


def _scale(truth: np.ndarray) -> dict[str, Any]:
    """A diverging colour scale about zero where the truth has both signs in earnest, else a sequential one."""
    low, high = _range(truth)
    if low < 0 < high and min(-low, high) > 0.15 * max(-low, high):
        bound = max(-low, high)
        return {"cmap": _shades("RdBu_r"), "vmin": -bound, "vmax": bound}
    return {"cmap": _shades("viridis"), "vmin": low, "vmax": high if high > low else low + 1.0}


def _range(truth: np.ndarray) -> tuple[float, float]:
    """The least and the largest value; 0 and 0 if there is none."""
    there = truth[np.isfinite(truth)]
    return (float(there.min()), float(there.max())) if there.size else (0.0, 0.0)


def _error_scale(error: np.ndarray) -> dict[str, Any]:
    finite = np.abs(error[np.isfinite(error)])
    bound = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    return {"cmap": _shades("PuOr_r"), "vmin": -bound, "vmax": bound}


def _shades(name: str) -> Any:
    """The colour map with grey for what is not finite."""
    return matplotlib.colormaps[name].with_extremes(bad=BLANK)


def _label(c: int, spec: FamilySpec) -> str:
    unit = spec.units[c]
    return spec.fields[c] if unit in ("", "1") else f"{spec.fields[c]} ({unit})"


def _positive(values: Sequence[float | None] | np.ndarray) -> np.ndarray:
    """As float64, NaN (a gap in the line) for what a log axis can't show."""
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.where(np.isfinite(array) & (array > 0), array, np.nan)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _tidy(axes: Axes, grid: bool = False) -> None:
    axes.tick_params(length=2.5, labelsize=8)
    if grid:
        axes.grid(True, which="major")
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)


def _colorbar(figure: Figure, image: Any, axes: Any, label: str) -> None:
    bar = figure.colorbar(image, ax=axes, pad=0.012, fraction=0.05, aspect=22)
    bar.outline.set_linewidth(0.5)
    bar.ax.tick_params(length=2.5, labelsize=7.5)
    bar.locator = MaxNLocator(nbins=5)
    bar.update_ticks()
    if label:
        bar.set_label(label, fontsize=8.5)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()
