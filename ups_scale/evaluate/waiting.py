"""`queue.jsonl` of a task: checkpoints that wait for an evaluation, and workers that take them.

A line is `{"checkpoint", "checkpoint_sha256", "data", "suite", "suites_hash", "guards", "noise_scale", "state",
"queued", ...}`, its state waiting -> taken -> done or failed. Whoever takes one holds a lock of its own as long as it
works; the lock ends with the process, so what a dead worker had taken is free again, whatever it had written. What
killed its workers `ATTEMPTS` times has failed.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ups_scale.errors import UserError
from ups_scale.evaluate.champions import open_task, read_lines, write_lines

QUEUE = "queue.jsonl"
WAITING, TAKEN, DONE, FAILED = "waiting", "taken", "done", "failed"
KEYS = ("checkpoint", "checkpoint_sha256", "data", "suite", "suites_hash", "state")
ATTEMPTS = 2


@dataclass(frozen=True)
class Job:
    """An evaluation that this process has taken: of which task, what, by which options, and the lock that says so."""

    task: str
    checkpoint: str
    data: str
    suite: str
    guards: tuple[str, ...]
    noise_scale: Mapping[str, float]
    name: tuple[str, ...]
    lock: TextIO


def queue(
    folder: Path,
    checkpoint: str,
    checkpoint_sha256: str,
    data: str,
    suite: str,
    suites_hash: str,
    guards: Sequence[str] = (),
    noise_scale: Mapping[str, float] | None = None,
) -> bool:
    """Adds an evaluation to the queue in a task's `folder` (`champions.open_task`), once per checkpoint, suite and
    `suites_hash`, which changes when a suite does (`suites.chain_hash`); to be done with these guards and this noise.

    Returns whether it was added: one that failed is, again; one that waits, runs or is done is not.
    """
    lines = _lines(folder)
    new: dict[str, Any] = {"checkpoint": checkpoint, "checkpoint_sha256": checkpoint_sha256, "data": data}
    new |= {"suite": suite, "suites_hash": suites_hash, "guards": list(guards), "noise_scale": dict(noise_scale or {})}
    new |= {"state": WAITING, "queued": _now(), "attempts": 0}
    same = [line for line in lines if _name(line) == _name(new)]
    if any(line["state"] != FAILED for line in same):
        return False
    write_lines(folder / QUEUE, [line for line in lines if line not in same] + [new])
    return True


def take(root: Path, task: str | None = None) -> Job | None:
    """The evaluation that waits longest, of one task or of any; None if nothing waits. It is this process' until
    `finish` or `give_back`, or until the process ends. What has killed too many is marked as failed, and said.

    Raises:
        UserError: a queue is damaged.
    """
    for name in [task] if task is not None else sorted(path.parent.name for path in root.glob(f"*/{QUEUE}")):
        with open_task(root, name) as folder:
            lines = _lines(folder)
            for line in lines:
                if line["state"] not in (WAITING, TAKEN):
                    continue
                lock = _try_lock(_lock_path(folder, line))
                if lock is None:
                    continue
                if line.get("attempts", 0) >= ATTEMPTS:
                    reason = f"its worker died {line['attempts']} times (the last one: {line.get('by')})"
                    print(f"{line['checkpoint']}: given up: {reason}", flush=True)
                    _end(folder, line, lock, reason)
                    write_lines(folder / QUEUE, lines)
                    continue
                line |= {"attempts": line.get("attempts", 0) + 1}
                line |= {"state": TAKEN, "by": f"process {os.getpid()} on {socket.gethostname()}", "taken": _now()}
                write_lines(folder / QUEUE, lines)
                options = tuple(line.get("guards", ())), line.get("noise_scale", {})
                return Job(name, line["checkpoint"], line["data"], line["suite"], *options, _name(line), lock)
    return None


def finish(root: Path, job: Job, failed: str | None = None) -> None:
    """Marks what was taken as done, or as failed, with the reason, and frees it."""
    with open_task(root, job.task) as folder:
        lines = _lines(folder)
        for line in lines:
            if _name(line) == job.name:
                _end(folder, line, job.lock, failed)
        write_lines(folder / QUEUE, lines)


def give_back(root: Path, job: Job) -> None:
    """Lets what was taken wait again, as if it had not been taken: this process was asked to stop."""
    with open_task(root, job.task) as folder:
        lines = _lines(folder)
        for line in lines:
            if _name(line) == job.name:
                line |= {"state": WAITING, "attempts": line["attempts"] - 1}
        write_lines(folder / QUEUE, lines)
        job.lock.close()


def waiting(root: Path) -> dict[str, list[dict[str, Any]]]:
    """By task, the lines of its queue that are neither done nor failed."""
    found = {path.parent.name: _lines(path.parent) for path in sorted(root.glob(f"*/{QUEUE}"))}
    return {task: [line for line in lines if line["state"] in (WAITING, TAKEN)] for task, lines in found.items()}


def _lines(folder: Path) -> list[dict[str, Any]]:
    lines = read_lines(folder / QUEUE)
    for number, line in enumerate(lines, 1):
        missing = [key for key in KEYS if not isinstance(line.get(key), str)]
        if missing:
            raise UserError(f"{folder / QUEUE}: line {number} lacks {', '.join(missing)}; mend or remove that line")
    return lines


def _name(line: Mapping[str, Any]) -> tuple[str, ...]:
    return line["checkpoint_sha256"], line["suite"], line["suites_hash"]


def _end(folder: Path, line: dict[str, Any], lock: TextIO, failed: str | None) -> None:
    line |= {"state": DONE if failed is None else FAILED, "ended": _now()}
    line |= {} if failed is None else {"reason": failed}
    _lock_path(folder, line).unlink(missing_ok=True)
    lock.close()


def _lock_path(folder: Path, line: Mapping[str, Any]) -> Path:
    return folder / f"taken-{line['suite']}-{line['suites_hash']}-{line['checkpoint_sha256'][:16]}.lock"


def _try_lock(path: Path) -> TextIO | None:
    file = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
