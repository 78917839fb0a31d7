"""Three lines on a judgement: what changed, why it helped or hurt, what next (the playbook, as far as reports show)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ups_scale.evaluate import reasons
from ups_scale.evaluate.bootstrap import Comparison
from ups_scale.evaluate.gates import ALL, PHYSICS, label, steps
from ups_scale.recipe import validate
from ups_scale.recipe.load import difference

SHOWN = 3
"""How many keys, families or figures a line names."""
SEED = "run.seed"
CALIBRATED = (0.8, 1.25)
"""spread_skill within these is well enough: 1 is calibrated."""


@dataclass(frozen=True)
class Findings:
    """What the playbook's rows look at."""

    report: Mapping[str, Any]
    gates: Sequence[Mapping[str, Any]]
    comparison: Comparison | None
    step: int | None
    promoted: bool
    won_small: bool
    margin: float

    def failed(self, *names: str) -> bool:
        return any(not gate["passed"] and gate["name"].startswith(names) for gate in self.gates)

    def no_start(self) -> bool:
        """At least half of the families are no better than a trivial predictor at their first step."""
        first = [self._trivial(family, min) for family in self.report["families"]]
        return 2 * sum(not passed for passed in first) >= len(first) > 0

    def late(self) -> bool:
        """A family passes its first step and fails its last one, or gains early and loses late."""
        for family in self.report["families"]:
            if self._trivial(family, min) and not self._trivial(family, max):
                return True
            of = self.comparison.log_ratio[family] if self.comparison else {}
            if len(of) > 1 and self.comparison:
                early, end = (self.comparison.family(family, pick(of)) for pick in (min, max))
                if early.improvement > -early.sigma and end.improvement < -2 * end.sigma:
                    return True
        return False

    def physics_decays(self) -> bool:
        lower = self.comparison is not None and self.comparison.overall(self.step).improvement > 0
        return lower and self.failed(*PHYSICS, "physics_")

    def worse(self) -> bool:
        """nRMSE over all families is higher than the champion's beyond its noise."""
        if self.promoted or self.comparison is None:
            return False
        gain = self.comparison.overall(self.step)
        return gain.improvement < -gain.sigma

    def worst(self) -> str:
        """The family whose nRMSE grew most; empty without a champion."""
        of = self.comparison
        if of is None:
            return ""
        return min(of.log_ratio, key=lambda name: of.family(name, of.step_of(name, self.step)).improvement)

    def confidence(self) -> bool:
        if self.comparison is None:
            return False
        spreads = [
            figures[name]
            for figures in (table["model"] for table in self.report["families"].values())
            for name in figures
            if name.startswith("spread_skill@") and figures[name] is not None
        ]
        return self.failed("ece") or any(not CALIBRATED[0] <= spread <= CALIBRATED[1] for spread in spreads)

    def plateau(self) -> bool:
        return self.failed("champion_nrmse") and not self.failed("persistence")

    def _trivial(self, family: str, pick: Callable[..., int]) -> bool:
        k = pick(steps(self.report["families"][family]))
        place = ("persistence", family, k)
        return all(gate["passed"] for gate in self.gates if (gate["name"], gate["family"], gate["horizon"]) == place)


@dataclass(frozen=True)
class Row:
    """A row of the playbook: a symptom, how a report shows it, and what to do, in this order; `{worst}` is the family
    that got worst."""

    symptom: str
    seen: Callable[[Findings], bool]
    action: str


PLAYBOOK = (
    Row(
        "no better than the trivial predictors at the first step",
        Findings.no_start,
        "warm-up to 6 %, lr x 0.7, check Q/K RMSNorm and the clip; only then the architecture",
    ),
    Row(
        "good on the small suite, bad on the full one",
        lambda found: found.won_small and not found.promoted,
        "the small suite misleads: add one harder family or regime to it until the rankings agree",
    ),
    Row(
        "unstable only on long rollouts",
        Findings.late,
        "more noise or a longer curriculum, a smaller dt, a corrector every 8 steps",
    ),
    Row(
        "nRMSE improves, physics gaps grow",
        Findings.physics_decays,
        "raise projection and prior weights a little, a one-step corrector, less guidance",
    ),
    Row(
        "worse than the champion beyond noise",
        Findings.worse,
        "revert the change, or a new hypothesis about {worst}, which got worst",
    ),
    Row(
        "no gain beyond noise and margin",
        Findings.plateau,
        "the next hypothesis on optimizer and schedule; when these are exhausted, scale one axis: width x 1.4, tokens "
        "x 1.5 or data x 2, lr refitted linearly",
    ),
    Row(
        "too slow",
        lambda found: found.failed("wall_clock"),
        "a larger window, a smaller width, fewer tokens, then channel-separated off",
    ),
    Row(
        "over- or under-confident",
        Findings.confidence,
        "scale the ensemble's noise, conformal intervals, less guidance",
    ),
)
"""In the order they are looked for. Symptoms that only the training's curves show are not here."""


def lines(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    gates: Sequence[Mapping[str, Any]],
    comparison: Comparison | None,
    step: int | None,
    promoted: bool,
    changed: Sequence[str] | None,
    won_small: bool = False,
    margin: float = 0.0,
) -> tuple[str, str, str]:
    """What changed; why it helped or hurt; what next.

    `changed` are the keys of the recipe that differ (`changes`), None if one recipe is not known; champion, comparison
    and step are None for the first of its task. `margin` is the gain that was asked for.
    """
    found = Findings(candidate, gates, comparison, step, promoted, won_small, margin)
    return (_what_changed(candidate, champion, changed), _why(found), _what_next(found))


def changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[str] | None:
    """What differs between two resolved recipes, among the keys that change the experiment, the seed aside; None if one
    is unknown. A key that an older recipe lacks has the schema's default."""
    if before is None or after is None:
        return None
    free = {key for key, leaf in validate.leaves().items() if not leaf.get("x-identity", True)} | {SEED}
    longer = "schedule.steps"  # no part of the identity, for a run may be extended; but a change like any other
    lines = difference(validate.fill_defaults(before), validate.fill_defaults(after))
    return [line for line in lines if line.partition(":")[0] not in free - {longer}]


def _what_changed(
    candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, changed: Sequence[str] | None
) -> str:
    if champion is None:
        return "changed: nothing to compare with, the first of this task"
    against = f"changed against {champion['run']}: "
    if champion.get("checkpoint_sha256") == candidate.get("checkpoint_sha256"):
        return against + "nothing, the same checkpoint"
    if changed is None:
        return against + "not known, a recipe is missing"
    if not changed:
        return f"{against}no key of the recipe, the seed aside; step {champion.get('step')} -> {candidate.get('step')}"
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    several = " (several things at once: none of them is tested by itself)" if len(changed) > 1 else ""
    return f"{against}{'; '.join(changed[:SHOWN])}{more}{several}"


def _why(found: Findings) -> str:
    failed = [gate for gate in found.gates if not gate["passed"]]
    below = [f"{gate['family']}@{gate['horizon']}" for gate in failed if gate["name"] == "persistence"]
    parts = [f"not below the trivial predictors: {_few(below)}"] if below else []
    if found.comparison is None:
        return "why: " + (parts[0] if parts else "below the trivial predictors on every family and step")
    gains = [
        (found.comparison.family(name, k), f"{name}@{k}") for name, of in found.comparison.log_ratio.items() for k in of
    ]
    moved = sorted(
        ((gain.improvement, place) for gain, place in gains if abs(gain.improvement) > gain.sigma), reverse=True
    )
    helped = [f"{place} {reasons.percent(-x, '+')}" for x, place in moved if x > 0]
    hurt = [f"{place} {reasons.percent(-x, '+')}" for x, place in moved[::-1] if x < 0]
    physics = [gate for gate in found.gates if gate["name"].startswith("physics_") and gate["family"] == ALL]
    worse = [_ratio(gate) for gate in physics if not gate["passed"]]
    better = [_ratio(gate) for gate in physics if _improved(gate)]
    names = {"persistence", "champion_nrmse", *(gate["name"] for gate in physics)}
    others = dict.fromkeys(label(gate["name"]) for gate in failed if gate["name"] not in names)
    parts += [f"physics worse: {_few(worse)}"] if worse else []
    parts += [f"failed: {', '.join(others)}"] if others else []
    gain = found.comparison.overall(found.step)
    gained = reasons.margin(gain.improvement, gain.sigma, found.margin)
    short = found.failed("champion_nrmse")  # what decided comes first
    parts = [f"champion_nrmse failed: {gained}", *parts] if short else [*parts, f"champion_nrmse passed: {gained}"]
    parts += [f"nRMSE lower: {_few(helped)}"] if helped else []
    parts += [f"nRMSE higher: {_few(hurt)}"] if hurt else []
    parts += [] if moved else ["no family's nRMSE moved beyond its noise"]
    parts += [f"physics better: {_few(better)}"] if better else []
    return f"why {'it helped' if found.promoted else 'it is not promoted'}: {'; '.join(parts)}"


def _what_next(found: Findings) -> str:
    for row in PLAYBOOK:
        if row.seen(found):
            return f"next: {row.symptom}: {row.action.format(worst=found.worst())}"
    weakest, ratio = "", -math.inf
    for gate in found.gates:
        if gate["name"] == "persistence" and gate["value"] is not None and gate["value"] > ratio * gate["limit"]:
            weakest, ratio = f"{gate['family']} at step {gate['horizon']}", gate["value"] / gate["limit"]
    return f"next: a hypothesis for the weakest place, {weakest} ({ratio:.2g} of min(persistence, 1))"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _ratio(gate: Mapping[str, Any]) -> str:
    name = label(gate["name"]).removeprefix("physics_")
    return f"{name} not finite" if gate["value"] is None else f"{name} x {gate['value'] / gate['champion']:.2g}"


def _improved(gate: Mapping[str, Any]) -> bool:
    """Whether a physics figure is better by as much as the gate lets it be worse."""
    return gate["value"] is not None and gate["value"] * gate["limit"] < gate["champion"] ** 2
