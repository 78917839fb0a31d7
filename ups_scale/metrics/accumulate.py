"""Figures over many batches and ranks: sums and counts in float64, never means of batches.

Names are `<family>/<predictor>/<field>/<metric>@<step>`, with `all` for the mean over fields; e.g.
`burgers_1d/model/all/nrmse@4`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ups_scale.metrics import accuracy
from ups_scale.metrics.physics import conservation_gap
from ups_scale.model.constants import constant
from ups_scale.physics.families import FamilySpec
from ups_scale.physics.invariants import conserved

ALL_FIELDS = "all"
RECONSTRUCTION = "reconstruction"
COUNTED = ("non_finite", "zero_truth", "low_variance", "no_value")
"""Metrics whose figure is the sum (a count), not the mean."""


class Accumulator:
    """Sums and counts by name, in order of first addition, on the device of what is added (no host sync to add)."""

    def __init__(self) -> None:
        self._pairs: dict[str, Tensor] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._pairs)

    def add(self, name: str, values: Tensor, where: Tensor | None = None) -> None:
        """Adds the sum of `values` (any shape), and how many they are, under `name`; with `where`, only those."""
        values = values.detach().double()
        if where is None:
            count = values.new_full((), values.numel())
        else:
            values, count = torch.where(where, values, 0.0), where.sum().double()
        pair = torch.stack([values.sum(), count])
        self._pairs[name] = self._pairs[name] + pair if name in self._pairs else pair

    def merge(self, other: Accumulator) -> None:
        """Adds what `other` holds, name by name."""
        for name, pair in other._pairs.items():
            self._pairs[name] = self._pairs[name] + pair.to(self._pairs[name].device) if name in self._pairs else pair

    def to_cpu(self) -> None:
        """Moves all sums and counts to the CPU."""
        self._pairs = {name: pair.cpu() for name, pair in self._pairs.items()}

    def flat(self) -> Tensor:
        """All sums and counts, (2 * names,) float64. Summed over ranks and given to `load_flat`, it is their merge.

        Every rank must have added the same names in the same order.
        """
        return torch.cat(list(self._pairs.values())) if self._pairs else torch.zeros(0, dtype=torch.float64)

    def load_flat(self, flat: Tensor) -> None:
        """Replaces all sums and counts by those of `flat`, as `flat()` lays them out."""
        if flat.numel() != 2 * len(self._pairs):
            raise ValueError(
                f"flat holds {flat.numel()} numbers, expected {2 * len(self._pairs)} (a sum and a count for each of "
                f"{len(self._pairs)} names); did every rank add the same names?"
            )
        self._pairs = dict(zip(self._pairs, flat.double().reshape(-1, 2).unbind(), strict=True))

    def figures(self) -> dict[str, float]:
        """Name -> mean (the sum for `COUNTED` metrics, the root of the mean for `rmse`); NaN without any value."""
        figures = {}
        for name, (total, count) in zip(self._pairs, self.flat().reshape(-1, 2).tolist(), strict=True):
            metric = name.rpartition("/")[2].partition("@")[0]
            mean = total / count if count else math.nan
            figures[name] = total if metric in COUNTED else math.sqrt(mean) if metric == "rmse" else mean
        return figures


def rollout_errors(
    pred_bhcx: Tensor,
    truth_bhcx: Tensor,
    last_bcx: Tensor,
    spec: FamilySpec,
    accumulator: Accumulator,
    horizons: Sequence[int],
    mask_bhcx: Tensor | None = None,
) -> None:
    """Adds the model's and persistence's figures at the steps `horizons` (1 is the first after the last given frame).

    `pred_bhcx` and `truth_bhcx` are (B, H, C, *X) with H >= max(horizons), `last_bcx` the last given frame
    (B, C, *X); all in physical units. `mask_bhcx` (bool) holds the points that count (`accuracy.counted_points`): all
    is measured there only, and frames of a field without any are left out (counted as `no_value`). Static fields, a
    point set's coordinates among them, are given, and have no figure. Means over space are over points, all alike.
    """
    persistence_bhcx = last_bcx[:, None].expand_as(truth_bhcx)
    for predictor, predicted in (("model", pred_bhcx), ("persistence", persistence_bhcx)):
        predictor_errors(predictor, predicted, truth_bhcx, last_bcx, spec, accumulator, horizons, mask_bhcx)


def reconstruction_errors(
    reconstructed_bcx: Tensor, last_bcx: Tensor, spec: FamilySpec, accumulator: Accumulator, mask_bcx: Tensor | None
) -> None:
    """Adds, of each dynamic field, the mean squared error of the reconstructed frames (B, C, *X) over the truth's
    variance over space, the mean over trajectories; over the points of `mask_bcx`, bool. A steady family's guess is no
    field."""
    if spec.steady:
        return
    dynamic = constant(spec.dynamic, last_bcx.device)
    pred, truth = reconstructed_bcx[:, None, dynamic], last_bcx[:, None, dynamic]
    mask = None if mask_bcx is None else mask_bcx[:, None, dynamic]
    vrmse_bhc, low_variance_bhc = accuracy.vrmse(pred, truth, mask)
    where = ~low_variance_bhc & (accuracy.num_points(truth, mask) > 1)
    for number, field in enumerate(spec.dynamic):
        name = f"{spec.name}/model/{spec.fields[field]}/{RECONSTRUCTION}"
        accumulator.add(name, vrmse_bhc[..., number].square(), where=where[..., number])


def predictor_errors(
    predictor: str,
    pred_bhcx: Tensor,
    truth_bhcx: Tensor,
    last_bcx: Tensor,
    spec: FamilySpec,
    accumulator: Accumulator,
    horizons: Sequence[int],
    mask_bhcx: Tensor | None = None,
) -> None:
    """Adds one predictor's figures at the steps `horizons`; arguments as for `rollout_errors`."""
    if pred_bhcx.shape != truth_bhcx.shape or pred_bhcx.shape[1] < max(horizons):
        raise ValueError(
            f"predictions {tuple(pred_bhcx.shape)} and truth {tuple(truth_bhcx.shape)} (trajectories, steps, fields, "
            f"*space) must have the same shape and at least {max(horizons)} steps, the longest horizon"
        )
    if spec.static:
        dynamic = constant(spec.dynamic, truth_bhcx.device)
        pred_bhcx, truth_bhcx, last_bcx = pred_bhcx[:, :, dynamic], truth_bhcx[:, :, dynamic], last_bcx[:, dynamic]
        mask_bhcx = None if mask_bhcx is None else mask_bhcx[:, :, dynamic]
    names, units = ([of[number] for number in spec.dynamic] for of in (spec.fields, spec.units))
    last = max(horizons)
    nrmse_bhc = accuracy.nrmse(pred_bhcx, truth_bhcx, mask_bhcx)
    points_bhc = accuracy.num_points(truth_bhcx, mask_bhcx)
    zero_bhc = accuracy.truth_is_zero(truth_bhcx, mask_bhcx) & (points_bhc > 0)
    defined_bhc = (points_bhc > 0) & ~zero_bhc
    rel_l2_bh = accuracy.rel_l2(pred_bhcx, truth_bhcx, mask_bhcx)
    seen_bh = points_bhc.sum(-1).cumsum(1) > 0
    prefix = f"{spec.name}/{predictor}"

    fields = {name: slice(c, c + 1) for c, name in enumerate(names)}
    for label, c in ({ALL_FIELDS: slice(None)} | fields).items():
        accumulator.add(f"{prefix}/{label}/nrmse_mean@1-{last}", nrmse_bhc[:, :last, c], where=defined_bhc[:, :last, c])
    for k in horizons:
        step = slice(k - 1, k)
        pred, truth = pred_bhcx[:, step], truth_bhcx[:, step]
        mask = None if mask_bhcx is None else mask_bhcx[:, step]
        points = points_bhc[:, step]
        vrmse, low_variance = accuracy.vrmse(pred, truth, mask)
        in_units = {
            "rmse": accuracy.squared_error(pred, truth, mask),
            "mae": accuracy.mae(pred, truth, mask),
            "max_error": accuracy.max_error(pred, truth, mask),
        }
        gaps = {
            "conservation_gap" if name == "integral" else f"conservation_gap_{name}": conservation_gap(
                pred, last_bcx, name, spec
            )
            # Integrals need cells: scattered points have no volume of their own.
            for name in conserved(spec)
        }
        non_finite = accuracy.non_finite(pred, mask)
        for label, c in ({ALL_FIELDS: slice(None)} | fields).items():
            at = f"{prefix}/{label}"
            accumulator.add(f"{at}/nrmse@{k}", nrmse_bhc[:, step, c], where=defined_bhc[:, step, c])
            # One point has no variance.
            accumulator.add(f"{at}/vrmse@{k}", vrmse[:, :, c], where=points[:, :, c] > 1)
            if label != ALL_FIELDS or len(set(units)) == 1:
                for metric, values in in_units.items():
                    accumulator.add(f"{at}/{metric}@{k}", values[:, :, c], where=points[:, :, c] > 0)
            for metric, values in gaps.items():
                accumulator.add(f"{at}/{metric}@{k}", values[:, :, c])
            accumulator.add(f"{at}/non_finite@{k}", non_finite[:, :, c].any(-1))
            accumulator.add(f"{at}/zero_truth@{k}", zero_bhc[:, step, c])
            accumulator.add(f"{at}/low_variance@{k}", low_variance[:, :, c])
            if spec.masked:  # not by the batch's mask: every rank adds the same names
                accumulator.add(f"{at}/no_value@{k}", points[:, :, c] == 0)
        accumulator.add(f"{prefix}/{ALL_FIELDS}/rel_l2@{k}", rel_l2_bh[:, k - 1], where=seen_bh[:, k - 1])
