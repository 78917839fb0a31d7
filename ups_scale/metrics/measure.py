"""Rollouts measured step by step: every figure of every predictor, with memory that does not grow with the frames.

A step leaves sums over space behind (`moments`), and at the horizons what needs whole frames; `finish` makes figures of
them. All predictors stand in one dimension, and what is the truth's alone is done once.

Dimensions: b trajectory, h step after the last given frame, c predicted field, p predictor, x space, n all its points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ups_scale.metrics import moments
from ups_scale.metrics.accumulate import Accumulator, Figures
from ups_scale.metrics.accuracy import VARIANCE_FLOOR
from ups_scale.metrics.frames import Frames
from ups_scale.model.constants import constant
from ups_scale.physics.families import FamilySpec

ZERO_TRUTH = 1e-6
"""Frames of a field with an RMS below this share of its trajectory's have no nRMSE."""
CORRELATED = 0.8


class RolloutMeasure:
    """The figures of several predictors on one batch of trajectories, added to `accumulator` under their names.

    Attributes (there after `finish`):
        curves: by predictor, (B, H) float64: nRMSE per step, the mean over the fields that have one; infinite where the
            prediction is not finite, NaN where no field has one.
        diverged: by predictor, (B,) int64: the first step whose prediction is not finite, 0 if none is.
        horizons: by predictor, (B,) float64: the first step with a correlation under 0.8, the last step if there is
            none, the mean over fields; NaN where no field has one.
        gaps: by quantity and predictor, the truth too, (B, H) float64: the conservation gap per step.
        spectra: by predictor, the truth too, (B, C, K) float64: power at the last of the horizons; none where fields
            have no spectrum.

    Args:
        last_bcx: the last given frame (B, C, *X) with all fields, in physical units.
        predictors: names; `step` takes a prediction of each.
        horizons: the steps that get all figures.
        weights: of the points in means over space: (*X), or one 1D tensor per axis, whose product it is. None: all
            points alike.
        full: also what needs transforms, cells, sides or the truth's own floor; without it only errors at points and
            conservation gaps, for a quick look.
    """

    def __init__(
        self,
        spec: FamilySpec,
        last_bcx: Tensor,
        predictors: Sequence[str],
        horizons: Sequence[int],
        accumulator: Accumulator,
        *,
        weights: Tensor | Sequence[Tensor] | None = None,
        full: bool = True,
    ) -> None:
        self.curves: dict[str, Tensor] = {}
        self.diverged: dict[str, Tensor] = {}
        self.horizons: dict[str, Tensor] = {}
        self.gaps: dict[str, dict[str, Tensor]] = {}
        self.spectra: dict[str, Tensor] = {}
        self._spec, self._predictors, self._full = spec, tuple(predictors), full
        self._measured, self._accumulator = tuple(horizons), accumulator
        self._dynamic = constant(spec.dynamic, last_bcx.device) if spec.static else None
        self._last_bcn = self._of_dynamic(last_bcx).double().flatten(2)
        self._weights_n = None if weights is None else _weights(weights, last_bcx.shape[2:], last_bcx.device)
        self._frames = Frames(spec, last_bcx, self._predictors, full)
        self._moments: list[moments.Moments] = []
        self._start: Tensor | None = None

    def step(self, k: int, truth_bcx: Tensor, predicted: Mapping[str, Tensor], mask_bcx: Tensor | None = None) -> None:
        """Takes step k = 1, 2, ...: the truth and each predictor's frame, (B, C, *X) in physical units.

        `mask_bcx` (bool) holds the points that count (`accuracy.counted_points`): all is measured there only, and
        frames of a field without any are left out (counted as `no_value`).

        Raises:
            ValueError: steps out of order, other predictors, or another shape than the truth's.
        """
        if k != len(self._moments) + 1:
            raise ValueError(f"step {k} after {len(self._moments)}: every step is measured, in order, from 1")
        if set(predicted) != set(self._predictors):
            raise ValueError(f"predictions of {sorted(predicted)}, expected {sorted(self._predictors)}")
        shapes = {name: tuple(u_bcx.shape) for name, u_bcx in predicted.items() if u_bcx.shape != truth_bcx.shape}
        if shapes:
            raise ValueError(f"predictions of shape {shapes}, expected the truth's, {tuple(truth_bcx.shape)}")
        truth_bcn = self._of_dynamic(truth_bcx).flatten(2)
        mask_bcn = None if mask_bcx is None else self._of_dynamic(mask_bcx).flatten(2)
        order = [self._of_dynamic(predicted[name]).flatten(2) for name in self._predictors]
        u_bcpn = torch.stack([*order, truth_bcn], dim=2).double()  # the truth is the last
        if mask_bcn is not None:
            u_bcpn = torch.where(mask_bcn[:, :, None], u_bcpn, 0.0)
        error_bcpn, truth_bcn = u_bcpn[:, :, :-1] - u_bcpn[:, :, -1:], u_bcpn[:, :, -1]
        if self._start is None:
            last_bcn = self._last_bcn if mask_bcn is None else torch.where(mask_bcn, self._last_bcn, 0.0)
            scaled = last_bcn if self._weights_n is None else last_bcn * self._weights_n
            self._start = torch.linalg.vecdot(scaled, last_bcn)
        self._moments.append(moments.measured(error_bcpn, truth_bcn, mask_bcn, self._weights_n))
        self._frames.step(k, u_bcpn, error_bcpn, mask_bcn, self._weights_n, k in self._measured)

    def finish(self) -> None:
        """Adds all figures; call it once, after the last step.

        Raises:
            ValueError: fewer steps than the longest of the horizons.
        """
        if len(self._moments) < max(self._measured):
            raise ValueError(
                f"{len(self._moments)} steps, expected at least {max(self._measured)}, the longest horizon"
            )
        of = moments.stacked(self._moments)
        assert self._start is not None
        figures = Figures(self._spec, self._predictors)
        there = of.points > 0
        root_truth = (of.truth_square / of.weight).sqrt()
        # The trajectory's RMS is known at its end only, so all that depends on it waits until then.
        total = self._start + of.truth_square.sum(0), of.weight[0] + of.weight.sum(0)
        is_zero = there & ((root_truth < ZERO_TRUTH * (total[0] / total[1]).sqrt()) | (of.truth_square == 0))
        defined = (there & ~is_zero)[..., None]
        mean_square = of.square / of.weight[..., None]
        nrmse_hbcp = mean_square.sqrt() / root_truth[..., None]
        last, final = max(self._measured), slice(0, max(self._measured))
        figures.add(f"nrmse_mean@1-{last}", nrmse_hbcp[final].flatten(0, 1), where=defined[final].flatten(0, 1))
        variance = (of.truth_spread / (of.points - 1) * (of.points / of.weight))[..., None]
        varies = (of.points > 1)[..., None]
        vrmse_hbcp = (mean_square / (variance + VARIANCE_FLOOR)).sqrt()
        joint_hbp = (of.square.sum(2).cumsum(0) / of.truth_square.sum(2).cumsum(0)[..., None]).sqrt()
        joint_there = (of.truth_square.sum(2).cumsum(0) > 0)[..., None]
        finite_hbcp = of.square.isfinite()
        span_bc = of.high.amax(0) - of.low.amin(0)
        for k in self._measured:
            h, exists = k - 1, there[k - 1, ..., None]
            figures.add(f"nrmse@{k}", nrmse_hbcp[h], where=defined[h])
            figures.add(f"vrmse@{k}", vrmse_hbcp[h], where=varies[h])
            figures.add(f"rmse@{k}", mean_square[h], where=exists, over_fields=figures.same_units)
            self._frames.add(k, figures, exists, defined[h], of.weight[h], root_truth[h])
            lost_bcp = ~finite_hbcp[h]
            figures.add_joint(f"non_finite@{k}", lost_bcp.any(1))
            figures.add(f"non_finite@{k}", lost_bcp, over_fields=False)
            is_low = (variance[h, ..., 0] < VARIANCE_FLOOR) & varies[h, ..., 0]
            counts = {"zero_truth": is_zero[h], "low_variance": is_low}
            if self._spec.masked:  # not by the batch's mask: every rank adds the same names
                counts["no_value"] = ~there[h]
            for metric, count_bc in counts.items():
                figures.add(f"{metric}@{k}", count_bc[..., None].expand_as(lost_bcp))
            figures.add_joint(f"rel_l2@{k}", joint_hbp[h], where=joint_there[h])
            if self._full:
                decibel = 20 * span_bc[..., None].log10() - 10 * mean_square[h].log10()
                figures.add(f"psnr@{k}", decibel, where=exists & (span_bc[..., None] > 0))
        self._keep_curves(nrmse_hbcp, defined, finite_hbcp)
        if self._full and not self._spec.steady:
            self._add_horizon(figures, of)
        figures.into(self._accumulator)
        self.gaps, self.spectra = self._frames.gaps(), self._frames.spectra()

    def _add_horizon(self, figures: Figures, of: moments.Moments) -> None:
        """The first step whose correlation is under 0.8; a prediction without any, flat or not finite, is under it."""
        found_hbcp, flat_hbc1 = moments.correlation(of)
        exists_hbc1 = ~flat_hbc1 & (of.points > 1)[..., None]
        lost_hbcp = exists_hbc1 & ~(found_hbcp >= CORRELATED)
        ends_bcp = lost_hbcp.any(0)
        first_bcp = torch.where(ends_bcp, lost_hbcp.int().argmax(0) + 1, len(found_hbcp)).double()
        exists_bcp = exists_hbc1.any(0).expand_as(first_bcp)
        figures.add(f"horizon@{CORRELATED}", first_bcp, where=exists_bcp)
        figures.add(f"horizon_censored@{CORRELATED}", ~ends_bcp & exists_bcp)
        mean_bp = torch.where(exists_bcp, first_bcp, 0.0).sum(1) / exists_bcp.sum(1)
        self.horizons = dict(zip(self._predictors, mean_bp.unbind(-1), strict=True))

    def _keep_curves(self, nrmse_hbcp: Tensor, defined_hbc1: Tensor, finite_hbcp: Tensor) -> None:
        values = torch.where(finite_hbcp, nrmse_hbcp, torch.inf)
        means_hbp = torch.where(defined_hbc1, values, 0.0).sum(2) / defined_hbc1.sum(2)
        lost_hbp = ~finite_hbcp.all(2)
        first_bp = torch.where(lost_hbp.any(0), lost_hbp.int().argmax(0) + 1, 0)
        for p, name in enumerate(self._predictors):
            self.curves[name], self.diverged[name] = means_hbp[..., p].T, first_bp[:, p]

    def _of_dynamic(self, u_bcx: Tensor) -> Tensor:
        return u_bcx if self._dynamic is None else u_bcx[:, self._dynamic]


def rollout_errors(
    pred_bhcx: Tensor,
    truth_bhcx: Tensor,
    last_bcx: Tensor,
    spec: FamilySpec,
    accumulator: Accumulator,
    horizons: Sequence[int],
    mask_bhcx: Tensor | None = None,
) -> None:
    """Adds the figures of errors of the `model` and of `persistence` at the steps `horizons`, of whole rollouts.

    `pred_bhcx` and `truth_bhcx` are (B, H, C, *X) with H >= max(horizons), `last_bcx` the last given frame
    (B, C, *X); all in physical units. `mask_bhcx` as in `RolloutMeasure.step`. Static fields, a point set's coordinates
    among them, are given, and have no figure.

    Raises:
        ValueError: shapes differ, or there are fewer steps than the longest of the horizons.
    """
    if pred_bhcx.shape != truth_bhcx.shape or pred_bhcx.shape[1] < max(horizons):
        raise ValueError(
            f"predictions {tuple(pred_bhcx.shape)} and truth {tuple(truth_bhcx.shape)} (trajectories, steps, fields, "
            f"*space) must have the same shape and at least {max(horizons)} steps, the longest horizon"
        )
    measure = RolloutMeasure(spec, last_bcx, ("model", "persistence"), horizons, accumulator, full=False)
    for h in range(max(horizons)):
        predicted = {"model": pred_bhcx[:, h], "persistence": last_bcx}
        measure.step(h + 1, truth_bhcx[:, h], predicted, None if mask_bhcx is None else mask_bhcx[:, h])
    measure.finish()


def _weights(weights: Tensor | Sequence[Tensor], grid: Sequence[int], device: torch.device) -> Tensor:
    """(N,) float64, 1 on average."""
    if isinstance(weights, Tensor):
        of_point = weights
    else:
        of_point = torch.ones((), dtype=torch.float64)
        for along in weights:
            of_point = of_point[..., None] * along.double().cpu()
    if tuple(of_point.shape) != tuple(grid) or not bool((of_point >= 0).all()) or not bool(of_point.sum() > 0):
        raise ValueError(
            f"weights of shape {tuple(of_point.shape)}, expected {tuple(grid)}, none below zero and some above; or one "
            "1D tensor per axis"
        )
    flat = of_point.double().flatten().to(device)
    return flat * (math.prod(grid) / flat.sum())
