"""tools/evaluate.py from checkpoint to files: the default folder, what is not done twice, and its errors."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ups_scale.errors import CheckpointError, DataError, UserError
from ups_scale.evaluate import run as running
from ups_scale.evaluate.run import evaluate_checkpoint

TOOL = Path(__file__).parents[3] / "tools" / "evaluate.py"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, models, tests):
    """A run folder with one checkpoint, whose model and data are stand-ins."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/manifest.json").write_text("{}")
    folder = tmp_path / "runs/t-00000000/checkpoints/step-10"
    folder.mkdir(parents=True)
    recipe = {"run": {"name": "t"}, "data": {"manifest": "data/manifest.json"}, "evaluate": {"horizons": [1, 4]}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "state.json").write_text('{"step": 10}')
    (folder / "manifest.json").write_text('{"format": 1}')

    families = {
        name: SimpleNamespace(
            spec=test.spec,
            regular=True,
            num_frames={"train": 24, "test": test.num_frames},
            num_trajectories=lambda split: 3,
        )
        for name, test in tests.items()
    }
    manifest = SimpleNamespace(path=Path("data/manifest.json"), digest="cd" * 32, families=families)
    models.linear.specs = {name: test.spec for name, test in tests.items()}
    monkeypatch.setattr(running, "find_checkpoint", lambda path, without: folder)
    monkeypatch.setattr(running, "load_manifest", lambda path: manifest)
    monkeypatch.setattr(running, "ShardReader", lambda manifest, name, split: tests[name].trajectories)
    monkeypatch.setattr(running, "page", lambda *_: "<!doctype html>")
    monkeypatch.setattr(running.Simulator, "from_pretrained", lambda folder, device: models.linear)
    return SimpleNamespace(folder=folder, run=tmp_path / "runs/t-00000000", manifest=manifest)


def test_writes_to_the_run_and_not_twice(checkpoint, accelerator):
    first = evaluate_checkpoint(checkpoint.run, accelerator)
    assert not first.already_there
    assert first.report["run"] == "t-00000000"
    assert first.report["step"] == 10
    assert first.report["checkpoint"] == "runs/t-00000000/checkpoints/step-10"
    files = checkpoint.run / "evaluation/small"
    assert sorted(path.name for path in files.iterdir()) == ["report.html", "report.json", "table.csv"]

    again = evaluate_checkpoint(checkpoint.run, accelerator)
    assert again.already_there
    assert again.report == first.report
    assert not evaluate_checkpoint(checkpoint.run, accelerator, force=True).already_there


def test_another_checkpoint_or_data_is_evaluated_anew(checkpoint, accelerator):
    evaluate_checkpoint(checkpoint.run, accelerator)
    (checkpoint.folder / "manifest.json").write_text('{"format": 1, "other": 1}')
    newer = evaluate_checkpoint(checkpoint.run, accelerator)
    assert not newer.already_there
    assert newer.replaced_data is None
    checkpoint.manifest.digest = "ef" * 32
    other = evaluate_checkpoint(checkpoint.run, accelerator)
    assert not other.already_there
    assert other.replaced_data == "cd" * 32


def test_what_the_model_does_not_know_or_has_no_test_split_is_left_out_and_said(checkpoint, accelerator):
    families = checkpoint.manifest.families
    spec = replace(families["advection_1d"].spec, name="kdv_1d")
    families["kdv_1d"] = SimpleNamespace(**{**vars(families["advection_1d"]), "spec": spec})
    families["advection_1d"] = SimpleNamespace(**{**vars(families["advection_1d"]), "num_trajectories": lambda _: 0})
    report = evaluate_checkpoint(checkpoint.run, accelerator).report
    assert report["left_out"] == {
        "kdv_1d": "the model does not know the family kdv_1d; it knows advection_1d, reaction_diffusion_2d",
        "advection_1d": "it has no test split",
    }
    assert "advection_1d" not in report["families"]
    assert report["families"]

    for name in list(families):
        if name not in report["left_out"]:
            del families[name]
    with pytest.raises(DataError, match=r"nothing to evaluate on \(.*kdv_1d: the model does not know the family"):
        evaluate_checkpoint(checkpoint.run, accelerator, force=True)


def test_super_resolution_of_a_model_that_can_not_is_refused(checkpoint, accelerator, models, monkeypatch):
    monkeypatch.setattr(models.linear, "arguments", {"model": {"decoder": "patch"}}, raising=False)
    with pytest.raises(UserError, match=r'model\.decoder "points", and this one was trained with "patch"'):
        evaluate_checkpoint(checkpoint.run, accelerator, factors=(2,))


def test_the_tool_takes_whole_factors(tmp_path):
    command = [sys.executable, str(TOOL), "--checkpoint", str(tmp_path), "--super-resolution", "2,x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "expected whole numbers with commas between, as 2,4,8" in done.stderr


def test_missing_data_are_named_with_the_remedy(checkpoint, accelerator):
    Path("data/manifest.json").unlink()
    with pytest.raises(DataError, match=r"data/manifest.json: no such manifest; .*--data MANIFEST"):
        evaluate_checkpoint(checkpoint.run, accelerator)


def test_a_checkpoint_outside_a_run_needs_an_out_folder(checkpoint, accelerator, monkeypatch, tmp_path):
    moved = tmp_path / "step-10"
    checkpoint.folder.rename(moved)
    monkeypatch.setattr(running, "find_checkpoint", lambda path, without: moved)
    with pytest.raises(CheckpointError, match="lies in no run folder; say where to write with --out DIR"):
        evaluate_checkpoint(moved, accelerator)
    assert (evaluate_checkpoint(moved, accelerator, out=tmp_path / "out").out / "report.json").exists()


def test_unknown_suites_and_absent_devices_are_refused(checkpoint, accelerator, monkeypatch):
    with pytest.raises(UserError, match="--suite huge: no such suite; there is small"):
        evaluate_checkpoint(checkpoint.run, accelerator, suite="huge")
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
