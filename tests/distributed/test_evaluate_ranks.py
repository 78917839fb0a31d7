"""tools/evaluate.py on two processes: the same figures as on one, judged and written once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluated_runs import write_data, write_run

from ups_scale.evaluate.champions import open_task, read_lines
from ups_scale.evaluate.waiting import queue

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


def test_two_processes_take_the_queue_in_step_and_a_bad_checkpoint_stops_neither(tmp_path):
    """Of three that wait, one can't be read by the second process alone."""
    made = write_data(tmp_path / "data")
    runs = [write_run(tmp_path / "runs", made, name=name, seed=seed) for seed, name in enumerate("abc")]
    task = f"data-{made.digest[:8]}"
    champions = tmp_path / "champions"
    with open_task(champions, task) as folder:
        for run in runs:
            sha = hashlib.sha256(str(run).encode()).hexdigest()
            queue(folder, str(run), sha, str(made.path), "small", "h1")
    script = tmp_path / "queued.py"
    script.write_text(
        f"""
import os
from pathlib import Path
from ups_scale.errors import CheckpointError, run_command
from ups_scale.evaluate import run as running
from ups_scale.evaluate.standing import evaluate_queued
real = running.open_checkpoint

def torn(path, device):
    if os.environ["RANK"] == "1" and "b-0000" in str(path):
        raise CheckpointError(f"{{path}}: not readable here")
    return real(path, device)

def main():
    running.open_checkpoint = torn
    accelerator = running.open_accelerator("cpu")
    done = evaluate_queued(Path({str(champions)!r}), accelerator, running.Request())
    found = [standing.outcome.report["run"] for standing in done]
    # In one piece: both write to the same pipe.
    os.write(1, f"rank {{os.environ['RANK']}} {{found}}\\n".encode())

run_command(main)
"""
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=120, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in (0, 1):
        assert f"rank {rank} ['a-00000000', 'c-00000000']" in done.stdout
    assert done.stdout.count("not readable here") == 1
    lines = read_lines(champions / task / "queue.jsonl")
    assert [line["state"] for line in lines] == ["done", "failed", "done"]


def test_an_alien_leaderboard_is_said_once_and_ends_both(tmp_path):
    run = write_run(tmp_path / "runs", write_data(tmp_path / "data"))
    (tmp_path / "runs/leaderboard.csv").write_text("a,b\n1,2\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "tools/evaluate.py", "--checkpoint", str(run), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode != 0
    assert done.stderr.count("leaderboard.csv: it is no leaderboard") == 1
    assert "rank 1: " not in done.stderr


def numbers(value, path: str = "") -> dict[str, float]:
    """All numbers of nested objects and lists by their path; not those that are rounding noise alone."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: x for key, of in items for name, x in numbers(of, f"{path}/{key}").items()}
    if not isinstance(value, float) or "spectral_error" in path or "band_error" in path:
        return {}
    return {path: value}
