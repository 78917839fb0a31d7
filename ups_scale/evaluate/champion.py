"""Whether a candidate takes the champion's place: gates, the gain beyond noise, and what to try where a gate failed.

Works on report.json and trajectories.json of both alone; `champions.py` keeps them, `verdict.py` puts them in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ups_scale.errors import DataError
from ups_scale.evaluate import reasons, verdict
from ups_scale.evaluate.bootstrap import REMEDY, Comparison, compare, horizon_change
from ups_scale.evaluate.failsafe import Failsafe, find, tried
from ups_scale.evaluate.gates import (
    ALL,
    Bars,
    ece_gates,
    horizon_gates,
    persistence_gates,
    physics_gates,
    ratio_gates,
    wall_clock_gates,
)

FIRST = "the first champion of this task"


@dataclass(frozen=True)
class Judgement:
    """What a candidate was found to be.

    Attributes:
        gates: as in report.json, with the champion's figure beside.
        promoted: whether it takes the champion's place.
        against: the champion's run, None if there was none.
        step: where the margin is asked for; None without a champion.
        improvement, sigma, interval: relative gain over all families at that step, its standard error, its confidence
            interval; None without a champion.
        margin: the gain that was asked for.
        families: by family, `{"nrmse@k": {"improvement", "sigma"}}` of every step.
        reasons: why it was promoted or not, what could not be judged, what diverged.
        failsafes: what to try before the verdict is final; none after a second try.
        verdict: what changed; why it helped or hurt; what next.
        queued: whether its full evaluation waits since this judgement, and did not before.
        tried: of a second try, `failsafe` of report.json: `[{"reason", "what", "result"}]`.
    """

    gates: list[dict[str, Any]]
    promoted: bool
    against: str | None
    step: int | None
    improvement: float | None
    sigma: float | None
    interval: tuple[float, float] | None
    margin: float
    families: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    reasons: tuple[str, ...]
    failsafes: tuple[Failsafe, ...]
    verdict: tuple[str, str, str]
    tried: list[dict[str, Any]] = field(default_factory=list)
    queued: bool = False

    @property
    def second_try(self) -> dict[str, Any]:
        """The options of all fail-safes that another evaluation can try, together; empty if there are none."""
        return {key: value for failsafe in self.failsafes for key, value in failsafe.options.items()}

    def as_dict(self) -> dict[str, Any]:
        """`champion` of report.json, but for `task`; null for a number that is not finite."""
        return {
            "against": self.against,
            "promoted": self.promoted,
            "horizon": self.step,
            "improvement": _legal(self.improvement),
            "sigma": _legal(self.sigma),
            "interval": None if self.interval is None else [_legal(x) for x in self.interval],
            "margin": self.margin,
            "families": {name: {k: dict(of) for k, of in steps.items()} for name, steps in self.families.items()},
            "reasons": list(self.reasons),
        }


def judge(
    candidate: Mapping[str, Any],
    trajectories: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    champion_trajectories: Mapping[str, Any] | None,
    bars: Bars,
    *,
    recipe: Mapping[str, Any] | None = None,
    champion_recipe: Mapping[str, Any] | None = None,
    after: Judgement | None = None,
    won_small: bool = False,
) -> Judgement:
    """The judgement of a candidate's report.json and trajectories.json against the champion's, None if there is none.

    It is promoted if every family is under the trivial predictors at every step, the gain is at least `bars.margin` and
    above `bars.sigmas` standard errors, and all other gates pass. The first champion needs the first of these only.

    Args:
        recipe, champion_recipe: resolved recipes, for the verdict's first line.
        after: the judgement whose fail-safes this evaluation tried; there is no third try.
        won_small: whether this checkpoint won the small suite and is now in the full one.

    Raises:
        DataError: both were not evaluated by the same suite on the same data, or a file is no report.
    """
    families = _families(candidate, "candidate")
    gates = persistence_gates(families)
    if champion is None or champion_trajectories is None:
        promoted = bool(gates) and all(gate["passed"] for gate in gates)
        told = ((FIRST,) if promoted else ()) + reasons.failed(gates)
        lines = verdict.lines(candidate, None, gates, None, None, promoted, None, won_small)
        return Judgement(gates, promoted, None, None, None, None, None, bars.margin, {}, told, (), lines)
    _same_suite(candidate, champion)
    comparison = compare(trajectories, champion_trajectories, bars.resamples, bars.seed)
    step = comparison.shared_step() if bars.step is None else bars.step
    old = _families(champion, "champion")
    _same_families(families, old, comparison)
    gain = comparison.overall(step)
    better = gain.improvement >= bars.margin and gain.improvement > bars.sigmas * gain.sigma
    for gate in gates:
        gate["champion"] = old[gate["family"]]["model"].get(f"nrmse@{gate['horizon']}")
    calibration, uncalibrated = ece_gates(bars, candidate, champion)
    gates += [
        _nrmse_gate(comparison, old, step, gain.improvement, max(bars.margin, bars.sigmas * gain.sigma), better),
        *ratio_gates("conservation_gap", "conservation_gap", bars.conservation_gap, families, old),
        *ratio_gates("bc_violation", "bc_violation", bars.bc_violation, families, old),
        *calibration,
        *physics_gates(bars, step, families, old),
        *horizon_gates(bars, step, horizon_change(trajectories, champion_trajectories)),
    ]
    timed, untimed = wall_clock_gates(bars, step, candidate, champion)
    gates += timed
    guards = _guards_gate(candidate, champion, step)
    gates += [guards] if guards else []
    promoted = all(gate["passed"] for gate in gates)
    told = (
        reasons.gain(gain, step, bars, better, comparison.single),
        *reasons.failed(gates),
        *(why for why in (uncalibrated, untimed) if why),
        *reasons.diverged(comparison),
    )
    failsafes = () if promoted or after is not None else find(candidate, champion, gates)
    return Judgement(
        gates,
        promoted,
        str(champion["run"]),
        step,
        gain.improvement,
        gain.sigma,
        (gain.low, gain.high),
        bars.margin,
        _by_family(comparison),
        told,
        failsafes,
        verdict.lines(
            candidate,
            champion,
            gates,
            comparison,
            step,
            promoted,
            verdict.changes(champion_recipe, recipe),
            won_small,
            bars.margin,
        ),
        [] if after is None else tried(after.failsafes, after.gates, gates, promoted),
    )


def still_champion(report: Mapping[str, Any], champion: Mapping[str, Any], since: str) -> Judgement:
    """The judgement of the champion's checkpoint, evaluated again by the same suite: it is the champion `since` then,
    for it won that place once; but with guards that it did not win with, this evaluation is not promoted. Its gates are
    those of the trivial predictors alone."""
    gates = persistence_gates(_families(report, "candidate"))
    of = ", ".join(champion.get("guards", ())) or "none"
    same = f"the champion itself, since {since}: its evaluation of then (guards: {of}) stays"
    _, _, following = verdict.lines(report, champion, gates, None, None, True, None)
    more = sorted(set(report.get("guards", ())) - set(champion.get("guards", ())))
    changed = f"guards {', '.join(more)} of the champion itself" if more else "nothing, it is the champion itself"
    lines = (f"changed: {changed}", f"why: {same}", following)
    told = (same, *reasons.failed(gates))
    return Judgement(gates, not more, str(champion["run"]), None, None, None, None, Bars().margin, {}, told, (), lines)


def _families(report: Mapping[str, Any], whose: str) -> Mapping[str, Any]:
    if not isinstance(report, Mapping) or not isinstance(report.get("families"), Mapping) or not report["families"]:
        raise DataError(f"the {whose}'s report.json holds no families; evaluate it again (--force)")
    return report["families"]


def _same_suite(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> None:
    ours, theirs = candidate.get("suite_settings", {}), champion.get("suite_settings", {})
    other = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if other and candidate.get("suite_hash") != champion.get("suite_hash"):
        told = "; ".join(f"{key} is {ours.get(key)}, the champion's {theirs.get(key)}" for key in other)
        raise DataError(
            f"can't compare with the champion {champion.get('run')}, for the suites differ: {told}. Evaluate both "
            "alike, or this one by itself (--no-champion), or with champions of its own (--champions DIR)"
        )
    for key in ("manifest_digest", "suite", "suite_hash"):
        if candidate.get(key) != champion.get(key):
            raise DataError(
                f"can't compare with the champion {champion.get('run')}: {key} is {candidate.get(key)}, "
                f"the champion's {champion.get(key)}; {REMEDY}"
            )


def _same_families(ours: Mapping[str, Any], theirs: Mapping[str, Any], comparison: Comparison) -> None:
    for whose, tables in (("candidate", ours), ("champion", theirs)):
        if tables.keys() != comparison.log_ratio.keys():
            alone = ", ".join(sorted(tables.keys() ^ comparison.log_ratio.keys()))
            raise DataError(
                f"the {whose}'s report.json and trajectories.json don't belong together ({alone} is in one of them "
                "only); evaluate it again (--force)"
            )


def _nrmse_gate(
    comparison: Comparison, old: Mapping[str, Any], step: int, improvement: float, needed: float, better: bool
) -> dict[str, Any]:
    """The gate on the gain, as geometric means of nRMSE over the families."""
    figures = [old[name]["model"][f"nrmse@{comparison.step_of(name, step)}"] for name in comparison.log_ratio]
    whole = [figure for figure in figures if figure]
    bar = math.exp(sum(math.log(figure) for figure in whole) / len(whole)) if len(whole) == len(figures) else 1.0
    return {
        "name": "champion_nrmse",
        "family": ALL,
        "horizon": step,
        "value": bar * (1 - improvement),
        "limit": bar * (1 - needed) if math.isfinite(needed) else 0.0,
        "champion": bar,
        "passed": better,
    }


def _guards_gate(candidate: Mapping[str, Any], champion: Mapping[str, Any], step: int) -> dict[str, Any] | None:
    """A gate that fails: the candidate had other guards than the champion. None if they had the same."""
    other = set(candidate.get("guards", ())) ^ set(champion.get("guards", ()))
    if not other:
        return None
    return {
        "name": "guards",
        "family": ALL,
        "horizon": step,
        "value": len(other),
        "limit": 0,
        "champion": 0,
        "passed": False,
    }


def _by_family(comparison: Comparison) -> dict[str, dict[str, dict[str, float | None]]]:
    return {
        name: {
            f"nrmse@{k}": {"improvement": _legal(gain.improvement), "sigma": _legal(gain.sigma)}
            for k, gain in ((k, comparison.family(name, k)) for k in of)
        }
        for name, of in comparison.log_ratio.items()
    }


def _legal(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
