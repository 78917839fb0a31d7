"""The page of a training run: also of one that is being written, was killed, or diverged."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ups_scale.errors import CheckpointError
from ups_scale.evaluate.run_record import from_defaults, read_run, series
from ups_scale.evaluate.run_report import duration, page, values, verdict
from ups_scale.recipe.load import resolve

ROOT = Path(__file__).parents[3]


def record(step, loss=None, **more):
    loss = 1 / step if loss is None else loss
    numbers = {"lr": 1e-3, "grad_norm": 0.1, "tokens_per_s": 1000.0 + step, "data_wait_share": 0.01, "mfu": None}
    return {"step": step, "loss": loss, **numbers, "seconds": 2.0, "quarantined": 0, "finite": True, **more}


def validation(step, value):
    figures = {
        "wave/model/nrmse@1": value,
        "wave/model/non_finite@1": 0.0,
        "wave/persistence/nrmse@1": 0.5,
        "heat/model/nrmse@1": 0.1,
        "heat/persistence/nrmse@1": 0.3,
    }
    return {"step": step, "validation": figures}


def make_run(root, lines, overrides=("schedule.steps=100",), tail=""):
    folder = root / "demo-0123abcd"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(resolve(ROOT / "recipes" / "demo.json", overrides)))
    environment = {
        "python": "3.11",
        "packages": {"torch": "2"},
        "gpus": [],
        "command": ["train"],
        "commit": "abc",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    (folder / "checkpoints" / "step-100").mkdir(parents=True)
    return folder


def evaluation(folder, suite="small", date="2026-01-02T03:04:05+00:00", passed=True):
    table = {"model": {"nrmse@1": 0.2}, "persistence": {"nrmse@1": 0.4}, "zero": {"nrmse@1": 1.0}}
    gate = {"name": "persistence", "family": "wave", "horizon": 1, "value": 0.2, "limit": 0.4, "passed": passed}
    report = {
        "format": 1,
        "suite": suite,
        "run": folder.name,
        "step": 100,
        "date": date,
        "checkpoint_sha256": "1" * 64,
        "manifest_digest": "d" * 64,
        "params_m": 1.5,
        "families": {"wave": table},
        "gates": [gate],
    }
    out = folder / "evaluation" / suite
    out.mkdir(parents=True)
    (out / "report.json").write_text(json.dumps(report))
    return out / "report.json"


@pytest.fixture
def whole(tmp_path):
    lines = [record(step, **{"loss/wave": 0.5, "loss/heat": 0.3}) for step in range(10, 101, 10)]
    return make_run(tmp_path, [*lines, validation(50, 0.3), validation(100, 0.2)])


def test_a_finished_run_has_all_its_curves(whole):
    run = read_run(whole)
    assert verdict(run) == "Finished: 100 of 100 steps in 20 s of logged training."
    html = page(run)
    for title in ("Loss of the last step", "Loss by family", "Learning rate", "Gradient norm", "Waiting for data"):
        assert html.count(f">{title}<") == 1
    assert "Throughput of all ranks" in html
    # What was never measured has no empty chart.
    assert "Peak memory" not in html
    assert "Model FLOPs" not in html
    assert html.count('<figure class="chart">') == 6 + 2
    assert "persistence @1" in html
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html)


def test_memory_has_a_chart_where_it_is_known(tmp_path):
    folder = make_run(tmp_path, [record(step, peak_memory_gib=12.5, mfu=0.4) for step in (10, 100)])
    assert "Peak memory" in page(read_run(folder))
    assert "Model FLOPs utilisation" in page(read_run(folder))


@pytest.mark.parametrize("tail", ['{"step": 50, "lo', "\x00\x00", '{"loss": 1}', "[]", '{"step": 40.5}'])
def test_a_cut_off_last_line_is_told_and_the_rest_shown(tmp_path, tail):
    run = read_run(make_run(tmp_path, [record(step) for step in (10, 20, 30, 40)], tail=tail))
    assert run.damage == ("line 5 of metrics.jsonl is cut off: the run is being written, or was killed",)
    assert run.state == "unfinished"
    assert verdict(run).startswith("Not finished: step 40 of 100 after 8 s of logged training; still training, or kill")
    assert re.search(r"The last line was written \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\.$", verdict(run))
    assert run.damage[0] in page(run)


def test_a_line_cut_within_a_character_is_no_error(whole):
    with (whole / "metrics.jsonl").open("ab") as file:
        file.write('{"step": 110, "note": "é'.encode()[:-1])
    assert read_run(whole).damage[0].startswith("line 13 of metrics.jsonl is cut off")


def test_a_damaged_line_in_the_middle_is_told_apart(tmp_path):
    folder = make_run(tmp_path, [record(10)], tail='garbage\n{"step": 20, "loss": 0.5, "seconds": 2.0}\n')
    run = read_run(folder)
    assert run.damage == ("line 2 of metrics.jsonl is not readable, and left out",)
    assert run.step == 20


def test_a_run_that_was_stopped_says_by_which_rule_and_keeps_its_last_record(tmp_path):
    stop = {"step": 20, "stopped": "patience", "reason": "3 validations without a better score"}
    lines = [record(10), record(20, loss=0.25), validation(20, 0.3), stop]
    run = read_run(make_run(tmp_path, lines))
    assert (run.state, run.records[-1]["loss"], run.seconds) == ("stopped", 0.25, 4.0)
    assert verdict(run) == (
        "Stopped: after step 20 of 100 and 4 s of logged training, by the rule patience: 3 validations without a "
        "better score."
    )
    assert "3 validations without a better score" in page(run)
    assert values(run)["stop"] == stop
    assert values(run)["last"]["loss"] == 0.25
    with (run.folder / "metrics.jsonl").open("a") as file:  # went on, with another patience
        file.write(json.dumps(record(30)) + "\n")
    later = read_run(run.folder)
    assert (later.state, later.stop, values(later)["stop"]) == ("unfinished", None, None)


def test_divergence_is_the_verdict(tmp_path):
    lines = [record(10), record(20, loss=None) | {"loss": None, "finite": False}, validation(20, None)]
    run = read_run(make_run(tmp_path, lines))
    assert run.state == "diverged"
    assert (
        verdict(run) == "Diverged: the loss or gradient was not finite by step 20 of 100, after 4 s of logged training."
    )
    html = page(run)
    assert 'class="verdict failed"><strong>Diverged' in html
    assert "Not finite: wave at training step 20" in html


def test_a_resumed_run_counts_a_step_once(tmp_path):
    run = read_run(make_run(tmp_path, [record(10), record(20), record(20, loss=0.7), record(30)]))
    assert [(of["step"], of["loss"]) for of in run.records] == [(10, 0.1), (20, 0.7), (30, 1 / 30)]
    assert run.seconds == 6.0


def test_a_run_without_a_line_yet(tmp_path):
    folder = make_run(tmp_path, [])
    (folder / "metrics.jsonl").unlink()
    run = read_run(folder)
    assert verdict(run) == "Not begun: no step of 100 is logged yet."
    assert "<h2>Training</h2>" not in page(run)


def test_the_newest_evaluation_is_shown_and_a_torn_one_named(whole):
    html = page(read_run(whole))
    assert "None yet: tools/evaluate.py" in html
    evaluation(whole)
    evaluation(whole, "full", "2026-02-02T03:04:05+00:00", passed=False)
    html = page(read_run(whole))
    assert "Suite full, step 100, 2026-02-02 03:04 UTC" in html
    assert "0 of 1 gates passed" in html
    assert '<li class="failed">persistence wave step 1</li>' in html
    assert ">0.500<" in html  # 0.2 / min(0.4, 1)
    torn = whole / "evaluation" / "full" / "report.json"
    torn.write_text(torn.read_text()[:100])
    run = read_run(whole)
    assert "Suite small" in page(run)
    assert f"{torn}: cut off or damaged" in run.unread[0]
    assert "cut off or damaged" in page(run)


def test_recipe_shows_first_what_differs_from_its_size(tmp_path):
    run = read_run(make_run(tmp_path, [record(10)], ["model.depth=2", "schedule.steps=100", "run.name=a"]))
    lines = from_defaults(run.recipe)
    assert "model.depth: 4 -> 2" in lines
    assert 'run.name: "run" -> "a"' in lines
    assert not [line for line in lines if line.startswith(("model.model_dim", "model.size", "format", "extends"))]
    html = page(run)
    assert html.index("model.depth: 4 -&gt; 2") < html.index("The whole recipe")


def test_changes_are_an_excerpt_and_escaped(whole):
    (whole / "changes.patch").write_text("diff --git a/x b/x\n" + "".join(f"+<b>{i}\n" for i in range(300)))
    run = read_run(whole)
    html = page(run)
    assert "+&lt;b&gt;198" in html
    assert "+&lt;b&gt;199" not in html
    assert "<b>" not in html
    assert "... 101 more lines in changes.patch" in html
    assert values(run)["changed_files"] == 1


def test_a_long_run_gives_a_small_page(tmp_path):
    lines = [record(step, **{f"loss/f{i}": 0.1 for i in range(16)}) for step in range(1, 20001)]
    html = page(read_run(make_run(tmp_path, lines)))
    assert len(html) < 3e6
    assert "at most 400 of them" in html


def test_series_thins_by_means_and_keeps_what_is_not_finite():
    records = [{"step": i, "x": float(i)} for i in range(1, 11)] + [{"step": 11}, {"step": 12, "x": None}]
    xs, ys = series(records, "x", 4)
    assert xs == [3, 6, 9, 12]
    assert ys == [2.0, 5.0, 8.0, None]
    assert series([], "x", 4) == ([], [])
    assert math.isclose(series(records[:3], "x", 100)[1][2], 3.0)


def test_what_is_no_run_folder_is_refused(tmp_path, whole):
    with pytest.raises(CheckpointError, match=r"no run folder \(there is no recipe.json in it\); name runs/"):
        read_run(tmp_path / "nothing")
    (whole / "recipe.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"recipe\.json: not readable JSON"):
        read_run(whole)
    (whole / "recipe.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"not a resolved recipe \(no schedule\.steps\)"):
        read_run(whole)


def test_durations_read_well():
    assert [duration(s) for s in (46.6, 312, 12000)] == ["47 s", "5 min 12 s", "3 h 20 min"]


def test_the_command_writes_the_page_and_json(whole):
    command = [sys.executable, str(ROOT / "tools/report.py"), str(whole), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert (content["state"], content["step"], content["checkpoints"]) == ("finished", 100, [100])
    assert "<h1>demo-0123abcd</h1>" in (whole / "report.html").read_text()
    done = subprocess.run(
        [*command[:2], str(whole / "checkpoints")], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 2
    assert "no run folder" in done.stderr
