"""tools/shard.py as people run it: with wrong input, killed, on a full disk, with a library that crashes."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from array_source import Arrays, array_source, convert_sources
from synthetic import waves, write_arrays

from ups_scale.data.manifest import load_manifest
from ups_scale.errors import DataError

TOOL = Path(__file__).parents[2] / "tools" / "shard.py"


def command(*arguments):
    return [sys.executable, str(TOOL), *map(str, arguments)]


def shard(*arguments, **options):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False, **options)


def text_file(folder):
    (folder / "in.hdf5").write_text("no HDF5")
    return [folder / "in.hdf5", "--layout", "pdebench"], "in.hdf5: not a readable HDF5 file"


def empty_folder(folder):
    (folder / "in").mkdir()
    return [folder / "in"], "in: no input in this folder"


def not_finite(folder):
    u_nctx = waves(20, 1, 4, (8,), 0)
    u_nctx[13, 0, 2, 5] = np.nan
    write_arrays(folder / "1D_Advection_Sols_beta0.1.hdf5", ("tensor",), u_nctx, {}, {})
    said = "beta0.1.hdf5: trajectory 13, field u, frame 2"
    return [folder / "1D_Advection_Sols_beta0.1.hdf5", "--shard-mib", "0.0005", "--workers", "2"], said


def wrong_parameter(folder):
    return [folder, "--parameter", "nu"], "--parameter nu: expected NAME=NUMBER, such as nu=0.01"


@pytest.mark.parametrize("case", [text_file, empty_folder, not_finite, wrong_parameter])
def test_bad_input_exits_2_with_one_message_and_leaves_nothing_half_written(tmp_path, case):
    arguments, message = case(tmp_path)
    out = tmp_path / "out"
    result = shard("--out", out, "--workers", 1, *arguments)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("error: ") == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (out / "manifest.json").exists()


@pytest.fixture
def source(tmp_path):
    """200 trajectories of 512 bytes; with OPTIONS a shard each."""
    path = tmp_path / "in.hdf5"
    said = {"family": "advection_1d", "split": "train"}
    write_arrays(path, ("tensor",), waves(200, 1, 4, (32,), 0), {"beta": np.ones(200)}, said)
    return path


OPTIONS = ("--layout", "pdebench", "--shard-mib", "0.0005", "--json")


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_gone(pids):
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"processes {left} live on"
        time.sleep(0.01)


@contextmanager
def started(out, *arguments):
    """The tool at work, when a few shards are there."""
    # Where the tests are a shell's job in the background, Ctrl-C is ignored, and programs inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(
        command(*arguments, "--out", out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 60
        while len(list(out.glob("*.idx"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.002)
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_no_manifest_and_the_next_one_finishes_the_same(tmp_path, source, workers):
    out = tmp_path / "out"
    with started(out, source, *OPTIONS, "--workers", workers) as running:
        workers_of_it = children(running.pid)
        os.kill(running.pid, signal.SIGKILL)
        running.wait(30)
    assert running.returncode == -signal.SIGKILL
    wait_until_gone(workers_of_it)
    assert not (out / "manifest.json").exists()

    def identities():
        return {
            path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in out.glob("*.tar")
            if path.with_suffix(".tar.idx").exists()
        }

    kept = identities()
    assert 0 < len(kept) < 200

    again = shard(source, *OPTIONS, "--out", out)
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} of 200 shards are already there" in again.stderr
    assert not list(out.glob("*.tmp"))
    assert kept.items() <= identities().items()
    assert load_manifest(out).families["advection_1d"].num_trajectories("train") == 200

    whole = shard(source, *OPTIONS, "--out", tmp_path / "whole", "--workers", 1)
    assert whole.returncode == 0, whole.stderr
    assert digests(tmp_path / "whole") == digests(out)
    assert load_manifest(out).digest == json.loads(again.stdout)["digest"]


def test_ctrl_c_leaves_nothing_half_written(tmp_path, source):
    out = tmp_path / "out"
    with started(out, source, *OPTIONS, "--workers", 2) as running:
        workers_of_it = children(running.pid)
        os.kill(running.pid, signal.SIGINT)
        running.communicate(timeout=60)
    assert running.returncode != 0
    wait_until_gone(workers_of_it)
    assert not list(out.glob("*.tmp"))
    assert not (out / "manifest.json").exists()
    assert shard(source, *OPTIONS, "--out", out).returncode == 0


def test_two_runs_at_once_are_refused(tmp_path, source):
    out = tmp_path / "out"
    with started(out, source, *OPTIONS, "--workers", 1) as running:
        os.kill(running.pid, signal.SIGSTOP)
        second = shard(source, *OPTIONS, "--out", out)
        assert second.returncode == 2
        assert "out: another run of tools/shard.py is writing there" in second.stderr
        os.kill(running.pid, signal.SIGCONT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 0, said


def reads(pid: int, name: str) -> bool:
    """Whether a process has a file of this name open."""
    try:
        return any(os.readlink(fd).endswith(name) for fd in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_a_worker_that_is_killed_is_reported_with_its_input(tmp_path, source):
    out = tmp_path / "out"
    with started(out, source, *OPTIONS, "--workers", 2) as running:
        workers = [pid for pid in children(running.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        end = time.monotonic() + 30
        while not reads(workers[0], "in.hdf5") and time.monotonic() < end:  # on a busy machine it starts slowly
            time.sleep(0.002)
        os.kill(workers[0], signal.SIGKILL)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 2
    assert "in.hdf5: the worker process that was at its trajectories" in said
    assert "was killed by SIGKILL. Either memory ran out (run again with fewer --workers)" in said
    assert "Traceback" not in said
    assert not list(out.glob("*.tmp"))
    kept = len(list(out.glob("*.tar.idx")))
    assert 0 < kept < 200
    assert "The shards that are written are kept" in said
    again = shard(source, *OPTIONS, "--out", out)
    assert f"{kept} of 200 shards are already there" in again.stderr
    assert again.returncode == 0


@dataclass(frozen=True)
class Crashing(Arrays):
    """A file that the library which reads it does not survive."""

    def open(self):
        os.kill(os.getpid(), signal.SIGSEGV)


def test_a_library_that_crashes_on_a_file(monkeypatch, tmp_path):
    good = array_source(tmp_path / "a.npz", {"u": waves(4, 1, 4, (8,), 0)[:, 0]})
    bad = array_source(tmp_path / "b.npz", {"u": waves(4, 1, 4, (8,), 1)[:, 0]})
    bad = type(bad)(**{**vars(bad), "contents": Crashing(bad.path, ("u",))})
    expected = r"b\.npz: the worker process that was at its trajectories 0 to 3 was killed by SIGSEGV\. .*get it again"
    with pytest.raises(DataError, match=expected):
        convert_sources(monkeypatch, [good, bad], tmp_path / "out", workers=2)
    assert (tmp_path / "out/mine-train-00000.tar.idx").exists()
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, source, workers):
    out = tmp_path / "out"

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    arguments = (source, "--layout", "pdebench", "--shard-mib", "1", "--out", out, "--workers", workers)
    result = shard(*arguments, preexec_fn=limit_files)
    assert result.returncode == 2, result.stderr
    assert "out: can't be written (" in result.stderr
    assert "free some space" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in out.iterdir()} <= {".lock"} if out.exists() else True
    assert shard(*arguments).returncode == 0


def test_lines_of_progress_only_where_somebody_reads_them(tmp_path, source):
    result = shard(source, *OPTIONS, "--out", tmp_path / "out")
    assert result.stderr == ""
    assert json.loads(result.stdout)["splits"] == [
        {"family": "advection_1d", "split": "train", "trajectories": 200, "frames": 4, "shards": 200, "mib": 1.95}
    ]


def test_inputs_of_different_layouts_in_one_call(tmp_path):
    many, own = tmp_path / "many.npz", tmp_path / "own.hdf5"
    (tmp_path / "x").mkdir()
    np.savez(many, u=waves(10, 1, 4, (8,), 0)[:, 0], k=np.ones(1))
    write_arrays(own, ("tensor",), waves(10, 1, 4, (8,), 1), {}, {"family": "advection_1d"})
    mapping = tmp_path / "many.json"
    mapping.write_text(
        json.dumps(
            {
                "format": 1,
                "family": "mine",
                "fields": [{"name": "u", "unit": "1", "array": "u", "axes": ["n", "t", "x"]}],
                "time": {"dt": 1},
                "space": {"x": {"extents": [0, 1]}},
                "boundaries": {"x": ["wall", "wall"]},
            }
        )
    )
    out = tmp_path / "out"
    result = shard(many, own, "--layout", f"many.npz={mapping}", "--out", out)
    assert result.returncode == 0, result.stderr
    assert sorted(load_manifest(out).families) == ["advection_1d", "mine"]
    assert shard(tmp_path / "x/../many.npz", "--layout", f"{tmp_path.name}={mapping}", "--out", out).returncode == 0
    for given, message in (
        (["--layout", f"few.npz={mapping}"], "no input is called few.npz"),
        (["--layout", "pdebench", "--layout", str(mapping)], "which of them for which input? Write --layout INPUT="),
        (["--layout", f"{many}={mapping}", "--layout", f"{many}=auto"], "leave one of them out"),
    ):
        result = shard(many, own, *given, "--out", out)
        assert result.returncode == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr
