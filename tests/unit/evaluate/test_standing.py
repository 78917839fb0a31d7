"""From an evaluation to the champion, the queue and the leaderboard; second tries, and what is kept if judging fails."""

import csv
import json
from dataclasses import replace

import pytest
from evaluated_runs import write_data, write_run

from ups_scale.errors import DataError, UserError
from ups_scale.evaluate import standing
from ups_scale.evaluate.contest import contest
from ups_scale.evaluate.failsafe import Failsafe
from ups_scale.evaluate.run import Request
from ups_scale.evaluate.standing import evaluate_and_judge, evaluate_queued


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def runs(tmp_path, manifest):
    return {name: write_run(tmp_path / "runs", manifest, name=name, seed=seed) for name, seed in (("a", 0), ("b", 1))}


@pytest.fixture
def easy(monkeypatch):
    """Every evaluation passes the gates of the trivial predictors."""
    monkeypatch.setattr("ups_scale.evaluate.champion.persistence_gates", passing)


def passing(families):
    return [{"name": "persistence", "family": f, "horizon": 1, "value": 0, "limit": 1, "passed": True} for f in families]


def report_of(run, suite="small"):
    return json.loads((run / "evaluation" / suite / "report.json").read_text())


def test_a_winner_of_the_small_suite_waits_for_the_full_one_and_becomes_champion(runs, easy, accelerator, tmp_path):
    champions = tmp_path / "champions"
    first = evaluate_and_judge(runs["a"], accelerator, Request())
    report = report_of(runs["a"])
    assert report["champion"]["promoted"]
    assert report["champion"]["against"] is None
    assert len(report["verdict"]) == 3
    assert any("full evaluation waits" in note for note in first.notes)
    task = report["champion"]["task"]
    assert not (champions / task / "full").exists()

    (done,) = evaluate_queued(champions, accelerator, Request())
    assert done.outcome.report["suite"] == "full"
    assert report_of(runs["a"], "full")["champion"]["promoted"]
    assert json.loads((champions / task / "full/champion.json").read_text())["run"] == "a-00000000"
    assert evaluate_queued(champions, accelerator, Request()) == []

    with (tmp_path / "runs/leaderboard.csv").open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert [row["suite"] for row in rows] == ["small", "full"]


def test_the_same_checkpoint_again_is_not_promoted(runs, easy, accelerator, tmp_path):
    evaluate_and_judge(runs["a"], accelerator, Request())
    evaluate_and_judge(runs["a"], accelerator, Request(force=True))
    report = report_of(runs["a"])
    assert report["champion"]["against"] == "a-00000000"
    assert not report["champion"]["promoted"]
    assert not next(gate for gate in report["gates"] if gate["name"] == "champion_nrmse")["passed"]


def test_a_failed_gate_gets_one_second_try_with_the_same_guards_for_both(runs, easy, accelerator, tmp_path, monkeypatch):
    evaluate_and_judge(runs["a"], accelerator, Request())
    calls = []

    def failing(root, report, trajectories, **options):
        """The judgement, which asks for a second try the first time and promotes the second."""
        calls.append((report, options))
        judgement = contest(root, report, trajectories, **options)
        if options["after"] is None:
            asked = Failsafe("conservation", {"guards": ["conservation"]}, "conservation_gap failed: project", True)
            return replace(judgement, promoted=False, failsafes=(asked,))
        return replace(judgement, promoted=True)

    monkeypatch.setattr(standing, "contest", failing)
    done = evaluate_and_judge(runs["b"], accelerator, Request())
    assert len(calls) == 2
    (again, options) = calls[1]
    assert again["guards"] == ["conservation"]
    rival, _ = options["champion_again"]
    assert rival["run"] == "a-00000000"
    assert rival["guards"] == ["conservation"]
    assert rival["families"]["advection_1d"]["model"]["conservation_gap@4"] < 1e-6
    report = report_of(runs["b"])
    assert report["guards"] == ["conservation"]
    assert report["failsafe"][0]["reason"] == "conservation_gap failed: project"
    assert "guards ['conservation']" in report["failsafe"][0]["what"]
    assert any(note.startswith("second try with guards ['conservation']: promoted") for note in done.notes)


def test_a_second_try_that_loses_leaves_the_evaluation_as_it_was(runs, easy, accelerator, monkeypatch):
    evaluate_and_judge(runs["a"], accelerator, Request(suite="full"))

    def asking(root, report, trajectories, **options):
        judgement = contest(root, report, trajectories, **options)
        asked = Failsafe("ece", {"noise_scale": {"advection_1d": 2.0}}, "ece failed: scale the noise")
        return replace(judgement, promoted=False, failsafes=() if options["after"] else (asked,))

    monkeypatch.setattr(standing, "contest", asking)
    evaluate_and_judge(runs["b"], accelerator, Request(suite="full"))
    report = report_of(runs["b"], "full")
    assert report["noise_scale"] == {}
    assert report["reliability"]["advection_1d"]["noise"] == 0.03
    assert report["failsafe"][0]["what"] == "noise_scale {'advection_1d': 2.0}"
    assert report["failsafe"][0]["result"].endswith("not promoted")


def test_without_a_comparable_champion_the_evaluation_is_kept_and_the_reason_said(runs, easy, accelerator, tmp_path):
    evaluate_and_judge(runs["a"], accelerator, Request())
    checkpoint = runs["b"] / "checkpoints/step-10"
    recipe = json.loads((checkpoint / "recipe.json").read_text())
    recipe["evaluate"]["horizons"] = [1, 2]
    (checkpoint / "recipe.json").write_text(json.dumps(recipe))
    content = json.loads((checkpoint / "manifest.json").read_text())
    content["files"].pop("recipe.json")
    (checkpoint / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"the evaluation is in .*small, but not judged: .*suites differ"):
        evaluate_and_judge(runs["b"], accelerator, Request())
    assert "champion" not in report_of(runs["b"])
    assert "b-00000000" in (tmp_path / "runs/leaderboard.csv").read_text()


def test_an_alien_leaderboard_is_refused_before_the_work(runs, accelerator, tmp_path):
    (tmp_path / "runs/leaderboard.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"leaderboard\.csv"):
        evaluate_and_judge(runs["a"], accelerator, Request())
    assert not (runs["a"] / "evaluation").exists()


def test_unjudged_nothing_is_promoted(runs, easy, accelerator, tmp_path):
    evaluate_and_judge(runs["a"], accelerator, Request(), judged=False)
    assert "champion" not in report_of(runs["a"])
    assert not (tmp_path / "champions").exists()
    outside = tmp_path / "step-10"
    (runs["b"] / "checkpoints/step-10").rename(outside)
    done = evaluate_and_judge(outside, accelerator, Request(out=tmp_path / "out"))
    assert done.notes == (
        "no champion: the checkpoint lies in no run folder; name a folder with --champions",
    )


def test_a_queued_checkpoint_that_is_gone_is_marked_as_failed(runs, easy, accelerator, tmp_path, capsys):
    evaluate_and_judge(runs["a"], accelerator, Request())
    task = report_of(runs["a"])["champion"]["task"]
    (runs["a"] / "checkpoints/step-10").rename(tmp_path / "elsewhere")
    assert evaluate_queued(tmp_path / "champions", accelerator, Request()) == []
    (line,) = [json.loads(text) for text in (tmp_path / f"champions/{task}/queue.jsonl").read_text().splitlines()]
    assert line["state"] == "failed"
    assert "could not be evaluated" in capsys.readouterr().out
