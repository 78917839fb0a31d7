"""Writes shards, indices and a manifest from arrays, by webdataset's own writer and the formats' description alone.

For tests of readers: any grid, dtype, mask or damage, without a layout or the sharding tool between.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
import xxhash

from ups_scale.data.index import IndexHeader, ShardIndex
from ups_scale.data.manifest import Manifest, load_manifest


def write_shards(
    folder: Path,
    fields: dict[str, np.ndarray],
    *,
    name: str = "made_up",
    static: tuple[str, ...] = (),
    parameters: dict[str, np.ndarray] | None = None,
    times_nt: np.ndarray | None = None,
    per_shard: int = 2,
    split: str = "train",
    **entry: Any,
) -> Manifest:
    """A data set of one family and one split. `fields` are (N, T, *grid) arrays, (N, 1, *grid) of a static field,
    all of one dtype; `entry` replaces keys of the family's entry in the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    dynamic = next((values for key, values in fields.items() if key not in static), next(iter(fields.values())))
    num, num_frames = dynamic.shape[:2]
    grid, dtype = dynamic.shape[2:], str(dynamic.dtype)
    parameters = parameters or {}
    parameters_np = np.stack(list(parameters.values()), 1) if parameters else np.zeros((num, 0))
    if times_nt is None:
        times_nt = np.broadcast_to(0.1 * np.arange(num_frames), (num, num_frames))
    shards = []
    for number, start in enumerate(range(0, num, per_shard)):
        rows = range(start, min(start + per_shard, num))
        path = folder / f"{name}-{split}-{number:05d}.tar"
        keys = tuple(f"{path.stem}-{row:06d}" for row in range(len(rows)))
        with webdataset.TarWriter(str(path), mtime=0) as tar:
            for key, row in zip(keys, rows, strict=True):
                members = {f"{field}.npy": _npy(values[row]) for field, values in fields.items()}
                tar.write({"__key__": key, "json": b"{}", **members})
        checksums = [[_checksums(values[row], num_frames) for values in fields.values()] for row in rows]
        header = IndexHeader(
            shard=path.name,
            shard_bytes=path.stat().st_size,
            shard_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            family=name,
            split=split,
            fields=tuple(fields),
            static=static,
            parameters=tuple(parameters),
            dtype=dtype,
            num_frames=num_frames,
            grid=grid,
            keys=keys,
            statistics={},
            source="",
        )
        index = ShardIndex(
            header,
            _offsets(path, keys, tuple(fields)),
            np.array(checksums, np.uint64),
            parameters_np[rows],
            times_nt[rows],
        ).to_bytes()
        path.with_name(path.name + ".idx").write_bytes(index)
        shards.append(
            {
                "file": path.name,
                "trajectories": len(rows),
                "bytes": header.shard_bytes,
                "sha256": header.shard_sha256,
                "index_sha256": hashlib.sha256(index).hexdigest(),
            }
        )
    means = [
        float(np.nanmean(np.where(np.isfinite(values), values, np.nan), dtype=np.float64)) for values in fields.values()
    ]
    moments = {"mean": means, "std": [1.0] * len(fields), "rms": [1.0] * len(fields)}
    family = {
        "fields": list(fields),
        "units": ["1"] * len(fields),
        "static": list(static),
        "parameters": list(parameters),
        "grid": list(grid),
        "extents": [[0.0, 1.0]] * len(grid),
        "boundaries": [["periodic", "periodic"]] * len(grid),
        "dt": 0.1,
        "regular": True,
        "steady": False,
        "masked": False,
        "geometry": "grid",
        "coordinates": [],
        "num_frames": {split: num_frames},
        "statistics": {"u": moments, "delta": moments},
        "splits": {split: shards},
        "licences": [],
        **entry,
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps({"format": 2, "families": {name: family}}))
    return load_manifest(path)


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def _checksums(frames: np.ndarray, num_frames: int) -> list[int]:
    found = [xxhash.xxh3_64_intdigest(frame.tobytes()) for frame in frames]
    return found if len(found) == num_frames else found * num_frames


def _offsets(shard: Path, keys: tuple[str, ...], fields: tuple[str, ...]) -> np.ndarray:
    """(N, C) positions of the members' first values, behind numpy's header."""
    with tarfile.open(shard) as tar, shard.open("rb") as file:
        starts = {}
        for member in tar:
            file.seek(member.offset_data)
            if member.name.endswith(".npy"):
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
            starts[member.name] = file.tell()
    return np.array([[starts[f"{key}.{field}.npy"] for field in fields] for key in keys], np.uint64)
