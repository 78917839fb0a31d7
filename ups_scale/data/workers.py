"""Runs jobs in worker processes and knows, when one of them dies, what it was at."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from ups_scale.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
Work = Callable[[Job, Callable[[int], None]], Result]
"""Does a job; the second argument is to be called with the bytes that have been done since."""
REPORT_EVERY = 4 * 2**20
LIMIT_S = 900.0
"""A worker that has been given a job, and reports nothing of it for so long, is taken to be lost."""


class WorkerDied(Exception):
    """A worker process ended in the middle of `job`, with this exit code (negative: killed by that signal); it may go
    without progress for `limit_s`."""

    def __init__(self, job: Any, exit_code: int | None, limit_s: float) -> None:
        super().__init__(f"a worker process ended with exit code {exit_code}")
        self.job = job
        self.exit_code = exit_code
        self.limit_s = limit_s

    @property
    def how(self) -> str:
        """In words: "killed by SIGSEGV"."""
        if self.exit_code == -signal.SIGALRM:
            return f"ended, having made no progress for {self.limit_s:g} s"
        if self.exit_code is not None and self.exit_code < 0:
            return f"killed by {signal.Signals(-self.exit_code).name}"
        return f"ended with exit code {self.exit_code}"


def run(
    work: Work[Job, Result],
    jobs: Iterable[Job],
    num_workers: int,
    advance: Callable[[int], None],
    isolated: bool = False,
    extra_s: float = 0.0,
) -> Generator[tuple[Job, Result], None, None]:
    """Each job with its result, as they get done, in any order; `jobs` are made one by one when a worker is free.

    With one worker the work is done in this process, unless it is to be `isolated`: libraries that read files may crash
    or never come back on a damaged one. A worker that makes no progress for `LIMIT_S` + `extra_s`
    seconds ends. After a failure nothing new is begun, what is in work is finished, then the error is raised.

    Raises:
        WorkerDied: a worker process ended before its job.
        UserError: one ended before it could take a job.
    """
    if num_workers <= 1 and not isolated:
        for job in jobs:
            yield job, work(job, advance)
        return
    limit_s = LIMIT_S + round(extra_s)
    later = iter(jobs)
    first = list(islice(later, max(1, num_workers)))
    remaining = chain(first, later)
    # spawn: forking a process that has torch's threads can hang it.
    context = multiprocessing.get_context("spawn")
    # Of a process that has not said yet that it is ready, the job is None.
    busy: dict[Connection, tuple[Any, Job | None]] = {}
    processes = []
    failure: BaseException | None = None

    def give(connection: Connection, process: Any) -> None:
        """The next job, or the end."""
        job = None if failure else next(remaining, None)
        try:
            connection.send(job)
        except OSError:  # it has died since
            if job is not None:
                process.join()
                raise WorkerDied(job, process.exitcode, limit_s) from None
        if job is not None:
            busy[connection] = (process, job)

    try:
        for _ in first:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, work, limit_s), daemon=True)
            process.start()
            there.close()
            processes.append(process)
            busy[here] = (process, None)
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                process, at = busy[connection]
                try:
                    kind, value = connection.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    del busy[connection]
                    death = _no_start(process.exitcode) if at is None else WorkerDied(at, process.exitcode, limit_s)
                    failure = failure or death
                    continue
                if kind == "progress":
                    advance(value)
                    continue
                del busy[connection]
                if kind == "failed":
                    failure = failure or value
                elif at is not None:  # it has told more than that it is ready
                    yield at, value
                give(connection, process)
        if failure:
            raise failure
    finally:
        for process in processes:
            process.join(0 if busy else 10)
            if process.is_alive():
                process.kill()
                process.join()


def _no_start(exit_code: int | None) -> UserError:
    return UserError(
        f"a worker process can't start (exit code {exit_code}); what it printed above says why. If "
        "memory is short, run again with fewer --workers"
    )


in_worker = False
"""Whether this process is a worker, which does jobs of one run and ends."""


def _serve(connection: Connection, work: Work[Any, Any], limit_s: float) -> None:
    """A worker's life: jobs come, results go."""
    global in_worker
    in_worker = True
    # By the system's own hand: a library in C that goes round in circles never lets Python's handlers run.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()

    amount = 0

    def advance(more: int) -> None:
        nonlocal amount
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        amount += more
        if amount >= REPORT_EVERY:
            connection.send(("progress", amount))
            amount = 0

    connection.send(("ready", None))
    while (job := connection.recv()) is not None:
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            answer = ("done", work(job, advance))
        except Exception as error:
            error.add_note(f"in a worker process:\n{traceback.format_exc()}")
            answer = ("failed", _portable(error))
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(("progress", amount))
        connection.send(answer)
        amount = 0


def _end_with_parent() -> None:
    """Ends this process as soon as its parent is gone: it would otherwise write on beside the next run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error, or one with its whole text if it can't travel between processes: pickling calls the error's own code,
    which may raise anything."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
