"""Validation during training: rollouts of the averaged model on the validation split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ups_scale.data.batch import FieldBatch
from ups_scale.data.quarantine import Quarantine
from ups_scale.data.reader import ShardReader
from ups_scale.distributed import Ranks, sum_over_ranks
from ups_scale.engine.setup import Engine
from ups_scale.metrics import accuracy
from ups_scale.metrics.accumulate import Accumulator, rollout_errors
from ups_scale.train.feed import read_sound


@dataclass(frozen=True)
class Validation:
    """Figures by name, and for every family the first trajectory's rollout and truth, (H, C, *grid), for pictures; the
    rollout NaN at points that do not count, the truth where it has no value."""

    figures: dict[str, float]
    rollouts: dict[str, tuple[Tensor, Tensor]]


def validate(
    engine: Engine,
    readers: Mapping[str, ShardReader],
    quarantine: Quarantine,
    ranks: Ranks,
    *,
    trajectories: int,
    horizons: Sequence[int],
    context_frames: int,
) -> Validation:
    """Rolls out the first `trajectories` of every family that aren't damaged, from their first frames; every rank calls
    it. Steady families are measured at step 1 only.

    Every rank makes the same number of calls of the model (ZeRO-3 gathers weights in each): a rank without a trajectory
    left computes one again and does not count it.
    """
    accumulator, rollouts = Accumulator(), {}
    engine.train(False)
    with torch.no_grad(), engine.averaged():  # not inference_mode: ZeRO-3 keeps gathered weights for the next step
        for name, reader in sorted(readers.items()):
            spec = reader.data.spec
            steps = spec.steps(horizons)
            batch, num_own = read_sound(reader, quarantine, ranks, trajectories, context_frames + max(steps))
            batch = batch.to(ranks.device)
            mask = batch.mask_btcx
            predicted = _rollout(engine, batch, context_frames, max(steps))
            truth = batch.u_btcx[:, context_frames:]
            last = batch.u_btcx[:, context_frames - 1]
            kept = slice(0, num_own)
            counted = accuracy.counted_points(mask, context_frames)
            of_own = None if counted is None else counted[kept]
            rollout_errors(predicted[kept], truth[kept], last[kept], spec, accumulator, steps, of_own)
            first = predicted[0], truth[0]
            if mask is not None and counted is not None:
                there = counted[0], mask[0, context_frames:]
                first = torch.where(there[0], first[0], torch.nan), torch.where(there[1], first[1], torch.nan)
            rollouts[name] = first[0].cpu(), first[1].cpu()
    engine.train(True)
    accumulator.load_flat(sum_over_ranks(accumulator.flat()))
    shown = {f"model/all/{metric}" for metric in ("nrmse", "non_finite")} | {"persistence/all/nrmse"}
    figures = {}
    for key, value in accumulator.figures().items():
        family, _, rest = key.partition("/")
        if rest.partition("@")[0] in shown:
            figures[f"{family}/{rest.replace('/all/', '/')}"] = value
    figures |= {f"{family}/quarantined": float(count) for family, count in quarantine.counts().items()}
    return Validation(figures, rollouts)


def _rollout(engine: Engine, batch: FieldBatch, context_frames: int, horizon: int) -> Tensor:
    context_btcx = batch.u_btcx[:, :context_frames]
    mask_btcx = None if batch.mask_btcx is None else batch.mask_btcx[:, :context_frames]
    return engine.forward(context_btcx, batch.family, batch.parameters_bp, batch.dt_bt, horizon, mask_btcx=mask_btcx)
