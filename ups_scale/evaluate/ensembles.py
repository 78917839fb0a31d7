"""Reliability: ensembles of rollouts from given frames that differ by noise, and whether their spread tells the error.

Dimensions: b trajectory, m member, t frame, c field, x space.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from ups_scale.evaluate.entrants import Entrant
from ups_scale.evaluate.suite import figures
from ups_scale.evaluate.testset import Given, TestSet, batch_size, own_batches, read_rollouts
from ups_scale.metrics.accumulate import Accumulator
from ups_scale.metrics.calibration import LEVELS, EnsembleMeasure
from ups_scale.objective.forward import add_white_noise
from ups_scale.rollout.rollout import rollout

RESAMPLES = 500
CONFIDENCE = 0.95
"""Of the intervals."""
Share = tuple[Accumulator, dict[int, tuple[NDArray[np.float64], int]]]
"""The figures, and by trajectory how many values lie within the interval of each level, and how many there are, at the
last step."""


@torch.inference_mode()
def reliability(
    entrant: Entrant,
    tests: Sequence[TestSet],
    given: int,
    members: int,
    trajectories: int,
    noise: Mapping[str, float],
    seed: int,
    accelerator: Accelerator,
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """By family, the reliability diagram as report.json has it, and the ensembles' figures by predictor.

    Each of `members` rollouts starts from the given frames with white noise of a standard deviation of the family's
    `noise` times each field's RMS, which depends on the seed, the trajectory and the member alone; of the first
    `trajectories` of each test set that moves. Coverage has an interval where there are two trajectories or more: a
    bootstrap over them. All processes must call it.
    """
    diagrams, tables = {}, {}
    for test in tests:
        if test.spec.steady or test.name not in entrant.families:
            continue
        sigma = noise[test.spec.name]
        own = _share(entrant, test, given, members, trajectories, sigma, seed, accelerator)
        whole, counts = Accumulator(), {}
        for accumulator, of_index in gather_object([own]):
            whole.merge(accumulator)
            counts.update(of_index)
        table, _ = figures(whole, test.spec)
        in_order = [counts[index] for index in sorted(counts)]  # however many processes there are
        diagrams[test.spec.name] = _diagram(table, members, sigma, max(test.steps)) | interval(in_order, seed)
        # The diagram holds the coverage.
        tables[test.spec.name] = {
            name: {key: value for key, value in of.items() if not key.startswith("coverage_")}
            for name, of in table.items()
            if name != "fields"
        }
    return diagrams, tables


def _share(
    entrant: Entrant,
    test: TestSet,
    given: int,
    members: int,
    trajectories: int,
    noise: float,
    seed: int,
    accelerator: Accelerator,
) -> Share:
    accumulator, horizon = Accumulator(), max(test.steps)
    counts: dict[int, tuple[NDArray[np.float64], int]] = {}
    size = max(1, batch_size(test.spec) // members)
    for chunk in own_batches(test, accelerator, most=trajectories, size=size):
        start, truth = read_rollouts(test, chunk, given, horizon, accelerator.device)
        taken = min(entrant.model.context_frames, given)
        first = given - taken
        mask = None if start.mask_btcx is None else _repeated(start.mask_btcx[:, first:], members)
        stream = rollout(
            entrant.model,
            _perturbed(test, start, first, members, noise, seed),
            entrant.families[test.name],
            _repeated(start.parameters_bp, members),
            _repeated(start.dt_bt[:, first:], members),
            horizon,
            mask_btcx=mask,
            guards=entrant.guards,
        )
        measure = EnsembleMeasure(test.spec, accumulator, test.steps, members)
        for (k, u_bcx), (truth_bcx, there_bcx) in zip(stream, truth, strict=True):
            counted = None
            if there_bcx is not None and start.mask_btcx is not None:
                counted = there_bcx & start.mask_btcx[:, -1]
            measure.step(k, truth_bcx, u_bcx.unflatten(0, (len(chunk), members)).transpose(0, 1), counted)
        covered_bl, counted_b = measure.covered[horizon].cpu().numpy(), measure.counted[horizon].tolist()
        counts |= dict(zip(chunk, zip(covered_bl, counted_b, strict=True), strict=True))
    accumulator.to_cpu()
    return accumulator, counts


def interval(counts: Sequence[tuple[NDArray[np.float64], int]], seed: int) -> dict[str, Any]:
    """`interval` of a diagram: 95 % of the resamples of coverage per level (`low`, `high`) and of ECE (`ece_low`,
    `ece_high`); nothing for a single trajectory, which doesn't tell its noise.

    `counts` are, by trajectory, how many values lie within the interval of each level, and how many there are. A
    resample draws n - 1 of n trajectories with replacement, as in `bootstrap.compare`.
    """
    if len(counts) < 2:
        return {}
    covered_nl, counted_n = np.stack([of for of, _ in counts]), np.array([number for _, number in counts], dtype=float)
    drawn = np.random.default_rng(seed).integers(len(counts), size=(RESAMPLES, len(counts) - 1))
    with np.errstate(invalid="ignore"):  # no value at all has no coverage
        coverage_rl = covered_nl[drawn].sum(1) / counted_n[drawn].sum(1)[:, None]
    ece_r = np.abs(coverage_rl - np.array(LEVELS)).mean(1)
    tails = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    low, high = np.quantile(coverage_rl, tails, axis=0).tolist()
    ece_low, ece_high = np.quantile(ece_r, tails).tolist()
    return {"interval": {"low": low, "high": high, "ece_low": ece_low, "ece_high": ece_high}}


def _perturbed(test: TestSet, start: Given, first: int, members: int, noise: float, seed: int) -> Tensor:
    """(B * M, T, C, *X): the given frames of every member."""
    u_btcx = start.u_btcx[:, first:]
    mask_btcx = None if start.mask_btcx is None else start.mask_btcx[:, first:]
    found = []
    for b, key in enumerate(start.keys):
        draw = random.Random(f"{seed}/{test.name}/{key}").getrandbits(63)
        generator = torch.Generator().manual_seed(draw)
        one = u_btcx[b : b + 1].expand(members, *u_btcx.shape[1:])
        mask = None if mask_btcx is None else mask_btcx[b : b + 1].expand_as(one)
        white = torch.randn(one.shape, generator=generator).to(one.device)
        found.append(add_white_noise(one, white, noise, mask, test.spec.dynamic))
    return torch.cat(found)


def _repeated(values: Tensor, members: int) -> Tensor:
    return values.repeat_interleave(members, dim=0)


def _diagram(table: Mapping[str, Any], members: int, noise: float, step: int) -> dict[str, Any]:
    model = table["model"]
    return {
        "members": members,
        "noise": noise,
        "step": step,
        "levels": list(LEVELS),
        "coverage": [model[f"coverage_{round(100 * level)}@{step}"] for level in LEVELS],
        "sharpness": model[f"sharpness@{step}"],
    }
