"""How fast windows come from an S3-compatible server on this machine, beside the same shards in a folder.

    made-up flow -> shards -> moto's server, a process of its own -> cache -> stream
                          '-> a folder                            -> stream

Once what is read is in the cache, the stream goes as fast as it can. Before, in the first epoch, a step of training
stands between micro-batches: `step_s` of sleep, which leaves the processor to others as a GPU does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ups_scale.bench.data import FAMILY, made_up, write_hdf5
from ups_scale.bench.data import Settings as Shape
from ups_scale.bench.rounds import Figure, figure, load, ratio, take_turns
from ups_scale.bench.s3 import URL
from ups_scale.data.loader import stream
from ups_scale.data.manifest import Manifest, load_manifest
from ups_scale.data.plan import FamilyStream, Plan, PlanState
from ups_scale.data.prefetch import Prefetch
from ups_scale.data.quarantine import Quarantine
from ups_scale.data.reader import ShardReader
from ups_scale.data.shards import convert
from ups_scale.errors import DataError
from ups_scale.observe.environment import describe

WHAT = {
    "cached": "windows per second once the shards are in the cache / from the folder",
    "first_epoch": "the first epoch after its first group, a step of training between micro-batches / from the folder",
    "first_epoch_failing": "the same when 5 % of the requests fail",
    "first_epoch_far": "the same when every answer takes 0.2 s",
    "first_epoch_far_on_demand": "the same when shards are downloaded only when they are needed",
}
FAILING_SHARE = 0.05
LATENCY_S = 0.2
EPOCHS = 20


@dataclass(frozen=True)
class Settings:
    """What is read: `trajectories` of 21 frames of 4 fields on 64², in shards of `shard_mib`, groups of
    `shuffle_shards` of them; windows of 8 frames, `batch` a step; a cache that holds `cache_share` of all shards in the
    first epoch; a step takes `step_s`."""

    trajectories: int = 256
    grid: int = 64
    shard_mib: float = 16.0
    shuffle_shards: int = 4
    batch: int = 4
    step_s: float = 0.1
    cache_share: float = 0.5
    threads: int = 2
    prefetch: int = 4
    rounds: int = 5


@dataclass(frozen=True)
class Measured:
    """Ratios of windows per second (`WHAT`), windows per second, and seconds to the first micro-batch with a cache that
    is empty."""

    settings: Settings
    ratios: dict[str, Figure]
    rates: dict[str, Figure]
    first_s: dict[str, Figure]
    same_samples: bool
    environment: dict[str, Any]
    load_before: list[float]
    load_after: list[float]

    def as_json(self) -> dict[str, Any]:
        return {
            "ratios": {name: value.as_json() for name, value in self.ratios.items()},
            "windows_per_s": {name: value.as_json() for name, value in self.rates.items()},
            "first_micro_batch_s": {name: value.as_json() for name, value in self.first_s.items()},
            "same_samples": self.same_samples,
            "settings": asdict(self.settings),
            "load": {"before": self.load_before, "after": self.load_after},
            "environment": self.environment,
        }


def measure(settings: Settings, folder: Path | None = None, say: Callable[[str], None] = lambda text: None) -> Measured:
    """The figures; minutes. Data is made in a new folder inside `folder` (default: the system's for temporary files)
    and removed.

    Raises:
        DataError: moto or s3fs is not installed.
    """
    before = load()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work = Path(temporary)
        say("making data")
        shape = Shape(trajectories=settings.trajectories, grid=settings.grid)
        source = write_hdf5(work / "flow.hdf5", made_up(settings.trajectories, shape))
        local = convert([source], work / "shards", layout="pdebench", shard_mib=settings.shard_mib, show_progress=False)
        caches = (work / f"cache-{number}" for number in range(10**6))
        gib = sum(entry.bytes for entry in local.families[FAMILY].shards["train"]) * settings.cache_share / 2**30
        with server(work / "shards"):
            say("the first epoch")
            remote = {
                "folder": lambda: (local, False),
                "s3": lambda: (load_manifest(URL, next(caches), gib), True),
            }
            on_demand = {"s3_on_demand": lambda: (load_manifest(URL, next(caches), gib), False)}
            rates, first_s, samples = _first_epochs(settings, remote)
            say("all in the cache")
            cached = load_manifest(URL, next(caches), 64.0)
            methods = {"folder": _going_on(settings, local), "s3": _going_on(settings, cached)}
            fast = take_turns(methods, 2 * settings.rounds)
        with server(work / "shards", FAILING_SHARE):
            say("failing requests")
            rates_failing, _, samples_failing = _first_epochs(settings, remote)
        with server(work / "shards", latency_s=LATENCY_S):
            say("a server far away")
            rates_far, first_far_s, samples_far = _first_epochs(settings, remote | on_demand)
    return Measured(
        settings=settings,
        ratios={
            "cached": ratio(fast, "s3", "folder"),
            "first_epoch": ratio(rates, "s3", "folder"),
            "first_epoch_failing": ratio(rates_failing, "s3", "folder"),
            "first_epoch_far": ratio(rates_far, "s3", "folder"),
            "first_epoch_far_on_demand": ratio(rates_far, "s3_on_demand", "folder"),
        },
        rates={
            **{f"cached {name}": figure(values) for name, values in fast.items()},
            **{f"first_epoch {name}": figure(values) for name, values in rates.items()},
            "first_epoch s3_failing": figure(rates_failing["s3"]),
            **{f"first_epoch {name}_far": figure(values) for name, values in rates_far.items() if name != "folder"},
        },
        first_s={
            **{name: figure(values) for name, values in first_s.items()},
            **{f"{name}_far": figure(values) for name, values in first_far_s.items() if name != "folder"},
        },
        same_samples=len(samples | samples_failing | samples_far) == 1,
        environment=describe(1),
        load_before=before,
        load_after=load(),
    )


@contextmanager
def server(folder: Path, failing_share: float = 0.0, latency_s: float = 0.0) -> Iterator[None]:
    """Serves a folder at `URL`; within it the environment leads s3:// there.

    Raises:
        DataError: moto or s3fs is not installed.
    """
    try:
        import s3fs
    except ImportError as error:
        raise DataError(
            f"an S3 server on this machine needs moto, s3fs ({error}): pip install ups_scale[test]"
        ) from None
    line = [sys.executable, "-m", "ups_scale.bench.s3", str(folder), "--failing-share", str(failing_share)]
    line += ["--latency-s", str(latency_s)]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    before = dict(os.environ)
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        for text in iter(process.stdout.readline, ""):
            if not text.startswith("export "):
                break
            key, _, value = text.removeprefix("export ").strip().partition("=")
            os.environ[key] = value
        else:
            raise DataError("no S3 server on this machine (see above): pip install ups_scale[test]")
        _forget(s3fs)
        yield
        process.stdin.close()
        process.wait()
    finally:
        process.kill()
        process.wait()
        os.environ.clear()
        os.environ.update(before)
        _forget(s3fs)


def _forget(s3fs: Any) -> None:
    """Clients keep the endpoint that they were made with."""
    from ups_scale.data import remote

    remote._of_protocol.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


Open = Callable[[], tuple[Manifest, bool]]


def _first_epochs(
    settings: Settings, places: dict[str, Open]
) -> tuple[dict[str, list[float]], dict[str, list[float]], set[Any]]:
    """Windows per second of the first epoch after its first group, and seconds to the first micro-batch, of every place
    in every round; and the sequences of samples that were seen."""
    rates: dict[str, list[float]] = {name: [] for name in places}
    first_s: dict[str, list[float]] = {name: [] for name in places}
    samples = set()
    for _ in range(settings.rounds):
        for name, open_place in places.items():
            manifest, ahead = open_place()
            readers = {FAMILY: ShardReader(manifest, FAMILY, "train")}
            plan = _plan(settings, readers[FAMILY])
            in_group = sum(readers[FAMILY].shard_sizes[: settings.shuffle_shards])
            steps = settings.trajectories // settings.batch
            start = time.perf_counter()
            keys: list[tuple[str, ...]] = []
            begin, count = 0.0, 0
            for micro in _stream(settings, plan, readers, plan.start(), steps, ahead):
                now = time.perf_counter()
                if not keys:
                    first_s[name].append(now - start)
                keys.append(micro.batch.keys)
                if begin:
                    count += len(micro.batch.keys)
                if not begin and settings.batch * len(keys) >= in_group:
                    begin = now
                time.sleep(settings.step_s)
            rates[name].append(count / (time.perf_counter() - begin))
            samples.add(tuple(keys))
            cache = readers[FAMILY].cache
            if cache is not None:
                shutil.rmtree(cache.folder)
    return rates, first_s, samples


def _going_on(settings: Settings, manifest: Manifest) -> Callable[[], int]:
    """Goes on with a stream as fast as it can, `EPOCHS` at a time: training begins and ends one but once."""
    readers = {FAMILY: ShardReader(manifest, FAMILY, "train")}
    plan = _plan(settings, readers[FAMILY])
    steps, state = EPOCHS * settings.trajectories // settings.batch, plan.start()

    def read() -> int:
        nonlocal state
        count = 0
        for micro in _stream(settings, plan, readers, state, state.step + steps, bool(readers[FAMILY].remote)):
            count += len(micro.batch.keys)
            state = micro.state
        return count

    return read


def _plan(settings: Settings, reader: ShardReader) -> Plan:
    return Plan(
        {FAMILY: FamilyStream(reader.shard_sizes, reader.num_frames, 1)},
        seed=0,
        exponent=0.7,
        draws_per_step=1,
        batch_tokens=settings.batch * 6,
        context_frames=2,
        shuffle_shards=settings.shuffle_shards,
    )


def _stream(
    settings: Settings, plan: Plan, readers: dict[str, ShardReader], state: PlanState, stop_step: int, ahead: bool
) -> Any:
    return stream(
        plan,
        readers,
        Quarantine(readers, max_share=0.0),
        state,
        stop_step=stop_step,
        horizon_at=lambda step: 6,
        context_frames=2,
        rank=0,
        world_size=1,
        parts=1,
        threads=settings.threads,
        prefetch=settings.prefetch,
        ahead=Prefetch(plan, readers) if ahead else None,
    )


def render(measured: Measured) -> str:
    """Medians over the rounds with their quartiles, then what they were measured with."""
    settings, environment = measured.settings, measured.environment
    rows = [("ratios", "", "")]
    rows += [
        (f"  {name}", str(value), f"{value.low:.3g}-{value.high:.3g}  {WHAT[name]}")
        for name, value in measured.ratios.items()
    ]
    rows.append(("windows per second", "", ""))
    rows += [(f"  {name}", str(value), "") for name, value in measured.rates.items()]
    rows.append(("seconds to the first micro-batch", "", "the cache is empty"))
    rows += [(f"  {name}", str(value), f"{value.low:.3g}-{value.high:.3g}") for name, value in measured.first_s.items()]
    rows.append(("the same samples everywhere", "yes" if measured.same_samples else "NO", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{what:{widths[0]}}  {value:>{widths[1]}}  {note}".rstrip() for what, value, note in rows]
    lines += [
        "",
        f"{settings.rounds} rounds, {settings.threads} reading threads, {settings.batch} windows a step of "
        f"{1000 * settings.step_s:g} ms, shards of {settings.shard_mib:g} MiB in groups of {settings.shuffle_shards}",
        f"{environment['platform']}, {environment['cpus']} CPUs, Python {environment['python']}",
        f"commit {environment['commit']}, load before {measured.load_before}, after {measured.load_after}",
    ]
    return "\n".join(lines)
