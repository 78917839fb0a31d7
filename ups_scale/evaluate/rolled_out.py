"""From a checkpoint on disk to rollouts on disk, of trajectories of a data set or beyond their end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ups_scale.data.manifest import Manifest, load_manifest
from ups_scale.data.reader import ShardReader
from ups_scale.data.remote import is_url
from ups_scale.errors import CheckpointError, DataError, UserError
from ups_scale.evaluate.loading import Checkpoint, fit, open_checkpoint, shown
from ups_scale.evaluate.share import counted_points
from ups_scale.evaluate.testset import Given, TestSet, batch_size, read_rollouts
from ups_scale.metrics import accuracy, physics
from ups_scale.physics.families import FamilySpec
from ups_scale.physics.invariants import fields_of, quantities
from ups_scale.rollout.budget import Budget
from ups_scale.rollout.files import RolloutFile, rollout_file
from ups_scale.rollout.guards import Guards
from ups_scale.rollout.horizon import HorizonGuard
from ups_scale.rollout.rollout import continued, rollout

# Dimensions: n trajectory, b trajectory of a batch, t frame, h predicted frame, c field, x space, v component.

SHOWN_STEPS = (1, 4, 16)
"""nRMSE is said at these steps, and at the last one that the data hold the truth of."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Request:
    """What tools/rollout.py is asked for; see its help. `trajectories` is empty for all. With `until_horizon` a
    trajectory ends at the first step whose correlation with the truth is under 0.8."""

    checkpoint: Path
    data: str | None = None
    family: str | None = None
    split: str = "test"
    trajectories: tuple[int, ...] = (0,)
    horizon: int | None = None
    guards: tuple[str, ...] = ()
    until_horizon: bool = False
    dtype: str = "fp32"
    device: str = "auto"
    out: Path | None = None


def roll_out(request: Request) -> dict[str, Any]:
    """The summary of the rollouts, which are written to a file: `out`, `keys` of the trajectories, the guards that were
    applied and left out, the largest budgets (`relative`: of max(|Q(0)|, ||q(0)||_L1)), `nrmse` by step where the data
    hold the truth (the mean over trajectories, null where one isn't finite), and the first step of each trajectory that
    isn't finite; with `until_horizon` also the first one under 0.8, null where there is none.

    Raises:
        CheckpointError, DataError, UserError: see the messages.
    """
    if request.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is visible to PyTorch; use --device cpu, or auto")
    device = torch.device("cuda" if torch.cuda.is_available() and request.device != "cpu" else "cpu")
    checkpoint = open_checkpoint(request.checkpoint, device)
    manifest = load_manifest(request.data or _recipe_manifest(checkpoint))
    spec = _entry(manifest, request.family)
    stride = checkpoint.recipe["data"].get("max_stride", 1)
    model, matches, left_out = fit(checkpoint.model, {spec.name: spec}, stride, manifest.families)
    if spec.name in left_out:
        raise DataError(f"{spec.name}: {left_out[spec.name]}")
    known_as = matches[spec.name].known_as
    reader = ShardReader(manifest, spec.name, request.split)
    chosen = _chosen(request, reader)
    given = 1 if spec.steady else min(model.context_frames, reader.num_frames)
    horizon = _horizon(request, checkpoint, spec, reader.num_frames - given)
    guards = Guards(request.guards, {known_as: model.specs[known_as]}, model.patches, model.moving_patches)
    out = request.out or _default_out(checkpoint, spec.name, request.split, horizon, guards.applied[known_as])
    compared = _compared(horizon, reader.num_frames - given)

    dt_nt = continued(reader.times_between(chosen, min(reader.num_frames, given + horizon)), given + horizon - 1, spec)
    times_nt = np.concatenate([np.zeros((len(chosen), 1)), dt_nt.double().cumsum(1).numpy()], axis=1)
    described = [reader.describe(number) for number in chosen]
    keys = [key for key, _ in described]
    facts = {
        "checkpoint": shown(checkpoint.folder),
        "checkpoint_sha256": checkpoint.sha256,
        "manifest_digest": manifest.digest,
        "split": request.split,
        "first_predicted_frame": 0 if spec.steady else given,
        "guards": ",".join(guards.applied[known_as]),
        "dtype": request.dtype,
    }
    kept_times_nt = times_nt[:, given:] if spec.steady else times_nt  # of a steady family the solution alone
    parameters_np = np.stack([parameters for _, parameters in described])
    summary: dict[str, Any] = {"budgets": {}, "not_finite": {}}
    nrmse: dict[int, list[float | None]] = {step: [] for step in compared}
    seconds, steps = 0.0, 0
    with rollout_file(out, spec, keys, parameters_np, kept_times_nt, facts) as file:
        bar = tqdm(total=len(chosen) * horizon, unit="frame", disable=None)
        for first in range(0, len(chosen), batch_size(spec)):
            rows = slice(first, first + batch_size(spec))
            batch = reader.read(chosen[rows], [0] * len(chosen[rows]), given + spec.steady).to(device)
            mask_btcx = None if batch.mask_btcx is None else batch.mask_btcx[:, :given]
            frames = rollout(
                model,
                batch.u_btcx[:, :given],
                known_as,
                batch.parameters_bp,
                dt_nt[rows],
                horizon,
                mask_btcx=mask_btcx,
                guards=guards,
                dtype=DTYPES[request.dtype],
            )
            truth = None
            if request.until_horizon:
                test = TestSet(spec, reader.num_frames, reader, split=request.split)
                truth = read_rollouts(test, chosen[rows], given, horizon, device)
            part = _Part(file, spec, first, (len(chosen), horizon), batch.u_btcx[:, :given], mask_btcx, truth)
            began = time.perf_counter()
            for step, u_bcx in frames:
                if step in nrmse:
                    true = reader.read(chosen[rows], [given + step - 1] * len(chosen[rows]), 1).to(device)
                    counted_bcx = None
                    if mask_btcx is not None and true.mask_btcx is not None:
                        counted_bcx = true.mask_btcx[:, 0] & mask_btcx[:, -1]
                    nrmse[step] += _nrmse(spec, u_bcx, true.u_btcx[:, 0], counted_bcx)
                part.add(step, u_bcx)
                steps += 1
                bar.update(len(u_bcx))
                if part.is_over:
                    break
            seconds += time.perf_counter() - began
            part.finish(summary, keys)
        bar.close()
    return {
        "out": shown(out),
        "checkpoint": facts["checkpoint"],
        "family": spec.name,
        "split": request.split,
        "taken_as": matches[spec.name].taken_as,
        "keys": keys,
        "given_frames": given,
        "horizon": horizon,
        "guards": list(guards.applied[known_as]),
        "guards_left_out": guards.left_out[known_as],
        **summary,
        "nrmse": {step: _mean(values) for step, values in nrmse.items() if len(values) == len(chosen)},
        "dtype": request.dtype,
        "device": device.type,
        "wall_clock_s": seconds,
        "seconds_per_step": seconds / steps,
    }


class _Part:
    """One batch of rollouts on its way into the file, with its record."""

    def __init__(
        self,
        file: RolloutFile,
        spec: FamilySpec,
        first: int,
        size: tuple[int, int],
        given_btcx: Tensor,
        mask_btcx: Tensor | None,
        truth: tuple[Given, Iterator[tuple[Tensor, Tensor | None]]] | None,
    ) -> None:
        self._file, self._first, (self._num, self._horizon) = file, first, size
        self._truth = truth
        self._watch = None if truth is None else HorizonGuard(spec, len(given_btcx))
        self._mask_bcx = None if mask_btcx is None else mask_btcx[:, -1]
        self._given = 0 if spec.steady else given_btcx.shape[1]
        self._spec = spec
        self._budget = Budget(spec, given_btcx[:, -1])
        start = fields_of(given_btcx[:, -1].double(), spec) if self._budget.closed else {}
        gaps = [physics.Budget(quantity, start, spec) for quantity in quantities(spec)]
        self._gaps = dict(zip(self._budget.closed, gaps, strict=True))
        self._relative = dict.fromkeys(self._gaps, 0.0)
        self._first_not_finite = torch.zeros(len(given_btcx), dtype=torch.int64, device=given_btcx.device)
        for frame in range(self._given):
            file.write(first, frame, given_btcx[:, frame], None if mask_btcx is None else mask_btcx[:, frame])

    @property
    def is_over(self) -> bool:
        """Whether no trajectory is followed any more."""
        return self._watch is not None and self._watch.is_lost

    def add(self, step: int, u_bcx: Tensor) -> None:
        """Writes and records a predicted frame; NaN of the trajectories that are over."""
        over_b = torch.zeros_like(self._first_not_finite, dtype=torch.bool)
        if self._watch is not None and self._truth is not None:
            over_b = (self._watch.first_below > 0).to(u_bcx.device)
            start, frames = self._truth
            truth_bcx, there_bcx = next(frames)
            self._watch.step(step, u_bcx, truth_bcx, counted_points(start, there_bcx))
            u_bcx = torch.where(over_b.reshape(-1, *[1] * (u_bcx.ndim - 1)), torch.nan, u_bcx)
        self._file.write(self._first, self._given + step - 1, u_bcx, self._mask_bcx)
        self._budget.step(step, u_bcx)
        fields = fields_of(u_bcx.double(), self._spec) if self._gaps else {}
        for name, of in self._gaps.items():
            gap_b = of.gap(fields)
            self._relative[name] = max([self._relative[name], *gap_b[gap_b.isfinite()].tolist()])
        lost_b = ~u_bcx.flatten(1).isfinite().all(dim=1) & (self._first_not_finite == 0) & ~over_b
        self._first_not_finite = torch.where(lost_b, step, self._first_not_finite)

    def finish(self, summary: dict[str, Any], keys: list[str]) -> None:
        """Writes the budgets, (N, H, V) per quantity, and adds to the summary."""
        for name, total in self._budget.total().items():
            written = F.pad(total, (0, 0, 0, self._horizon - total.shape[1]), value=math.nan)
            self._file.write_array(f"budgets/{name}", self._first, self._num, written.numpy())
            of = summary["budgets"].setdefault(
                name, {"closed": self._budget.closed[name], "total": 0.0, "per_step": 0.0, "relative": 0.0}
            )
            of["relative"] = max(of["relative"], self._relative[name])
            for what, values in (("total", total), ("per_step", self._budget.per_step()[name])):
                finite = values[values.isfinite()].abs()
                of[what] = max(of[what], float(finite.max()) if finite.numel() else 0.0)
        for row, step in enumerate(self._first_not_finite.tolist()):
            if step:
                summary["not_finite"][keys[self._first + row]] = step
        if self._watch is not None:
            firsts = {
                keys[self._first + row]: step or None for row, step in enumerate(self._watch.first_below.tolist())
            }
            summary.setdefault("first_below", {}).update(firsts)


def _compared(horizon: int, held: int) -> tuple[int, ...]:
    """The steps of which nRMSE is said; the data hold the truth of `held`."""
    last = min(horizon, held)
    return tuple(sorted({step for step in (*SHOWN_STEPS, last) if 1 <= step <= last}))


def _nrmse(spec: FamilySpec, u_bcx: Tensor, truth_bcx: Tensor, mask_bcx: Tensor | None) -> list[float | None]:
    """Per trajectory the mean over the predicted fields that have one; infinity if one isn't finite, None if none has
    one."""
    dynamic = list(spec.dynamic)
    pred_bhcx, truth_bhcx = u_bcx[:, None, dynamic], truth_bcx[:, None, dynamic]
    mask_bhcx = None if mask_bcx is None else mask_bcx[:, None, dynamic]
    found_bc = accuracy.nrmse(pred_bhcx, truth_bhcx, mask_bhcx)[:, 0]
    zero_bc = accuracy.truth_is_zero(truth_bhcx, mask_bhcx)[:, 0]
    means = []
    for values_c, zero_c in zip(found_bc, zero_bc, strict=True):
        there = values_c[~zero_c].nan_to_num(math.inf, posinf=math.inf)
        means.append(float(there.mean()) if len(there) else None)
    return means


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there and math.isfinite(sum(there)) else None


def _horizon(request: Request, checkpoint: Checkpoint, spec: FamilySpec, held: int) -> int:
    """How many steps are predicted; the data hold the truth of `held`."""
    if request.until_horizon and spec.steady:
        raise UserError(f"--until-horizon: {spec.name} is steady, and has one step; leave it out")
    if request.horizon is not None:
        asked = request.horizon
    else:
        asked = held if request.until_horizon else max(checkpoint.recipe["evaluate"]["horizons"])
    horizon = min(1, asked) if spec.steady else asked
    if horizon < 1:
        raise UserError(f"--horizon {horizon}: expected 1 step or more")
    if request.until_horizon and horizon > held:
        raise UserError(
            f"--until-horizon: the data hold the truth of {held} steps, and --horizon is {horizon}; ask for "
            f"{held} or fewer"
        )
    return horizon


def _entry(manifest: Manifest, name: str | None) -> FamilySpec:
    names = sorted(manifest.families)
    if name is None and len(names) > 1:
        raise UserError(f"{manifest.path} holds {', '.join(names)}; say which one with --family")
    if name is not None and name not in manifest.families:
        raise DataError(f"--family {name}: {manifest.path} holds {', '.join(names)}")
    return manifest.families[name or names[0]].spec


def _chosen(request: Request, reader: ShardReader) -> list[int]:
    number = reader.num_trajectories
    outside = [index for index in request.trajectories if not 0 <= index < number]
    if outside:
        listed = ", ".join(map(str, outside))
        raise UserError(f"--trajectories {listed}: split {request.split} of {reader.family} has 0 to {number - 1}")
    return list(request.trajectories or range(number))


def _recipe_manifest(checkpoint: Checkpoint) -> str:
    path = checkpoint.recipe["data"]["manifest"]
    if not is_url(path) and not Path(path).exists():
        raise DataError(
            f"{path}: no such manifest; it is data.manifest in {checkpoint.folder / 'recipe.json'}, taken from the "
            "current folder. Name the data with --data MANIFEST"
        )
    return path


def _default_out(checkpoint: Checkpoint, family: str, split: str, steps: int, guards: Sequence[str]) -> Path:
    if checkpoint.run_folder is None:
        raise CheckpointError(
            f"{checkpoint.folder}: this checkpoint lies in no run folder; say where to write with --out FILE.hdf5"
        )
    name = "-".join([family, split, str(steps), *guards])
    return checkpoint.run_folder / "rollouts" / f"{name}.hdf5"
