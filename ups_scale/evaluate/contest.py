"""An evaluation meets the champion of its task: judged, recorded, put in its place, queued for the full suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ups_scale.errors import UserError, remedy
from ups_scale.evaluate import waiting
from ups_scale.evaluate.champion import FIRST, Judgement, judge, still_champion
from ups_scale.evaluate.champions import Champion, champion, open_task, promote, read_lines, record, task_name, told
from ups_scale.evaluate.gates import Bars
from ups_scale.evaluate.suites import SUITES, chain_hash

SMALL, FULL = "small", "full"


def contest(
    root: Path,
    report: Mapping[str, Any],
    trajectories: Mapping[str, Any],
    *,
    recipe: Mapping[str, Any] | None = None,
    bars: Bars | None = None,
    after: Judgement | None = None,
    champion_again: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
) -> Judgement:
    """Judges an evaluation against its task's champion by the same suite, records it, and puts it in its place if it
    wins; the winner of the small suite waits for the full one from then on. The champion itself, evaluated again by the
    same suite, stays the champion: it is not promoted anew.

    Judged and promoted under one lock: of two evaluations at once, the second meets the first one's result.

    Args:
        after: the judgement whose fail-safes this evaluation tried.
        champion_again: report and trajectories of the champion evaluated anew with the same guards, for such a second
            try.

    Raises:
        UserError: see the messages.
    """
    task, suite = task_name(report), str(report["suite"])
    with open_task(root, task) as folder:
        history = read_lines(folder / "history.jsonl")
        holder = champion(root, task, suite)
        old: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] = (None, None)
        if holder is not None:
            old = holder.report, holder.trajectories
        if old[0] is not None and champion_again is not None:
            _check_again(old[0], champion_again[0])
            old = champion_again
        itself = old[0] is not None and report["checkpoint_sha256"] == old[0].get("checkpoint_sha256")
        renewed = itself and old[0] is not None and report.get("suite_hash") != old[0].get("suite_hash")
        if holder is not None and itself and not renewed and report["run"] == holder.report.get("run"):
            return _confirmed(folder, report, holder, history)
        bars = Bars() if bars is None else bars
        result = judge(
            report,
            trajectories,
            None if renewed else old[0],
            None if renewed else old[1],
            bars,
            recipe=recipe,
            champion_recipe=None if holder is None else holder.recipe,
            after=after,
            won_small=suite == FULL and _won_small(history, report),
        )
        if renewed:
            stays = "this evaluation replaces the former" if result.promoted else "the former evaluation stays"
            kept = f"the champion itself, by a suite that has changed since: {stays}"
            others = tuple(reason for reason in result.reasons if reason != FIRST)
            result = replace(result, against=str(report["run"]), reasons=(kept, *others))
        try:
            if result.promoted:
                result = replace(result, queued=_queue(folder, report))
                promote(folder, report, trajectories, recipe, result)
            record(folder, report, result)
        except OSError as error:
            raise _not_written(folder, error) from None
        return result


def _confirmed(
    folder: Path, report: Mapping[str, Any], holder: Champion, history: Sequence[Mapping[str, Any]]
) -> Judgement:
    """The judgement of the champion's own checkpoint, evaluated again: it stays what it is, and champion.json as it is.
    What a process that was stopped had still to do is done: the full evaluation waits, the promotion is recorded."""
    found = still_champion(report, holder.report, str(holder.entry.get("promoted")))
    same = ("checkpoint_sha256", "run", "suite", "suite_hash")
    known = any(line.get("promoted") and all(line.get(key) == report[key] for key in same) for line in history)
    try:
        queued = _queue(folder, {**holder.report, **{key: report[key] for key in ("checkpoint", "manifest")}})
        if found.promoted and not known:
            record(folder, report, found)
    except OSError as error:
        raise _not_written(folder, error) from None
    return replace(found, queued=queued)


def _queue(folder: Path, report: Mapping[str, Any]) -> bool:
    """The winner of the small suite waits for the full one, with the guards and the noise that it won with. Returns
    whether it did not wait, and was not evaluated so, before."""
    if report["suite"] != SMALL:
        return False
    paths = told(report)
    return waiting.queue(
        folder,
        paths["checkpoint"],
        report["checkpoint_sha256"],
        paths["manifest"],
        FULL,
        chain_hash(str(report["suite_hash"]), SUITES[FULL]),
        report.get("guards", ()),
        report.get("noise_scale"),
    )


def _not_written(folder: Path, error: OSError) -> UserError:
    what = remedy(error, "name another --champions")
    return UserError(f"{folder}: can't be written ({error.strerror}); {what}, and evaluate again")


def _won_small(history: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> bool:
    """Whether this checkpoint was promoted by the small suite."""
    sha = report["checkpoint_sha256"]
    return any(
        line.get("suite") == SMALL and line.get("promoted") and line.get("checkpoint_sha256") == sha for line in history
    )


def _check_again(stored: Mapping[str, Any], again: Mapping[str, Any]) -> None:
    if stored.get("checkpoint_sha256") != again.get("checkpoint_sha256"):
        raise UserError(
            f"the champion is checkpoint {str(stored.get('checkpoint_sha256'))[:8]}, but what was evaluated again in "
            f"its place is {str(again.get('checkpoint_sha256'))[:8]}: another one won meanwhile; evaluate once more"
        )
