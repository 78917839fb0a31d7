"""Super-resolution: from frames on a coarser grid, the next frames on the full one, beside two interpolations.

The given frames are averaged over cells of 2, 4, 8 points an axis; a model with an any-point decoder is fitted to the
coarse grid (`evaluate.variants`) and asked for the full one. `persistence` interpolates the last coarse frame, and
`interpolation` the coarse truth of the step, which a perfect model of the coarse grid would predict.

Dimensions: b trajectory, t frame, h measured step, c field, x space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ups_scale.errors import UserError
from ups_scale.evaluate.testset import TestSet, own_batches, read_batch
from ups_scale.evaluate.variants import fitted, free_name, spec_size
from ups_scale.metrics import accuracy
from ups_scale.metrics.accumulate import ALL_FIELDS, Accumulator
from ups_scale.model.interpolate import resample_grid
from ups_scale.model.simulator import Simulator
from ups_scale.physics.families import VARIANT_MARK, FamilySpec

PREDICTORS = ("model", "persistence", "interpolation")
LEAST_POINTS = 4
"""Of the coarse grid along every axis."""
LEFT_OUT = "left_out"


@dataclass(frozen=True)
class _Task:
    """A family at one factor: `coarse` is what the model is given."""

    family: str
    factor: int
    coarse: FamilySpec


def check_factors(factors: Sequence[int], decoder: str) -> None:
    """Raises a `UserError` if a model of `model.decoder` can't be asked for super-resolution by these factors."""
    if any(factor < 2 for factor in factors):
        raise UserError(f"--super-resolution {','.join(map(str, factors))}: factors are whole numbers from 2, as 2,4,8")
    if factors and decoder != "points":
        raise UserError(
            f'--super-resolution needs a model that gives the fields of grids at any point: model.decoder "points", '
            f'and this one was trained with "{decoder}"; leave the option out, or train with model.decoder "points"'
        )


def suits(factors: Sequence[int], decoder: str) -> tuple[int, ...]:
    """The factors, if a model of `model.decoder` can be asked for them; else none."""
    return tuple(factors) if decoder == "points" else ()


def super_resolution(
    trained: Simulator,
    known: Mapping[str, FamilySpec],
    tests: Mapping[str, TestSet],
    factors: Sequence[int],
    horizons: Sequence[int],
    accelerator: Accelerator,
) -> dict[str, dict[str, dict[str, Any]]]:
    """By family and factor {"model": {"nrmse@1": ...}, "persistence": ..., "interpolation": ..., "fields": {...}}
    or {"left_out": reason}; figures may be NaN or infinite. All processes must call it; all get the result.

    `known` holds what the model takes each test set as (`TestSet.family`); `trained` is the model before it was fitted
    to that, so that no weight is resized twice.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in tests}
    tasks: list[_Task] = []
    taken = {*trained.specs, *known, *tests}
    for name, test in tests.items():
        for factor in factors:
            reason = _unsuited(test.spec, factor)
            found[name][f"{factor}x"] = {LEFT_OUT: reason} if reason else {}
            if not reason:
                tasks.append(_task(name, factor, known[test.family], taken))
                taken.add(tasks[-1].coarse.name)
    larger, refused = fitted(trained, [task.coarse for task in tasks])
    for task in tasks:
        if task.coarse.name in refused:
            found[task.family][f"{task.factor}x"] = {LEFT_OUT: refused[task.coarse.name]}
    for name, test in tests.items():
        of_family = [task for task in tasks if task.family == name and task.coarse.name not in refused]
        if of_family:
            tables = _measure(larger, test, of_family, test.spec.steps(horizons), accelerator)
            found[name] |= {f"{task.factor}x": table for task, table in zip(of_family, tables, strict=True)}
    return found


def coarsened(u_bcx: Tensor, factor: int, axes: int) -> Tensor:
    """Means over cells of `factor` points along each of the last `axes` axes, which it divides."""
    space = range(u_bcx.ndim - axes, u_bcx.ndim)
    for axis in space:
        u_bcx = u_bcx.unflatten(axis, (-1, factor)).mean(dim=axis + 1)
    return u_bcx


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """A report's super-resolution as text, a line for each family and factor."""
    for family, of_factor in report.get("super_resolution", {}).items():
        for factor, table in of_factor.items():
            if LEFT_OUT in table:
                yield f"super-resolution {factor}, {family}: left out: {table[LEFT_OUT]}"
                continue
            figures = []
            for metric, value in table["model"].items():
                kind, _, step = metric.partition("@")
                if kind == "nrmse":
                    others = ", ".join(f"{name} {_shown(table[name][metric])}" for name in PREDICTORS[1:])
                    figures.append(f"@{step} {_shown(value)} ({others})")
            yield f"super-resolution {factor}, {family}: nrmse " + "  ".join(figures)


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def _unsuited(spec: FamilySpec, factor: int) -> str | None:
    """Why a family can't be evaluated at a factor, whatever the model."""
    grid = " x ".join(map(str, spec.grid))
    if spec.geometry != "grid":
        return "it is a point set: its points have no cells to average over"
    if spec.masked:
        return "some of its points have no value, and averages over cells need all"
    if any(points % factor for points in spec.grid):
        return f"{factor} does not divide its grid of {grid} points"
    if min(spec.grid) // factor < LEAST_POINTS:
        return f"of its grid of {grid} points fewer than {LEAST_POINTS} along an axis would be left"
    return None


def _task(name: str, factor: int, trained: FamilySpec, taken: set[str]) -> _Task:
    coarse = replace(trained, grid=tuple(points // factor for points in trained.grid))
    return _Task(name, factor, replace(coarse, name=free_name(f"{name}{VARIANT_MARK}{spec_size(coarse)}", taken)))


@torch.inference_mode()
def _measure(
    model: Simulator, test: TestSet, tasks: Sequence[_Task], steps: Sequence[int], accelerator: Accelerator
) -> list[dict[str, Any]]:
    spec, given, device = test.spec, model.context_frames, accelerator.device
    accumulator = Accumulator()
    measured = torch.tensor([given + step - 1 for step in steps], device=device)
    for indices in own_batches(test, accelerator):
        batch = read_batch(test, indices, given + max(steps), device)
        truth_bhcx = batch.u_btcx[:, measured]
        for task in tasks:
            coarse_btcx = coarsened(batch.u_btcx, task.factor, spec.dimensions)
            last_bcx = resample_grid(coarse_btcx[:, given - 1], spec.grid, spec.periodic)
            interpolated = resample_grid(coarse_btcx[:, measured].flatten(0, 1), spec.grid, spec.periodic)
            predictions = {
                "model": model(
                    coarse_btcx[:, :given],
                    task.coarse.name,
                    batch.parameters_bp,
                    batch.dt_bt,
                    max(steps),
                    at=spec.grid,
                    steps=steps,
                ),
                "persistence": last_bcx[:, None].expand_as(truth_bhcx),
                "interpolation": interpolated.unflatten(0, truth_bhcx.shape[:2]),
            }
            for predictor, pred_bhcx in predictions.items():
                _add(accumulator, f"{task.factor}x/{predictor}", pred_bhcx, truth_bhcx, spec, steps)
    accumulator.to_cpu()
    whole = Accumulator()
    for share in gather_object([accumulator]):
        whole.merge(share)
    tables: dict[str, dict[str, Any]] = {f"{task.factor}x": {"fields": {}} for task in tasks}
    for name, value in whole.figures().items():
        factor, predictor, label, metric = name.split("/")
        table = tables[factor] if label == ALL_FIELDS else tables[factor]["fields"].setdefault(label, {})
        table.setdefault(predictor, {})[metric] = int(value) if metric.startswith("non_finite") else value
    return list(tables.values())


def _add(
    accumulator: Accumulator,
    prefix: str,
    pred_bhcx: Tensor,
    truth_bhcx: Tensor,
    spec: FamilySpec,
    steps: Sequence[int],
) -> None:
    """Adds nRMSE, and how many predictions are not finite, per step and field and over all predicted fields."""
    dynamic = list(spec.dynamic)
    pred, truth = pred_bhcx[:, :, dynamic], truth_bhcx[:, :, dynamic]
    nrmse_bhc, defined_bhc = accuracy.nrmse(pred, truth), ~accuracy.truth_is_zero(truth)
    non_finite_bhc = accuracy.non_finite(pred)
    fields = {spec.fields[number]: slice(c, c + 1) for c, number in enumerate(dynamic)}
    for place, k in enumerate(steps):
        for label, c in ({ALL_FIELDS: slice(None)} | fields).items():
            accumulator.add(f"{prefix}/{label}/nrmse@{k}", nrmse_bhc[:, place, c], where=defined_bhc[:, place, c])
            accumulator.add(f"{prefix}/{label}/non_finite@{k}", non_finite_bhc[:, place, c].any(-1))
