"""What differs in the figures of two groups of evaluations, and how sure that is.

A group is one evaluation, or replicates: the same recipe with other seeds. The noise of a difference has two parts: the
test trajectories (`bootstrap`, paired) and the seeds, which only replicates can tell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ups_scale.evaluate import bootstrap, saved
from ups_scale.evaluate.leaderboard_row import geometric_mean, steps

ENOUGH = 0.05
"""Without a sigma, a difference is worth a look from this part of the reference on."""
MARK = 2.0
"""A difference is marked from so many standard errors on."""
ALL = "all"
"""Stands for the geometric mean over the families."""
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31)
"""Student's t, 97.5 %, for 1, 2, ... degrees of freedom; beyond these 1.96 is near enough."""
PLAIN = ("nrmse", "nrmse_mean", "rmse", "mae", "max_error", "rel_l2", "vrmse", "psnr", "non_finite")
"""Figures of accuracy, which say what nRMSE says; the rest is compared as physics and calibration."""


@dataclass(frozen=True)
class Figure:
    """A group's figure: the mean over its seeds and their standard deviation (None for one seed).

    `value` is None where it isn't finite for one of them.
    """

    value: float | None
    spread: float | None = None


@dataclass(frozen=True)
class Change:
    """A figure of two groups side by side.

    Attributes:
        family: or `all`, the geometric mean over families.
        metric: such as `nrmse@4`.
        before, after: the reference's figure, and the other's.
        ratio: after / before; None where one isn't finite or the reference's is 0.
        sigma: the logarithm of the ratio (of a horizon, the difference) in standard errors; None where it isn't known.
    """

    family: str
    metric: str
    before: Figure
    after: Figure
    ratio: float | None
    sigma: float | None = None

    @property
    def marked(self) -> bool:
        """Whether the difference is beyond the noise."""
        return self.sigma is not None and abs(self.sigma) > MARK

    @property
    def differs(self) -> bool:
        """Whether it is worth a look: marked, or without a sigma apart by more than `ENOUGH`."""
        if self.sigma is not None:
            return self.marked
        if self.ratio is None:
            return self.before.value != self.after.value
        return abs(self.ratio - 1) > ENOUGH


def changes(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    paired: bootstrap.Comparison | None,
    step: int | None = None,
) -> list[Change]:
    """nRMSE of every family both have, step by step, then of all. `before` and `after` are the reports of the seeds.

    `paired` is what `bootstrap.compare` gives for `after` against `before`, None if it isn't known.
    """
    families = [name for name in before[0]["families"] if all(name in of["families"] for of in (*before, *after))]
    tables = [{name: of["families"][name] for name in families} for of in (*before, *after)]
    found = []
    for k in steps(tables[0]) if families else []:
        if step not in (None, k):
            continue
        metric = f"nrmse@{k}"
        have = [name for name in families if all(metric in of[name]["model"] for of in tables)]
        for family in have:
            a, b = ([_value(of, family, metric) for of in side] for side in (before, after))
            noise = None
            if paired is not None and k in paired.resampled.get(family, {}) and family not in paired.single:
                noise = float(paired.resampled[family][k].std(ddof=1))
            found.append(_change(family, metric, a, b, noise))
        if len(have) > 1:
            a, b = ([_mean_of(of, have, metric) for of in side] for side in (before, after))
            noise = None
            if paired is not None and all(k in paired.resampled.get(name, {}) for name in have) and not paired.single:
                noise = float(np.mean([paired.resampled[name][k] for name in have], axis=0).std(ddof=1))
            found.append(_change(ALL, metric, a, b, noise))
    return found


def physics(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    horizons: Mapping[str, tuple[float, float, float]],
    step: int | None = None,
) -> list[Change]:
    """The other figures that all have: physics, spectra, calibration, horizons; of the splits too.

    `horizons` is what `bootstrap.horizon_change` gives; the other figures have a sigma between replicates alone.
    """
    found = []
    sides = [[dict(_named(of)) for of in side] for side in (before, after)]
    for family, metric in sides[0][0]:
        kind, _, at = metric.partition("@")
        of_split = "/" in family and kind == "nrmse"
        if (kind in PLAIN and not of_split) or not all((family, metric) in of for side in sides for of in side):
            continue
        if step is not None and at.isdigit() and int(at) != step:
            continue
        a, b = ([of[family, metric] for of in side] for side in sides)
        change = _change(family, metric, a, b, None if min(len(a), len(b)) < 2 else 0.0)
        if kind == "horizon" and family in horizons and change.sigma is None:
            mine, reference, error = horizons[family]
            # No difference and no error of it: nothing to tell.
            change = replace(change, sigma=(mine - reference) / error if 0 < error < math.inf else None)
        found.append(change)
    return found


def striking(found: Sequence[Change]) -> list[Change]:
    """Of the figures of `physics` those that differ, of each at the largest step that it has."""
    last: dict[tuple[str, str], int] = {}
    for change in found:
        name, at = _split(change.metric)
        last[change.family, name] = max(at, last.get((change.family, name), 0))
    return [of for of in found if of.differs and _split(of.metric)[1] == last[of.family, _split(of.metric)[0]]]


def merged(trajectories: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """One trajectories.json for replicates: per trajectory the mean over seeds, null where one isn't finite.

    None if one has none, or they are of other trajectories.
    """
    first = trajectories[0]
    if first is None or any(of is None for of in trajectories):
        return None
    others = [of for of in trajectories if of is not None]
    if any(_keys(of) != _keys(first) or of.get("suite_hash") != first.get("suite_hash") for of in others):
        return None
    families = {}
    for name, table in first["families"].items():
        nrmse = {
            predictor: {k: _means([of["families"][name]["nrmse"][predictor][k] for of in others]) for k in by_step}
            for predictor, by_step in table["nrmse"].items()
            if all(by_step.keys() == of["families"][name]["nrmse"].get(predictor, {}).keys() for of in others)
        }
        horizon = {
            predictor: _means([of["families"][name]["horizon"][predictor] for of in others])
            for predictor in table.get("horizon", {})
            if all(predictor in of["families"][name].get("horizon", {}) for of in others)
        }
        families[name] = {"keys": table["keys"], "nrmse": nrmse, "horizon": horizon}
    return {**first, "families": families}


def restricted(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, same_data: bool
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Both with the families alone whose trajectories are the same, so that they can be paired; None if none are."""
    if before is None or after is None or not same_data:
        return None
    a, b = _keys(before), _keys(after)
    shared = [name for name in a if a[name] == b.get(name)]
    if not shared:
        return None
    one, other = (
        {**of, "suite_hash": None, "families": {name: of["families"][name] for name in shared}}
        for of in (before, after)
    )
    return one, other


def _change(
    family: str, metric: str, before: Sequence[float | None], after: Sequence[float | None], noise: float | None
) -> Change:
    a, b = _figure(before), _figure(after)
    if a.value is None or b.value is None or a.value == 0:
        return Change(family, metric, a, b, None)
    ratio = b.value / a.value
    error = None
    if noise is not None and ratio > 0:
        error = math.hypot(noise, _seed_noise([before, after]))
    # Without any noise, as between a report and itself, nothing can be said in units of it.
    return Change(family, metric, a, b, ratio, math.log(ratio) / error if error else None)


def _seed_noise(sides: Sequence[Sequence[float | None]]) -> float:
    """The standard error that seeds alone give the logarithm of the ratio, 0 without replicates.

    The spread of a seed is pooled over both groups, and widened as Student's t is, so that 2 of them stay 95 %.
    """
    squares, freedom = 0.0, 0
    for values in sides:
        if len(values) > 1 and all(value is not None and value > 0 for value in values):
            squares += (len(values) - 1) * statistics.variance([math.log(value) for value in values if value])
            freedom += len(values) - 1
    if not freedom:
        return 0.0
    widened = STUDENT[freedom - 1] / 1.96 if freedom <= len(STUDENT) else 1.0
    return widened * math.sqrt(squares / freedom * sum(1 / len(values) for values in sides))


def _figure(values: Sequence[float | None]) -> Figure:
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return Figure(None)
    return Figure(statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else None)


def _split(metric: str) -> tuple[str, int]:
    """A metric's name and its step; 0 where it is of no step, as `horizon@0.8`."""
    name, _, at = metric.partition("@")
    return (name, int(at)) if at.isdigit() else (metric, 0)


def _value(report: Mapping[str, Any], family: str, metric: str) -> float | None:
    return report["families"][family]["model"][metric]


def _mean_of(report: Mapping[str, Any], families: Sequence[str], metric: str) -> float | None:
    values = [_value(report, name, metric) for name in families]
    return None if None in values else geometric_mean(value for value in values if value is not None)


def _means(columns: Sequence[Sequence[float | None]]) -> list[float | None]:
    return [_figure(of).value for of in zip(*columns, strict=True)]


def _keys(trajectories: Mapping[str, Any]) -> dict[str, set[str]]:
    return {name: set(table["keys"]) for name, table in trajectories["families"].items()}


def _named(report: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], float | None]]:
    for family, metric, value in saved.predictors(report, "model"):
        yield (family, metric), value
