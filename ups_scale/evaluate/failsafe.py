"""The second try that a failed gate asks for, once: with guards or another noise; advice, where only training helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ups_scale.evaluate import reasons
from ups_scale.evaluate.bootstrap import last_step
from ups_scale.evaluate.gates import steps
from ups_scale.physics.families import FAMILIES, VARIANT_MARK


@dataclass(frozen=True)
class Failsafe:
    """A second try that a failed gate asks for, once.

    Attributes:
        kind: conservation, ece, guards or wall_clock.
        options: what to evaluate with: `guards` (names), or `noise_scale` (a factor by family). Empty if only another
            training can help: then `why` is advice.
        why: which gates failed, and what the options do about it.
        champion_too: whether the champion must be evaluated so too: the same guards for both, or no comparison.
    """

    kind: str
    options: Mapping[str, Any]
    why: str
    champion_too: bool = False


def find(
    candidate: Mapping[str, Any], champion: Mapping[str, Any], gates: Sequence[Mapping[str, Any]]
) -> tuple[Failsafe, ...]:
    """The fail-safes that failed gates ask for: other guards than the champion's first of all, for then no figure of
    theirs compares."""
    failed = {gate["name"]: gate for gate in reversed(gates) if not gate["passed"]}
    had = set(candidate.get("guards", ()))
    if "guards" in failed:
        theirs = sorted(champion.get("guards", ()))
        which = f"{', '.join(theirs) or 'none'}, this {', '.join(sorted(had)) or 'none'}"
        why = f"the champion had guards {which}: use the same"
        return (Failsafe("guards", {"guards": theirs}, why),)
    found = []
    names = {name for name in failed if "conservation_gap" in name or "divergence" in name}
    if names:
        wanted = sorted(had | _fitting_guards(candidate["families"], names))
        why = f"{', '.join(sorted(names))} failed: project after each step"
        found.append(Failsafe("conservation", {"guards": wanted} if set(wanted) - had else {}, why, set(wanted) != had))
    if "ece" in failed or "ece_promotion" in failed:
        found.append(_ece_failsafe(candidate, gates))
    if "wall_clock" in failed:
        why = (
            "wall_clock failed: a larger window (model.window_size) or a smaller latent (model.latent_tokens, "
            "model.latent_dim) is faster, but needs another training"
        )
        found.append(Failsafe("wall_clock", {}, why))
    return tuple(found)


def _fitting_guards(families: Mapping[str, Any], failed: set[str]) -> set[str]:
    """The guards that do something about `failed` on one of the families."""
    guards = {"conservation"} if any("conservation_gap" in name for name in failed) else set()
    for name, table in families.items():
        known = FAMILIES.get(name.partition(VARIANT_MARK)[0])
        if any(metric.startswith("divergence@") for metric in table["model"]):
            guards.add("helmholtz")
        if known is not None and set(known.positive) & set(table.get("fields", {})):
            guards.add("positivity")
    return guards


def _ece_failsafe(candidate: Mapping[str, Any], gates: Sequence[Mapping[str, Any]]) -> Failsafe:
    """The ensemble's noise, scaled by what its spread lacks, on every family that failed."""
    scale = {}
    for family in dict.fromkeys(g["family"] for g in gates if g["name"].startswith("ece") and not g["passed"]):
        figures = candidate["families"][family]["model"]
        told = [k for k in steps(candidate["families"][family]) if figures.get(f"spread_skill@{k}")]
        if told:
            at = candidate.get("reliability", {}).get(family, {}).get("step", max(told))
            scale[family] = 1 / figures[f"spread_skill@{last_step(told, at)}"]
    if not scale:
        return Failsafe("ece", {}, "ece failed, and without spread_skill nobody knows by how much to scale the noise")
    text = ", ".join(f"{family} x {factor:.3g}" for family, factor in scale.items())
    return Failsafe("ece", {"noise_scale": scale}, f"ece failed: scale the ensemble's noise by 1/spread_skill ({text})")


def tried(
    failsafes: Sequence[Failsafe],
    before: Sequence[Mapping[str, Any]],
    gates: Sequence[Mapping[str, Any]],
    promoted: bool,
) -> list[dict[str, Any]]:
    """What the second try came to, `failsafe` of report.json: per fail-safe its reason, what was tried, and the result,
    by the gates before and now."""
    found = []
    failed_before = {_place(gate) for gate in before if not gate["passed"]}
    now = {_place(gate) for gate in gates if not gate["passed"]}
    for failsafe in failsafes:
        if not failsafe.options:
            found.append({"reason": failsafe.why, "what": "nothing: another training", "result": "advice only"})
            continue
        passing, failing = len(failed_before - now), len(now - failed_before)
        what = reasons.options(failsafe.options)
        result = f"{passing} of {len(failed_before)} failed gates pass now, {failing} others fail; "
        result += "promoted" if promoted else "not promoted"
        found.append({"reason": failsafe.why, "what": what, "result": result})
    return found


def _place(gate: Mapping[str, Any]) -> tuple[str, str, int]:
    return gate["name"], gate["family"], gate["horizon"]
