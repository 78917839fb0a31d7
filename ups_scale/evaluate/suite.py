"""Runs a suite: the model rolled out over the test sets beside the trivial predictors and the zoo.

Each trajectory gives one window: its first frames are given, the next ones are predicted. Trajectories are split over
the processes; figures are sums and counts until the end.

Dimensions: b trajectory, h step after the last given frame, c field, x space, k wavenumber bin.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from ups_scale.evaluate.entrants import MODEL, Entrant
from ups_scale.evaluate.gates import persistence_gates
from ups_scale.evaluate.share import Tally, evaluate_share, gathered
from ups_scale.evaluate.suites import TEST
from ups_scale.evaluate.testset import TestSet, own_batches
from ups_scale.metrics.accumulate import ALL_FIELDS, COUNTED, Accumulator
from ups_scale.physics.families import FamilySpec

QUANTILES = (0.1, 0.5, 0.9)
TRUTH = "truth"
HEADLINE = "nrmse"
"""Stands in every table, also where no frame has one."""
OF_TRUTH = ("zero_truth", "low_variance", "no_value")
"""Counts that are the same for all predictors."""


@dataclass
class Evaluation:
    """What a suite found. Figures may be NaN or infinite here; the report turns those into null.

    All but `splits` and `trajectories` are as in report.json, and of the test split but for `data`, where entries of
    other splits stand under `TestSet.name`. `ranking[family]` holds the numbers of the trajectories, from best to
    worst, with their mean nRMSE over all steps.
    """

    families: dict[str, dict[str, Any]] = field(default_factory=dict)
    splits: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    gates: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    efficiency: dict[str, dict[str, Any]] = field(default_factory=dict)
    growth: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    spectra: dict[str, dict[str, Any]] = field(default_factory=dict)
    budgets: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    reliability: dict[str, dict[str, Any]] = field(default_factory=dict)
    diverged: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    trajectories: dict[str, dict[str, Any]] = field(default_factory=dict)
    ranking: dict[str, dict[int, float]] = field(default_factory=dict)
    wall_clock_s: float = 0.0


@torch.inference_mode()
def evaluate(
    entrants: Sequence[Entrant],
    tests: Sequence[TestSet],
    given: int,
    accelerator: Accelerator,
) -> Evaluation:
    """The evaluation of `entrants`, the model among them, on `tests`, of whose trajectories `given` frames are given.
    All processes must call it; all get the result."""
    began = time.perf_counter()
    found = Evaluation()
    # disable=None: no bar where standard error is not a terminal
    total = sum(len(batch) for test in tests for batch in own_batches(test, accelerator))
    bar = tqdm(total=total, unit="traj", disable=None if accelerator.is_main_process else True)
    for test in tests:
        bar.set_description(test.name)
        tally = gathered(evaluate_share(entrants, test, given, accelerator, bar))
        table, counts = figures(tally.accumulator, test.spec)
        found.data[test.name] = _described(test, tally, counts)
        if tally.diverged:
            found.diverged[test.name] = tally.diverged
        if test.split != TEST:
            found.splits.setdefault(test.split, {})[test.spec.name] = table
            continue
        family = test.spec.name
        found.families[family] = table
        found.efficiency[family] = _efficiency(tally, max(test.steps), accelerator.device)
        found.growth[family] = {name: _growth(curves) for name, curves in tally.curves.items()}
        if tally.spectra:
            means = {name: np.mean(of, axis=0).tolist() for name, of in tally.spectra.items()}
            found.spectra[family] = {
                "step": max(test.steps),
                "fields": [test.spec.fields[c] for c in test.spec.dynamic],
                **means,
            }
        found.budgets |= _budgets(family, tally)
        found.trajectories[family] = _trajectories(tally, test.steps)
        scores = [_mean(curve) for curve in tally.curves[MODEL]]
        found.ranking[family] = {tally.indices[i]: scores[i] for i in np.lexsort((tally.indices, scores))}
    bar.close()
    found.gates = persistence_gates(found.families)
    found.wall_clock_s = time.perf_counter() - began
    return found


def figures(accumulator: Accumulator, spec: FamilySpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """An entry's table as report.json has it, and the counts that belong to the truth."""
    table: dict[str, Any] = {"fields": {}}
    counts: dict[str, Any] = {}
    nothing = accumulator.without_value()
    for name, value in accumulator.figures().items():
        _, predictor, label, metric = name.split("/")
        kind = metric.partition("@")[0]
        if name in nothing and kind != HEADLINE:
            continue
        if kind in OF_TRUTH:
            if predictor == MODEL and label == ALL_FIELDS:
                counts[metric] = int(value)
            continue
        figure = int(value) if kind in COUNTED else value
        of = table if label == ALL_FIELDS else table["fields"].setdefault(label, {})
        of.setdefault(predictor, {})[metric] = figure
    table["fields"] = table.pop("fields")  # last
    return table, counts


def _described(test: TestSet, tally: Tally, counts: Mapping[str, Any]) -> dict[str, Any]:
    told = {
        "num_trajectories": len(tally.indices),
        "of_trajectories": test.trajectories.num_trajectories,
        "split": test.split,
        "horizons": list(test.steps),
        "geometry": test.spec.geometry,
        "grid": list(test.spec.grid),
        "dt_s": test.spec.dt,
        "regular": test.regular,
        "num_frames": test.num_frames,
        **counts,
    }
    return told | ({"taken_as": test.taken_as} if test.taken_as else {})


def _efficiency(tally: Tally, horizon: int, device: torch.device) -> dict[str, Any]:
    """Wall-clock of the rollouts of the largest batch (the median of them), the share of the metrics, and the peak
    memory and energy where they are known."""
    batch = max(size for size, _ in tally.rollout_s)
    full = [seconds for size, seconds in tally.rollout_s if size == batch]
    rollout_s = {name: float(np.median([seconds[name] for seconds in full])) for name in full[0]}
    found: dict[str, Any] = {
        "batch": batch,
        "steps": horizon,
        "wall_clock_s": rollout_s[MODEL],
        "seconds_per_step": rollout_s[MODEL] / horizon,
        "rollouts_s": sum(sum(seconds.values()) for _, seconds in tally.rollout_s),
        "metrics_s": tally.metrics_s,
        "device": device.type,
        "zoo": {
            name: {"wall_clock_s": seconds, "seconds_per_step": seconds / horizon}
            for name, seconds in rollout_s.items()
            if name != MODEL
        },
    }
    if tally.peak_memory_bytes is not None:
        found["peak_memory_mib"] = tally.peak_memory_bytes / 2**20
    used = [joules / horizon for size, joules in tally.joules if size == batch and joules > 0]
    if used:
        found["joules_per_step"] = float(np.median(used))
    return found


def _budgets(family: str, tally: Tally) -> dict[str, dict[str, dict[str, list[float]]]]:
    if not tally.budgets:
        return {}
    means = {
        invariant: {
            name: np.mean(np.stack(of_predictor[name]), axis=0).tolist()
            for name in sorted(of_predictor, key=lambda name: name != TRUTH)
        }
        for invariant, of_predictor in tally.budgets.items()
    }
    return {family: means}


def _trajectories(tally: Tally, steps: Sequence[int]) -> dict[str, Any]:
    """What trajectories.json says of a family, in the order of the trajectories' numbers."""
    order = np.argsort(tally.indices)
    nrmse = {
        name: {str(k): [float(curves[i][k - 1]) for i in order] for k in steps} for name, curves in tally.curves.items()
    }
    horizon = {name: [values[i] for i in order] for name, values in tally.horizons.items()}
    return {"keys": [tally.keys[i] for i in order], "nrmse": nrmse, "horizon": horizon}


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
