"""What differs between two evaluations besides their figures: recipe, code, data, machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups_scale.recipe.load import difference
from ups_scale.recipe.validate import fill_defaults, leaves

SEED = "run.seed"
STEPS = "schedule.steps"
NO_MATTER = ("run.name",)


@dataclass(frozen=True)
class Subject:
    """An evaluation, with the recipe and the environment of its run where they are found."""

    path: Path
    report: Mapping[str, Any]
    trajectories: Mapping[str, Any] | None
    recipe: Mapping[str, Any] | None
    environment: Mapping[str, Any] | None


def incomparable(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why figures of these reports can't be compared, a line each; none if they can."""
    lines = []
    for key, what in (
        ("manifest_digest", "data"),
        ("suite", "suite"),
        ("suite_hash", "the suite's settings or trajectories"),
    ):
        found = list(dict.fromkeys((report["run"], report.get(key)) for report in reports))
        if len({value for _, value in found}) > 1:
            told = ", ".join(f"{run} {str(value)[:12] if value else 'not known'}" for run, value in found)
            lines.append(f"{what}: {told}")
    return lines


def controlled(before: Subject, after: Subject) -> tuple[bool | None, str]:
    """Whether one value of the recipe differs and nothing else that matters (None if it isn't known), and in a line."""
    others = facts(before, after, matter=True)
    if before.recipe is None or after.recipe is None:
        lost = " and ".join(str(of.path) for of in (before, after) if of.recipe is None)
        return None, f"Not known to be a controlled comparison: no recipe found for {lost}"
    counted, _ = recipe_difference(before.recipe, after.recipe)
    lines = [line for line in counted if key_of(line) != SEED]
    seeds = " (and the seed)" if len(lines) < len(counted) else ""
    if len(lines) == 1 and key_of(lines[0]) == STEPS:
        others = [line for line in others if not line.startswith("step:")]
    if len(lines) == 1 and not others:
        return True, f"Controlled comparison: one value of the recipe differs{seeds}: {lines[0]}"
    if not lines and not others:
        what = "the same recipe with another seed" if seeds else "the same recipe, data, step and code"
        return False, f"Nothing to learn about a recipe: {what}"
    names = ", ".join(key_of(line) for line in lines)
    said = {0: "the recipe is the same", 1: f"{names} differs"}.get(len(lines))
    parts = [(said or f"{len(lines)} values of the recipe differ ({names})") + seeds, *others]
    return False, f"Not a controlled comparison: {'; '.join(parts)}"


def recipe_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What changed between resolved recipes: lines that count, and lines that don't change the mathematics.
    A key that an older recipe lacks has the schema's default."""
    counted: list[str] = []
    uncounted: list[str] = []
    for line in difference(fill_defaults(before), fill_defaults(after)):
        key = key_of(line)
        counts = key == STEPS or (key not in NO_MATTER and leaves().get(key, {}).get("x-identity", True))
        (counted if counts else uncounted).append(line)
    return counted, uncounted


def facts(before: Subject, after: Subject, matter: bool = False) -> list[str]:
    """What differs besides the recipe, a line each; with `matter` only what makes another experiment of it."""
    found = []
    a, b = before.report, after.report
    trained = [_commit(of.environment or {}) for of in (before, after)]
    pairs: list[tuple[str, Any, Any, bool]] = [
        ("data", a["manifest_digest"][:12], b["manifest_digest"][:12], True),
        ("suite", _suite(a), _suite(b), True),
        ("guards", " ".join(a.get("guards", [])) or "none", " ".join(b.get("guards", [])) or "none", True),
        ("given frames", a.get("context_frames"), b.get("context_frames"), True),
        ("step", a["step"], b["step"], True),
        ("code of the training", trained[0], trained[1], True),
        ("code of the evaluation", _commit(a), _commit(b), True),
        ("parameters, millions", f"{a['params_m']:.4g}", f"{b['params_m']:.4g}", False),
        ("device of the evaluation", a.get("device"), b.get("device"), False),
        ("training on", _hardware(before), _hardware(after), False),
    ]
    for name, old, new, matters in pairs:
        if old != new and (matters or not matter):
            found.append(f"{name}: {old or 'not known'} -> {new or 'not known'}")
    return found


def key_of(line: str) -> str:
    return line.partition(": ")[0]


def _suite(report: Mapping[str, Any]) -> str:
    return f"{report['suite']} {(report.get('suite_hash') or '')[:12]}".strip()


def _hardware(subject: Subject) -> str:
    environment = subject.environment or {}
    if "world_size" not in environment:
        return ""
    kind = (environment.get("gpus") or ["CPU"])[0]
    return f"{environment['world_size']} x {kind}"


def _commit(of: Mapping[str, Any]) -> str:
    commit, dirty, _ = (of.get("commit") or "").partition("-dirty")
    return commit[:12] + dirty
