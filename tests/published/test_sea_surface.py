"""A file that nobody here made, from download to evaluation by the README's commands: OSTIA's sea surface temperature,
masked, not square, periodic along one axis only, one long trajectory at uneven times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FAMILY = "sea_surface_temperature"
FRAMES, TEST_FRAMES, CONTEXT = 54, 5, 2

data = pytest.importorskip("iris_sample_data", reason="needs OSTIA's file: pip install iris-sample-data==2.5.2")
OSTIA = Path(data.path) / "ostia_monthly.nc"


def run(*arguments: str | Path) -> str:
    """What a command of the project says; it must end well."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sea_surface")
    run("tools/shard.py", OSTIA, "--layout", "recipes/mappings/ostia.json", "--out", out)
    return out


@pytest.fixture(scope="module")
def truth_txy() -> np.ndarray:
    """(54, 432, 18) float64 in degrees Celsius, NaN on land: read without any of the project's code."""
    with h5py.File(OSTIA) as file:
        stored_tyx = file["surface_temperature"][()]
    kelvin = np.where(stored_tyx > 1e19, np.nan, stored_tyx.astype(np.float64))
    return kelvin.transpose(0, 2, 1) - 273.15


def test_what_the_manifest_says(shards: Path, truth_txy: np.ndarray) -> None:
    entry = json.loads((shards / "manifest.json").read_text())["families"][FAMILY]
    assert (entry["masked"], entry["regular"], entry["grid"]) == (True, False, [432, 18])
    assert entry["boundaries"] == [["periodic", "periodic"], ["open", "open"]]
    assert entry["num_frames"] == {"train": 43, "valid": 6, "test": TEST_FRAMES}
    assert entry["licences"] == ["UK Open Government Licence"]
    np.testing.assert_allclose(entry["extents"], [[-5 / 12, 360 - 5 / 12], [-5 - 5 / 18, 4 + 13 / 18]], atol=1e-3)
    train = truth_txy[:43]
    np.testing.assert_allclose(entry["statistics"]["u"]["mean"], [np.nanmean(train)], rtol=1e-6)
    np.testing.assert_allclose(entry["statistics"]["u"]["std"], [np.nanstd(train)], rtol=1e-5)
    np.testing.assert_allclose(entry["statistics"]["delta"]["std"], [np.nanstd(np.diff(train, axis=0))], rtol=1e-5)


def test_from_shards_to_a_report(shards: Path, truth_txy: np.ndarray, tmp_path: Path) -> None:
    recipe = ("--recipe", "recipes/sea_surface.json")
    assert "masked" in run("tools/validate.py", *recipe, "--data", shards, "--deep")
    short = ("--set", "schedule.steps=40", "--set", "evaluate.every_steps=20", "--set", "logging.every_steps=10")
    run("launch/pretrain.py", *recipe, "--set", f"data.manifest={shards}", *short, "--run-root", tmp_path)
    (folder,) = tmp_path.iterdir()
    run("tools/evaluate.py", "--checkpoint", folder)

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    report = json.loads((folder / "evaluation" / "small" / "report.json").read_text())
    table = report["families"][FAMILY]
    first = FRAMES - TEST_FRAMES  # of the test split
    last_given = truth_txy[first + CONTEXT - 1]
    for step in (1, 2, 3):
        frame = truth_txy[first + CONTEXT - 1 + step]
        persistence = np.sqrt(np.nanmean((frame - last_given) ** 2) / np.nanmean(frame**2))
        assert table["persistence"][f"nrmse@{step}"] == pytest.approx(persistence, rel=1e-5)
        assert table["zero"][f"nrmse@{step}"] == pytest.approx(1)
        # Forty steps on 43 months teach little: it must be no worse than a beginner's persistence.
        assert table["model"][f"nrmse@{step}"] < 1.05 * persistence
    assert report["data"][FAMILY]["regular"] is False
