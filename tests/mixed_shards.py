"""A small data set with every kind of family, written by the writer of shards from arrays in memory.

`waves_1d` is regular, in float32, two shards per split; `ocean_2d` masked, irregular in time, in float16, not square;
`darcy_2d` steady with a static field. Its manifest's statistics are numpy's.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ups_scale.data.manifest import Manifest, load_manifest
from ups_scale.data.shard_writer import Job, write_shard
from ups_scale.physics.families import Field

NUM = {"train": 4, "valid": 2}
PER_SHARD = 2


@dataclass(frozen=True)
class Family:
    """Arrays (N, T, *grid) by field and split, (N, 1, *grid) of a static one; times (N, T), parameters (N, P)."""

    name: str
    fields: tuple[Field, ...]
    values: dict[str, list[np.ndarray]]
    times: dict[str, np.ndarray]
    parameters: dict[str, np.ndarray]
    names: tuple[str, ...] = ()
    dtype: str = "float32"
    steady: bool = False
    masked: bool = False
    boundary: str = "periodic"

    @property
    def grid(self) -> tuple[int, ...]:
        return self.values["train"][0].shape[2:]


@dataclass(frozen=True)
class InMemory:
    """`Contents` of arrays in memory."""

    values: list[np.ndarray]

    @contextmanager
    def open(self) -> Iterator[Callable[[int, int, range], np.ndarray]]:
        yield lambda field, trajectory, frames: self.values[field][trajectory, frames.start : frames.stop]


def families(seed: int = 0) -> list[Family]:
    rng = np.random.default_rng(seed)
    frames = {"train": 6, "valid": 5}

    def walk(split: str, *grid: int) -> np.ndarray:
        steps = rng.normal(size=(NUM[split], frames[split], *grid))
        return np.cumsum(steps, axis=1).astype(np.float32)

    even = {split: np.broadcast_to(0.1 * np.arange(frames[split]), (NUM[split], frames[split])) for split in NUM}
    uneven = {split: np.cumsum(rng.uniform(0.5, 2, (NUM[split], frames[split])), axis=1) for split in NUM}
    untimed = {split: np.full((NUM[split], 2), np.nan) for split in NUM}
    land = rng.random((6, 4)) < 0.3
    ocean = {split: [np.where(land, np.float32(np.nan), walk(split, 6, 4)).astype(np.float16)] for split in NUM}
    solutions = {split: rng.normal(size=(NUM[split], 2, 4, 4)).astype(np.float32) for split in NUM}
    for solution in solutions.values():
        solution[:, 0] = 0
    coefficients = {split: rng.uniform(1, 2, (NUM[split], 1, 4, 4)).astype(np.float32) for split in NUM}
    one = {split: rng.uniform(size=(NUM[split], 1)) for split in NUM}
    none = {split: np.zeros((NUM[split], 0)) for split in NUM}
    return [
        Family(
            "waves_1d",
            (Field("height", "m"), Field("speed", "m/s")),
            {split: [walk(split, 16), walk(split, 16)] for split in NUM},
            even,
            one,
            ("depth",),
        ),
        Family(
            "ocean_2d",
            (Field("temperature", "K"),),
            ocean,
            uneven,
            none,
            dtype="float16",
            masked=True,
            boundary="open",
        ),
        Family(
            "darcy_2d",
            (Field("permeability", "1", static=True), Field("u", "1")),
            {split: [coefficients[split], solutions[split]] for split in NUM},
            untimed,
            one,
            ("beta",),
            steady=True,
            boundary="dirichlet",
        ),
    ]


def write(folder: Path, seed: int = 0) -> Manifest:
    """The data set in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"format": 2, "families": {}}
    for family in families(seed):
        splits = {
            split: [_shard(folder, family, split, row) for row in range(0, NUM[split], PER_SHARD)] for split in NUM
        }
        steps = [np.diff(times) for times in family.times.values()]
        content["families"][family.name] = {
            "fields": [field.name for field in family.fields],
            "units": [field.unit for field in family.fields],
            "static": [field.name for field in family.fields if field.static],
            "parameters": list(family.names),
            "grid": list(family.grid),
            "extents": [[0.0, 1.0]] * len(family.grid),
            "boundaries": [[family.boundary] * 2] * len(family.grid),
            "dt": None if family.steady else float(np.median(np.concatenate([s.ravel() for s in steps]))),
            "regular": not family.masked,
            "steady": family.steady,
            "masked": family.masked,
            "geometry": "grid",
            "coordinates": [],
            "num_frames": {split: times.shape[1] for split, times in family.times.items()},
            "statistics": statistics(family),
            "splits": splits,
            "licences": [],
        }
    (folder / "manifest.json").write_text(json.dumps(content))
    return load_manifest(folder)


def statistics(family: Family) -> dict[str, dict[str, list[float]]]:
    """Of the training split, by numpy in float64."""
    found: dict[str, dict[str, list[float]]] = {q: {"mean": [], "std": [], "rms": []} for q in ("u", "delta")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the change of a static field: nothing at all
        for stored in family.values["train"]:
            u = stored.astype(np.float64)
            delta = np.diff(u, axis=1)
            for quantity, values in (("u", delta if family.steady and u.shape[1] > 1 else u), ("delta", delta)):
                for kind, value in (
                    ("mean", np.nanmean(values)),
                    ("std", np.nanstd(values)),
                    ("rms", np.sqrt(np.nanmean(values**2))),
                ):
                    found[quantity][kind].append(0.0 if math.isnan(value) else float(value))
    return found


def _shard(folder: Path, family: Family, split: str, first: int) -> dict[str, Any]:
    path = folder / f"{family.name}-{split}-{first // PER_SHARD:05d}.tar"
    rows = np.arange(first, first + PER_SHARD)
    times = family.times[split]
    job = Job(
        path=path,
        source=Path("memory"),
        contents=InMemory(family.values[split]),
        entry=family.name,
        split=split,
        fields=family.fields,
        parameters=family.names,
        grid=family.grid,
        steady=family.steady,
        masked=family.masked,
        dtype=family.dtype,
        pieces=np.stack([rows, 0 * rows, 0 * rows + times.shape[1]], axis=1),
        times_nt=times[rows],
        parameters_np=family.parameters[split][rows],
        fingerprint="",
    )
    write_shard(job, lambda num_bytes: None)
    raw, index = path.read_bytes(), Path(f"{path}.idx").read_bytes()
    return {
        "file": path.name,
        "trajectories": PER_SHARD,
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "index_sha256": hashlib.sha256(index).hexdigest(),
    }
