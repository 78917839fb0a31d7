"""`manifest.json`: what a folder of shards holds. Everything that opens the data starts here."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ups_scale.data import remote
from ups_scale.data.index import MAX_BYTES
from ups_scale.data.store import CACHE_GIB, LocalStore, RemoteStore, Store, default_cache_dir, remote_manifest
from ups_scale.errors import DataError
from ups_scale.physics.families import BOUNDARY_KINDS, GEOMETRIES, FamilySpec

FORMAT = 2
GENERATED = "recipes/data"
"""Where data sets that can be generated are described, by the name of their folder in data/."""
SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.tar")
"""A shard's file: a plain name, so that a manifest can't lead out of its folder."""
MIN_VALUE_BYTES = 2  # float16
MAX_STATISTIC = 3e38
"""Beyond it they are infinite in float32, in which they are used."""


@dataclass(frozen=True)
class ShardEntry:
    """A tar of trajectories of one family and split; `file` is relative to the manifest."""

    file: str
    trajectories: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True)
class FamilyData:
    """One family in the data set.

    `num_frames` is the number of frames of a trajectory, per split (a long trajectory is split in time); `regular`
    tells whether frames are `spec.dt` apart in all trajectories; `statistics` are the training split's, by "u" and
    "delta", then "mean", "std" and "rms", per field; `licences` the sources' own words.
    """

    spec: FamilySpec
    regular: bool
    num_frames: Mapping[str, int]
    shards: Mapping[str, tuple[ShardEntry, ...]]
    statistics: Mapping[str, Mapping[str, tuple[float, ...]]]
    licences: tuple[str, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.shards)

    def num_trajectories(self, split: str) -> int:
        return sum(shard.trajectories for shard in self.shards.get(split, ()))


@dataclass(frozen=True)
class Manifest:
    """A data set. `digest` is the SHA-256 of what it holds, whatever folder it lies in and whoever made it; `path` is a
    URL, as text, if it lies elsewhere, and `store` gives its shards."""

    path: Path | str
    digest: str
    families: Mapping[str, FamilyData]
    store: Store = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """The name of the file."""
        return str(self.path).rpartition("/")[2]


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content without its provenance, which says where it came from, not what it is."""
    body = {key: value for key, value in content.items() if key != "provenance"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_manifest(path: str | Path, cache_dir: str | Path | None = None, cache_gib: float = CACHE_GIB) -> Manifest:
    """The data set described by `path`: the file, or the folder that holds it, or the URL of either.

    Shards at a URL are kept in a cache of `cache_gib` GiB in `cache_dir`, by default `default_cache_dir()`.

    Raises:
        DataError: missing, not JSON, of another format version, or lacking a key; the message says what to do.
    """
    store: Store
    if remote.is_url(path):
        path, base = remote_manifest(str(path))
        store = RemoteStore(base, Path(cache_dir).expanduser() if cache_dir else default_cache_dir(), cache_gib)
    else:
        path = Path(path)
        if path.is_dir():
            path = path / "manifest.json"
        store = LocalStore(path.parent)
    content = _read(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise DataError(
            f"{path}: manifest of format {found!r}, this version reads format {FORMAT}; run tools/shard.py again"
        )
    families, problems = {}, []
    try:
        for name, entry in content["families"].items():
            try:
                families[name] = _family(name, entry)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                problems.append(f"{type(error).__name__}: {error}")
    except (KeyError, AttributeError) as error:
        problems.append(f"{type(error).__name__}: {error}")
    if problems:
        raise DataError(f"{path}: malformed manifest ({'; '.join(problems)}); run tools/shard.py again")
    if not families:
        raise DataError(f"{path}: the manifest lists no family; run tools/shard.py again with at least one input file")
    return Manifest(path, digest(content), families, store)


def _read(path: str | Path) -> Any:
    """The JSON in a manifest's file; a `DataError` if there is none."""
    try:
        if isinstance(path, str):
            text = remote.read(path).decode()
        elif path.exists() and not path.is_file():  # a pipe would be waited for
            raise DataError(f"{path}: no plain file; name the manifest.json that tools/shard.py wrote")
        else:
            text = path.read_text(encoding="utf-8")
        return json.loads(text)
    except FileNotFoundError:
        folder = Path(path).parent
        described = Path(GENERATED) / f"{folder.name}.json"
        make = f"Make shards with `tools/shard.py INPUT... --out {folder}`, of your files or `tools/generate.py`'s"
        if folder == Path("data") / folder.name and described.is_file():
            make = f"`tools/generate.py --recipe {described} --shard` makes it"
        raise DataError(f"{path}: no such manifest. {make}, or set data.manifest to yours") from None
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a readable JSON file ({error}); run tools/shard.py again") from None


def _family(name: str, entry: dict[str, Any]) -> FamilyData:
    statistics = {
        quantity: {kind: tuple(map(float, entry["statistics"][quantity][kind])) for kind in ("mean", "std", "rms")}
        for quantity in ("u", "delta")
    }
    spec = FamilySpec(
        name=name,
        fields=tuple(entry["fields"]),
        units=tuple(entry["units"]),
        parameters=tuple(entry["parameters"]),
        grid=tuple(int(n) for n in entry["grid"]),
        extents=tuple((float(low), float(high)) for low, high in entry["extents"]),
        boundaries=tuple((str(low), str(high)) for low, high in entry["boundaries"]),
        u_rms=statistics["u"]["rms"],
        delta_rms=statistics["delta"]["rms"],
        dt=math.nan if entry["dt"] is None else float(entry["dt"]),
        static=tuple(entry["static"]),
        steady=bool(entry["steady"]),
        masked=bool(entry["masked"]),
        geometry=str(entry["geometry"]),
        coordinates=tuple(entry["coordinates"]),
    )
    unknown = {kind for sides in spec.boundaries for kind in sides} - set(BOUNDARY_KINDS)
    if unknown:
        raise ValueError(f"{name}: boundary kind {sorted(unknown)}, known are {list(BOUNDARY_KINDS)}")
    if spec.geometry not in GEOMETRIES:
        raise ValueError(f"{name}: geometry {spec.geometry!r}, known are {list(GEOMETRIES)}")
    if not spec.grid or min(spec.grid) < 1:
        raise ValueError(f"{name}: grid {spec.grid}, expected sizes above 0")
    axes = spec.coordinates if spec.geometry == "points" else spec.grid
    for what, found, wanted in (
        ("units", spec.units, spec.fields),
        *(
            (f"statistics.{quantity}.{kind}", values, spec.fields)
            for quantity, kinds in statistics.items()
            for kind, values in kinds.items()
        ),
        ("extents", spec.extents, axes),
        ("boundaries", spec.boundaries, axes),
    ):
        if len(found) != len(wanted):
            raise ValueError(f"{name}: {what} has {len(found)} entries, expected {len(wanted)}")
    for quantity, kinds in statistics.items():
        for kind, values in kinds.items():
            if not all(abs(value) < MAX_STATISTIC for value in values):
                raise ValueError(f"{name}: statistics.{quantity}.{kind} {list(values)}, expected finite numbers")
    unknown = {*spec.static, *spec.coordinates} - set(spec.fields)
    if unknown or not set(spec.coordinates) <= set(spec.static):
        raise ValueError(f"{name}: static {spec.static} and coordinates {spec.coordinates} of fields {spec.fields}")
    if not spec.steady and not spec.dt > 0:
        raise ValueError(f"{name}: dt is {entry['dt']!r}, expected seconds above 0 (null for a steady family)")
    num_frames = {split: int(entry["num_frames"][split]) for split in entry["splits"]}
    if min(num_frames.values(), default=1) < 1:
        raise ValueError(f"{name}: num_frames {num_frames}, expected numbers above 0")
    shards = {
        split: tuple(_shard(spec, num_frames[split], shard) for shard in part)
        for split, part in entry["splits"].items()
    }
    licences = tuple(str(licence) for licence in entry["licences"])
    return FamilyData(spec, bool(entry["regular"]), num_frames, shards, statistics, licences)


def _shard(spec: FamilySpec, num_frames: int, content: dict[str, Any]) -> ShardEntry:
    shard = ShardEntry(**content)
    if not SHARD_NAME.fullmatch(shard.file):
        raise ValueError(f"{spec.name}: shard {shard.file!r} is not the plain name of a .tar file")
    if not (isinstance(shard.trajectories, int) and shard.trajectories > 0):
        raise ValueError(f"{spec.name}: shard {shard.file} is said to hold {shard.trajectories!r} trajectories")
    digests = (shard.sha256, shard.index_sha256)
    if not (
        isinstance(shard.bytes, int)
        and 0 <= shard.bytes < MAX_BYTES
        and all(isinstance(value, str) for value in digests)
    ):
        raise ValueError(f"{spec.name}: shard {shard.file} has bytes {shard.bytes!r} and SHA-256 {digests}")
    # No memory is asked for that the data could not fill.
    values = math.prod(spec.grid) * (len(spec.static) + len(spec.dynamic) * num_frames)
    if shard.bytes < MIN_VALUE_BYTES * values * shard.trajectories:
        raise ValueError(
            f"{spec.name}: shard {shard.file} of {shard.bytes} bytes can't hold {shard.trajectories} trajectories of "
            f"{num_frames} frames of {spec.grid} points"
        )
    return shard
