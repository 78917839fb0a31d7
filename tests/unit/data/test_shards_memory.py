"""What the sharder's processes hold in memory, together, of inputs that are larger than that."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).parents[3]


def resident_mib(parent: int) -> float:
    """Of a process and all below it; what they share counts once (PSS)."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    tree, size = {parent}, 0
    while len(tree) > size:
        size = len(tree)
        tree |= {pid for pid, above in parents.items() if above in tree}
    total = 0
    for pid in tree:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@pytest.mark.parametrize(
    ("shape", "settings", "limit_mib"),
    [
        ((10, 220, 65536), {}, 240),
        # As h5py chunks what it compresses: each chunk holds many trajectories and a part of the frames.
        ((1400, 48, 2048), {"chunks": (79, 6, 256), "compression": "lzf"}, 480),
    ],
    ids=["contiguous", "chunked"],
)
def test_memory_is_bounded_whatever_the_input(tmp_path, shape, settings, limit_mib):
    """Also that frames are read once or little more: it would otherwise take minutes."""
    path = tmp_path / "1D_Advection_beta0.1.hdf5"
    block = np.random.default_rng(0).standard_normal(shape[1:], dtype=np.float32)
    with h5py.File(path, "w") as file:
        tensor = file.create_dataset("tensor", shape, np.float32, **settings)
        step = 79 if settings else 1
        for start in range(0, shape[0], step):
            num = min(step, shape[0] - start)
            tensor[start : start + num] = np.broadcast_to(block, (num, *shape[1:]))
            tensor[start : start + num, 0, 0] = np.arange(start, start + num)
        file["x-coordinate"] = np.linspace(0, 1, shape[2], endpoint=False)
        file["t-coordinate"] = np.arange(shape[1] + 1.0)
        num_bytes = tensor.nbytes
    command = [sys.executable, ROOT / "tools/shard.py", path, "--out", tmp_path / "out", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak, start = 0.0, time.monotonic()
    while process.poll() is None:
        peak = max(peak, resident_mib(process.pid))
        time.sleep(0.05)
        if time.monotonic() - start > 60:
            process.kill()
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    assert num_bytes > limit_mib * 2**20
    assert 100 < peak < limit_mib
