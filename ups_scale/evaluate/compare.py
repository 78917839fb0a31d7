"""Two evaluations or more beside each other: what differs in their recipes, and in their figures.

paths -> subjects (report, trajectories, recipe, environment) -> groups of replicates -> the first against the rest
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups_scale.errors import DataError
from ups_scale.evaluate import bootstrap, saved
from ups_scale.evaluate.compare_figures import Change, changes, merged, physics, restricted
from ups_scale.evaluate.compare_recipes import (
    SEED,
    Subject,
    controlled,
    facts,
    incomparable,
    key_of,
    recipe_difference,
)
from ups_scale.evaluate.leaderboard_row import steps


@dataclass(frozen=True)
class Group:
    """Replicates: subjects that differ in their seed alone. Mostly one."""

    name: str
    members: tuple[Subject, ...]

    @property
    def reports(self) -> list[Mapping[str, Any]]:
        return [member.report for member in self.members]


@dataclass(frozen=True)
class Versus:
    """A group against the reference.

    Attributes:
        name: the group's.
        recipe: what changed in the recipe and counts, a line per key; None if a recipe isn't known.
        uncounted: what changed but not the mathematics: names, logging, paths.
        facts: what else differs: code, data, step, device, parameters.
        controlled: whether one value of the recipe differs and nothing else that matters; None if it isn't known.
        verdict: that in a line.
        notes: what to know about the significance.
        figures: nRMSE by family and step.
        physics: the other figures.
    """

    name: str
    recipe: tuple[str, ...] | None
    uncounted: tuple[str, ...]
    facts: tuple[str, ...]
    controlled: bool | None
    verdict: str
    notes: tuple[str, ...]
    figures: tuple[Change, ...]
    physics: tuple[Change, ...]


@dataclass(frozen=True)
class Result:
    """The comparison of groups; `reference` is the first. `anyway`: what should have stopped it."""

    reference: Group
    groups: tuple[Group, ...]
    against: tuple[Versus, ...]
    anyway: tuple[str, ...]


def compare(paths: Sequence[Path], suite: str | None = None, step: int | None = None, anyway: bool = False) -> Result:
    """The comparison of the evaluations that `paths` (run folders, evaluation folders, report.json) mean.

    Without `suite`, the first of full and small that all run folders have. Only `step`, if given.

    Raises:
        DataError: there is no such evaluation, it is damaged, or (without `anyway`) they are of other data or suites.
    """
    if len(paths) < 2:
        raise DataError("one evaluation alone: name two or more to compare")
    subjects = [_subject(saved.find_report(path, suite or _shared_suite(paths))) for path in paths]
    apart = incomparable([subject.report for subject in subjects])
    if apart and not anyway:
        more = "".join(f"\n  {line}" for line in apart)
        raise DataError(
            f"figures of other data or suites can't be compared:{more}\n  evaluate them alike (tools/evaluate.py "
            "--data, --suite), or see what there is with --anyway"
        )
    if step is not None and not any(step in steps(subject.report["families"]) for subject in subjects):
        there = ", ".join(map(str, steps(subjects[0].report["families"])))
        raise DataError(f"--step {step}: no evaluation has it; there is {there}")
    groups = _groups(subjects)
    against = tuple(_versus(groups[0], group, step) for group in groups[1:])
    return Result(groups[0], tuple(groups), against, tuple(apart))


def _versus(reference: Group, group: Group, step: int | None) -> Versus:
    first, other = reference.members[0], group.members[0]
    told = None
    if first.recipe is not None and other.recipe is not None:
        told = recipe_difference(first.recipe, other.recipe)
    same_data = first.report["manifest_digest"] == other.report["manifest_digest"]
    pair = restricted(
        merged([member.trajectories for member in reference.members]),
        merged([member.trajectories for member in group.members]),
        same_data,
    )
    paired = bootstrap.compare(pair[1], pair[0]) if pair else None
    horizons = bootstrap.horizon_change(pair[1], pair[0]) if pair else {}
    is_controlled, verdict = controlled(first, other)
    return Versus(
        name=group.name,
        recipe=None if told is None else tuple(told[0]),
        uncounted=() if told is None else tuple(told[1]),
        facts=tuple(facts(first, other)),
        controlled=is_controlled,
        verdict=verdict,
        notes=tuple(_notes(reference, group, paired, same_data)),
        figures=tuple(changes(reference.reports, group.reports, paired, step)),
        physics=tuple(physics(reference.reports, group.reports, horizons, step)),
    )


def _notes(reference: Group, group: Group, paired: bootstrap.Comparison | None, same_data: bool) -> Iterable[str]:
    if paired is None and not same_data:
        yield "no significance: the trajectories are not the same"
    elif paired is None:
        lost = [str(of.path) for of in (*reference.members, *group.members) if of.trajectories is None]
        why = f"no trajectories.json beside {', '.join(lost)}" if lost else "the trajectories are not the same"
        yield f"no significance: {why}; {saved.AGAIN}"
    else:
        if len(reference.members) == len(group.members) == 1:
            yield "sigma is over test trajectories alone: with one seed each, another seed may change as much or more"
        for family, (after, before) in paired.diverged.items():
            if after or before:
                yield f"{family}: {before} and {after} trajectories not finite; sigma counts them as the worst of all"
        if paired.single:
            yield f"no significance for {', '.join(paired.single)}: one trajectory"


def _subject(path: Path) -> Subject:
    report = saved.read_report(path)
    folder = path.parent
    run = folder.parent.parent if folder.parent.name == "evaluation" else None
    checkpoint = _checkpoint(report, run)
    run = checkpoint.resolve().parent.parent if checkpoint and checkpoint.parent.name == "checkpoints" else run
    recipe = _read(checkpoint / "recipe.json") if checkpoint else None
    if recipe is None and run is not None:
        recipe = _read(run / "recipe.json")
    environment = _read(run / "environment.json") if run is not None else None
    return Subject(path, report, saved.read_trajectories(folder / saved.TRAJECTORIES), recipe, environment)


def _checkpoint(report: Mapping[str, Any], run: Path | None) -> Path | None:
    """The folder of the evaluated checkpoint, if it is still there: where the report says, or in its run folder."""
    places = [Path(report.get("checkpoint", "")), *([run / "checkpoints" / f"step-{report['step']}"] if run else [])]
    for place in places:
        manifest = place / "manifest.json"
        if manifest.is_file() and hashlib.sha256(manifest.read_bytes()).hexdigest() == report["checkpoint_sha256"]:
            return place
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); restore it, or move it away to compare without") from None
    return content if isinstance(content, dict) else None


def _shared_suite(paths: Sequence[Path]) -> str | None:
    """The first suite that all run folders among `paths` have; None if there are none, or they share none."""
    have = [saved.suites_in(path) for path in paths]
    shared = set.intersection(*(suites for suites in have if suites)) if any(have) else set()
    return next((name for name in (*saved.SUITES, *sorted(shared)) if name in shared), None)


def _groups(subjects: Sequence[Subject]) -> list[Group]:
    groups: list[list[Subject]] = []
    for subject in subjects:
        place = next((members for members in groups if all(_replicate(subject, of) for of in members)), None)
        if place is None:
            groups.append([subject])
        else:
            place.append(subject)
    firsts = [members[0] for members in groups]
    return [
        Group(_name(members[0], firsts) + (f" ({len(members)} seeds)" if len(members) > 1 else ""), tuple(members))
        for members in groups
    ]


def _replicate(a: Subject, b: Subject) -> bool:
    if a.recipe is None or b.recipe is None:
        return False
    counted, _ = recipe_difference(a.recipe, b.recipe)
    alike = a.report["step"] == b.report["step"] and not incomparable([a.report, b.report])
    return alike and [key_of(line) for line in counted] == [SEED]


def _name(subject: Subject, all_of: Sequence[Subject]) -> str:
    def names(of: Subject) -> list[str]:
        return [of.report["run"], f"{of.report['run']} step {of.report['step']}", str(of.path)]

    for level, name in enumerate(names(subject)):
        if sum(names(of)[level] == name for of in all_of) == 1:
            return name
    return str(subject.path)
