"""Writes shards: HDF5 trajectories -> tar (WebDataset) + byte index, and `manifest.json` over them.

A shard is one tar of trajectories of one family and split; a trajectory is the members `<key>.<field>.npy`, each
(T, *grid) float32, and `<key>.json`. Shards are written aside and renamed, their index last, so a shard whose index is
there is whole; a second run keeps it if it comes from the same source with the same settings.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
import xxhash
from tqdm import tqdm

import ups_scale
from ups_scale.atomic import write_bytes, write_json
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

    Raises:
        DataError: an input is missing or does not fit the layout, files of one family disagree, a field is not finite.
            Shards that are already whole stay; the manifest is written only at the end.
    """
    sources = [LAYOUTS[layout](path, family, parameters) for path in _files(inputs)]
    by_family: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        by_family[source.family.name].append(source)
    digests = {source.path: _file_digest(source.path) for source in sources}
    out.mkdir(parents=True, exist_ok=True)
    tasks: list[Task] = []
    for members in by_family.values():
        _check_alike(members)
        for split in SPLITS:
            number = 0
            for source in members:
                for trajectories in _cut(source, split, shard_mib):
                    name = f"{source.family.name}-{split}-{number:05d}.tar"
                    fingerprint = f"{digests[source.path]}:{trajectories.start}:{trajectories.stop}:{source.boundary}"
                    fingerprint += ":" + hashlib.sha256(source.parameters_np.tobytes()).hexdigest()[:16]
                    tasks.append(Task(source, split, trajectories, out / name, fingerprint))
                    number += 1
    _write_all(tasks, workers, show_progress)
    content = _manifest_content(by_family, tasks, digests)
    write_json(out / "manifest.json", content)
    return manifest.load_manifest(out / "manifest.json")


def _files(inputs: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in inputs:
        found = sorted(p for p in path.glob("*") if p.suffix in (".hdf5", ".h5")) if path.is_dir() else [path]
        if not found:
            raise DataError(f"{path}: the folder holds no .hdf5 or .h5 file; make some with tools/generate.py --out {path}")
        files += found
    return files


def _file_digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


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
            raise DataError(f"{source.path}: dt is {source.dt} s but {first.path} has {first.dt} s; shard them separately")


def _cut(source: Source, split: str, shard_mib: float) -> list[range]:
    members = source.splits.get(split, range(0))
    trajectory_bytes = 4 * len(source.fields) * source.num_frames * int(np.prod(source.grid))
    size = max(1, int(shard_mib * 2**20 / trajectory_bytes))
    return [range(start, min(start + size, members.stop)) for start in range(members.start, members.stop, size)]


def _write_all(tasks: Sequence[Task], workers: int, show_progress: bool) -> None:
    waiting = [task for task in tasks if not _is_whole(task)]
    if len(waiting) < len(tasks):
        print(f"{len(tasks) - len(waiting)} of {len(tasks)} shards are already there")
    # None: tqdm's own rule, silent when the output is no terminal.
    bar = tqdm(total=len(waiting), desc="sharding", unit="shard", disable=None if show_progress else True)
    with bar:
        if workers <= 1 or len(waiting) <= 1:
            for task in waiting:
                _write(task)
                bar.update()
            return
        # spawn: forking a process that has torch's threads can hang it.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            for _ in pool.map(_write, waiting):
                bar.update()


def _index_path(shard: Path) -> Path:
    return shard.with_name(shard.name + ".idx")


def _is_whole(task: Task) -> bool:
    if not _index_path(task.path).exists() or not task.path.exists():
        return False
    try:
        header = read_index(_index_path(task.path)).header
    except DataError:
        return False
    return header.source == task.fingerprint and task.path.stat().st_size == header.shard_bytes


def _write(task: Task) -> None:
    """Writes one shard and its index."""
    source, fields = task.source, task.source.fields
    aside = task.path.with_name(task.path.name + ".tmp")
    num, frames = len(task.trajectories), source.num_frames
    keys, checksums = [], np.empty((num, len(fields), frames), np.uint64)
    statistics = {"u": Moments(len(fields)), "delta": Moments(len(fields))}
    pattern = str(aside).replace("%", "%%") + "%.0s"  # the writer formats its shard number into it: into nothing
    with (
        open_hdf5(source.path) as file,
        webdataset.ShardWriter(pattern, maxcount=num + 1, maxsize=2**62, verbose=0, mtime=TAR_TIME, encoder=False) as writer,
    ):
        for row, trajectory in enumerate(task.trajectories):
            u_ctx = source.read(file, trajectory)
            if not np.isfinite(u_ctx).all():
                field, frame = (int(i[0]) for i in np.nonzero(~np.isfinite(u_ctx))[:2])
                raise DataError(
                    f"{source.path}: trajectory {trajectory}, field {fields[field]}, frame {frame} holds NaN or infinity"
                )
            key = f"{task.path.stem}-{row:06d}"
            keys.append(key)
            sample: dict[str, Any] = {"__key__": key}
            for column, field in enumerate(fields):
                buffer = io.BytesIO()
                np.save(buffer, u_ctx[column], allow_pickle=False)
                sample[f"{field}.npy"] = buffer.getvalue()
                checksums[row, column] = [xxhash.xxh3_64_intdigest(frame) for frame in u_ctx[column]]
            facts = dict(zip(source.family.parameters, source.parameters_np[trajectory].tolist(), strict=True))
            known = {name: value for name, value in facts.items() if not np.isnan(value)}
            facts = {"family": source.family.name, "dt": source.dt, "parameters": known}
            sample["json"] = json.dumps(facts, sort_keys=True).encode()
            writer.write(sample)
            statistics["u"].add(u_ctx)
            statistics["delta"].add(np.diff(u_ctx, axis=1))
    data = aside.read_bytes()
    header = IndexHeader(
        shard=task.path.name,
        shard_bytes=len(data),
        shard_sha256=hashlib.sha256(data).hexdigest(),
        family=source.family.name,
        split=task.split,
        fields=fields,
        parameters=source.family.parameters,
        dtype="float32",
        num_frames=frames,
        grid=source.grid,
        keys=tuple(keys),
        statistics={name: moments.as_dict() for name, moments in statistics.items()},
        source=task.fingerprint,
    )
    rows = source.parameters_np[task.trajectories.start : task.trajectories.stop]
    index = ShardIndex(header, _offsets(aside, keys, fields), checksums, rows)
    _index_path(task.path).unlink(missing_ok=True)
    os.replace(aside, task.path)
    write_bytes(_index_path(task.path), index.to_bytes())


def _offsets(shard: Path, keys: Sequence[str], fields: Sequence[str]) -> np.ndarray:
    """(N, C) byte positions in the tar of each field's first frame."""
    starts = {}
    with tarfile.open(shard) as tar, shard.open("rb") as file:
        for member in tar:
            if member.name.endswith(".npy"):
                file.seek(member.offset_data)
                version = np.lib.format.read_magic(file)
                read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                read_header(file)
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
        if "train" not in splits:
            raise DataError(f"family {name}: no training trajectories among {', '.join(str(m.path) for m in members)}")
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
