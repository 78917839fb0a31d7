"""`champions/`: who holds a place, under a lock, whole after a crash; who wins the small suite waits for the full."""

from __future__ import annotations

import dataclasses
import multiprocessing
from pathlib import Path

import pytest
from judged import evaluation

from ups_scale.errors import DataError, UserError
from ups_scale.evaluate import champions, suites, waiting
from ups_scale.evaluate.champions import champion, default_root, open_task, read_lines, task_name
from ups_scale.evaluate.contest import contest

TASK = "demo-cdcdcdcd"
RECIPE = {"optimizer": {"lr": 1e-3}}


def full(made):
    for of in made:
        of["suite_hash"] += "full"
    made[0]["suite"] = "full"
    return made


@pytest.fixture
def root(tmp_path):
    return tmp_path / "champions"


def history(root):
    return read_lines(root / TASK / "history.jsonl")


@pytest.mark.parametrize(
    ("manifest", "name"),
    [
        ("data/demo/manifest.json", "demo"),
        ("s3://bucket/sets/wave 2/manifest.json", "wave-2"),
        ("manifest.json", "data"),
        ("../manifest.json", "data"),
    ],
)
def test_a_task_is_named_by_its_data(manifest, name):
    assert task_name({"manifest": manifest, "manifest_digest": "cd" * 32}) == f"{name}-cdcdcdcd"


def test_champions_lie_beside_the_runs(tmp_path):
    assert default_root(tmp_path / "runs" / "demo-12345678") == tmp_path.resolve() / "champions"


def test_the_first_the_better_and_the_worse(root):
    first, better, worse = evaluation("a"), evaluation("b", factor=0.9), evaluation("c", factor=0.95)
    assert champion(root, TASK, "small") is None
    assert contest(root, *first, recipe=RECIPE).promoted
    found = contest(root, *better, recipe={"optimizer": {"lr": 2e-3}})
    assert (found.promoted, found.against) == (True, "a")
    assert "optimizer.lr: 0.001 -> 0.002" in found.verdict[0]
    assert not contest(root, *worse).promoted
    held = champion(root, TASK, "small")
    assert (held.report, held.trajectories, held.recipe) == (*better, {"optimizer": {"lr": 2e-3}})
    assert (held.entry["run"], held.entry["step"], held.entry["horizon"]) == ("b", 100, 16)
    assert held.entry["improvement"] == pytest.approx(0.1)
    assert held.entry["figures"]["burgers_1d"]["nrmse@4"] == better[0]["families"]["burgers_1d"]["model"]["nrmse@4"]
    lines = history(root)
    assert [(line["run"], line["promoted"], line["against"]) for line in lines] == [
        ("a", True, None),
        ("b", True, "a"),
        ("c", False, "b"),
    ]
    assert all(len(line["verdict"]) == 3 for line in lines)
    assert len(list((root / TASK / "small").glob("0*-*"))) == 2  # the former winner stays


def test_suites_have_their_own_champions_and_the_playbook_knows_the_winner_of_the_small_one(root):
    contest(root, *full(evaluation("a")))
    contest(root, *evaluation("a"))
    contest(root, *evaluation("b", factor=0.9))
    found = contest(root, *full(evaluation("b", factor=1.1)))
    assert champion(root, TASK, "small").entry["run"] == "b"
    assert champion(root, TASK, "full").entry["run"] == "a"
    assert found.verdict[2].startswith("next: good on the small suite, bad on the full one: ")


def test_a_winner_of_the_small_suite_waits_for_the_full_one_once(root):
    contest(root, *evaluation("a"))
    contest(root, *evaluation("a"))
    contest(root, *evaluation("worse", factor=1.1))
    contest(root, *full(evaluation("a")))
    (line,) = read_lines(root / TASK / "queue.jsonl")
    assert {key: line[key] for key in waiting.KEYS} == {
        "checkpoint": str(Path("runs/a/checkpoints/step-100").resolve()),
        "checkpoint_sha256": evaluation("a")[0]["checkpoint_sha256"],
        "data": str(Path("data/demo/manifest.json").resolve()),
        "suite": "full",
        "suites_hash": line["suites_hash"],
        "state": "waiting",
    }


def test_paths_mean_the_same_from_every_folder(root, tmp_path, monkeypatch):
    made = evaluation("a")
    made[0]["manifest"] = "s3://bucket/demo/manifest.json"
    monkeypatch.chdir(tmp_path)
    contest(root, *made)
    (line,) = read_lines(root / TASK / "queue.jsonl")
    entry = champion(root, TASK, "small").entry
    assert line["checkpoint"] == entry["checkpoint"] == str(tmp_path / "runs/a/checkpoints/step-100")
    assert line["data"] == entry["manifest"] == "s3://bucket/demo/manifest.json"


def test_the_full_evaluation_waits_again_when_either_suite_has_changed(root, monkeypatch):
    contest(root, *evaluation("a"))
    waiting.finish(root, waiting.take(root))
    changed = evaluation("a")
    for of in changed:
        of["suite_hash"] = "new"
    contest(root, *changed)
    assert [line["state"] for line in read_lines(root / TASK / "queue.jsonl")] == ["done", "waiting"]
    waiting.finish(root, waiting.take(root))
    longer = dataclasses.replace(suites.SUITES["full"], members=16)
    monkeypatch.setitem(suites.SUITES, "full", longer)
    contest(root, *changed)
    assert [line["state"] for line in read_lines(root / TASK / "queue.jsonl")] == ["done", "done", "waiting"]


def test_the_champion_evaluated_again_stays_it_and_nothing_is_written_anew(root):
    contest(root, *evaluation("a"))
    place = root / TASK / "small/champion.json"
    before = place.read_bytes()
    found = contest(root, *evaluation("a"))
    assert (found.promoted, found.against, found.second_try) == (True, "a", {})
    assert {gate["name"] for gate in found.gates} == {"persistence"}
    assert found.verdict[0] == "changed: nothing, it is the champion itself"
    assert found.reasons[0].startswith("the champion itself, since 20")
    assert place.read_bytes() == before
    assert [line["promoted"] for line in history(root)] == [True]


def test_a_second_try_that_won_is_the_champion_when_evaluated_again_without_its_guards(root):
    won = evaluation("a")
    won[0]["guards"] = ["conservation"]
    contest(root, *won)
    found = contest(root, *evaluation("a"))
    assert found.promoted
    assert "(guards: conservation)" in found.reasons[0]
    held = champion(root, TASK, "small")
    assert held.entry["guards"] == ["conservation"]
    assert waiting.take(root).guards == ("conservation",)


def test_the_champion_evaluated_with_guards_that_it_did_not_win_with_is_not_promoted(root):
    contest(root, *evaluation("a"))
    guarded = evaluation("a")
    guarded[0]["guards"] = ["conservation"]
    (root / TASK / "history.jsonl").unlink()
    found = contest(root, *guarded)
    assert not found.promoted
    assert found.verdict[0] == "changed: guards conservation of the champion itself"
    assert "(guards: none) stays" in found.verdict[1]
    assert champion(root, TASK, "small").entry["guards"] == []
    assert history(root) == []


def test_it_is_told_whether_the_full_evaluation_was_queued_now(root):
    assert contest(root, *evaluation("a")).queued
    assert not contest(root, *evaluation("a")).queued
    waiting.finish(root, waiting.take(root), failed="out of memory")
    assert contest(root, *evaluation("a")).queued
    assert not contest(root, *evaluation("worse", factor=1.1)).queued
    assert not contest(root, *full(evaluation("a"))).queued


def test_what_was_stopped_while_it_was_promoted_is_made_up_for_once(root):
    contest(root, *evaluation("a"))
    for name in ("history.jsonl", "queue.jsonl"):
        (root / TASK / name).unlink()
    for _ in range(2):
        assert contest(root, *evaluation("a")).promoted
    assert [(line["run"], line["promoted"]) for line in history(root)] == [("a", True)]
    assert len(read_lines(root / TASK / "queue.jsonl")) == 1


@pytest.mark.parametrize("same", ["checkpoint_sha256", "run"])
def test_a_copy_of_the_champion_is_not_promoted(root, same):
    contest(root, *evaluation("a"))
    before = (root / TASK / "small/champion.json").read_bytes()
    copy = evaluation("a")
    copy[0].update({"checkpoint_sha256": "77" * 32, "run": "copy"} | {same: copy[0][same]})
    found = contest(root, *copy)
    assert (found.promoted, found.improvement) == (False, 0.0)
    assert (root / TASK / "small/champion.json").read_bytes() == before


def test_a_full_evaluation_that_failed_waits_again_when_its_winner_is_evaluated_again(root):
    contest(root, *evaluation("a"))
    waiting.finish(root, waiting.take(root), failed="out of memory")
    contest(root, *evaluation("worse", factor=1.1))
    assert [line["state"] for line in read_lines(root / TASK / "queue.jsonl")] == ["failed"]
    contest(root, *evaluation("a"))
    assert [line["state"] for line in read_lines(root / TASK / "queue.jsonl")] == ["waiting"]


def test_the_champion_itself_replaces_its_evaluation_when_the_suite_has_changed(root):
    contest(root, *evaluation("a"))
    changed, other = evaluation("a"), evaluation("b", factor=0.9)
    for of in (*changed, *other):
        of["suite_hash"] = "new"
    with pytest.raises(DataError, match="suite_hash"):
        contest(root, *other)
    found = contest(root, *changed)
    assert found.reasons[0].endswith("this evaluation replaces the former")
    assert champion(root, TASK, "small").entry["suite_hash"] == "new"
    assert contest(root, *other).promoted


def test_a_second_try_stands_in_the_history_and_its_champion_has_the_guards(root):
    contest(root, *evaluation("a"))
    first = contest(root, *evaluation("b", factor=0.9, conservation_gap=4e-3))
    again, champion_again = evaluation("b", factor=0.9), evaluation("a")
    for of in (again, champion_again):
        of[0]["guards"] = first.second_try["guards"]
    found = contest(root, *again, after=first, champion_again=champion_again)
    assert found.promoted
    assert champion(root, TASK, "small").entry["guards"] == ["conservation"]
    assert history(root)[-1]["failsafe"][0]["what"] == "guards conservation"
    with pytest.raises(UserError, match="another one won meanwhile"):
        contest(root, *again, after=first, champion_again=champion_again)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("small/champion.json", lambda text: text[:50], r"small/champion\.json: not JSON .*put it back from a copy"),
        ("small/champion.json", lambda text: "[]", r"small/champion\.json: no JSON object"),
        ("small/champion.json", lambda text: '{"format": 2}', r"no champion of format 1 \(found format 2\)"),
        (
            "small/0001-*/report.json",
            lambda text: text[:-9],
            r"report\.json: not what .*champion\.json was written for",
        ),
        ("small/0001-*/trajectories.json", None, r"trajectories\.json: can't be read"),
        ("history.jsonl", lambda text: text[:30], r"history\.jsonl: line 1 is not JSON .*mend or remove that line"),
        ("history.jsonl", lambda text: text + "3\n", r"history\.jsonl: line 2 is no JSON object"),
        ("queue.jsonl", lambda text: "{}\n", r"queue\.jsonl: line 1 lacks checkpoint, .*mend or remove"),
    ],
)
def test_damage_is_told_with_the_file_and_nothing_is_lost(root, name, damage, message):
    contest(root, *evaluation("a"))
    (path,) = (root / TASK).glob(name)
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage(path.read_text()))
    before = {of: of.read_bytes() for of in root.rglob("*.json*")}
    with pytest.raises(UserError, match=message):
        contest(root, *evaluation("b", factor=0.9))
    assert {of: of.read_bytes() for of in root.rglob("*.json*")} == before


def test_a_full_disk_while_promoting_leaves_the_former_champion(root, monkeypatch):
    contest(root, *evaluation("a"))
    real = champions.atomic.write_json

    def full_disk(path, content):
        if path.name == "trajectories.json":
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(champions.atomic, "write_json", full_disk)
    with pytest.raises(UserError, match=r"can't be written \(No space left on device\); free some space"):
        contest(root, *evaluation("b", factor=0.9))
    monkeypatch.undo()
    assert champion(root, TASK, "small").entry["run"] == "a"
    assert contest(root, *evaluation("b", factor=0.9)).promoted


def test_a_folder_in_use_or_not_writable_is_told(root, tmp_path):
    with (
        open_task(root, TASK),
        pytest.raises(UserError, match=r"in use by process \d+ on .* for 0\.1 s"),
        open_task(root, TASK, patience_s=0.1),
    ):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"), open_task(tmp_path / "file", TASK):
        pass


def _contest(root, number):
    contest(root, *evaluation(f"model{number}", factor=1 - 0.05 * number))


def test_many_at_once_lose_nothing_and_the_best_holds_the_place(root):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_contest, args=(root, number)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 6
    assert sorted(line["run"] for line in history(root)) == [f"model{number}" for number in range(6)]
    assert champion(root, TASK, "small").entry["run"] == "model5"
    winners = [line["run"] for line in history(root) if line["promoted"]]
    assert len(read_lines(root / TASK / "queue.jsonl")) == len(winners)
