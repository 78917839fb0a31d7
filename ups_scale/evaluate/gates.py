"""Gates: the bars that an evaluation holds the model to.

Those against the trivial predictors, and the hard ones against the champion, are per family and horizon, never on an
average. Those that a promotion needs beside (physics' mean, the clock) are over families, where noise can be told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ups_scale.errors import UserError
from ups_scale.evaluate.bootstrap import last_step

ALL = "all"
"""The family of a gate that is over all families."""


@dataclass(frozen=True)
class Bars:
    """What a candidate must reach against the champion.

    Attributes:
        margin: by how much its nRMSE must be lower, relative.
        step: at which step; None for the largest that all families share.
        sigmas: the gain must also be above so many standard errors of the bootstrap.
        conservation_gap, bc_violation, ece: factors of the champion's figure, per family and step; above them it fails.
        ece_promotion: the tighter factor that a promotion needs.
        physics_family: the same for divergence, spectral_error and 1 - shock_iou.
        physics: factor by which a physics figure, mean over families, may be worse before that is no noise.
        horizon_sigmas: the correlation horizon is shorter if so many standard errors say so. Two, for there is one such
            gate per family, and one of several is often one standard error off by chance.
        wall_clock: factor of the champion's time for the same rollouts.
        wall_clock_s: budget in seconds for all of them, in place of the factor.
        resamples, seed: of the bootstrap.

    Raises:
        UserError: a value that makes no sense.
    """

    margin: float = 0.02
    step: int | None = None
    sigmas: float = 1.0
    conservation_gap: float = 2.0
    bc_violation: float = 1.5
    ece: float = 1.5
    ece_promotion: float = 1.25
    physics_family: float = 2.0
    physics: float = 1.05
    horizon_sigmas: float = 2.0
    wall_clock: float = 1.25
    wall_clock_s: float | None = None
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise UserError(f"margin {self.margin}: expected a relative gain from 0 to 1, such as 0.02")
        if self.step is not None and self.step < 1:
            raise UserError(f"step {self.step}: expected a step of the rollout, 1 or later")
        if self.sigmas < 0 or self.horizon_sigmas < 0:
            raise UserError("sigmas and horizon_sigmas: expected 0 or more")
        factors = (
            "conservation_gap",
            "bc_violation",
            "ece",
            "ece_promotion",
            "physics_family",
            "physics",
            "wall_clock",
        )
        for name in factors:
            if not getattr(self, name) >= 1:
                raise UserError(f"{name} {getattr(self, name)}: expected a factor of the champion's, 1 or more")
        if self.wall_clock_s is not None and not self.wall_clock_s > 0:
            raise UserError(f"wall_clock_s {self.wall_clock_s}: expected seconds, more than 0")
        if self.resamples < 100:
            raise UserError(f"resamples {self.resamples}: expected 100 or more, for a standard error that means much")


FLOORS = {
    # A hundred steps, each rounded to float32's 6e-8 relative, move an integral by up to 6e-6.
    "conservation_gap": 1e-5,
    # A derivative multiplies that rounding by the number of points along an axis: 1e-7 times 1,000.
    "bc_violation": 1e-4,
    "divergence": 1e-4,
    # Coverage is counted over a few members and trajectories: two points of it are within what their number allows.
    "ece": 0.02,
    # One hundredth of the power of a bin.
    "spectral_error": 0.01,
    # One cell in a hundred along a front.
    "shock_iou": 0.01,
    # Clocks of a busy machine: a hundredth of a second more is nothing.
    "wall_clock": 0.01,
    # A horizon is a whole number of steps.
    "horizon": 0.5,
}
"""Figures below these are as good as each other, in the figure's own unit."""

PHYSICS: dict[str, Callable[[float], float]] = {
    "conservation_gap": float,
    "bc_violation": float,
    "divergence": float,
    "spectral_error": float,
    "shock_iou": lambda overlap: 1.0 - overlap,
}
"""What must not get worse, as a figure whose smaller values are better."""
SPREAD = 1.4826
"""Standard deviations in a median absolute deviation, of a normal distribution."""
ENOUGH = 3
"""Families whose spread tells noise: of two, one that is worse is half of the spread."""


def label(name: str) -> str:
    """A gate's name for people: it says so where the figure is not the one it is called by."""
    return f"{name} (1 - IoU)" if name in ("shock_iou", "physics_shock_iou") else name


def steps(table: Mapping[str, Any]) -> tuple[int, ...]:
    """The steps that a family's table of figures has, in order: not all that were asked for, if it is steady."""
    return tuple(sorted(int(name.partition("@")[2]) for name in table["model"] if name.startswith("nrmse@")))


def persistence_gates(families: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One gate per family and step: nRMSE must be under min(persistence, 1), so under both trivial predictors.

    Non-finite predictions fail their gate. `families` is the table of figures of `report.json`.
    """
    gates = []
    for family, table in families.items():
        for k in steps(table):
            value, bar = table["model"][f"nrmse@{k}"], table["persistence"][f"nrmse@{k}"]
            limit = min(1.0, math.inf if bar is None else bar)
            whole = value is not None and math.isfinite(value) and not table["model"].get(f"non_finite@{k}")
            gates.append(
                {
                    "name": "persistence",
                    "family": family,
                    "horizon": k,
                    "value": value if whole else None,
                    "limit": limit,
                    "passed": whole and value < limit,
                }
            )
    return gates


def ratio_gates(
    name: str, metric: str, factor: float, families: Mapping[str, Any], champion: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One gate per family and step at which the champion has `metric`: at most `factor` times its figure (`PHYSICS`:
    smaller is better), and never below the floor of rounding and counting. A candidate without the figure, or one that
    isn't finite, fails."""
    smaller_is_better = PHYSICS.get(metric, float)
    gates = []
    for family, table in champion.items():
        for k in steps(table):
            bar = table["model"].get(f"{metric}@{k}")
            if bar is None:
                continue
            value, bar = families[family]["model"].get(f"{metric}@{k}"), smaller_is_better(bar)
            value = None if value is None else smaller_is_better(value)
            limit = max(factor * bar, FLOORS[metric])
            gates.append(_gate(name, family, k, value, limit, bar))
    return gates


def ece_gates(
    bars: Bars, candidate: Mapping[str, Any], champion: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], str | None]:
    """The gates on the ensembles' calibration; or none, and why not, where the ensembles differ: an ECE depends on the
    noise of the given frames (before `noise_scale`, which a second try mends it with) and on the number of members."""
    ours, theirs = ((of.get("noise"), of.get("suite_settings", {}).get("members")) for of in (candidate, champion))
    if ours != theirs:
        had = (f"{members} members and noise {noise}" for noise, members in (ours, theirs))
        return [], "ece is not judged: ensembles of {}, the champion's of {}".format(*had)
    families = candidate["families"], champion["families"]
    factors = {"ece": bars.ece, "ece_promotion": bars.ece_promotion}
    return [gate for name, factor in factors.items() for gate in ratio_gates(name, "ece", factor, *families)], None


def physics_gates(
    bars: Bars, step: int, families: Mapping[str, Any], champion: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The gates that hold physics: per family and step on figures without a factor of their own; and on the geometric
    mean of each figure over the families that have it, at `step`.

    The mean must not be worse by more than `bars.physics` and the standard error of the families' log ratios. That is
    told by their median absolute deviation: one bad family moves the mean, and must not be called noise for it.
    """
    gates = []
    for metric in ("divergence", "spectral_error", "shock_iou"):
        gates += ratio_gates(metric, metric, bars.physics_family, families, champion)
    for metric, smaller_is_better in PHYSICS.items():
        ours, theirs = [], []
        for family, table in champion.items():
            name = f"{metric}@{last_step(steps(table), step)}"
            bar = table["model"].get(name)
            if bar is not None:
                value = families[family]["model"].get(name)
                ours.append(math.nan if value is None else max(FLOORS[metric], smaller_is_better(value)))
                theirs.append(max(FLOORS[metric], smaller_is_better(bar)))
        if theirs:
            logs = np.log(ours) - np.log(theirs)
            spread = SPREAD * float(np.median(np.abs(logs - np.median(logs)))) if len(logs) >= ENOUGH else 0.0
            error = spread / math.sqrt(len(logs))
            bar, value = math.exp(np.log(theirs).mean()), math.exp(np.log(ours).mean())
            slack = max(bars.physics, 1.0 if math.isnan(error) else math.exp(error))
            gates.append(_gate(f"physics_{metric}", ALL, step, value, slack * bar, bar))
    return gates


def horizon_gates(bars: Bars, last: int, changes: Mapping[str, tuple[float, float, float]]) -> list[dict[str, Any]]:
    """One gate per family of `bootstrap.horizon_change`: the correlation horizon, in steps, is not shorter."""
    gates = []
    for family, (value, bar, error) in changes.items():
        slack = max(FLOORS["horizon"], bars.horizon_sigmas * error if math.isfinite(error) else 0.0)
        gates.append({**_gate("horizon", family, last, value, bar - slack, bar), "passed": value >= bar - slack})
    return gates


def wall_clock_gates(
    bars: Bars, step: int, candidate: Mapping[str, Any], champion: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], str | None]:
    """The gate on the seconds of all rollouts together, of two reports; or none, and why not, where they weren't on
    equal terms, or on a CPU, whose other work decides how long they take. A budget in seconds is held everywhere."""
    efficiency, old = candidate.get("efficiency", {}), champion.get("efficiency", {})
    shared = [family for family in old if family in efficiency]
    spent = sum(efficiency[family]["wall_clock_s"] for family in shared)
    before = sum(old[family]["wall_clock_s"] for family in shared)
    if bars.wall_clock_s is not None:
        return [_gate("wall_clock", ALL, step, spent, bars.wall_clock_s, before)], None
    processes = candidate.get("num_processes"), champion.get("num_processes")
    if processes[0] != processes[1]:
        return [], "wall_clock is not judged: it ran on {} processes, the champion on {}".format(*processes)
    for key in ("device", "batch", "steps"):
        for family in shared:
            ours, theirs = efficiency[family].get(key), old[family].get(key)
            if ours != theirs:
                return [], f"wall_clock is not judged: {family} ran with {key} {ours}, the champion's with {theirs}"
    if not shared:
        return [], "wall_clock is not judged: a report without times"
    if any(efficiency[family].get("device") == "cpu" for family in shared):
        return [], "wall_clock: on a CPU a clock says little: not judged"
    limit = max(bars.wall_clock * before, before + FLOORS["wall_clock"])
    return [_gate("wall_clock", ALL, step, spent, limit, before)], None


def _gate(name: str, family: str, step: int, value: float | None, limit: float, champion: float) -> dict[str, Any]:
    whole = value is not None and math.isfinite(value)
    return {
        "name": name,
        "family": family,
        "horizon": step,
        "value": value if whole else None,
        "limit": limit,
        "champion": champion,
        "passed": whole and value is not None and value <= limit,
    }
