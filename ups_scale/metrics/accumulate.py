"""Figures over many batches and ranks: sums and counts in float64, never means of batches.

Names are `<family>/<predictor>/<field>/<metric>@<step>`, with `all` for the mean over fields; e.g.
`burgers_1d/model/all/nrmse@4`. What follows a `#` is a part of a figure that is no mean by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ups_scale.metrics import accuracy
from ups_scale.model.constants import constant
from ups_scale.physics.families import FamilySpec

ALL_FIELDS = "all"
RECONSTRUCTION = "reconstruction"
COUNTED = ("non_finite", "zero_truth", "low_variance", "no_value", "horizon_censored")
"""Metrics whose figure is the sum (a count), not the mean."""
ROOTS = ("rmse", "brmse", "frmse", "sharpness")
"""Metrics whose figure is the root of the mean; `frmse_low` and so on are too."""


class Accumulator:
    """Sums and counts by name, in order of first addition, on the device of what is added (no host sync to add)."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, ...], Tensor] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for block in self._blocks for name in block))

    def add(self, name: str, values: Tensor, where: Tensor | None = None) -> None:
        """Adds the sum of `values` (any shape), and how many they are, under `name`; with `where`, only those."""
        values = values.detach().double()
        if where is None:
            count = values.new_full((), values.numel())
        else:
            values, count = torch.where(where, values, 0.0), where.sum().double()
        self.add_sums((name,), values.sum()[None], count[None])

    def add_sums(self, names: tuple[str, ...], sums: Tensor, counts: Tensor) -> None:
        """Adds sums of values and their numbers, both (N,), under N names: many figures for the price of one."""
        block = torch.stack([sums, counts], dim=-1).detach().double()
        self._blocks[names] = self._blocks[names] + block if names in self._blocks else block

    def merge(self, other: Accumulator) -> None:
        """Adds what `other` holds, name by name."""
        for names, block in other._blocks.items():
            known = self._blocks.get(names)
            self._blocks[names] = block if known is None else known + block.to(known.device)

    def to_cpu(self) -> None:
        """Moves all sums and counts to the CPU."""
        self._blocks = {names: block.cpu() for names, block in self._blocks.items()}

    def flat(self) -> Tensor:
        """All sums and counts, (2 * names,) float64. Summed over ranks and given to `load_flat`, it is their merge.

        Every rank must have added the same names in the same order.
        """
        parts = [block.flatten() for block in self._blocks.values()]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def load_flat(self, flat: Tensor) -> None:
        """Replaces all sums and counts by those of `flat`, as `flat()` lays them out."""
        sizes = [2 * len(names) for names in self._blocks]
        if flat.numel() != sum(sizes):
            raise ValueError(
                f"flat holds {flat.numel()} numbers, expected {sum(sizes)} (a sum and a count for each of "
                f"{sum(sizes) // 2} names); did every rank add the same names?"
            )
        parts = flat.double().split(sizes)
        self._blocks = {names: part.view(-1, 2) for names, part in zip(self._blocks, parts, strict=True)}

    def figures(self) -> dict[str, float]:
        """Name -> mean (the sum for `COUNTED` metrics, the root of the mean for `ROOTS`); NaN without any value.

        A figure of parts is the mean over their own figures, but for `ece`, the mean over levels of how far coverage
        is from its level, and `spread_skill`, the root of spread over error.
        """
        parts: dict[str, dict[str, float]] = {}
        for name, (total, count) in self._totals().items():
            figure, _, part = name.partition("#")
            mean = total / count if count else math.nan
            metric = _metric(figure)
            is_root = metric in ROOTS or metric.partition("_")[0] in ROOTS
            value = total if metric in COUNTED else math.sqrt(mean) if is_root else mean
            parts.setdefault(figure, {})[part] = value
        return {figure: _combined(_metric(figure), of) for figure, of in parts.items()}

    def without_value(self) -> set[str]:
        """The names of the figures that nothing was measured for."""
        totals = self._totals()
        there = {name.partition("#")[0] for name, (_, count) in totals.items() if count}
        return {name.partition("#")[0] for name in totals} - there

    def _totals(self) -> dict[str, tuple[float, float]]:
        """Name -> (sum, count)."""
        totals: dict[str, tuple[float, float]] = {}
        names = [name for block in self._blocks for name in block]
        for name, (total, count) in zip(names, self.flat().view(-1, 2).tolist(), strict=True):
            before = totals.get(name, (0.0, 0.0))
            totals[name] = before[0] + total, before[1] + count
        return totals


def _metric(figure: str) -> str:
    return figure.rpartition("/")[2].partition("@")[0]


def _combined(metric: str, parts: Mapping[str, float]) -> float:
    if metric == "ece":
        return sum(abs(value - float(level)) for level, value in parts.items()) / len(parts)
    if metric == "spread_skill":
        return math.sqrt(parts["spread"] / parts["error"]) if parts["error"] else math.nan
    return sum(parts.values()) / len(parts)


class Figures:
    """Collects the figures of a batch of trajectories, and adds them to an accumulator all at once.

    Dimensions: b trajectory, c predicted field, p predictor. Values are (B, C, P); `where` (bool) broadcasts to that
    and says which of them exist.
    """

    def __init__(self, spec: FamilySpec, predictors: Sequence[str]) -> None:
        self._family, self._predictors = spec.name, tuple(predictors)
        self._fields = tuple(spec.fields[number] for number in spec.dynamic)
        self.same_units = len({spec.units[number] for number in spec.dynamic}) == 1
        self._names: list[str] = []
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []

    def add(
        self,
        metric: str,
        values_bcp: Tensor,
        where: Tensor | None = None,
        *,
        fields: Sequence[str] | None = None,
        over_fields: bool = True,
        predictors: Sequence[str] | None = None,
    ) -> None:
        """A figure per field, and with `over_fields` one over all of them; `fields` and `predictors` are the names
        where they aren't all."""
        fields = self._fields if fields is None else fields
        predictors = self._predictors if predictors is None else predictors
        values_bcp = values_bcp.double()
        counted = torch.ones_like(values_bcp[..., :1], dtype=torch.bool) if where is None else where
        counts_cp = counted.expand_as(values_bcp).sum(0).double()
        sums_cp = (values_bcp if where is None else torch.where(where, values_bcp, 0.0)).sum(0)
        if over_fields:
            self._keep(metric, (ALL_FIELDS,), predictors, sums_cp.sum(0), counts_cp.sum(0))
        self._keep(metric, fields, predictors, sums_cp.flatten(), counts_cp.flatten())

    def add_joint(
        self, metric: str, values_bp: Tensor, where: Tensor | None = None, predictors: Sequence[str] | None = None
    ) -> None:
        """A figure that is of all fields together, from (B, P); `where` broadcasts to that."""
        where = None if where is None else where[:, None]
        self.add(metric, values_bp[:, None], where, fields=(ALL_FIELDS,), over_fields=False, predictors=predictors)

    def add_parts(self, parts: Sequence[tuple[str, int]], values_bcpk: Tensor, *, over_fields: bool = True) -> None:
        """Figures that are means of their parts' own figures: K pairs of a metric and its part's number, and their
        values (B, C, P, K). Over all fields, the parts are those of all."""
        sums = values_bcpk.double().sum(0).flatten()
        counts = sums.new_full(sums.shape, len(values_bcpk))
        for label in (None, ALL_FIELDS) if over_fields else (None,):
            self._names += [
                f"{self._family}/{who}/{label or field}/{metric}#{field if label else ''}{part}"
                for field in self._fields
                for who in self._predictors
                for metric, part in parts
            ]
            self._sums.append(sums)
            self._counts.append(counts)

    def _keep(
        self, metric: str, labels: Sequence[str], predictors: Sequence[str], sums: Tensor, counts: Tensor
    ) -> None:
        self._names += [f"{self._family}/{who}/{label}/{metric}" for label in labels for who in predictors]
        self._sums.append(sums)
        self._counts.append(counts)

    def into(self, accumulator: Accumulator) -> None:
        """Adds what was collected."""
        accumulator.add_sums(tuple(self._names), torch.cat(self._sums), torch.cat(self._counts))


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
