"""tools/evaluate.py on two processes: the same figures as on one, judged and written once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluated_runs import write_data, write_run

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def evaluate(run: Path, out: Path, processes: int) -> dict:
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*launch, "tools/evaluate.py", "--checkpoint", str(run), "--suite", "full", "--device", "cpu"]
    command += ["--out", str(out), "--champions", str(out / "champions")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("report: ") == 1
    return json.loads((out / "report.json").read_text())


def test_two_processes_find_what_one_finds(tmp_path):
    run = write_run(tmp_path / "runs", write_data(tmp_path / "data"))
    one, two = (evaluate(run, tmp_path / f"out{processes}", processes) for processes in (1, 2))
    assert two["num_processes"] == 2
    assert two["suite_hash"] == one["suite_hash"]
    for key in ("families", "splits", "growth", "budgets", "reliability"):
        found, expected = numbers(two[key]), numbers(one[key])
        assert len(expected) > 10
        # In batches of another size float32 rounds otherwise; what counts points may differ by some of them.
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6), key
    assert two["champion"]["promoted"] == one["champion"]["promoted"]
    read = (json.loads((tmp_path / f"out{n}/trajectories.json").read_text())["families"] for n in (1, 2))
    first, second = (of["advection_1d"]["keys"] for of in read)
    assert first == second


def numbers(value, path: str = "") -> dict[str, float]:
    """All numbers of nested objects and lists by their path; not those that are rounding noise alone."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: x for key, of in items for name, x in numbers(of, f"{path}/{key}").items()}
    if not isinstance(value, float) or "spectral_error" in path or "band_error" in path:
        return {}
    return {path: value}
