"""Writes shards: HDF5 trajectories -> tar (WebDataset) + byte index, and `manifest.json` over them.

A shard is one tar of trajectories of one family and split; a trajectory is the members `<key>.<field>.npy`, each
(T, *grid) float32, and `<key>.json`. Shards are written aside, flushed and renamed, their index after them, the
manifest last of all. A second run keeps the shards that come from the same source with the same settings and whose
bytes are still those that were written.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import webdataset
import xxhash
from tqdm import tqdm

import ups_scale
from ups_scale.atomic import sync_folder, write_aside, write_bytes
from ups_scale.data import manifest
from ups_scale.data.index import IndexHeader, ShardIndex, read_index
from ups_scale.data.layouts import SPLITS, Source, inspect_pdebench, open_hdf5
from ups_scale.errors import DataError

LAYOUTS: dict[str, Callable[..., Source]] = {"pdebench": inspect_pdebench}
TAR_TIME = 0  # a fixed time: the same data gives the same bytes


@dataclass(frozen=True)
class Task:
    """One shard to write: which trajectories of which source."""

    source: Source
    split: str
    trajectories: range
    path: Path
    fingerprint: str


def convert(
    inputs: Sequence[Path],
    out: Path,
    *,
    layout: str,
    shard_mib: float,
    workers: int,
    family: str | None = None,
    parameters: Mapping[str, float] | None = None,
    show_progress: bool = True,
) -> manifest.Manifest:
    """Writes the shards and manifest of `inputs` (HDF5 files, or folders of them) into `out` and returns the manifest.

    `workers` processes write (1: this one). `family` and `parameters` hold for all inputs; see `layouts`.

    Raises:
        DataError: an input is missing or does not fit the layout, files of one family disagree, a field is not finite,
            `out` can't be written to. Shards that are already whole stay, to be kept by the next run; there is no
            manifest until all are.
    """
    if layout not in LAYOUTS:
        raise DataError(f"unknown layout {layout!r}; known: {', '.join(sorted(LAYOUTS))}")
    sources = [LAYOUTS[layout](path, family, parameters) for path in _files(inputs)]
    by_family: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        by_family[source.family.name].append(source)
    for members in by_family.values():
        _check_alike(members)
    digests = _digests(sources)
    tasks = _tasks(by_family, digests, out, shard_mib)
    target = out / "manifest.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(max(1, workers)) as pool:  # hashing leaves the interpreter's lock
            whole = list(pool.map(_is_whole, tasks))
        waiting = [task for task, there in zip(tasks, whole, strict=True) if not there]
        if waiting:
            # From here on the old manifest would describe shards that are no more.
            target.unlink(missing_ok=True)
            for left in (*out.glob("*.tar.tmp"), *out.glob("*.tar.idx.tmp")):  # of a run that was killed
                left.unlink()
        if len(waiting) < len(tasks):
            _say(f"{len(tasks) - len(waiting)} of {len(tasks)} shards are already there")
        _write_all(waiting, workers, show_progress)
        sync_folder(out)
        content = _manifest_content(by_family, tasks, digests)
        text = (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
        if not target.is_file() or target.read_bytes() != text:
            write_bytes(target, text)
    except OSError as error:
        raise DataError(f"{out}: can't be written ({error}); free some space or choose another --out") from error
    stray = sorted({path.name for path in out.glob("*.tar")} - {task.path.name for task in tasks})
    if stray:
        _say(
            f"note: {out} also holds {len(stray)} shards that these inputs did not give and the manifest does not "
            f"list, such as {stray[0]}: delete them if they are of an earlier run"
        )
    return manifest.load_manifest(target)


def _say(text: str) -> None:
    """Prints beside the output, which may be JSON that a program reads."""
    print(text, file=sys.stderr)


def _tasks(
    by_family: Mapping[str, Sequence[Source]], digests: Mapping[Path, str], out: Path, shard_mib: float
) -> list[Task]:
    tasks = []
    for name, members in by_family.items():
        if not any(len(source.splits.get("train", ())) for source in members):
            raise DataError(
                f"family {name}: no training trajectories in {', '.join(str(m.path) for m in members)}; give the "
                "file of the train split too"
            )
        for split in SPLITS:
            number = 0
            for source in members:
                identity = [digests[source.path], source.kind, source.boundary, source.dt]
                identity.append(hashlib.sha256(source.parameters_np.tobytes()).hexdigest()[:16])
                for trajectories in _cut(source, split, shard_mib):
                    fingerprint = ":".join(map(str, (*identity, trajectories.start, trajectories.stop)))
                    path = out / f"{name}-{split}-{number:05d}.tar"
                    tasks.append(Task(source, split, trajectories, path, fingerprint))
                    number += 1
    return tasks


def _files(inputs: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in inputs:
        found = sorted(p for p in path.glob("*") if p.suffix in (".hdf5", ".h5")) if path.is_dir() else [path]
        if not found:
            raise DataError(
                f"{path}: the folder holds no .hdf5 or .h5 file; make some with tools/generate.py --out {path}"
            )
        files += found
    if not files:
        raise DataError("no input files; name HDF5 files or folders of them")
    return files


def _digests(sources: Iterable[Source]) -> dict[Path, str]:
    """Digest of every source file; the same trajectories twice would end in two splits."""
    digests: dict[Path, str] = {}
    first: dict[str, Path] = {}
    for source in sources:
        digest = _file_digest(source.path)
        if digest in first:
            raise DataError(f"{source.path}: the same content as {first[digest]}; give each file once")
        digests[source.path], first[digest] = digest, source.path
    return digests


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def _check_alike(sources: Sequence[Source]) -> None:
    first = sources[0]
    for source in sources[1:]:
        for name in ("num_frames", "grid", "boundary", "extents"):
            if getattr(source, name) != getattr(first, name):
                raise DataError(
                    f"{source.path}: {name} is {getattr(source, name)} but {first.path}, of the same family "
                    f"{first.family.name}, has {getattr(first, name)}; shard them into separate folders"
                )
        if not np.isclose(source.dt, first.dt, rtol=1e-6):
            raise DataError(
                f"{source.path}: dt is {source.dt} s but {first.path} has {first.dt} s; shard them separately"
            )


def _cut(source: Source, split: str, shard_mib: float) -> list[range]:
    members = source.splits.get(split, range(0))
    trajectory_bytes = 4 * len(source.fields) * source.num_frames * int(np.prod(source.grid))
    size = max(1, int(shard_mib * 2**20 / trajectory_bytes))
    return [range(start, min(start + size, members.stop)) for start in range(members.start, members.stop, size)]


def _write_all(waiting: Sequence[Task], workers: int, show_progress: bool) -> None:
    # None: tqdm's own rule, silent when the output is no terminal.
    bar = tqdm(total=len(waiting), desc="sharding", unit="shard", disable=None if show_progress else True)
    with bar:
        if workers <= 1 or len(waiting) <= 1:
            for task in waiting:
                _write(task)
                bar.update()
            return
        # spawn: forking a process that has torch's threads can hang it.
        spawn = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(min(workers, len(waiting)), mp_context=spawn) as pool:
                for _ in pool.map(_write, waiting):
                    bar.update()
        except BrokenProcessPool:
            raise DataError(
                f"a worker process was killed, perhaps for want of memory; run again with fewer than --workers "
                f"{workers}: what is written is kept"
            ) from None


def _index_path(shard: Path) -> Path:
    return shard.with_name(shard.name + ".idx")


def _is_whole(task: Task) -> bool:
    """Whether a shard and its index are there, of this source, with the bytes that were written."""
    if not task.path.is_file():
        return False
    try:
        header = read_index(_index_path(task.path)).header
    except DataError:
        return False
    if header.source != task.fingerprint or task.path.stat().st_size != header.shard_bytes:
        return False
    return _sha256(task.path) == header.shard_sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(task: Task) -> None:
    """Writes one shard and its index."""
    _index_path(task.path).unlink(missing_ok=True)
    with write_aside(task.path) as shard:
        keys, checksums, statistics = _write_members(task, shard)
    source, fields = task.source, task.source.fields
    header = IndexHeader(
        shard=task.path.name,
        shard_bytes=task.path.stat().st_size,
        shard_sha256=_sha256(task.path),
        family=source.family.name,
        split=task.split,
        fields=fields,
        parameters=source.family.parameters,
        dtype="float32",
        num_frames=source.num_frames,
        grid=source.grid,
        keys=tuple(keys),
        statistics={name: moments.as_dict() for name, moments in statistics.items()},
        source=task.fingerprint,
    )
    rows = source.parameters_np[task.trajectories.start : task.trajectories.stop]
    index = ShardIndex(header, _offsets(task.path, keys, fields), checksums, rows)
    write_bytes(_index_path(task.path), index.to_bytes())


def _write_members(task: Task, shard: BinaryIO) -> tuple[list[str], np.ndarray, dict[str, Moments]]:
    """Writes the tar; returns keys of trajectories, checksums (N, C, T) of frames, moments of u and delta u."""
    source, fields = task.source, task.source.fields
    keys, checksums = [], np.empty((len(task.trajectories), len(fields), source.num_frames), np.uint64)
    statistics = {"u": Moments(len(fields)), "delta": Moments(len(fields))}
    settings = {"maxcount": len(task.trajectories) + 1, "maxsize": 2**62, "verbose": 0}  # one shard, silently
    with (
        open_hdf5(source.path) as file,
        webdataset.ShardWriter("%d", opener=lambda _: shard, mtime=TAR_TIME, encoder=False, **settings) as writer,
    ):
        for row, trajectory in enumerate(task.trajectories):
            u_ctx = source.read(file, trajectory)
            if not np.isfinite(u_ctx).all():
                field, frame = (int(i[0]) for i in np.nonzero(~np.isfinite(u_ctx))[:2])
                raise DataError(
                    f"{source.path}: trajectory {trajectory}, field {fields[field]}, frame {frame} holds NaN or "
                    "infinity (in float32); leave that trajectory out"
                )
            keys.append(f"{task.path.stem}-{row:06d}")
            writer.write(_sample(source, trajectory, keys[-1], u_ctx))
            for column in range(len(fields)):
                checksums[row, column] = [xxhash.xxh3_64_intdigest(frame) for frame in u_ctx[column]]
            statistics["u"].add(u_ctx)
            statistics["delta"].add(np.diff(u_ctx.astype(np.float64), axis=1))
    return keys, checksums, statistics


def _sample(source: Source, trajectory: int, key: str, u_ctx: np.ndarray) -> dict[str, Any]:
    """A trajectory as WebDataset's writer takes it: the key, and bytes by member name."""
    sample: dict[str, Any] = {"__key__": key}
    for field, values in zip(source.fields, u_ctx, strict=True):
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        sample[f"{field}.npy"] = buffer.getvalue()
    parameters = zip(source.family.parameters, source.parameters_np[trajectory].tolist(), strict=True)
    known = {name: value for name, value in parameters if not np.isnan(value)}
    facts = {"family": source.family.name, "dt": source.dt, "parameters": known}
    sample["json"] = json.dumps(facts, sort_keys=True).encode()
    return sample


def _offsets(shard: Path, keys: Sequence[str], fields: Sequence[str]) -> np.ndarray:
    """(N, C) byte positions in the tar of each field's first frame."""
    starts = {}
    with tarfile.open(shard) as tar, shard.open("rb") as file:
        for member in tar:
            if member.name.endswith(".npy"):
                file.seek(member.offset_data)
                # np.save writes version 1.0 of its format for plain dtypes.
                assert np.lib.format.read_magic(file) == (1, 0)
                np.lib.format.read_array_header_1_0(file)
                starts[member.name] = file.tell()
    return np.array([[starts[f"{key}.{field}.npy"] for field in fields] for key in keys], np.uint64)


class Moments:
    """Count, mean and sum of squared deviations per field in float64, mergeable (Chan, Golub, LeVeque 1983)."""

    def __init__(self, num_fields: int) -> None:
        self.count = 0
        self.mean = np.zeros(num_fields)
        self.squares = np.zeros(num_fields)

    def add(self, u_ctx: np.ndarray) -> None:
        """Adds all values of `u_ctx`, (C, ...)."""
        flat = u_ctx.reshape(len(u_ctx), -1).astype(np.float64)
        mean = flat.mean(axis=1)
        self.merge(flat.shape[1], mean, ((flat - mean[:, None]) ** 2).sum(axis=1))

    def merge(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
        total = self.count + count
        if total == 0:
            return
        shift = mean - self.mean
        self.squares += squares + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    def as_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}


def _manifest_content(
    by_family: Mapping[str, Sequence[Source]], tasks: Sequence[Task], digests: Mapping[Path, str]
) -> dict[str, Any]:
    content: dict[str, Any] = {"format": manifest.FORMAT, "families": {}}
    for name, members in sorted(by_family.items()):
        first = members[0]
        splits: dict[str, list[dict[str, Any]]] = defaultdict(list)
        moments = {"u": Moments(len(first.fields)), "delta": Moments(len(first.fields))}
        for task in tasks:
            if task.source.family.name != name:
                continue
            index_path = _index_path(task.path)
            header = read_index(index_path).header
            index_sha256 = hashlib.sha256(index_path.read_bytes()).hexdigest()
            entry = manifest.ShardEntry(
                header.shard, header.num_trajectories, header.shard_bytes, header.shard_sha256, index_sha256
            )
            splits[task.split].append(asdict(entry))
            if task.split == "train":
                for quantity, part in header.statistics.items():
                    moments[quantity].merge(part["count"], np.array(part["mean"]), np.array(part["squares"]))
        content["families"][name] = {
            "fields": list(first.fields),
            "units": [field.unit for field in first.family.fields],
            "parameters": list(first.family.parameters),
            "grid": list(first.grid),
            "num_frames": first.num_frames,
            "dt": first.dt,
            "extents": [list(pair) for pair in first.extents],
            "boundaries": [[first.boundary] * 2 for _ in first.grid],
            "statistics": {quantity: _finish(part) for quantity, part in moments.items()},
            "splits": dict(splits),
        }
    content["provenance"] = {
        "tool": "tools/shard.py",
        "version": ups_scale.__version__,
        "sources": [
            {"file": source.path.name, "xxh3_128": digests[source.path], "family": name}
            for name, members in sorted(by_family.items())
            for source in members
        ],
    }
    return content


def _finish(moments: Moments) -> dict[str, list[float]]:
    variance = moments.squares / max(moments.count, 1)
    return {
        "mean": moments.mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        "rms": np.sqrt(variance + moments.mean**2).tolist(),
    }
