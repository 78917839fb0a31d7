"""tools/shard.py as people run it: with wrong input, and killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from synthetic import waves, write_arrays

from ups_scale.data.manifest import load_manifest

TOOL = Path(__file__).parents[2] / "tools" / "shard.py"


def command(*arguments):
    return [sys.executable, str(TOOL), *map(str, arguments)]


def shard(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False)


def text_file(folder):
    (folder / "in.hdf5").write_text("no HDF5")
    return [folder / "in.hdf5"], "in.hdf5: not a readable HDF5 file"


def empty_folder(folder):
    (folder / "in").mkdir()
    return [folder / "in"], "in: the folder holds no .hdf5 or .h5 file"


def not_finite(folder):
    u_nctx = waves(20, 1, 4, (8,), 0)
    u_nctx[13, 0, 2, 5] = np.nan
    write_arrays(folder / "1D_Advection_Sols_beta0.1.hdf5", ("tensor",), u_nctx, {}, {})
    return [folder / "1D_Advection_Sols_beta0.1.hdf5", "--shard-mib", "0.0005"], "trajectory 13, field u, frame 2 holds"


def wrong_parameter(folder):
    return [folder, "--parameter", "nu"], "--parameter nu: expected NAME=NUMBER, such as nu=0.01"


@pytest.mark.parametrize("case", [text_file, empty_folder, not_finite, wrong_parameter])
def test_bad_input_exits_2_with_one_message_and_leaves_nothing_half_written(tmp_path, case):
    arguments, message = case(tmp_path)
    out = tmp_path / "out"
    result = shard(*arguments, "--layout", "pdebench", "--out", out, "--workers", 2 if case is not_finite else 1)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("error: ") == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (out / "manifest.json").exists()


def test_a_killed_run_leaves_no_manifest_and_the_next_one_finishes_the_same(tmp_path):
    source = tmp_path / "in.hdf5"
    said = {"family": "advection_1d", "split": "train"}
    write_arrays(source, ("tensor",), waves(200, 1, 4, (32,), 0), {"beta": np.ones(200)}, said)
    options = ("--layout", "pdebench", "--shard-mib", "0.0005", "--workers", "1", "--json")
    out = tmp_path / "out"
    running = subprocess.Popen(
        command(source, *options, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while len(list(out.glob("*.idx"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(running.pid, signal.SIGKILL)
    finally:
        running.wait(30)
    assert running.returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar") if path.with_suffix(".tar.idx").exists()}
    assert 0 < len(kept) < 200

    again = shard(source, *options, "--out", out)
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} of 200 shards are already there" in again.stderr
    assert not list(out.glob("*.tmp"))
    assert all((out / name).stat().st_mtime_ns == time for name, time in kept.items())
    with h5py.File(source) as file:
        assert load_manifest(out).families["advection_1d"].num_trajectories("train") == len(file["tensor"])

    whole = shard(source, *options, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert load_manifest(tmp_path / "whole").digest == load_manifest(out).digest
    assert load_manifest(out).digest in again.stdout
