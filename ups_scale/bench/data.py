"""How fast windows come out of shards, beside memory copies and other people's loaders on the same trajectories.

    made-up flow (N, T, 64, 64) x 4 fields -> HDF5 -> convert -> shards -> plan -> stream -> micro-batches

Everything lies in a temporary folder and in the page cache: what is measured is the software, not a disk.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ups_scale.bench.peers import Absent, Method, open_h5py, open_streaming, open_the_well, open_webdataset
from ups_scale.bench.ranks import together
from ups_scale.bench.rounds import Figure, figure, load, ratio, take_turns
from ups_scale.data.buffers import empty_windows
from ups_scale.data.loader import stream
from ups_scale.data.manifest import Manifest, load_manifest
from ups_scale.data.plan import FamilyStream, Plan, PlanState
from ups_scale.data.quarantine import Quarantine
from ups_scale.data.reader import ShardReader
from ups_scale.data.shards import convert
from ups_scale.observe.environment import describe

FAMILY = "compressible_flow_2d"
ARRAYS = ("density", "pressure", "Vx", "Vy")
FAR = 10**9
# Each ratio's numerator and denominator.
COMPARED = {
    "memcpy": ("read_window", "memcpy"),
    "memcpy_first_look": ("read_window_first_look", "memcpy"),
    "memcpy_stream": ("stream", "memcpy"),
    "memcpy_stream_ahead": ("stream_ahead", "memcpy"),
    "h5py": ("read_window", "h5py"),
    "h5py_kept_arrays": ("read_window", "h5py_kept_arrays"),
    "webdataset": ("stream", "webdataset"),
    "the_well": ("stream", "the_well"),
    "streaming": ("stream", "streaming"),
}
MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """What is measured: `trajectories` of `frames` of 4 fields on grid², windows of `window` frames, micro-batches of
    `batch` windows, `threads` reading up to `prefetch` of them ahead (the recipe's defaults)."""

    trajectories: int = 64
    frames: int = 21
    grid: int = 64
    window: int = 8
    batch: int = 16
    batches: int = 24
    threads: int = 2
    prefetch: int = 4
    rounds: int = 9
    sharding_mib: int = 400


@dataclass(frozen=True)
class Measured:
    """`ratios` of windows per second, and which methods they are of in `compared`; the peers that are `absent`, and
    why."""

    settings: Settings
    ratios: dict[str, Figure]
    compared: dict[str, tuple[str, str]]
    rates: dict[str, Figure]
    plan_us: Figure
    resume_s: Figure
    sharding_mb_per_s: Figure
    absent: dict[str, str]
    environment: dict[str, Any]
    load_before: list[float]
    load_after: list[float]

    def as_json(self) -> dict[str, Any]:
        return {
            "ratios": {name: value.median for name, value in self.ratios.items()},
            "plan_us": self.plan_us.median,
            "resume_s": self.resume_s.median,
            "sharding_mb_per_s": self.sharding_mb_per_s.median,
            "spread": {
                **{name: value.as_json() for name, value in self.ratios.items()},
                "plan_us": self.plan_us.as_json(),
                "resume_s": self.resume_s.as_json(),
                "sharding_mb_per_s": self.sharding_mb_per_s.as_json(),
            },
            "compared": self.compared,
            "windows_per_s": {name: value.as_json() for name, value in self.rates.items()},
            "absent": self.absent,
            "settings": asdict(self.settings),
            "load": {"before": self.load_before, "after": self.load_after},
            "environment": self.environment,
        }


def measure(settings: Settings, folder: Path | None = None, say: Callable[[str], None] = lambda text: None) -> Measured:
    """The figures; minutes. Data is made in a new folder inside `folder` (default: the system's for temporary files)
    and removed."""
    before = load()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work = Path(temporary)
        say("making data")
        u_nctx = made_up(settings.trajectories, settings)
        source = write_hdf5(work / "flow.hdf5", u_nctx)
        manifest = convert([source], work / "shards", layout="pdebench", shard_mib=16, show_progress=False)
        say("windows")
        rates, absent = _windows(settings, work, source, manifest, u_nctx)
        say("two processes")
        ranks = _ranks(settings, manifest)
        say("plan and resuming")
        plan_us = figure([_plan_us() for _ in range(settings.rounds)])
        resume_s = figure([_resume_s(settings, manifest.path) for _ in range(settings.rounds)])
        del u_nctx
        say("sharding")
        sharding = figure(_sharding(settings, work))
    compared = {name: pair for name, pair in COMPARED.items() if pair[1] not in absent}
    ratios = {name: ratio(rates, *pair) for name, pair in compared.items()} | ranks
    return Measured(
        settings=settings,
        ratios=ratios,
        compared=compared,
        rates={name: figure(values) for name, values in rates.items()},
        plan_us=plan_us,
        resume_s=resume_s,
        sharding_mb_per_s=sharding,
        absent=absent,
        environment=describe(1),
        load_before=before,
        load_after=load(),
    )


def made_up(num: int, settings: Settings) -> np.ndarray:
    """(N, C, T, *grid) float32 noise: reading does not care what the values are."""
    shape = (num, len(ARRAYS), settings.frames, settings.grid, settings.grid)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def write_hdf5(path: Path, u_nctx: np.ndarray) -> Path:
    """A file as PDEBench's: an array (N, T, X, Y) per field, contiguous."""
    with h5py.File(path, "w") as file:
        for column, name in enumerate(ARRAYS):
            file[name] = u_nctx[:, column]
        for axis, size in zip("xy", u_nctx.shape[3:], strict=True):
            file[f"{axis}-coordinate"] = (np.arange(size) + 0.5) / size
        file["t-coordinate"] = 0.05 * np.arange(u_nctx.shape[2] + 1)
        file.attrs.update(family=FAMILY, split="train", boundary="periodic", M=0.1, eta=1e-2, zeta=1e-2)
    return path


def _windows(
    settings: Settings, work: Path, source: Path, manifest: Manifest, u_nctx: np.ndarray
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Windows per second of every method in every round, and the peers that are not there."""
    rng = np.random.default_rng(1)
    firsts = settings.frames - settings.window + 1
    windows = [
        (int(rng.integers(settings.trajectories)), int(rng.integers(firsts)))
        for _ in range(settings.batch * settings.batches)
    ]
    every_frame_once = [
        (trajectory, first)
        for trajectory in rng.permutation(settings.trajectories).tolist()
        for first in range(0, firsts, settings.window)
    ]
    # Three batches in turn, as many as training has in hand: one buffer would stay in a cache that real ones leave.
    batches = [empty_windows(settings.batch, len(ARRAYS), settings.window, u_nctx.shape[3:]) for _ in range(3)]
    places = [window_ctx for batch_bctx in batches for window_ctx in batch_bctx]
    reader = ShardReader(manifest, FAMILY, "train")

    def read_all(reader: ShardReader, windows: Sequence[tuple[int, int]]) -> int:
        for (trajectory, first), place in zip(windows, itertools.cycle(places), strict=False):
            reader.read_window(trajectory, range(first, first + settings.window), place)
        return len(windows)

    def memcpy() -> int:
        for (trajectory, first), place in zip(windows, itertools.cycle(places), strict=False):
            np.copyto(place, u_nctx[trajectory, :, first : first + settings.window])
        return len(windows)

    num_frames, batch, count = settings.window, settings.batch, settings.batches
    shards = [Path(manifest.store.place(entry.file)) for entry in manifest.families[FAMILY].shards["train"]]
    fields = manifest.families[FAMILY].spec.fields
    # New readers, opened before the time is taken, two per round: each looks at its values for the first time.
    new = iter([ShardReader(manifest, FAMILY, "train") for _ in range(2 * settings.rounds)])
    methods: dict[str, Method] = {
        "memcpy": memcpy,
        "read_window": lambda: read_all(reader, windows),
        "read_window_first_look": lambda: read_all(next(new), every_frame_once),
        "stream": training_stream(settings, manifest, threads=0),
        "stream_ahead": training_stream(settings, manifest, settings.threads),
        "h5py": open_h5py(source, ARRAYS, windows, places, keep=False),
        "h5py_kept_arrays": open_h5py(source, ARRAYS, windows, places, keep=True),
        "webdataset": open_webdataset(shards, fields, num_frames, batch),
    }
    absent = {}
    for name, open_peer in (
        ("the_well", lambda: open_the_well(work / "the_well", u_nctx, num_frames, batch, count)),
        ("streaming", lambda: open_streaming(work / "streaming", u_nctx, num_frames, batch)),
    ):
        try:
            methods[name] = open_peer()
        except Absent as error:
            absent[name] = str(error)
    return take_turns(methods, settings.rounds), absent


def training_stream(settings: Settings, manifest: Manifest, threads: int) -> Method:
    """Goes on with a stream of micro-batches as training has them, `settings.batches` at a time."""
    readers = {FAMILY: ShardReader(manifest, FAMILY, "train")}
    plan = _plan(settings, readers[FAMILY])
    state = plan.start()

    def read() -> int:
        nonlocal state
        count = 0
        for micro in _stream(plan, readers, state, state.step + settings.batches, settings, threads):
            count += len(micro.batch.keys)
            state = micro.state
        return count

    return read


def _plan(settings: Settings, reader: ShardReader) -> Plan:
    """Draws of `settings.batch` windows of 2 context frames and the others to predict, one per step."""
    horizon = settings.window - 2
    streams = {FAMILY: FamilyStream(reader.shard_sizes, reader.num_frames, 1)}
    return Plan(
        streams,
        seed=0,
        exponent=0.7,
        draws_per_step=1,
        batch_tokens=settings.batch * horizon,
        context_frames=2,
        shuffle_shards=8,
    )


def _stream(
    plan: Plan, readers: dict[str, ShardReader], state: PlanState, stop_step: int, settings: Settings, threads: int
) -> Any:
    return stream(
        plan,
        readers,
        Quarantine(readers, max_share=0.0),
        state,
        stop_step=stop_step,
        horizon_at=lambda step: settings.window - 2,
        context_frames=2,
        rank=0,
        world_size=1,
        parts=1,
        threads=threads,
        prefetch=settings.prefetch,
    )


def _ranks(settings: Settings, manifest: Manifest) -> dict[str, Figure]:
    """How many times one process's windows two give, each on one core: of reading, and of copying memory."""
    return {
        "two_ranks": together(_rank_reading, (settings, str(manifest.path)), settings.rounds),
        "two_memcpy": together(_rank_copying, (settings,), settings.rounds),
    }


def _rank_reading(settings: Settings, path: str) -> Method:
    return training_stream(settings, load_manifest(path), threads=0)


def _rank_copying(settings: Settings) -> Method:
    u_nctx = made_up(settings.trajectories, settings)
    out_bctx = empty_windows(settings.batch, len(ARRAYS), settings.window, u_nctx.shape[3:])

    def copy() -> int:
        for number in range(settings.batch * settings.batches):
            first = number % (settings.frames - settings.window + 1)
            source = u_nctx[7 * number % len(u_nctx), :, first : first + settings.window]
            np.copyto(out_bctx[number % settings.batch], source)
        return settings.batch * settings.batches

    return copy


def _plan_us() -> float:
    """Microseconds of planning per window: 4 families of 200 shards of 100 trajectories, from their first epoch on."""
    streams = {name: FamilyStream((100,) * 200, 100, 64) for name in "abcd"}
    plan = Plan(
        streams,
        seed=0,
        exponent=0.7,
        draws_per_step=4,
        batch_tokens=2**18,
        context_frames=2,
        shuffle_shards=8,
        max_stride=4,
    )
    start = time.perf_counter()
    state, count = plan.start(), 0
    for _ in range(50):
        draws, state = plan.draws(state, 4)
        count += len([plan.window(draw, number) for draw in draws for number in range(draw.num_windows)])
    return (time.perf_counter() - start) / count * 1e6


def _resume_s(settings: Settings, path: Path | str) -> float:
    """Seconds from a manifest and a state far on to the first micro-batch."""
    start = time.perf_counter()
    readers = {FAMILY: ShardReader(load_manifest(path), FAMILY, "train")}
    plan = _plan(settings, readers[FAMILY])
    state = PlanState(FAR, {FAMILY: FAR})
    next(iter(_stream(plan, readers, state, FAR + 1, settings, settings.threads)))
    return time.perf_counter() - start


def _sharding(settings: Settings, work: Path) -> list[float]:
    """MB of float32 input turned into shards per second, by two workers, three times."""
    of_one = len(ARRAYS) * settings.frames * settings.grid**2 * 4
    u_nctx = made_up(max(1, settings.sharding_mib * MIB // of_one), settings)
    source, megabytes = write_hdf5(work / "input.hdf5", u_nctx), u_nctx.nbytes / 1e6
    del u_nctx
    rates = []
    for _ in range(3):
        os.sync()  # what was written before is not this run's to wait for
        start = time.perf_counter()
        convert([source], work / "output", layout="pdebench", workers=2, show_progress=False)
        rates.append(megabytes / (time.perf_counter() - start))
        shutil.rmtree(work / "output")
    return rates
