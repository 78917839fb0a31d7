"""The queue of full evaluations: once per checkpoint, never taken twice, free again when a worker dies."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from ups_scale.evaluate.champions import open_task, read_lines
from ups_scale.evaluate.waiting import finish, give_back, queue, take, waiting

CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "champions"
    for task, shas in {"demo-1": ("aa", "bb"), "other-2": ("cc",)}.items():
        with open_task(root, task) as folder:
            for sha in shas:
                assert queue(folder, f"runs/{sha}", sha * 32, "data/manifest.json", "full", "h1")
    return root


def states(root, task="demo-1"):
    return [line["state"] for line in read_lines(root / task / "queue.jsonl")]


def test_a_checkpoint_waits_once_per_suite_and_again_if_it_failed(root):
    with open_task(root, "demo-1") as folder:
        assert not queue(folder, "runs/aa", "aa" * 32, "data/manifest.json", "full", "h1")
        assert queue(folder, "runs/aa", "aa" * 32, "data/manifest.json", "small", "h1")
    job = take(root, "demo-1")
    finish(root, job, failed="out of memory")
    assert states(root) == ["failed", "waiting", "waiting"]
    assert read_lines(root / "demo-1" / "queue.jsonl")[0]["reason"] == "out of memory"
    with open_task(root, "demo-1") as folder:
        assert queue(folder, "runs/aa", "aa" * 32, "data/manifest.json", "full", "h1")
    assert states(root) == ["waiting"] * 3


def test_after_a_changed_suite_it_waits_again(root):
    finish(root, take(root, "demo-1"))
    with open_task(root, "demo-1") as folder:
        assert not queue(folder, "runs/aa", "aa" * 32, "data/manifest.json", "full", "h1")
        assert queue(folder, "runs/aa", "aa" * 32, "data/manifest.json", "full", "h2")
    assert states(root) == ["done", "waiting", "waiting"]
    jobs = [take(root, "demo-1") for _ in range(2)]
    assert [job.checkpoint for job in jobs] == ["runs/bb", "runs/aa"]
    finish(root, jobs[1])
    assert states(root) == ["done", "taken", "done"]


def test_it_is_taken_with_the_guards_and_the_noise_it_won_with(root):
    with open_task(root, "third-3") as folder:
        queue(folder, "runs/dd", "dd" * 32, "data/manifest.json", "full", "h1", ["conservation"], {"burgers_1d": 2.0})
    job = take(root, "third-3")
    assert (job.guards, job.noise_scale) == (("conservation",), {"burgers_1d": 2.0})
    plain = take(root, "other-2")
    assert (plain.guards, plain.noise_scale) == ((), {})


def test_the_oldest_goes_first_and_what_is_taken_or_done_is_not_taken_again(root):
    jobs = [take(root) for _ in range(3)]
    assert [(job.task, job.checkpoint, job.suite) for job in jobs] == [
        ("demo-1", "runs/aa", "full"),
        ("demo-1", "runs/bb", "full"),
        ("other-2", "runs/cc", "full"),
    ]
    assert take(root) is None
    line = read_lines(root / "demo-1" / "queue.jsonl")[0]
    assert line["by"].startswith(f"process {os.getpid()} on ")
    assert {task: len(lines) for task, lines in waiting(root).items()} == {"demo-1": 2, "other-2": 1}
    for job in jobs:
        finish(root, job)
    assert take(root) is None
    assert states(root) == ["done", "done"]
    assert list(root.rglob("taken-*")) == []
    assert waiting(root) == {"demo-1": [], "other-2": []}


def test_nothing_waits_where_nothing_is(tmp_path):
    assert take(tmp_path / "nowhere") is None


def _take_and_hang(root, pipe):
    job = take(root, "demo-1")
    pipe.send(job.checkpoint)
    signal.pause()


def test_what_a_killed_worker_had_is_taken_again_and_not_before(root):
    ours, theirs = CONTEXT.Pipe()
    worker = CONTEXT.Process(target=_take_and_hang, args=(root, theirs))
    worker.start()
    try:
        assert ours.poll(30)
        assert ours.recv() == "runs/aa"
        other = take(root, "demo-1")
        assert other.checkpoint == "runs/bb"
        assert take(root, "demo-1") is None
    finally:
        worker.kill()
        worker.join(30)
    assert take(root, "demo-1").checkpoint == "runs/aa"


def _kill_a_worker(root):
    ours, theirs = CONTEXT.Pipe()
    worker = CONTEXT.Process(target=_take_and_hang, args=(root, theirs))
    worker.start()
    try:
        assert ours.poll(30)
        return ours.recv()
    finally:
        worker.kill()
        worker.join(30)


def test_what_killed_two_workers_has_failed_and_the_others_go_on(root, capsys):
    assert [_kill_a_worker(root) for _ in range(2)] == ["runs/aa", "runs/aa"]
    assert take(root, "demo-1").checkpoint == "runs/bb"
    line = read_lines(root / "demo-1" / "queue.jsonl")[0]
    assert line["state"] == "failed"
    assert line["reason"].startswith("its worker died 2 times (the last one: process ")
    assert "runs/aa: given up: its worker died 2 times" in capsys.readouterr().out
    assert not list((root / "demo-1").glob(f"taken-*-{'aa' * 8}.lock"))


def test_what_is_given_back_waits_and_counts_as_no_attempt(root):
    for _ in range(4):
        job = take(root, "demo-1")
        assert job.checkpoint == "runs/aa"
        give_back(root, job)
    assert states(root) == ["waiting", "waiting"]


def _work(root, pipe):
    taken = []
    while (job := take(root, "demo-1")) is not None:
        taken.append(job.checkpoint)
        finish(root, job)
    pipe.send(taken)


def test_workers_at_once_never_take_the_same(root):
    with open_task(root, "demo-1") as folder:
        for number in range(10):
            queue(folder, f"runs/{number}", f"{number:064d}", "data/manifest.json", "full", "h1")
    pipes = [CONTEXT.Pipe() for _ in range(3)]
    workers = [CONTEXT.Process(target=_work, args=(root, theirs)) for _, theirs in pipes]
    for worker in workers:
        worker.start()
    taken = [name for ours, _ in pipes if ours.poll(60) for name in ours.recv()]
    for worker in workers:
        worker.join(30)
    assert len(taken) == 12
    assert len(set(taken)) == 12
    assert set(states(root)) == {"done"}
