"""Where an evaluation stands: against the champion, with a second try if a gate asks for one, and on the leaderboard.

small suite -> judged -> won? waits for the full suite -> judged -> won? the new champion
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ups_scale.errors import UserError
from ups_scale.evaluate import leaderboard, reasons, waiting, zoo
from ups_scale.evaluate.agreement import on_main, raised_by_all, together
from ups_scale.evaluate.champion import Judgement
from ups_scale.evaluate.champions import champion, default_root, task_name
from ups_scale.evaluate.contest import contest
from ups_scale.evaluate.loading import open_checkpoint
from ups_scale.evaluate.run import Measured, Outcome, Request, changed, evaluate_checkpoint, line_up, measure

LEADERBOARD = "leaderboard.csv"
DEFAULT = Path("champions")
"""Where champions are looked for if nothing says where: beside `runs/` in the current folder."""


@dataclass(frozen=True)
class Standing:
    """What an evaluation found, and what became of it, line by line."""

    outcome: Outcome
    notes: tuple[str, ...] = ()


def evaluate_and_judge(
    path: Path, accelerator: Accelerator, request: Request, judged: bool = True, champions: Path | None = None
) -> Standing:
    """The evaluation that `request` asks for, judged against the champion of its task in the folder `champions`
    (default: `champions/` beside the run root) if `judged`, and added to the run root's leaderboard.

    All processes must call it. What was evaluated before is not evaluated again, and what was judged before not judged.

    Raises:
        CheckpointError, DataError, UserError: see the messages.
    """
    root = _run_root(path)
    board = None if root is None else root / LEADERBOARD
    if board is not None:
        on_main(accelerator, lambda: leaderboard.check(board))  # before the work
    if champions is None and root is not None:
        champions = default_root(root / "run")
    notes: list[str] = []
    problems: list[UserError] = []

    def judge(measured: Measured) -> Measured:
        if champions is None:
            notes.append("no champion: the checkpoint lies in no run folder; name a folder with --champions")
            return measured
        try:
            measured, lines = against_champion(measured, champions, accelerator, request)
        except UserError as error:  # raised below: first the evaluation is written
            if not raised_by_all(error, accelerator):
                raise
            problems.append(error)
            return measured
        notes.extend(lines)
        return measured

    outcome = evaluate_checkpoint(path, accelerator, request, judge if judged else None)
    if board is not None and outcome.new_report:
        won = outcome.report.get("champion", {}).get("promoted")
        on_main(accelerator, lambda: leaderboard.append(board, outcome.report, won))
        notes.append(f"leaderboard: {board}, {board.with_suffix('.html').name}")
    if problems:
        raise UserError(f"the evaluation is in {outcome.out}, but not judged: {problems[0]}")
    return Standing(outcome, tuple(notes))


def evaluate_queued(champions: Path, accelerator: Accelerator, request: Request) -> list[Standing]:
    """The full evaluations of all that wait in the folder `champions`; `request` says how. All processes must call it.

    Raises:
        UserError: there is no such folder, or the queue is damaged. One that can't be evaluated is marked as failed,
            with the reason, and said; but what one process alone met ends all, for they would be out of step.
    """
    done: list[Standing] = []
    taken: list[waiting.Job] = []  # by the main process, which alone holds the lock

    def take() -> tuple[str, dict[str, Any]] | None:
        if not champions.is_dir():
            raise UserError(f"{champions}: no such folder of champions; name it with --champions DIR")
        taken[:] = [job for job in [waiting.take(champions)] if job is not None]
        return next(((job.checkpoint, _options(job)) for job in taken), None)

    while (told := on_main(accelerator, take)) is not None:
        checkpoint, options = told
        if accelerator.is_main_process:
            print(f"{checkpoint}: taken from the queue, for the {options['suite']} suite", flush=True)
        failed = None
        try:
            done.append(evaluate_and_judge(Path(checkpoint), accelerator, replace(request, **options), True, champions))
        except UserError as error:
            if not raised_by_all(error, accelerator):
                raise
            failed = str(error)
            if accelerator.is_main_process:
                print(f"{checkpoint}: could not be evaluated: {failed}", flush=True)
        except KeyboardInterrupt:
            for job in taken:
                waiting.give_back(champions, job)
            raise
        on_main(accelerator, partial(_finish, champions, taken, failed))
    return done


def _finish(champions: Path, taken: list[waiting.Job], failed: str | None) -> None:
    for job in taken:
        waiting.finish(champions, job, failed)


def _options(job: waiting.Job) -> dict[str, Any]:
    """What a job says of the request."""
    return {"suite": job.suite, "manifest": job.data, "guards": job.guards, "noise_scale": job.noise_scale}


def against_champion(
    measured: Measured, champions: Path, accelerator: Accelerator, request: Request
) -> tuple[Measured, list[str]]:
    """The evaluation with its judgement in the report, and what to say of it: that of the second try, if a gate asked
    for one that won. All processes must call it."""
    first = _judged(measured, champions, accelerator)
    final, judgement = measured, first
    notes: list[str] = []
    if first.second_try and measured.evaluation is None:
        notes = ["no second try: the evaluation was there already; --force does it again, with one"]
    elif first.second_try:
        final, judgement, notes = _second_try(measured, first, champions, accelerator, request)
    task = task_name(measured.report)
    report = final.report | {
        "gates": judgement.gates,
        "champion": {"task": task, **judgement.as_dict()},
        "verdict": list(judgement.verdict),
    }
    if judgement.tried or first.failsafes:
        report["failsafe"] = judgement.tried or [
            {"reason": of.why, "what": "nothing", "result": notes[0] if of.options else "advice only: another training"}
            for of in first.failsafes
        ]
    suite = measured.report["suite"]
    if judgement.promoted:
        notes.append(f"champion of {task}, suite {suite}: {champions / task / suite / 'champion.json'}")
    if judgement.queued:
        elsewhere = champions.resolve() != DEFAULT.resolve()
        where = f" --champions {shlex.quote(str(champions))}" if elsewhere else ""
        notes.append(f"its full evaluation waits: tools/evaluate.py --queued{where}")
    return replace(final, report=report), notes


def _second_try(
    measured: Measured, first: Judgement, champions: Path, accelerator: Accelerator, request: Request
) -> tuple[Measured, Judgement, list[str]]:
    """What became of the evaluation with the options of the fail-safes, and the champion's with the same guards where
    that is asked for; the first one, if the second try did not win."""
    options = first.second_try
    tried = f"second try with {reasons.options(options)}"
    if accelerator.is_main_process:
        print(f"{tried}: it begins, for {'; '.join(of.why for of in first.failsafes if of.options)}", flush=True)
    guards = options.get("guards", measured.report["guards"])
    again = measure(changed(measured.lineup, guards, options.get("noise_scale", {})), accelerator)
    old = None
    if any(of.champion_too for of in first.failsafes):
        place = champions, task_name(measured.report), str(measured.report["suite"])
        path, options_of_rival = on_main(accelerator, lambda: _rival(*place))
        if path is None:
            note = "no second try: the champion's checkpoint is gone, and guards have to be the same for both"
            return measured, first, [note]
        asked = replace(request, **options_of_rival, manifest=measured.lineup.subject.manifest, zoo=zoo.NONE)
        suite, device = measured.lineup.suite, accelerator.device
        rival = together(accelerator, lambda: line_up(open_checkpoint(path, device), suite, asked, device))
        found = measure(changed(rival, guards, asked.noise_scale), accelerator)
        old = (found.report, found.trajectories)
    second = _judged(again, champions, accelerator, first, old)
    note = f"{tried}: {'promoted' if second.promoted else 'not promoted'}"
    if second.promoted:
        return again, second, [note]
    return measured, replace(first, tried=second.tried), [note]


def _rival(champions: Path, task: str, suite: str) -> tuple[Path | None, dict[str, Any]]:
    """The champion's checkpoint, None if it is gone, and the noise that its ensembles had."""
    holder = champion(champions, task, suite)
    path = None if holder is None else Path(str(holder.entry["checkpoint"]))
    if holder is None or path is None or not path.is_dir():
        return None, {}
    return path, {"noise": holder.report.get("noise"), "noise_scale": holder.report.get("noise_scale", {})}


def _judged(
    measured: Measured,
    champions: Path,
    accelerator: Accelerator,
    after: Judgement | None = None,
    again: tuple[dict[str, Any], dict[str, Any]] | None = None,
) -> Judgement:
    """The judgement of the main process, on all."""
    return on_main(
        accelerator,
        lambda: contest(
            champions,
            measured.report,
            measured.trajectories,
            recipe=measured.lineup.checkpoint.recipe,
            after=after,
            champion_again=again,
        ),
    )


def _run_root(path: Path) -> Path | None:
    """The folder of runs that a run folder or a checkpoint lies in."""
    whole = path.resolve()
    if (whole / "checkpoints").is_dir():
        return whole.parent
    return whole.parent.parent.parent if whole.parent.name == "checkpoints" else None
