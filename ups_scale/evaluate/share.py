"""One process's share of a test set: every predictor rolled out over its trajectories, step by step, and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from ups_scale.evaluate.entrants import MODEL, Entrant
from ups_scale.evaluate.testset import Given, TestSet, own_batches, read_rollouts
from ups_scale.metrics import accuracy
from ups_scale.metrics.accumulate import Accumulator
from ups_scale.metrics.measure import RolloutMeasure
from ups_scale.observe import energy
from ups_scale.rollout.rollout import rollout


@dataclass
class Tally:
    """What is found on trajectories of a test set; arrays by the predictor's name."""

    accumulator: Accumulator = field(default_factory=Accumulator)
    indices: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    curves: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Per trajectory, nRMSE (H,), the mean over the fields that have one."""
    horizons: dict[str, list[float]] = field(default_factory=dict)
    """Per trajectory, the first step with a correlation under 0.8, the last if there is none, the mean over fields."""
    diverged: dict[str, dict[str, int]] = field(default_factory=dict)
    """By the trajectory's key, the first step that is not finite."""
    spectra: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Per trajectory, (C, K), at the last step."""
    budgets: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)
    """By conserved quantity and predictor, per trajectory the gap at each step (H,)."""
    rollout_s: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Per batch, its size and the seconds of each predictor's rollout."""
    metrics_s: float = 0.0
    joules: list[tuple[int, float]] = field(default_factory=list)
    peak_memory_bytes: int | None = None
    """Of a rollout of the model alone: its weights, the given frames, and what it needs on the way."""


def evaluate_share(
    entrants: Sequence[Entrant],
    test: TestSet,
    given: int,
    accelerator: Accelerator,
    bar: tqdm,
) -> Tally:
    """What this process finds of `test`, whose first `given` frames are given."""
    device, tally, horizon = accelerator.device, Tally(), max(test.steps)
    takers = [entrant for entrant in entrants if test.name in entrant.families]
    for chunk in own_batches(test, accelerator):
        start, truth = read_rollouts(test, chunk, given, horizon, device)
        last_bcx = start.u_btcx[:, -1]
        if not tally.indices:
            _warm_up(takers, test, start)
            tally.peak_memory_bytes = _peak_memory(takers, test, start, horizon)
        measure = RolloutMeasure(test.spec, last_bcx, [of.name for of in takers], test.steps, tally.accumulator)
        streams = {of.name: frames_of(of, test, start, horizon) for of in takers}
        seconds = dict.fromkeys(streams, 0.0)
        used = 0.0
        for k, (truth_bcx, there_bcx) in enumerate(truth, start=1):
            predicted: dict[str, Tensor] = {}
            for name, stream in streams.items():
                meter = energy.joules(device) if name == MODEL else None
                seconds[name] -= _now(device)
                _, predicted[name] = next(stream)
                seconds[name] += _now(device)
                if meter is not None:
                    used += (energy.joules(device) or math.nan) - meter
            tally.metrics_s -= _now(device)
            measure.step(k, truth_bcx, predicted, counted_points(start, there_bcx))
            tally.metrics_s += _now(device)
        tally.metrics_s -= _now(device)
        measure.finish()
        _keep(tally, measure, chunk, start.keys)
        tally.metrics_s += _now(device)
        tally.rollout_s.append((len(chunk), seconds))
        if used > 0:
            tally.joules.append((len(chunk), used))
        bar.update(len(chunk))
    return tally


def gathered(share: Tally) -> Tally:
    """The union of all processes' tallies, the same on all; memory is that of the largest."""
    share.accumulator.to_cpu()
    whole = Tally()
    for tally in gather_object([share]):
        whole.accumulator.merge(tally.accumulator)
        for part in ("indices", "keys", "rollout_s", "joules"):
            getattr(whole, part).extend(getattr(tally, part))
        for part in ("curves", "horizons", "spectra"):
            _extend(getattr(whole, part), getattr(tally, part))
        for invariant, of_predictor in tally.budgets.items():
            _extend(whole.budgets.setdefault(invariant, {}), of_predictor)
        for name, of_key in tally.diverged.items():
            whole.diverged.setdefault(name, {}).update(of_key)
        whole.metrics_s += tally.metrics_s
        if tally.peak_memory_bytes is not None:
            whole.peak_memory_bytes = max(whole.peak_memory_bytes or 0, tally.peak_memory_bytes)
    return whole


def _warm_up(takers: Sequence[Entrant], test: TestSet, start: Given) -> None:
    """A first step of all, measured: first calls allocate and tune, and are not to be timed."""
    predicted = {entrant.name: next(frames_of(entrant, test, start, 1))[1] for entrant in takers}
    last_bcx = start.u_btcx[:, -1]
    measure = RolloutMeasure(test.spec, last_bcx, list(predicted), (1,), Accumulator())
    measure.step(1, last_bcx, predicted)
    measure.finish()


def _peak_memory(takers: Sequence[Entrant], test: TestSet, start: Given, horizon: int) -> int | None:
    """The most bytes that were allocated while the model alone was rolled out, without the others' weights; None where
    the device doesn't count them, or the model doesn't take the test set."""
    device = start.u_btcx.device
    model = next((entrant for entrant in takers if entrant.name == MODEL), None)
    if device.type != "cuda" or model is None:
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in frames_of(model, test, start, horizon):
        pass
    torch.cuda.synchronize(device)
    others = {id(entrant.model): entrant.model for entrant in takers if entrant.model is not model.model}
    return torch.cuda.max_memory_allocated(device) - sum(_weights_bytes(other) for other in others.values())


def _weights_bytes(model: object) -> int:
    if not isinstance(model, nn.Module):
        return 0
    return sum(values.nbytes for values in (*model.parameters(), *model.buffers()))


def frames_of(entrant: Entrant, test: TestSet, start: Given, horizon: int) -> Iterator[tuple[int, Tensor]]:
    """The predictor's frames after the given ones, of which it takes as many as it was made for."""
    taken = min(entrant.model.context_frames, start.u_btcx.shape[1])
    skipped = start.u_btcx.shape[1] - taken
    return rollout(
        entrant.model,
        start.u_btcx[:, skipped:],
        entrant.families[test.name],
        start.parameters_bp,
        start.dt_bt[:, skipped:],
        horizon,
        mask_btcx=None if start.mask_btcx is None else start.mask_btcx[:, skipped:],
        guards=entrant.guards,
    )


def counted_points(start: Given, there_bcx: Tensor | None) -> Tensor | None:
    """The points of a frame that count: with a value in it and in the last given one."""
    if there_bcx is None or start.mask_btcx is None:
        return None
    pair = torch.stack([start.mask_btcx[:, -1], there_bcx], dim=1)
    counted = accuracy.counted_points(pair, 1)
    return None if counted is None else counted[:, 0]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _keep(tally: Tally, measure: RolloutMeasure, chunk: Sequence[int], keys: Sequence[str]) -> None:
    tally.indices += chunk
    tally.keys += keys
    _extend(tally.curves, _rows(measure.curves))
    _extend(tally.spectra, _rows(measure.spectra))
    _extend(tally.horizons, {name: horizon_b.tolist() for name, horizon_b in measure.horizons.items()})
    for quantity, of_predictor in measure.gaps.items():
        _extend(tally.budgets.setdefault(quantity, {}), _rows(of_predictor))
    for name, first_b in measure.diverged.items():
        found = {key: step for key, step in zip(keys, first_b.tolist(), strict=True) if step}
        if found:
            tally.diverged.setdefault(name, {}).update(found)


def _rows(values: Mapping[str, Tensor]) -> dict[str, list[np.ndarray]]:
    return {name: list(of_b.cpu().numpy()) for name, of_b in values.items()}


def _extend(whole: dict[str, list], part: Mapping[str, list]) -> None:
    for name, values in part.items():
        whole.setdefault(name, []).extend(values)
