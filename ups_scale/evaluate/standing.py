"""Where an evaluation stands: against the champion, with a second try if a gate asks for one, and on the leaderboard.

small suite -> judged -> won? waits for the full suite -> judged -> won? the new champion
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ups_scale.errors import UserError
from ups_scale.evaluate import leaderboard, waiting, zoo
from ups_scale.evaluate.champion import Judgement
from ups_scale.evaluate.champions import champion, default_root, task_name
from ups_scale.evaluate.contest import contest
from ups_scale.evaluate.loading import open_checkpoint
from ups_scale.evaluate.run import Measured, Outcome, Request, changed, evaluate_checkpoint, line_up, measure

T = TypeVar("T")
LEADERBOARD = "leaderboard.csv"


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

    All processes must call it. What was evaluated before is neither judged nor added again.

    Raises:
        CheckpointError, DataError, UserError: see the messages.
    """
    root = _run_root(path)
    board = None if root is None else root / LEADERBOARD
    if board is not None and accelerator.is_main_process:
        leaderboard.check(board)  # before the work
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
            problems.append(error)
            return measured
        notes.extend(lines)
        return measured

    outcome = evaluate_checkpoint(path, accelerator, request, judge if judged else None)
    if board is not None and accelerator.is_main_process and not outcome.already_there:
        leaderboard.append(board, outcome.report, outcome.report.get("champion", {}).get("promoted"))
        notes.append(f"leaderboard: {board}, {board.with_suffix('.html').name}")
    if problems:
        raise UserError(f"the evaluation is in {outcome.out}, but not judged: {problems[0]}")
    return Standing(outcome, tuple(notes))


def evaluate_queued(champions: Path, accelerator: Accelerator, request: Request) -> list[Standing]:
    """The full evaluations of all that wait in the folder `champions`; `request` says how. All processes must call it.

    Raises:
        UserError: the queue is damaged. One that can't be evaluated is marked as failed, with the reason, and said.
    """
    done: list[Standing] = []
    while True:
        job = waiting.take(champions) if accelerator.is_main_process else None
        told = None if job is None else (job.checkpoint, job.data, job.suite)
        told = _from_main(told, accelerator)
        if told is None:
            return done
        checkpoint, data, suite = told
        failed = None
        try:
            asked = replace(request, suite=suite, manifest=data)
            done.append(evaluate_and_judge(Path(checkpoint), accelerator, asked, champions=champions))
        except UserError as error:
            failed = str(error)
            print(f"{checkpoint}: could not be evaluated: {failed}", flush=True)
        if job is not None:
            waiting.finish(champions, job, failed)


def against_champion(
    measured: Measured, champions: Path, accelerator: Accelerator, request: Request
) -> tuple[Measured, list[str]]:
    """The evaluation with its judgement in the report, and what to say of it: that of the second try, if a gate asked
    for one that won. All processes must call it."""
    first = _judged(measured, champions, accelerator)
    final, judgement = measured, first
    notes: list[str] = []
    if first.second_try:
        final, judgement, notes = _second_try(measured, first, champions, accelerator, request)
    task = task_name(measured.report)
    report = final.report | {
        "gates": judgement.gates,
        "champion": {"task": task, **judgement.as_dict()},
        "verdict": list(judgement.verdict),
    }
    if judgement.tried or first.failsafes:
        report["failsafe"] = judgement.tried or [
            {"reason": of.why, "what": "nothing: another training", "result": "advice only"} for of in first.failsafes
        ]
    suite = measured.report["suite"]
    if judgement.promoted:
        notes.append(f"champion of {task}, suite {suite}: {champions / task / suite / 'champion.json'}")
    if judgement.promoted and suite == "small":
        notes.append("its full evaluation waits: tools/evaluate.py --queued")
    return replace(final, report=report), notes


def _second_try(
    measured: Measured, first: Judgement, champions: Path, accelerator: Accelerator, request: Request
) -> tuple[Measured, Judgement, list[str]]:
    """What became of the evaluation with the options of the fail-safes, and the champion's with the same guards where
    that is asked for; the first one, if the second try did not win."""
    options = first.second_try
    guards = options.get("guards", measured.report["guards"])
    again = measure(changed(measured.lineup, guards, options.get("noise_scale", {})), accelerator)
    old = None
    if any(of.champion_too for of in first.failsafes):
        holder = champion(champions, task_name(measured.report), measured.report["suite"])
        path = None if holder is None else Path(str(holder.entry["checkpoint"]))
        if path is None or not path.is_dir():
            note = f"no second try: the champion's checkpoint {path} is gone, and guards have to be the same for both"
            return measured, first, [note]
        rival = line_up(
            open_checkpoint(path, accelerator.device),
            measured.lineup.suite,
            replace(request, zoo=zoo.NONE),
            accelerator.device,
        )
        found = measure(changed(rival, guards, {}), accelerator)
        old = (found.report, found.trajectories)
    second = _judged(again, champions, accelerator, first, old)
    what = ", ".join(f"{key} {value}" for key, value in options.items())
    note = f"second try with {what}: {'promoted' if second.promoted else 'not promoted'}"
    if second.promoted:
        return again, second, [note]
    return measured, replace(first, tried=second.tried), [note]


def _judged(
    measured: Measured,
    champions: Path,
    accelerator: Accelerator,
    after: Judgement | None = None,
    again: tuple[dict[str, Any], dict[str, Any]] | None = None,
) -> Judgement:
    """The judgement of the main process, on all."""
    found: tuple[Judgement | None, UserError | None] = (None, None)
    if accelerator.is_main_process:
        try:
            judgement = contest(
                champions,
                measured.report,
                measured.trajectories,
                recipe=measured.lineup.checkpoint.recipe,
                after=after,
                champion_again=again,
            )
            found = (judgement, None)
        except UserError as error:  # raised by all, below
            found = (None, error)
    result, problem = _from_main(found, accelerator)
    if problem is not None:
        raise problem
    assert result is not None
    return result


def _from_main(value: T, accelerator: Accelerator) -> T:
    """The main process' value, on all."""
    if accelerator.num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]


def _run_root(path: Path) -> Path | None:
    """The folder of runs that a run folder or a checkpoint lies in."""
    whole = path.resolve()
    if (whole / "checkpoints").is_dir():
        return whole.parent
    return whole.parent.parent.parent if whole.parent.name == "checkpoints" else None
