"""From an evaluation to champion, queue and leaderboard; second tries, and what is kept if judging fails."""

import csv
import json
import os
import shutil
from dataclasses import replace

import pytest
from evaluated_runs import write_data, write_run

from ups_scale.errors import DataError, UserError
from ups_scale.evaluate import run as running
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
    return [
        {"name": "persistence", "family": f, "horizon": 1, "value": 0, "limit": 1, "passed": True} for f in families
    ]


def report_of(run, suite="small"):
    return json.loads((run / "evaluation" / suite / "report.json").read_text())


def test_a_winner_of_the_small_suite_waits_for_the_full_one_and_becomes_champion(
    runs, easy, accelerator, tmp_path, capsys
):
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
    assert f"{runs['a'] / 'checkpoints/step-10'}: taken from the queue, for the full suite" in capsys.readouterr().out
    assert evaluate_queued(champions, accelerator, Request()) == []

    with (tmp_path / "runs/leaderboard.csv").open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert [row["suite"] for row in rows] == ["small", "full"]


def rows(tmp_path):
    with (tmp_path / "runs/leaderboard.csv").open() as file:
        return {row["run_id"]: row for row in csv.DictReader(file)}


def test_the_champion_evaluated_again_is_still_the_champion(runs, easy, accelerator, tmp_path):
    evaluate_and_judge(runs["a"], accelerator, Request())
    (place,) = (tmp_path / "champions").glob("*/small/champion.json")
    before = place.read_bytes()
    evaluate_and_judge(runs["a"], accelerator, Request(force=True))
    report = report_of(runs["a"])
    assert report["champion"]["promoted"]
    assert "it is the champion itself" in report["verdict"][0]
    assert rows(tmp_path)["a-00000000"]["promoted"] == "yes"
    assert place.read_bytes() == before


def test_a_copy_of_the_champion_is_not_promoted(runs, easy, accelerator, tmp_path):
    evaluate_and_judge(runs["a"], accelerator, Request())
    copy = tmp_path / "runs/copy-00000000"
    shutil.copytree(runs["a"], copy, ignore=shutil.ignore_patterns("evaluation"))
    evaluate_and_judge(copy, accelerator, Request())
    report = report_of(copy)
    assert report["champion"]["against"] == "a-00000000"
    assert not report["champion"]["promoted"]
    assert not next(gate for gate in report["gates"] if gate["name"] == "champion_nrmse")["passed"]


def test_a_failed_gate_gets_one_second_try_with_the_same_guards_for_both(
    runs, easy, accelerator, tmp_path, monkeypatch, capsys
):
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
    assert report["failsafe"][0]["what"] == "guards conservation"
    assert "second try with guards conservation: promoted" in done.notes
    begins = "second try with guards conservation: it begins, for conservation_gap failed: project"
    assert begins in capsys.readouterr().out


def test_a_second_try_that_won_is_there_when_the_same_is_asked_for_again(
    runs, easy, accelerator, tmp_path, monkeypatch
):
    evaluate_and_judge(runs["a"], accelerator, Request())

    def guarded(root, report, trajectories, **options):
        if options["after"] is not None:
            return replace(contest(root, report, trajectories, **options), promoted=True)
        judgement = contest(root, report, trajectories, **options)
        return replace(judgement, promoted=False, failsafes=(Failsafe("guards", {"guards": ["conservation"]}, "why"),))

    monkeypatch.setattr(standing, "contest", guarded)
    evaluate_and_judge(runs["b"], accelerator, Request())
    report = report_of(runs["b"])
    assert report["guards"] == ["conservation"]
    assert report["requested"] == {"guards": [], "noise_scale": {}}
    again = evaluate_and_judge(runs["b"], accelerator, Request())
    assert again.outcome.already_there
    assert not again.outcome.new_report
    assert report_of(runs["b"]) == report


def test_the_full_evaluation_has_the_guards_that_won(runs, easy, accelerator, tmp_path):
    evaluate_and_judge(runs["a"], accelerator, Request(guards=("conservation",)))
    (done,) = evaluate_queued(tmp_path / "champions", accelerator, Request())
    assert done.outcome.report["guards"] == ["conservation"]
    assert done.outcome.out.name == "full-conservation"


def test_an_evaluation_that_is_there_is_judged_from_its_files(runs, easy, accelerator, tmp_path, monkeypatch):
    evaluate_and_judge(runs["a"], accelerator, Request(), judged=False)
    before = report_of(runs["a"])
    assert rows(tmp_path)["a-00000000"]["promoted"] == ""
    monkeypatch.setattr(running, "measure", None)
    done = evaluate_and_judge(runs["a"], accelerator, Request())
    report = report_of(runs["a"])
    assert done.outcome.already_there
    assert report["champion"]["promoted"]
    assert report["families"] == before["families"]
    assert rows(tmp_path)["a-00000000"]["promoted"] == "yes"
    held = next((tmp_path / "champions").glob("*/small/0001-*/trajectories.json"))
    assert json.loads(held.read_text()) == json.loads((runs["a"] / "evaluation/small/trajectories.json").read_text())
    assert not evaluate_and_judge(runs["a"], accelerator, Request()).outcome.new_report


def test_a_queued_evaluation_that_is_there_is_judged(runs, easy, accelerator, tmp_path):
    evaluate_and_judge(runs["a"], accelerator, Request())
    evaluate_and_judge(runs["a"], accelerator, Request(suite="full"), judged=False)
    (done,) = evaluate_queued(tmp_path / "champions", accelerator, Request())
    assert done.outcome.already_there
    assert report_of(runs["a"], "full")["champion"]["promoted"]
    assert list((tmp_path / "champions").glob("*/full/champion.json"))


def test_from_files_there_is_no_second_try(runs, easy, accelerator, monkeypatch):
    evaluate_and_judge(runs["a"], accelerator, Request())
    evaluate_and_judge(runs["b"], accelerator, Request(), judged=False)

    def asking(root, report, trajectories, **options):
        asked = Failsafe("ece", {"noise_scale": {"advection_1d": 2.0}}, "ece failed: scale the noise")
        return replace(contest(root, report, trajectories, **options), promoted=False, failsafes=(asked,))

    monkeypatch.setattr(standing, "contest", asking)
    done = evaluate_and_judge(runs["b"], accelerator, Request())
    (note,) = [note for note in done.notes if "second try" in note]
    assert note == "no second try: the evaluation was there already; --force does it again, with one"
    assert report_of(runs["b"])["failsafe"] == [
        {"reason": "ece failed: scale the noise", "what": "nothing", "result": note}
    ]


def test_the_hint_names_champions_that_lie_elsewhere_and_comes_once(runs, easy, accelerator, tmp_path, monkeypatch):
    told = evaluate_and_judge(runs["a"], accelerator, Request()).notes
    hint = "its full evaluation waits: tools/evaluate.py --queued"
    assert f"{hint} --champions {tmp_path / 'champions'}" in told
    monkeypatch.chdir(tmp_path)
    again = evaluate_and_judge(runs["a"], accelerator, Request(force=True))
    assert not any(note.startswith(hint) for note in again.notes)
    shutil.rmtree("champions")
    assert hint in evaluate_and_judge(runs["a"], accelerator, Request(force=True)).notes


def test_a_folder_of_champions_that_is_not_there_is_told(accelerator, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder of champions; name it with --champions DIR"):
        evaluate_queued(tmp_path / "nowhere", accelerator, Request())


def test_what_was_queued_elsewhere_is_found_from_every_folder(runs, easy, accelerator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate_and_judge(runs["a"].relative_to(tmp_path), accelerator, Request())
    os.mkdir("other")
    monkeypatch.chdir(tmp_path / "other")
    (done,) = evaluate_queued(tmp_path / "champions", accelerator, Request())
    assert done.outcome.report["champion"]["promoted"]


def test_a_worker_that_is_interrupted_gives_its_evaluation_back(runs, easy, accelerator, tmp_path, monkeypatch):
    evaluate_and_judge(runs["a"], accelerator, Request())

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "measure", stop)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            evaluate_queued(tmp_path / "champions", accelerator, Request())
    (queue,) = (tmp_path / "champions").glob("*/queue.jsonl")
    line = json.loads(queue.read_text())
    assert (line["state"], line["attempts"]) == ("waiting", 0)


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
    assert report["failsafe"][0]["what"] == "noise_scale advection_1d x 2"
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
    assert done.notes == ("no champion: the checkpoint lies in no run folder; name a folder with --champions",)


def test_a_queued_checkpoint_that_is_gone_is_marked_as_failed(runs, easy, accelerator, tmp_path, capsys):
    evaluate_and_judge(runs["a"], accelerator, Request())
    task = report_of(runs["a"])["champion"]["task"]
    (runs["a"] / "checkpoints/step-10").rename(tmp_path / "elsewhere")
    assert evaluate_queued(tmp_path / "champions", accelerator, Request()) == []
    (line,) = [json.loads(text) for text in (tmp_path / f"champions/{task}/queue.jsonl").read_text().splitlines()]
    assert line["state"] == "failed"
    assert "could not be evaluated" in capsys.readouterr().out
