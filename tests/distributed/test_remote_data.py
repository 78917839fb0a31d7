"""The commands on data at a URL, as users start them: the same run as from a folder, and clear refusals."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from shard_server import shard_server

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "model.depth": 1,
    "model.model_dim": 16,
    "model.num_heads": 1,
    "model.latent_dim": 16,
    "model.latent_tokens": 16,
    "data.batch_tokens": 256,
    "engine.micro_batch": 4,
    "schedule.steps": 4,
    "curriculum.horizons": [1, 2],
    "checkpoint.every_steps": 4,
    "evaluate.every_steps": 4,
    "evaluate.horizons": [1, 2],
    "evaluate.trajectories": 2,
    "logging.every_steps": 1,
    "logging.pictures_every_steps": 0,
}


def run(*line, expected=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(part) for part in line], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout, done.stderr


def settings(manifest, **more):
    given = {**SETTINGS, "data.manifest": str(manifest), **more}
    return [part for key, value in given.items() for part in ("--set", f"{key}={_text(value)}")]


def _text(value):
    return value if isinstance(value, str) else json.dumps(value)


def recipe(manifest, **more):
    return ["--recipe", "recipes/demo.json", *settings(manifest, **more)]


def losses(root):
    (path,) = root.glob("*/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return path.parent, [(line["step"], line["loss"], line["grad_norm"]) for line in lines if "loss" in line]


def flaky(name, number):
    return random.Random(f"{name} {number}").choice([None, 500, "torn"]) if number < 3 else None


def test_training_from_a_failing_server_is_that_from_a_folder(shard_folder, tmp_path) -> None:
    python = sys.executable
    found = {}
    with shard_server(shard_folder) as server:
        server.fault = flaky
        for name, place in (("folder", shard_folder / "manifest.json"), ("url", server.url)):
            cache = {"data.cache_dir": str(tmp_path / "cache"), "data.cache_gib": 0.01}
            line = ["launch/pretrain.py", "--run-root", tmp_path / name, *recipe(place, **cache)]
            run(python, *line)
            found[name] = losses(tmp_path / name)
        assert found["url"][1] == found["folder"][1]
        assert len(found["url"][1]) == SETTINGS["schedule.steps"]
        assert found["url"][0].name == found["folder"][0].name  # the same run, wherever the data lie
        shards = [name for name in server.requests if name.endswith(".tar")]
        whole = {name: sum(not flaky(name, n) for n in range(server.requests[name])) for name in shards}
        assert whole
        assert set(whole.values()) == {1}  # downloaded once


@pytest.mark.slow
def test_a_run_is_planned_found_and_evaluated_on_data_at_a_url(shard_folder, tmp_path) -> None:
    python = sys.executable
    with shard_server(shard_folder) as server:
        of_server = recipe(server.url, **{"data.cache_dir": str(tmp_path / "cache")})
        out, _ = run(python, "tools/plan.py", "--json", *of_server)
        assert json.loads(out)["families_from"] == server.url
        run(python, "launch/pretrain.py", "--run-root", tmp_path / "runs", *of_server)
        out, _ = run(python, "launch/pretrain.py", "--where", "--run-root", tmp_path / "runs", *of_server)
        assert (Path(out.strip()) / "metrics.jsonl").exists()
        tool = [python, "tools/evaluate.py", "--checkpoint", out.strip(), "--json"]
        reports = [json.loads(run(*tool, "--out", tmp_path / "here", "--data", shard_folder)[0])]
        reports.append(json.loads(run(*tool)[0]))  # of the recipe's data.manifest
        assert reports[1]["manifest"] == f"{server.url}/manifest.json"
        assert reports[1]["families"] == reports[0]["families"]


def test_refusals_say_what_to_do_and_leave_no_run(shard_folder, tmp_path) -> None:
    with shard_server(shard_folder) as server:
        cache = {"data.cache_dir": str(tmp_path / "cache")}
        pretrain = [sys.executable, "launch/pretrain.py", "--run-root", tmp_path / "runs"]
        small = recipe(server.url, **cache, **{"data.cache_gib": 0.0001})
        _, told = run(*pretrain, *small, expected=2)
        assert told.startswith("error: data.cache_gib: found 0.0001; at least ")
        validate = [sys.executable, "tools/validate.py", "--json"]
        report = json.loads(run(*validate, "--deep", *recipe(server.url, **cache))[0])
        assert (report["problems"], report["manifest"]) == ([], server.url)
        assert report["deep"]["bytes"] == sum(path.stat().st_size for path in shard_folder.glob("*.tar"))

        server.fault = lambda name, number: 403 if name.endswith(".idx") else None
        fresh = recipe(server.url, **{"data.cache_dir": str(tmp_path / "fresh")})
        _, told = run(*pretrain, *fresh, expected=2)
        assert f"error: {server.url}/" in told
        assert "the server denies access (HTTP 403); check the URL and your credentials" in told
        assert not any((tmp_path / "runs").glob("*"))
