"""Worker processes: what they return, what they fail with, and which job killed them."""

import functools
import os
import signal
import time

import pytest

from ups_scale.data import workers
from ups_scale.data.workers import REPORT_EVERY, WorkerDied, run
from ups_scale.errors import DataError, UserError


def work(job, advance):
    advance(REPORT_EVERY - 1)
    advance(2)
    if job == "fails":
        raise DataError("in the file")
    if job == "odd":
        error = RuntimeError("can't travel")
        error.hook = lambda: None
        raise error
    if job == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(job, float):
        time.sleep(job)
    return job, os.getpid()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_job_is_done_once_and_progress_adds_up(num_workers):
    amounts = []
    found = dict(run(work, iter("abcdefg"), num_workers, amounts.append))
    assert {job: answer for job, (answer, _) in found.items()} == dict(zip("abcdefg", "abcdefg", strict=True))
    assert sum(amounts) == 7 * (REPORT_EVERY + 1)
    pids = {pid for _, pid in found.values()}
    assert (pids == {os.getpid()}) == (num_workers == 1)
    assert len(pids) <= num_workers


@pytest.mark.parametrize(
    ("job", "error", "message"), [("fails", DataError, "in the file"), ("odd", RuntimeError, "can't travel")]
)
def test_a_failure_stops_new_work_and_lets_the_rest_finish(job, error, message):
    found = []
    jobs = iter([1.0, job, *"abcdefgh"])
    with pytest.raises(error, match=message):
        found.extend(answer for answer, _ in run(work, jobs, 2, lambda _: None))
    assert 1.0 in found
    assert "h" in list(jobs)


def test_a_worker_that_can_not_start_blames_no_job(monkeypatch):
    monkeypatch.setattr(workers, "_serve", os._exit)  # of a pipe, which it can't take: it ends before it is ready
    with pytest.raises(UserError, match=r"a worker process can't start \(exit code 1\)"):
        list(run(work, ["a", "b", "c"], 2, lambda _: None))


def test_the_job_that_killed_its_worker_is_named():
    with pytest.raises(WorkerDied) as death:
        list(run(work, ["a", "dies", "b", "c"], 2, lambda _: None))
    assert (death.value.job, death.value.exit_code) == ("dies", -signal.SIGKILL)


def test_workers_end_when_nobody_wants_their_results(monkeypatch):
    results = run(functools.partial(work), iter([0.0, 60.0, 60.0]), 2, lambda _: None)
    _, (_, pid) = next(results)
    begin = time.monotonic()
    results.close()
    assert time.monotonic() - begin < 30
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_worker_is_another_process_where_jobs_may_crash():
    ((job, (answer, pid)),) = run(work, ["a"], 1, lambda _: None, isolated=True)
    assert (job, answer) == ("a", "a")
    assert pid != os.getpid()
    with pytest.raises(WorkerDied) as death:
        list(run(work, ["dies"], 1, lambda _: None, isolated=True))
    assert death.value.how == "killed by SIGKILL"


def test_a_worker_without_progress_is_ended(monkeypatch):
    monkeypatch.setattr(workers, "LIMIT_S", 0.5)
    with pytest.raises(WorkerDied) as death:
        list(run(work, [60.0], 1, lambda _: None, isolated=True))
    assert death.value.how == "ended, having made no progress for 0.5 s"
