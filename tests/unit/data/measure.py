"""Prints the figures of docs/data.md: `python tests/unit/data/measure.py`. About ten seconds."""

import io
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import webdataset

sys.path.insert(0, str(Path(__file__).parents[2]))
from synthetic import make_shards, write_arrays

from ups_scale.data.plan import FamilyStream, Plan
from ups_scale.data.reader import ShardReader
from ups_scale.physics.families import FAMILIES, Family, Field

NUM, FRAMES, LENGTH, WINDOWS, REPETITIONS = 64, 21, 8, 256, 7
FIELDS = ("a", "b", "c", "d")


def planning_us() -> float:
    """Microseconds of planning per window: 4 families of 200 shards of 100 trajectories."""
    streams = {name: FamilyStream((100,) * 200, 100, 64) for name in "abcd"}
    settings = {"draws_per_step": 4, "batch_tokens": 2**18, "context_frames": 2, "shuffle_shards": 8}
    plan = Plan(streams, seed=0, exponent=0.7, **settings)
    state, count, start = plan.start(), 0, time.perf_counter()
    for _ in range(200):
        draws, state = plan.draws(state, 4)
        count += len([plan.window(draw, number) for draw in draws for number in range(draw.num_windows)])
    return (time.perf_counter() - start) / count * 1e6


def reading_s(folder: Path) -> dict[str, float]:
    """Best seconds per window of 8 of 21 frames of 4 fields of 64 x 64, files in the page cache."""
    FAMILIES["four"] = Family("four", "", 2, tuple(Field(name, "1") for name in FIELDS), (), "periodic")
    rng = np.random.default_rng(0)
    u_nctx = rng.normal(size=(NUM, len(FIELDS), FRAMES, 64, 64)).astype(np.float32)
    source = write_arrays(folder / "in.hdf5", FIELDS, u_nctx, {}, {"family": "four", "split": "train"}).path
    manifest = make_shards(source, folder / "out", shard_mib=16)
    reader, file = ShardReader(manifest, "four", "train"), h5py.File(source)
    urls = [str(folder / "out" / entry.file) for entry in manifest.families["four"].shards["train"]]
    windows = [(int(rng.integers(NUM)), int(rng.integers(FRAMES - LENGTH + 1))) for _ in range(WINDOWS)]
    out = np.empty((len(FIELDS), LENGTH, 64, 64), np.float32)

    def by_index() -> int:
        for trajectory, first in windows:
            reader.read_window(trajectory, first, out)
        return WINDOWS

    def memcpy() -> int:
        for trajectory, first in windows:
            np.copyto(out, u_nctx[trajectory, :, first : first + LENGTH])
        return WINDOWS

    def by_h5py() -> int:
        for trajectory, first in windows:
            for column, name in enumerate(FIELDS):
                out[column] = file[name][trajectory, first : first + LENGTH]
        return WINDOWS

    def by_webdataset() -> int:
        for sample, (_, first) in zip(webdataset.WebDataset(urls, shardshuffle=False), windows, strict=False):
            for column, name in enumerate(FIELDS):
                values = np.load(io.BytesIO(sample[f"{name}.npy"]), allow_pickle=False)
                out[column] = values[first : first + LENGTH]
        return NUM

    best: dict[str, float] = {}
    for _ in range(REPETITIONS):
        for read in (memcpy, by_index, by_h5py, by_webdataset):
            start = time.perf_counter()
            count = read()
            best[read.__name__] = min(best.get(read.__name__, np.inf), (time.perf_counter() - start) / count)
    return best


if __name__ == "__main__":
    print(f"planning: {planning_us():.1f} us per window")
    with tempfile.TemporaryDirectory() as temporary:
        seconds = reading_s(Path(temporary))
    for other in ("memcpy", "by_h5py", "by_webdataset"):
        print(f"windows per second by index / {other}: {seconds[other] / seconds['by_index']:.2f}")
