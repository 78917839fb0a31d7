"""`tools/sweep.py` as users start it: real trainings and evaluations, and refusals."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_pretrain import ROOT, SMALL

pytest.importorskip("optuna")
pytestmark = pytest.mark.timeout(900)

SETTING = {**SMALL, "schedule.steps": 20, "evaluate.every_steps": 10, "curriculum.horizons": [1]}


def sweep(shards: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "tools/sweep.py", "--recipe", "recipes/demo.json", *extra]
    for key, value in {"data.manifest": str(shards / "manifest.json"), **SETTING}.items():
        line += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)


def space(folder: Path, **keys: object) -> str:
    path = folder / "space.json"
    path.write_text(json.dumps({"format": 1, "coarse": {"keys": keys}, "local": {"trials": 0}, "full": {"best": 0}}))
    return str(path)


def test_all_that_is_wrong_is_told_before_anything_is_written(shard_folder: Path, tmp_path: Path) -> None:
    path, out = (
        space(tmp_path, **{"optimizer.lrr": {"factors": [2]}, "stabilization.noise": {"values": [7]}}),
        tmp_path / "o",
    )
    done = sweep(shard_folder, "--space", path, "--out", str(out))
    assert done.returncode == 2
    assert 'coarse.keys.optimizer.lrr: no key of a recipe; did you mean "optimizer.lr"?' in done.stderr
    assert "coarse.keys.stabilization.noise: found 7.0; allowed: a number from 0 to 0.5" in done.stderr
    assert not out.exists()


def test_a_slurm_script_is_written_and_a_worker_needs_a_sweep(shard_folder: Path, tmp_path: Path) -> None:
    path, out = space(tmp_path, **{"optimizer.lr": {"factors": [1, 2]}}), tmp_path / "o"
    done = sweep(shard_folder, "--space", path, "--out", str(out), "--worker")
    assert done.returncode == 2
    assert "no sweep to join; begin it without --worker" in done.stderr
    done = sweep(shard_folder, "--space", path, "--out", str(out), "--slurm", "3")
    assert done.stdout == f"sbatch {out / 'sweep.sbatch'}\n"
    script = (out / "sweep.sbatch").read_text()
    assert "--array=0-2" in script
    assert "--worker" in script
    subprocess.run(["bash", "-n", str(out / "sweep.sbatch")], check=True)


@pytest.mark.slow
def test_a_hopeless_trial_is_stopped_and_the_rest_is_trained_measured_and_ranked(
    shard_folder: Path, tmp_path: Path
) -> None:
    path, out = space(tmp_path, **{"optimizer.lr": {"factors": [1, 0.0001]}}), tmp_path / "o"
    options = ("--space", path, "--out", str(out), "--json")
    done = sweep(shard_folder, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert summary["trials"] == {"done": 1, "stopped": 1}
    assert summary["best"]["trial"] == "coarse-00"
    rows = {row["trial"]: row for row in csv.DictReader((out / "trials.csv").open())}
    assert float(rows["coarse-01"]["gain"]) < float(rows["coarse-01"]["sigma"])
    run = out / "runs" / rows["coarse-01"]["run"]
    assert json.loads((run / "stopped.json").read_text())["step"] == 10
    assert [path.name for path in sorted((run / "checkpoints").glob("step-*"))] == ["step-10", "step-5"]
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["stopped"] == "proxy"

    again = sweep(shard_folder, *options)
    assert json.loads(again.stdout) == summary
    assert "begins" not in again.stderr
    other = sweep(shard_folder, *options[2:], "--space", space(tmp_path, **{"optimizer.lr": {"factors": [1, 3]}}))
    assert other.returncode == 2
    assert "space.coarse.keys.optimizer.lr.factors" in other.stderr
