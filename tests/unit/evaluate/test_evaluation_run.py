"""tools/evaluate.py from checkpoint to files: the default folder, what is not done twice, the zoo, and its errors."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import torch
from evaluated_runs import write_data, write_run

from ups_scale.data.manifest import load_manifest
from ups_scale.errors import CheckpointError, DataError, UserError
from ups_scale.evaluate import leaderboard, suites
from ups_scale.evaluate import report as reports
from ups_scale.evaluate import run as running
from ups_scale.evaluate.run import Request, evaluate_checkpoint
from ups_scale.evaluate.saved import find_report
from ups_scale.evaluate.zoo import missing
from ups_scale.model.simulator import Simulator

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools" / "evaluate.py"
SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data and a run on them, in a folder that tests copy."""
    folder = tmp_path_factory.mktemp("made")
    write_run(folder / "runs", write_data(folder / "data"))
    return folder


@pytest.fixture
def there(made, tmp_path, monkeypatch):
    """A folder of one's own with `data/` and `runs/t-00000000/`, the current one; the recipe names the data in it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "runs/t-00000000/checkpoints/step-10"
    change(checkpoint, "recipe.json", lambda recipe: recipe["data"].update(manifest="data/manifest.json"))
    return SimpleNamespace(run=tmp_path / "runs/t-00000000", checkpoint=checkpoint, data=tmp_path / "data")


def change(checkpoint: Path, name: str, edit) -> None:
    """Edits a JSON file of a checkpoint, whose manifest then no longer lists it."""
    content = json.loads((checkpoint / name).read_text())
    edit(content)
    (checkpoint / name).write_text(json.dumps(content))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"].pop(name, None)
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def edit_data(there, edit) -> None:
    path = there.data / "manifest.json"
    content = json.loads(path.read_text())
    edit(content["families"])
    path.write_text(json.dumps(content))


def test_writes_to_the_run_and_not_twice(there, accelerator):
    first = evaluate_checkpoint(there.run, accelerator, Request())
    assert not first.already_there
    assert first.report["run"] == "t-00000000"
    assert first.report["config_hash"] == "00000000"
    assert first.report["step"] == 10
    assert first.report["checkpoint"] == "runs/t-00000000/checkpoints/step-10"
    jsonschema.validate(first.report, SCHEMA)
    files = there.run / "evaluation/small"
    names = ["report.html", "report.json", "table.csv", "trajectories.json"]
    assert sorted(path.name for path in files.iterdir()) == names

    again = evaluate_checkpoint(there.run, accelerator, Request())
    assert again.already_there
    assert again.report == first.report
    assert not evaluate_checkpoint(there.run, accelerator, Request(guards=("conservation",))).already_there
    (files / "report.json").write_text((files / "report.json").read_text()[:-100])  # cut off
    assert not evaluate_checkpoint(there.run, accelerator, Request()).already_there
    assert not evaluate_checkpoint(there.run, accelerator, Request(force=True)).already_there


def test_the_full_suite_has_all_splits_longer_rollouts_and_ensembles(there, accelerator):
    report = evaluate_checkpoint(there.run, accelerator, Request(suite="full")).report
    jsonschema.validate(report, SCHEMA)
    assert {split: sorted(of) for split, of in report["splits"].items()} == {
        "ood_regime": ["advection_1d"],
        "ood_resolution": ["advection_1d-32"],
    }
    assert "fitted without training to grid 32" in report["data"]["advection_1d-32 (ood_resolution)"]["taken_as"]
    assert report["data"]["advection_1d (ood_regime)"]["num_trajectories"] == 4
    assert report["data"]["advection_1d"]["horizons"] == [1, 4, 8]  # of 9 frames one is given
    model = report["families"]["advection_1d"]["model"]
    assert {"nrmse@8", "crps@8", "ece@4", "spread_skill@1"} <= model.keys()
    assert not any(metric.startswith("coverage") for metric in model)
    assert "crps@8" not in report["families"]["advection_1d"]["persistence"]
    diagram = report["reliability"]["gray_scott_2d"]
    assert (diagram["members"], diagram["noise"], diagram["step"]) == (8, 0.03, 8)
    assert len(diagram["coverage"]) == len(diagram["levels"]) == 9
    between = diagram["interval"]
    assert all(a <= b <= c for a, b, c in zip(between["low"], diagram["coverage"], between["high"], strict=True))
    assert between["ece_low"] < between["ece_high"]
    assert report["spectra"]["gray_scott_2d"].keys() >= {"truth", "model", "persistence", "step", "fields"}
    assert len(report["budgets"]["advection_1d"]["integral"]["model"]) == 8
    assert report["efficiency"]["advection_1d"]["metrics_s"] > 0
    for family, table in report["families"].items():
        kept = json.loads((there.run / "evaluation/full/trajectories.json").read_text())["families"][family]
        assert len(set(kept["keys"])) == report["data"][family]["num_trajectories"]
        for k, values in kept["nrmse"]["model"].items():
            assert sum(values) / len(values) == pytest.approx(table["model"][f"nrmse@{k}"], rel=1e-9)


def test_a_full_suite_without_ensembles_says_why(there, accelerator):
    report = evaluate_checkpoint(there.run, accelerator, Request(suite="full", noise=0.0)).report
    jsonschema.validate(report, SCHEMA)
    assert "reliability" not in report
    assert report["reliability_left_out"].startswith("no ensembles: the noise of the given frames is 0, by stabiliz")
    assert "reliability_left_out" not in evaluate_checkpoint(there.run, accelerator, Request()).report


def test_an_evaluation_with_guards_lies_beside_the_plain_one(there, accelerator):
    plain = evaluate_checkpoint(there.run, accelerator, Request())
    guarded = evaluate_checkpoint(there.run, accelerator, Request(guards=("helmholtz", "conservation")))
    assert [done.out.name for done in (plain, guarded)] == ["small", "small-conservation-helmholtz"]
    assert evaluate_checkpoint(there.run, accelerator, Request()).already_there
    assert evaluate_checkpoint(there.run, accelerator, Request(guards=("conservation", "helmholtz"))).already_there
    for suite in (None, "small"):
        assert find_report(there.run, suite).parent.name == "small"
    assert leaderboard.rebuild(there.run.parent / "leaderboard.csv", there.run.parent).rows == 2


def test_times_are_of_a_named_device(there, accelerator, monkeypatch):
    monkeypatch.setattr(reports, "device_name", lambda device: "a fast one")
    report = evaluate_checkpoint(there.run, accelerator, Request()).report
    assert {of["device"] for of in report["efficiency"].values()} == {report["device"]} == {"a fast one"}


def test_a_suite_measures_the_same_of_every_model(there, accelerator, monkeypatch):
    monkeypatch.setitem(suites.SUITES, "small", suites.Suite("small", 3, False, False, 0, 0, ()))
    other = write_run(there.run.parent, load_manifest(there.data / "manifest.json"), name="other", seed=1)
    change(other / "checkpoints/step-10", "recipe.json", lambda of: of["data"].update(manifest="data/manifest.json"))
    ours, theirs = (evaluate_checkpoint(run, accelerator, Request()).report for run in (there.run, other))
    assert ours["suite_hash"] == theirs["suite_hash"]
    assert ours["data"]["advection_1d"]["num_trajectories"] == 3
    assert ours["data"]["advection_1d"]["of_trajectories"] == 6
    keys = [
        json.loads((run / "evaluation/small/trajectories.json").read_text())["families"]["advection_1d"]["keys"]
        for run in (there.run, other)
    ]
    assert keys[0] == keys[1]
    assert ours["families"]["advection_1d"]["persistence"] == theirs["families"]["advection_1d"]["persistence"]
    change(there.checkpoint, "recipe.json", lambda recipe: recipe["evaluate"].update(horizons=[1, 3]))
    assert evaluate_checkpoint(there.run, accelerator, Request()).report["suite_hash"] != ours["suite_hash"]


def test_another_checkpoint_or_data_is_evaluated_anew(there, accelerator):
    evaluate_checkpoint(there.run, accelerator, Request())
    change(there.checkpoint, "state.json", lambda state: state.update(other=1))
    newer = evaluate_checkpoint(there.run, accelerator, Request())
    assert not newer.already_there
    assert newer.replaced_data is None
    edit_data(there, lambda families: families.pop("gray_scott_2d"))
    other = evaluate_checkpoint(there.run, accelerator, Request())
    assert not other.already_there
    assert other.replaced_data == newer.report["manifest_digest"]


def test_what_the_model_does_not_know_or_has_no_test_split_is_left_out_and_said(there, accelerator):
    def edit(families):
        families["korteweg_de_vries_1d"] = families["advection_1d"] | {"parameters": ["beta"]}
        families["gray_scott_2d"] = families["gray_scott_2d"] | {
            "splits": {"train": families["gray_scott_2d"]["splits"]["train"]},
            "num_frames": {"train": 9},
        }

    edit_data(there, edit)
    report = evaluate_checkpoint(there.run, accelerator, Request()).report
    assert report["left_out"] == {
        "korteweg_de_vries_1d": "the model does not know the family korteweg_de_vries_1d; it knows advection_1d, "
        "gray_scott_2d",
        "gray_scott_2d": "it has no test split",
    }
    assert list(report["families"]) == ["advection_1d"]

    edit_data(there, lambda families: families.pop("advection_1d"))
    with pytest.raises(DataError, match=r"nothing to evaluate on \(.*does not know the family korteweg_de_vries_1d"):
        evaluate_checkpoint(there.run, accelerator, Request(force=True))


def test_rollouts_that_leave_the_finite_numbers_are_said_step_by_step(there, accelerator):
    model = Simulator.from_pretrained(there.checkpoint / "model")
    with torch.no_grad():
        for parameter in model.decoders.parameters():
            parameter.fill_(3e37)  # finite at first
    model.save_pretrained(there.checkpoint / "model")
    change(there.checkpoint, "model/model.json", lambda _: None)
    change_manifest = json.loads((there.checkpoint / "manifest.json").read_text())
    change_manifest["files"].pop("model/model.safetensors", None)
    (there.checkpoint / "manifest.json").write_text(json.dumps(change_manifest))
    report = evaluate_checkpoint(there.run, accelerator, Request()).report
    jsonschema.validate(report, SCHEMA)
    diverged = report["diverged"]["advection_1d"]["model"]
    assert len(diverged) == 6
    last = report["families"]["advection_1d"]["model"]
    assert last["nrmse@4"] is None
    assert last["non_finite@4"] == 6
    gates = {(gate["family"], gate["horizon"]): gate["passed"] for gate in report["gates"]}
    assert not gates["advection_1d", 4]
    kept = json.loads((there.run / "evaluation/small/trajectories.json").read_text())["families"]["advection_1d"]
    assert kept["nrmse"]["model"]["4"] == [None] * 6


def test_the_zoo_stands_in_every_table(there, accelerator):
    manifest = load_manifest(there.data / "manifest.json")
    for name, settings in {"fno": {"operator": "fno"}, "deep": {"depth": 3}}.items():
        made = write_run(there.run.parent, manifest, name=name, seed=2, **settings)
        for checkpoint in (made / "checkpoints/step-10", made):
            path = checkpoint / "recipe.json"
            recipe = json.loads(path.read_text())
            recipe["data"]["manifest"] = "data/manifest.json"
            path.write_text(json.dumps(recipe))
        change(made / "checkpoints/step-10", "recipe.json", lambda _: None)
    auto = evaluate_checkpoint(there.run, accelerator, Request())
    assert list(auto.report["zoo"]) == ["fno"]  # a baseline on the same data, of itself
    assert auto.report["zoo"]["fno"]["run"] == "fno-00000000"
    table = auto.report["families"]["advection_1d"]
    assert table.keys() == {"model", "fno", "persistence", "zero", "fields", "truth"}
    assert table["fno"].keys() == table["persistence"].keys()
    assert table["fno"]["nrmse@4"] != table["model"]["nrmse@4"]
    assert "fno" in auto.report["efficiency"]["advection_1d"]["zoo"]
    asked = evaluate_checkpoint(there.run, accelerator, Request(zoo="runs/deep-00000000"))
    assert list(asked.report["zoo"]) == ["deep-00000000"]
    none = evaluate_checkpoint(there.run, accelerator, Request(zoo="none"))
    assert none.report["zoo"] == {}
    with pytest.raises(UserError, match="two entries are called fno-00000000; name every checkpoint once"):
        evaluate_checkpoint(there.run, accelerator, Request(zoo=",".join(["runs/fno-00000000"] * 3)))
    with pytest.raises(CheckpointError, match="--zoo: nowhere: neither a run folder"):
        evaluate_checkpoint(there.run, accelerator, Request(zoo="nowhere"))


def test_baselines_that_are_missing_are_noted_unless_none_was_asked_for():
    assert "no fno and no unet of these data" in missing(())
    assert "no unet of these data" in missing(("fno",))
    assert missing(("fno", "unet")) is None
    assert missing((), "none") is None


def test_a_queue_says_the_suite_itself(tmp_path):
    command = [sys.executable, str(TOOL), "--queued", "--suite", "small", "--champions", str(tmp_path)]
    environment = {"PYTHONPATH": str(TOOL.parents[1]), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert "--queued takes data, suite, guards and place from the queue: leave out --out, --data, " in done.stderr


def test_a_baseline_that_takes_more_given_frames_is_refused(there, accelerator):
    manifest = load_manifest(there.data / "manifest.json")
    write_run(there.run.parent, manifest, name="two", context_frames=2)
    with pytest.raises(UserError, match="it takes 2 given frames, the model to evaluate 1"):
        evaluate_checkpoint(there.run, accelerator, Request(zoo="runs/two-00000000"))
    # The other way round it can be compared: it takes the last of them.
    two = there.run.parent / "two-00000000"
    report = evaluate_checkpoint(two, accelerator, Request(zoo=str(there.run))).report
    assert "extrapolation" in report["families"]["advection_1d"]
    assert math.isfinite(report["families"]["advection_1d"]["t-00000000"]["nrmse@1"])


def test_guards_act_on_all_but_zero(there, accelerator):
    plain = evaluate_checkpoint(there.run, accelerator, Request(zoo="none")).report
    kept = evaluate_checkpoint(there.run, accelerator, Request(guards=("conservation", "helmholtz"))).report
    jsonschema.validate(kept, SCHEMA)
    before, after = (report["families"]["advection_1d"]["model"]["conservation_gap@4"] for report in (plain, kept))
    assert before > 1e-4
    assert after < 1e-6
    assert kept["families"]["advection_1d"]["zero"]["nrmse@4"] == 1
    assert set(kept["guards_left_out"]["advection_1d"]) == {"helmholtz"}
    assert set(kept["guards_left_out"]["gray_scott_2d"]) == {"conservation", "helmholtz"}
    with pytest.raises(UserError, match="guards gravity: no such guard; there are conservation, helmholtz"):
        evaluate_checkpoint(there.run, accelerator, Request(guards=("gravity",)))


def test_super_resolution_of_a_model_that_can_not_is_refused(there, accelerator):
    with pytest.raises(UserError, match=r'model\.decoder "points", and this one was trained with "patch"'):
        evaluate_checkpoint(there.run, accelerator, Request(factors=(2,)))


def test_the_tool_takes_whole_factors(tmp_path):
    command = [sys.executable, str(TOOL), "--checkpoint", str(tmp_path), "--super-resolution", "2,x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "expected whole numbers with commas between, as 2,4,8" in done.stderr


def test_missing_data_are_named_with_the_remedy(there, accelerator):
    (there.data / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"data/manifest.json: no such manifest; .*--data MANIFEST"):
        evaluate_checkpoint(there.run, accelerator, Request())


def test_trajectories_too_short_for_the_horizons_are_refused(there, accelerator):
    change(there.checkpoint, "recipe.json", lambda recipe: recipe["evaluate"].update(horizons=[1, 16]))
    with pytest.raises(DataError, match="advection_1d: trajectories have 9 frames, but 1 given frames and a"):
        evaluate_checkpoint(there.run, accelerator, Request())


def test_a_checkpoint_outside_a_run_needs_an_out_folder(there, accelerator, tmp_path):
    moved = tmp_path / "step-10"
    there.checkpoint.rename(moved)
    with pytest.raises(CheckpointError, match="lies in no run folder; say where to write with --out DIR"):
        evaluate_checkpoint(moved, accelerator, Request())
    done = evaluate_checkpoint(moved, accelerator, Request(out=tmp_path / "out"))
    assert (done.out / "report.json").exists()
    assert done.report["config_hash"] is None


def test_unknown_suites_and_absent_devices_are_refused(there, accelerator, monkeypatch):
    with pytest.raises(UserError, match="--suite huge: no such suite; there is small, full"):
        evaluate_checkpoint(there.run, accelerator, Request(suite="huge"))
    monkeypatch.setattr(running.torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device is visible"):
        running.open_accelerator("cuda")


def test_tool_says_what_is_wrong_without_a_traceback(tmp_path):
    command = [sys.executable, str(TOOL), "--checkpoint", str(tmp_path / "nothing"), "--device", "cpu"]
    environment = {"PYTHONPATH": str(TOOL.parents[1]), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
