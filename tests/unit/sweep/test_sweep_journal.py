"""A sweep is worked off once, whoever works, dies and comes back."""

from __future__ import annotations

import csv
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sweep_runs
from sweep_runs import Computed, calls, objective

from ups_scale.errors import UserError
from ups_scale.recipe.load import resolve
from ups_scale.sweep import work
from ups_scale.sweep.journal import Claim, Journal
from ups_scale.sweep.outcome import DIVERGED, DONE, FAILED, STOPPED, Outcome
from ups_scale.sweep.space import read_space

pytest.importorskip("optuna")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "POLL_S", 0.02)


def test_grid_then_local_search_around_the_best_then_full_evaluation(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    trials = sweep_runs.run(out, Computed(out))
    assert [trial.phase for trial in trials] == ["coarse"] * 6 + ["local"] * 5
    assert trials[0].values == {"optimizer.lr": 0.002, "stabilization.grad_clip": 1.0}, "the recipe's own point"
    best_of_grid = sorted(trials[:6], key=lambda trial: objective(trial.values))[:3]
    for trial in trials[6:]:
        (centre,) = (other for other in best_of_grid if other.label == trial.around)
        assert 0.8 <= trial.values["optimizer.lr"] / centre.values["optimizer.lr"] <= 1.2
        assert trial.values["stabilization.grad_clip"] == centre.values["stabilization.grad_clip"]
        assert trial.values["stabilization.noise"] in (0.015, 0.03)
    best = work.ranked(trials)
    assert [trial.label for trial in trials if trial.full] == sorted(trial.label for trial in best[:2])
    assert calls(out)[-2:] == [f"full {trial.label}" for trial in best[:2]]


def test_what_it_leaves_behind(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    trials = sweep_runs.run(out, Computed(out))
    best = work.ranked(trials)[0]
    rows = list(csv.DictReader((out / "trials.csv").open()))
    assert [row["trial"] for row in rows] == [trial.label for trial in trials]
    assert next(row for row in rows if row["rank"] == "1")["trial"] == best.label
    assert json.loads((out / "best.json").read_text())["objective"] == pytest.approx(objective(best.values))
    recipe = resolve(out / "recipe.best.json")
    assert recipe["optimizer"]["lr"] == best.values["optimizer.lr"]
    assert recipe["schedule"] == resolve(sweep_runs.RECIPE)["schedule"]
    page = (out / "sweep.html").read_text()
    assert best.label in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    following = read_space(out / "next.json")
    lr = following.document["coarse"]["keys"]["optimizer.lr"]["values"]
    assert max(lr) > 0.003, "the highest learning rate won"
    assert "widened: the highest value tried" in following.document["reasons"]["optimizer.lr"]


def test_a_finished_sweep_is_not_run_again(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sweep_runs.run(out, Computed(out))
    before = calls(out)
    sweep_runs.run(out, Computed(out))
    assert calls(out) == before


def test_a_claim_is_refused_while_somebody_has_it_and_an_error_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "claims").mkdir()
    held = Claim.take(tmp_path, "coarse-00")
    assert held is not None
    assert Claim.take(tmp_path, "coarse-00") is None
    held.release()

    def without_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with pytest.raises(UserError, match=r"coarse-00.lock: the file system .* gives no lock \(No locks available\)"):
        Claim.take(tmp_path, "coarse-00")


def test_several_workers_share_a_journal(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    trials = sweep_runs.run(out, Computed(out, 0.02), workers=4)
    begun = Counter(line for line in calls(out) if line.startswith(("begin", "full")))
    assert set(begun.values()) == {1}
    assert len(begun) == 6 + 5 + 2
    assert all(trial.outcome is not None for trial in trials)


def test_kill_9_loses_no_finished_trial_and_runs_none_twice(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    script = [sys.executable, sweep_runs.__file__, str(out), "0.3"]
    environment = {**os.environ, "PYTHONPATH": str(sweep_runs.ROOT)}
    over: set[str] = set()
    for least in (3, 6):
        process = subprocess.Popen(script, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while sum(line.startswith("begin") for line in calls(out)) < least and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = Journal(out).trials()
        assert any(trial.running for trial in found), "it was to die amid a trial"
        over |= {f"begin {trial.label}" for trial in found if trial.outcome is not None}
    with (out / "journal.jsonl").open("a") as journal:
        journal.write('{"op_code": 6, "worker_i')  # a line that a kill cut off
    trials = sweep_runs.run(out, Computed(out))
    begun = Counter(line for line in calls(out) if line.startswith("begin"))
    assert len(trials) == 11
    assert all(trial.outcome is not None for trial in trials)
    assert len(over) >= 3
    assert {begun[label] for label in over} <= {1, 2}
    assert sum(begun.values()) - len(begun) == 2, "the trial that each kill interrupted, and no other"
    whole = tmp_path / "whole"
    expected = [trial.values for trial in sweep_runs.run(whole, Computed(whole))]
    assert [trial.values for trial in trials] == expected, "the search draws what it would have drawn"


class Mixed(Computed):
    """Ends of every kind."""

    def trial(self, trial: Any, claim: Any, reference: Any, share: Any) -> Outcome:
        ends = {
            0: Outcome(DONE, 0.5),
            1: Outcome(DONE, 0.3, worse=("burgers_1d",)),
            2: Outcome(STOPPED, gain=0.01, sigma=0.02, error="too little gain"),
            3: Outcome(STOPPED, gain=-0.1, sigma=0.02, error="too little gain"),
            4: Outcome(DIVERGED, error="exit code 3: step 7"),
            5: Outcome(FAILED, error="exit code 2: no disk"),
        }
        return ends[trial.number]


def test_trials_that_pass_come_first_then_those_that_do_not_then_stopped_diverged_and_failed(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    document = {**sweep_runs.SPACE, "local": {"trials": 0}}
    trials = sweep_runs.run(out, Mixed(out), document=document)
    assert [trial.number for trial in work.ranked(trials)] == [0, 1, 2, 3, 4, 5]
    rows = {row["trial"]: row for row in csv.DictReader((out / "trials.csv").open())}
    assert rows["coarse-04"]["error"] == "exit code 3: step 7"
    assert rows["coarse-01"]["worse_than_persistence"] == "burgers_1d"
    assert calls(out) == ["full coarse-00", "full coarse-01"]


def test_values_that_were_tried_are_not_tried_again(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    keys = {"stabilization.grad_clip": {"values": [0.5, 1.0, 2.0]}}
    trials = sweep_runs.run(out, Computed(out), document={**sweep_runs.SPACE, "local": {"trials": 9, "keys": keys}})
    found = [json.dumps(trial.values) for trial in trials]
    assert len(found) == len(set(found)) == 6 + 2, "two learning rates with the one new clip: nothing is left"
