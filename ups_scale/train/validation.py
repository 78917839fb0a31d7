"""Validation during training: rollouts of the averaged model on the validation split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ups_scale.data.batch import FieldBatch
from ups_scale.data.quarantine import Quarantine
from ups_scale.data.reader import ShardReader
from ups_scale.distributed import Ranks, sum_over_ranks
from ups_scale.engine.setup import Engine
from ups_scale.errors import DivergenceError
from ups_scale.metrics import accuracy
from ups_scale.metrics.accumulate import RECONSTRUCTION, Accumulator, reconstruction_errors
from ups_scale.metrics.measure import rollout_errors
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
            predicted, reconstructed = _rollout(engine, batch, context_frames, max(steps))
            truth = batch.u_btcx[:, context_frames:]
            last = batch.u_btcx[:, context_frames - 1]
            kept = slice(0, num_own)
            counted = accuracy.counted_points(mask, context_frames)
            of_own = None if counted is None else counted[kept]
            if reconstructed is not None:
                given = None if mask is None else mask[kept, context_frames - 1]
                reconstruction_errors(reconstructed[kept], last[kept], spec, accumulator, given)
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
        if rest.partition("@")[0] in shown or is_reconstruction(key, family):
            figures[f"{family}/{rest.replace('/all/', '/')}"] = value
    figures |= {f"{family}/quarantined": float(count) for family, count in quarantine.counts().items()}
    return Validation(figures, rollouts)


def is_reconstruction(name: str, family: str) -> bool:
    """Whether a figure is the mean squared error of the reconstruction of one of the family's fields."""
    return name.startswith(f"{family}/model/") and name.rpartition("/")[2] == RECONSTRUCTION


def check_reconstruction(figures: Mapping[str, float], largest: float, step: int) -> None:
    """Raises a `DivergenceError` if the mean squared error of a field's reconstruction is not under `largest` of its
    variance; `figures` are those of a validation after `step` steps. Steady families have no such figure."""
    found = {name: error for name, error in figures.items() if name.rpartition("/")[2] == RECONSTRUCTION}
    missed = [
        f"{name.split('/')[0]} {name.split('/')[2]} {error:.2g}" for name, error in found.items() if not error < largest
    ]
    if missed:
        raise DivergenceError(
            f"step {step}: the autoencoder does not reconstruct fields well enough to train an operator on it: mean "
            f"squared error over the variance of {', '.join(missed)}; gates.reconstruction asks for less than "
            f"{largest:g}. Raise curriculum.autoencoder_steps (which is another run, from its first step), "
            "model.latent_tokens or model.latent_dim, or the gate (which goes on from this run's last checkpoint)"
        )


def _rollout(engine: Engine, batch: FieldBatch, context_frames: int, horizon: int) -> tuple[Tensor, Tensor | None]:
    """The predicted frames, and the reconstruction of the last given one by a model that encodes once."""
    context_btcx = batch.u_btcx[:, :context_frames]
    mask_btcx = None if batch.mask_btcx is None else batch.mask_btcx[:, :context_frames]
    latent = engine.module.latent
    found: Any = engine.forward(
        context_btcx, batch.family, batch.parameters_bp, batch.dt_bt, horizon, mask_btcx=mask_btcx, reconstruct=latent
    )
    return found if latent else (found, None)
