"""What is wrong with a data set, all of it at once, as far as the manifest and the indices tell; no shard is read.

    manifest -> statistics, shard list -> each shard's file and index -> trajectories of all of them -> findings

`data/scan.py` goes on from here and reads the shards.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from ups_scale.data.index import ShardIndex, parse_index
from ups_scale.data.manifest import FamilyData, Manifest, ShardEntry
from ups_scale.data.remote import Unreachable
from ups_scale.data.store import LocalStore
from ups_scale.errors import DataError

# Larger than any physical quantity in any unit in use, and squares of it still fit float32's exponent times two.
ABSURD_RMS = 1e20
# A mean of so many standard deviations is remarked on.
LARGE_MEAN = 20
# How far figures that are computed twice may differ, as a fraction of the RMS.
STATISTICS_TOLERANCE = 1e-6
# How far the time between frames of a regular family may lie from its dt, as a fraction: times are differences of
# float32 axes now and then.
DT_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Finding:
    """One thing wrong (or, in a list of notes, worth knowing), and where: a file's name or a family's, and inside a
    shard, as far as it is known, the trajectory's key, the field and the frame."""

    where: str
    text: str
    key: str | None = None
    field: str | None = None
    frame: int | None = None

    def __str__(self) -> str:
        place = [
            *([f"trajectory {self.key}"] if self.key is not None else []),
            *([f"field {self.field}"] if self.field is not None else []),
            *([f"frame {self.frame}"] if self.frame is not None else []),
        ]
        return ": ".join([self.where, *([", ".join(place)] if place else []), self.text])


@dataclass(frozen=True)
class Part:
    """A shard as the manifest lists it: of which family and split."""

    family: str
    split: str
    entry: ShardEntry


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found: problems, and notes, which are worth knowing but stop nobody."""

    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]


def parts(manifest: Manifest) -> list[Part]:
    """All shards of a data set."""
    return [
        Part(name, split, entry)
        for name, data in manifest.families.items()
        for split, entries in data.shards.items()
        for entry in entries
    ]


def inspect(manifest: Manifest, threads: int = 1) -> Inspection:
    """Everything wrong with the data set's manifest and indices, and with which files are there; reads no shard.

    Raises:
        DataError: the data set lies elsewhere, and the server can't be asked.
    """
    problems = [finding for data in manifest.families.values() for finding in _family(data)]
    listed = parts(manifest)
    problems += _listed_twice(listed)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        looked_at = list(pool.map(lambda part: _shard(manifest, part), listed))
    for found, _ in looked_at:
        problems += found
    problems += _keys_used_twice([trajectories for _, trajectories in looked_at])
    notes = [note for data in manifest.families.values() for note in _remarks(data)]
    notes += _same_in_two_splits(listed, [trajectories for _, trajectories in looked_at])
    if isinstance(manifest.store, LocalStore):  # not every server lists a folder
        notes += _strays(manifest.store.folder, {part.entry.file for part in listed})
    return Inspection(tuple(problems), tuple(notes))


def read_listed_index(manifest: Manifest, entry: ShardEntry) -> ShardIndex:
    """The index of a shard.

    Raises:
        DataError: it can't be read, is damaged, or is not the one that the manifest lists.
    """
    path = manifest.store.place(entry.file + ".idx")
    raw = manifest.store.read_index(entry)
    index = parse_index(raw, path)
    if hashlib.sha256(raw).hexdigest() != entry.index_sha256:
        raise DataError(f"{path}: not the index that {manifest.path} lists (SHA-256 differs); run tools/shard.py again")
    return index


@dataclass(frozen=True)
class _Trajectories:
    """Keys of a shard's trajectories, and a hash of all numbers of each."""

    keys: tuple[str, ...] = ()
    hashes: tuple[int, ...] = ()


def _family(data: FamilyData) -> Iterator[Finding]:
    """What is wrong with a family's description; an entry without a training split has no statistics to look at."""
    spec, where = data.spec, f"family {data.spec.name}"
    for (low, high), axis in zip(spec.extents, "xyz", strict=False):
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            yield Finding(where, f"extent of axis {axis} is {low:g} to {high:g}; expected low < high, both finite")
    for axis, sides in zip("xyz", spec.boundaries, strict=False):
        if (sides[0] == "periodic") != (sides[1] == "periodic"):
            yield Finding(where, f"boundaries of axis {axis} are {sides}; an axis is periodic on both sides or on none")
    if spec.steady and set(data.num_frames.values()) != {2}:
        text = f"num_frames {data.num_frames}; a steady family has 2, what is given and the solution"
        yield Finding(where, f"{text}; run tools/shard.py again")
    if data.num_trajectories("train"):
        for column, name in enumerate(spec.fields):
            for quantity in ("u", "delta"):
                for text in _figures(data, quantity, column):
                    yield Finding(where, f"statistics.{quantity}: {text}", field=name)


def _remarks(data: FamilyData) -> Iterator[Finding]:
    """What is worth knowing of a family's statistics."""
    spec, where = data.spec, f"family {data.spec.name}"
    if not data.num_trajectories("train"):
        return
    for column in spec.dynamic:
        name = spec.fields[column]
        mean, std, rms = (data.statistics["u"][kind][column] for kind in ("mean", "std", "rms"))
        if rms == 0:
            yield Finding(where, "zero everywhere in the training split: nothing of it is learned", field=name)
        elif data.statistics["delta"]["rms"][column] == 0 and data.num_frames["train"] > 1:
            yield Finding(where, "the same in all frames in the training split: nothing of it is learned", field=name)
        elif abs(mean) > LARGE_MEAN * std:
            yield Finding(
                where,
                f"its mean {mean:g} is large against its standard deviation {std:g}, and inputs, noise, loss and nRMSE "
                "are relative to the RMS: little of its variation is seen. Move its origin, by a mapping's offset or "
                "in the input",
                field=name,
            )


def _figures(data: FamilyData, quantity: str, column: int) -> Iterator[str]:
    """What is wrong with the statistics of one field's `quantity`, "u" or "delta"."""
    kinds = data.statistics[quantity]
    mean, std, rms = (kinds[kind][column] for kind in ("mean", "std", "rms"))
    told = f"mean {mean:g}, std {std:g}, rms {rms:g}"
    if max(abs(mean), abs(std), abs(rms)) > ABSURD_RMS:
        yield f"{told}, beyond {ABSURD_RMS:g}; is a fill value taken for a number? Name it as the mask, convert again"
    elif abs(math.hypot(mean, std) - rms) > STATISTICS_TOLERANCE * abs(rms) or std < 0 or rms < 0:
        yield f"{told} contradict each other (rms² = mean² + std²); run tools/shard.py again"


def _listed_twice(listed: Sequence[Part]) -> list[Finding]:
    findings = [
        Finding(file, f"listed {count} times in the manifest; run tools/shard.py again")
        for file, count in Counter(part.entry.file for part in listed).items()
        if count > 1
    ]
    first: dict[str, str] = {}
    for part in listed:
        file = first.setdefault(part.entry.sha256, part.entry.file)
        if file != part.entry.file:
            findings.append(Finding(part.entry.file, f"the same content (SHA-256) as {file}; give each input once"))
    return findings


def _shard(manifest: Manifest, part: Part) -> tuple[list[Finding], _Trajectories]:
    entry = part.entry
    path = manifest.store.place(entry.file)
    findings = []
    try:
        size = manifest.store.size(entry)
    except OSError as error:
        findings.append(Finding(entry.file, f"can't be read ({error.strerror}); check the path and its permissions"))
    else:
        if size is None:
            findings.append(
                Finding(entry.file, f"no such shard, though {manifest.name} lists it; run tools/shard.py again")
            )
        elif size != entry.bytes:
            findings.append(
                Finding(entry.file, f"{size} bytes, expected {entry.bytes}; copy it again, or run tools/shard.py again")
            )
    try:
        index = read_listed_index(manifest, entry)
    except Unreachable:
        raise
    except DataError as error:
        return [*findings, Finding(entry.file + ".idx", str(error).removeprefix(f"{path}.idx: "))], _Trajectories()
    findings += [Finding(entry.file + ".idx", text) for text in disagreements(manifest, part, index)]
    findings += _rows(manifest.families[part.family], entry.file, index)
    return findings, _Trajectories(index.header.keys, _hashes(index))


def disagreements(manifest: Manifest, part: Part, index: ShardIndex) -> list[str]:
    """In what an index differs from the manifest that lists it."""
    header, entry, data = index.header, part.entry, manifest.families[part.family]
    spec = data.spec
    return [
        f"{what} {found!r} in the index, {expected!r} in {manifest.name}; run tools/shard.py again"
        for what, found, expected in (
            ("file", header.shard, entry.file),
            ("bytes", header.shard_bytes, entry.bytes),
            ("SHA-256", header.shard_sha256, entry.sha256),
            ("family", header.family, spec.name),
            ("split", header.split, part.split),
            ("trajectories", header.num_trajectories, entry.trajectories),
            ("fields", header.fields, spec.fields),
            ("static fields", header.static, spec.static),
            ("parameters", header.parameters, spec.parameters),
            ("grid", header.grid, spec.grid),
            ("frames", header.num_frames, data.num_frames[part.split]),
        )
        if found != expected
    ]


def _rows(data: FamilyData, file: str, index: ShardIndex) -> Iterator[Finding]:
    """What is wrong with the times and parameters of single trajectories."""
    spec = data.spec
    for key, times, parameters in zip(index.header.keys, index.times_nt, index.parameters_np, strict=True):
        if np.isinf(parameters).any():
            yield Finding(file + ".idx", "a parameter is infinite; convert the input again with its value", key)
        if spec.steady:
            if not np.isnan(times).all():
                yield Finding(file + ".idx", "states times, though the family is steady; run tools/shard.py again", key)
            continue
        steps = np.diff(times)
        if not np.isfinite(times).all():
            yield Finding(file + ".idx", "times that are no finite numbers; run tools/shard.py again", key)
        elif (steps <= 0).any():
            frame = int(np.argmax(steps <= 0)) + 1
            text = f"time goes from {times[frame - 1]:g} s to {times[frame]:g} s; times must increase"
            yield Finding(file + ".idx", text, key, frame=frame)
        elif data.regular and (np.abs(steps - spec.dt) > DT_TOLERANCE * spec.dt).any():
            frame = int(np.argmax(np.abs(steps - spec.dt))) + 1
            text = f"{steps[frame - 1]:g} s after the frame before, though the manifest says all are {spec.dt:g} s"
            yield Finding(file + ".idx", f"{text}; run tools/shard.py again", key, frame=frame)


def _hashes(index: ShardIndex) -> tuple[int, ...]:
    """A hash of all numbers of each trajectory, from the checksums of its frames."""
    return tuple(xxhash.xxh3_64_intdigest(row.tobytes()) for row in index.checksums_nct)


def _keys_used_twice(trajectories: Sequence[_Trajectories]) -> list[Finding]:
    counts = Counter(key for part in trajectories for key in part.keys)
    return [
        Finding("indices", f"{count} trajectories have this key; run tools/shard.py again", key)
        for key, count in counts.items()
        if count > 1
    ]


def _same_in_two_splits(listed: Sequence[Part], trajectories: Sequence[_Trajectories]) -> list[Finding]:
    """Notes on trajectories of one split that another has too, byte for byte: an evaluation on them proves little."""
    seen: dict[tuple[str, int], str] = {}
    shared: dict[tuple[str, str, str], int] = defaultdict(int)
    for part, of_shard in zip(listed, trajectories, strict=True):
        for number in of_shard.hashes:
            split = seen.setdefault((part.family, number), part.split)
            if split != part.split:
                shared[part.family, split, part.split] += 1
    return [
        Finding(f"family {family}", f"{count} trajectories of split {b} are in split {a} too, number for number")
        for (family, a, b), count in shared.items()
    ]


def _strays(folder: Path, listed: set[str]) -> list[Finding]:
    expected = {*listed, *(f"{file}.idx" for file in listed)}
    found = {path.name for pattern in ("*.tar", "*.tar.idx", "*.tmp") for path in folder.glob(pattern)}
    stray = sorted(found - expected)
    if not stray:
        return []
    some = ", ".join(stray[:3]) + (", ..." if len(stray) > 3 else "")
    text = f"holds {len(stray)} files that the manifest does not list ({some}); delete what is left over"
    return [Finding(str(folder), text)]
