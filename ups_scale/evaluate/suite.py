"""Runs a suite: the model rolled out over the test split, every family and trajectory, beside the trivial predictors.

Each trajectory gives one window: its first `context_frames` frames are given, the next max(horizons) are predicted.
Trajectories are split over the processes; figures are sums and counts until the end.

Dimensions: b trajectory, t frame, h step after the last given frame, c field, x space, k wavenumber bin.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from ups_scale.evaluate.gates import persistence_gates
from ups_scale.evaluate.testset import TestSet, own_batches, read_batch
from ups_scale.metrics import accuracy
from ups_scale.metrics.accumulate import ALL_FIELDS, Accumulator, predictor_errors, rollout_errors
from ups_scale.metrics.physics import power_spectrum
from ups_scale.physics.families import FamilySpec

SUITES = ("small",)
QUANTILES = (0.1, 0.5, 0.9)


class Rollout(Protocol):
    """What the suite needs of a `model.simulator.Simulator`."""

    context_frames: int

    def __call__(
        self,
        context_btcx: Tensor,
        family: str,
        parameters_bp: Tensor,
        dt_bt: Tensor,
        horizon: int,
        *,
        mask_btcx: Tensor | None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Example:
    """A rollout to look at; arrays are (H, C, *X) in physical units, NaN where the truth has no value and where the
    prediction doesn't count."""

    label: str
    key: str
    nrmse: float
    truth_hcx: np.ndarray
    pred_hcx: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """What a suite found. Figures may be NaN or infinite here; the report turns those into null.

    `families` and `gates` are as in report.json. `growth[family][predictor]` holds per step the mean and the
    quantiles over trajectories of nRMSE; `spectra[family]` the mean power (C, K) of the `truth` and the `model` at the
    last horizon, empty for a masked family and for a point set; `ranking[family]` the trajectories' indices from best
    to worst.
    """

    families: dict[str, dict[str, Any]]
    gates: list[dict[str, Any]]
    data: dict[str, dict[str, Any]]
    efficiency: dict[str, dict[str, Any]]
    growth: dict[str, dict[str, dict[str, list[float]]]]
    spectra: dict[str, dict[str, np.ndarray]]
    ranking: dict[str, list[int]]
    wall_clock_s: float


@dataclass
class _Tally:
    """What one process found on its share of a family's trajectories."""

    accumulator: Accumulator = field(default_factory=Accumulator)
    indices: list[int] = field(default_factory=list)
    model_curves: list[np.ndarray] = field(default_factory=list)
    persistence_curves: list[np.ndarray] = field(default_factory=list)
    truth_spectra: list[np.ndarray] = field(default_factory=list)
    model_spectra: list[np.ndarray] = field(default_factory=list)
    rollout_s: list[tuple[int, float]] = field(default_factory=list)
    peak_memory_bytes: int | None = None


@torch.inference_mode()
def evaluate(
    model: Rollout, tests: Mapping[str, TestSet], horizons: Sequence[int], accelerator: Accelerator
) -> Evaluation:
    """The evaluation of `model` on `tests` at the steps `horizons`. All processes must call it; all get the result."""
    began = time.perf_counter()
    families: dict[str, dict[str, Any]] = {}
    data: dict[str, dict[str, Any]] = {}
    efficiency: dict[str, dict[str, Any]] = {}
    growth: dict[str, dict[str, dict[str, list[float]]]] = {}
    spectra: dict[str, dict[str, np.ndarray]] = {}
    ranking: dict[str, list[int]] = {}
    # disable=None: no bar where standard error is not a terminal
    total = sum(len(batch) for test in tests.values() for batch in own_batches(test, accelerator))
    bar = tqdm(total=total, unit="traj", disable=None if accelerator.is_main_process else True)
    for name, test in tests.items():
        bar.set_description(name)
        share = _evaluate_share(model, test, horizons, accelerator, bar)
        tally = _gather(share)
        families[name], counts = _figures(tally.accumulator, test.spec)
        data[name] = {
            "num_trajectories": len(tally.indices),
            "geometry": test.spec.geometry,
            "grid": list(test.spec.grid),
            "dt_s": test.spec.dt,
            "regular": test.regular,
            "num_frames": test.num_frames,
            **counts,
        } | ({"taken_as": test.taken_as} if test.taken_as else {})
        efficiency[name] = _efficiency(tally, max(test.spec.steps(horizons)), accelerator.device)
        growth[name] = {
            "model": _growth(tally.model_curves),
            "persistence": _growth(tally.persistence_curves),
        }
        spectra[name] = {}
        if tally.truth_spectra:
            spectra[name] = {
                "truth": np.mean(tally.truth_spectra, axis=0),
                "model": np.mean(tally.model_spectra, axis=0),
            }
        scores = [_mean(curve) for curve in tally.model_curves]
        ranking[name] = [tally.indices[i] for i in np.lexsort((tally.indices, scores))]
    bar.close()
    gates = persistence_gates(families)
    wall_clock_s = time.perf_counter() - began
    return Evaluation(families, gates, data, efficiency, growth, spectra, ranking, wall_clock_s)


@torch.inference_mode()
def examples(
    model: Rollout, test: TestSet, ranking: Sequence[int], horizons: Sequence[int], device: torch.device
) -> list[Example]:
    """Rollouts of a good trajectory (best tenth), the median and the worst one, each once. One process may call it."""
    last = len(ranking) - 1
    picks = {"good": ranking[round(0.1 * last)], "median": ranking[last // 2], "worst": ranking[last]}
    by_index = {index: label for label, index in picks.items()}
    found = []
    horizon, dynamic = max(test.spec.steps(horizons)), list(test.spec.dynamic)
    for index, label in by_index.items():
        batch = read_batch(test, [index], model.context_frames + horizon, device)
        pred_bhcx, _ = _predict(model, test, batch, horizon)
        truth_bhcx, counted_bhcx = _truth(model, batch)
        (curve,) = _curves(pred_bhcx, truth_bhcx, counted_bhcx, dynamic)
        if counted_bhcx is not None:
            truth_bhcx = torch.where(batch.mask_btcx[:, model.context_frames :], truth_bhcx, torch.nan)
            pred_bhcx = torch.where(counted_bhcx, pred_bhcx, torch.nan)
        shown = (u_bhcx[0].cpu().numpy() for u_bhcx in (truth_bhcx, pred_bhcx))
        found.append(Example(label, batch.keys[0], _mean(curve), *shown))
    return found


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _predict(model: Rollout, test: TestSet, batch: Any, horizon: int) -> tuple[Tensor, float]:
    """The prediction (B, H, C, *X) from a batch's first frames, and the seconds it took."""
    context_btcx = batch.u_btcx[:, : model.context_frames]
    mask_btcx = None if batch.mask_btcx is None else batch.mask_btcx[:, : model.context_frames]
    _synchronize(context_btcx.device)
    began = time.perf_counter()
    pred_bhcx = model(context_btcx, test.family, batch.parameters_bp, batch.dt_bt, horizon, mask_btcx=mask_btcx)
    _synchronize(context_btcx.device)
    return pred_bhcx, time.perf_counter() - began


def _truth(model: Rollout, batch: Any) -> tuple[Tensor, Tensor | None]:
    """The frames (B, H, C, *X) to be predicted, and the points of them that count."""
    counted_bhcx = accuracy.counted_points(batch.mask_btcx, model.context_frames)
    return batch.u_btcx[:, model.context_frames :], counted_bhcx


def _evaluate_share(
    model: Rollout, test: TestSet, horizons: Sequence[int], accelerator: Accelerator, bar: tqdm
) -> _Tally:
    device, tally, dynamic = accelerator.device, _Tally(), list(test.spec.dynamic)
    horizons = test.spec.steps(horizons)
    horizon = max(horizons)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for chunk in own_batches(test, accelerator):
        batch = read_batch(test, chunk, model.context_frames + horizon, device)
        if not tally.indices:
            _predict(model, test, batch, 1)  # a first call allocates and tunes: not to be timed
        pred_bhcx, seconds = _predict(model, test, batch, horizon)
        tally.rollout_s.append((len(chunk), seconds))
        truth_bhcx, counted_bhcx = _truth(model, batch)
        last_bcx = batch.u_btcx[:, model.context_frames - 1]
        rollout_errors(pred_bhcx, truth_bhcx, last_bcx, test.spec, tally.accumulator, horizons, counted_bhcx)
        zero_bhcx = torch.zeros_like(truth_bhcx)
        predictor_errors("zero", zero_bhcx, truth_bhcx, last_bcx, test.spec, tally.accumulator, horizons, counted_bhcx)
        tally.indices += chunk
        tally.model_curves += _curves(pred_bhcx, truth_bhcx, counted_bhcx, dynamic)
        tally.persistence_curves += _curves(last_bcx[:, None].expand_as(truth_bhcx), truth_bhcx, counted_bhcx, dynamic)
        if test.spec.geometry == "grid" and not test.spec.masked:
            tally.truth_spectra += list(power_spectrum(truth_bhcx[:, -1], test.spec).cpu().numpy())
            tally.model_spectra += list(power_spectrum(pred_bhcx[:, -1], test.spec).cpu().numpy())
        bar.update(len(chunk))
    if device.type == "cuda":
        tally.peak_memory_bytes = torch.cuda.max_memory_allocated(device)
    return tally


def _curves(
    pred_bhcx: Tensor, truth_bhcx: Tensor, mask_bhcx: Tensor | None, dynamic: Sequence[int]
) -> list[np.ndarray]:
    """Per trajectory, nRMSE against step, the mean over the dynamic fields that have one; infinite where the prediction
    isn't finite, NaN where no field has one."""
    values = accuracy.nrmse(pred_bhcx, truth_bhcx, mask_bhcx)
    defined = ~accuracy.truth_is_zero(truth_bhcx, mask_bhcx)
    values, defined = values[:, :, dynamic], defined[:, :, dynamic]
    values = torch.where(defined, torch.where(values.isfinite(), values, torch.inf), 0.0)
    return list((values.sum(-1) / defined.sum(-1)).cpu().numpy())


def _gather(share: _Tally) -> _Tally:
    """The union of all processes' tallies, the same on all. Times and memory are those of the largest."""
    share.accumulator.to_cpu()
    whole = _Tally()
    for tally in gather_object([share]):
        whole.accumulator.merge(tally.accumulator)
        for part in ("indices", "model_curves", "persistence_curves", "truth_spectra", "model_spectra", "rollout_s"):
            getattr(whole, part).extend(getattr(tally, part))
        if tally.peak_memory_bytes is not None:
            whole.peak_memory_bytes = max(whole.peak_memory_bytes or 0, tally.peak_memory_bytes)
    return whole


def _figures(accumulator: Accumulator, spec: FamilySpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """The family's table as report.json has it, and the counts that belong to the truth."""
    table: dict[str, Any] = {"model": {}, "persistence": {}, "zero": {}, "fields": {}}
    counts: dict[str, Any] = {}
    for name, value in accumulator.figures().items():
        _, predictor, label, metric = name.split("/")
        kind = metric.partition("@")[0]
        if kind in ("zero_truth", "low_variance", "no_value"):
            if predictor == "model" and label == ALL_FIELDS:
                counts[metric] = int(value)
            continue
        figure = int(value) if kind == "non_finite" else value
        of = table if label == ALL_FIELDS else table["fields"].setdefault(label, {})
        of.setdefault(predictor, {})[metric] = figure
    return table, counts


def _efficiency(tally: _Tally, horizon: int, device: torch.device) -> dict[str, Any]:
    """Wall-clock of the rollouts of the largest batch (the median of them), and the peak memory where it is known."""
    batch = max(size for size, _ in tally.rollout_s)
    rollout_s = float(np.median([seconds for size, seconds in tally.rollout_s if size == batch]))
    figures: dict[str, Any] = {
        "batch": batch,
        "steps": horizon,
        "wall_clock_s": rollout_s,
        "seconds_per_step": rollout_s / horizon,
        "device": device.type,
    }
    if tally.peak_memory_bytes is not None:
        figures["peak_memory_mib"] = tally.peak_memory_bytes / 2**20
    return figures


def _mean(values: np.ndarray) -> float:
    """The mean of those that are not NaN; NaN if all are."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else math.nan


def _growth(curves: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Per step, the mean and the quantiles of nRMSE over the trajectories that have one (a diverged one counts as
    infinite)."""
    found: dict[str, list[float]] = {"mean": [], **{f"q{round(100 * q)}": [] for q in QUANTILES}}
    for values in np.stack(curves).T:
        there = values[~np.isnan(values)]
        found["mean"].append(_mean(there))
        for q in QUANTILES:
            quantile = float(np.quantile(there, q, method="nearest")) if there.size else math.nan
            found[f"q{round(100 * q)}"].append(quantile)
    return found
