"""Reads every byte of a data set's shards and finds all that is damaged.

    shard -> SHA-256 of the file -> members of the tar against the index -> every frame: checksum, NaN and infinity,
    statistics -> findings; over all shards: the training split's statistics against the manifest's

Shards are read side by side by threads (hashing and arithmetic leave the interpreter's lock); each holds a few MiB.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import xxhash

from ups_scale.data.index import IndexHeader, ShardIndex
from ups_scale.data.manifest import FamilyData, Manifest
from ups_scale.data.moments import FieldMoments, finish
from ups_scale.data.remote import LostFile, MissingFile, Unreachable
from ups_scale.data.validate import (
    DT_TOLERANCE,
    STATISTICS_TOLERANCE,
    Finding,
    Part,
    disagreements,
    parts,
    read_listed_index,
)
from ups_scale.errors import DataError
from ups_scale.physics.families import FamilySpec

CHUNK_BYTES = 2**20
SLAB_BYTES = 2**22
BLOCK = tarfile.BLOCKSIZE
# The largest texts that a shard of ours holds beside arrays; more is not read.
MAX_JSON_BYTES = 64 * 2**20
MAX_NPY_HEADER_BYTES = 2**12


@dataclass(frozen=True)
class Scan:
    """What reading every byte found.

    `damaged` counts the trajectories that training can't read whole, by (family, split).
    """

    problems: tuple[Finding, ...]
    damaged: Mapping[tuple[str, str], int]
    num_bytes: int


@dataclass
class _ShardScan:
    """Findings of one shard; number of trajectories that can't be read whole; moments of the fields, if all can."""

    findings: list[Finding]
    num_damaged: int
    moments: list[FieldMoments] | None = None


def scan(manifest: Manifest, threads: int = 1, progress: Callable[[int], Any] = lambda num_bytes: None) -> Scan:
    """Reads every shard and checks every frame; `progress` is told the number of bytes after each chunk read.

    Shards that are missing, and indices that can't be read, are left out: `validate.inspect` names them.

    Raises:
        DataError: the data set lies elsewhere, and the server or the cache fails.
    """
    listed = parts(manifest)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        scans = list(pool.map(lambda part: _shard(manifest, part, progress), listed))
    problems = [finding for result in scans for finding in result.findings]
    damaged: dict[tuple[str, str], int] = {}
    for part, result in zip(listed, scans, strict=True):
        if result.num_damaged:
            place = part.family, part.split
            damaged[place] = damaged.get(place, 0) + result.num_damaged
    for name, data in manifest.families.items():
        of_training = [
            result.moments
            for part, result in zip(listed, scans, strict=True)
            if (part.family, part.split) == (name, "train")
        ]
        if of_training:  # an entry without training data has another's statistics
            problems += _statistics(data, of_training)
    num_bytes = sum(part.entry.bytes for part in listed)
    return Scan(tuple(problems), damaged, num_bytes)


def _shard(manifest: Manifest, part: Part, progress: Callable[[int], Any]) -> _ShardScan:
    result = _ShardScan([], part.entry.trajectories)
    try:
        with manifest.store.open(part.entry) as file:
            _digest(file, part, result, progress)
            try:
                index = read_listed_index(manifest, part.entry)
            except Unreachable:
                raise
            except DataError:
                return result
            if disagreements(manifest, part, index):
                return result
            size = os.fstat(file.fileno()).st_size
            if index.header.frame_bytes > size:  # memory is asked for by the frame
                text = f"{size:,} bytes, where one frame has {index.header.frame_bytes:,}; run tools/shard.py again"
                result.findings.append(Finding(part.entry.file, text))
                return result
            spec = manifest.families[part.family].spec
            result.findings += _members(file, part.entry.file, spec, index)
            _frames(file, part, spec, index, result)
    except (FileNotFoundError, MissingFile):
        return result
    except LostFile as error:
        result.findings.append(Finding(part.entry.file, str(error)))
    except OSError as error:
        result.findings.append(Finding(part.entry.file, f"can't be read: {error.strerror or error}"))
    return result


def _digest(file: BinaryIO, part: Part, result: _ShardScan, progress: Callable[[int], Any]) -> None:
    digest, chunk = hashlib.sha256(), bytearray(CHUNK_BYTES)
    while count := file.readinto(chunk):  # type: ignore[attr-defined]
        digest.update(memoryview(chunk)[:count])
        progress(count)
    if digest.hexdigest() != part.entry.sha256:
        text = f"SHA-256 {digest.hexdigest()}, expected {part.entry.sha256}; copy it again, or run tools/shard.py again"
        result.findings.append(Finding(part.entry.file, text))


# The tar


@dataclass(frozen=True)
class _Member:
    """A file in a tar: its name, and where its bytes lie."""

    name: str
    start: int
    size: int


class _BadTar(Exception):
    """What is wrong with a tar."""


def _walk(file: BinaryIO, size: int) -> Iterator[_Member]:
    """The members of a tar in the plain POSIX (ustar) format, in its order.

    Not `tarfile`'s own loop, nor webdataset's reader: those take a broken header for the end, follow extension headers
    of any size, and have been made to hang by small files.

    Raises:
        _BadTar: a header is damaged, or of a kind that tools/shard.py never writes, or a member goes past the end.
    """
    position = 0
    while True:
        header = os.pread(file.fileno(), BLOCK, position)
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "replace")
        except tarfile.HeaderError as error:
            if len(header) == BLOCK and not any(header):
                return  # the end, as the standard has it
            raise _BadTar(f"the header at byte {position} can't be read ({error})") from None
        if info.type != tarfile.REGTYPE:
            raise _BadTar(f"the header at byte {position} is of type {info.type!r}, no plain file")
        position += BLOCK
        if not 0 <= info.size <= size - position:
            left = size - position
            raise _BadTar(f"the header at byte {position - BLOCK} states {info.size} bytes, {left} are left")
        yield _Member(info.name, position, info.size)
        position += -(-info.size // BLOCK) * BLOCK


def _members(file: BinaryIO, shard: str, spec: FamilySpec, index: ShardIndex) -> Iterator[Finding]:
    """What differs between the tar's own description of its members and the index: what readers of plain WebDataset
    see, and what training sees, must be the same."""
    header = index.header
    rows = {key: row for row, key in enumerate(header.keys)}
    missing = {f"{key}.{ending}" for key in header.keys for ending in ("json", *(f"{n}.npy" for n in header.fields))}
    order: list[str] = []
    try:
        for member in _walk(file, os.fstat(file.fileno()).st_size):
            if member.name not in missing:
                yield Finding(shard, f"member {member.name[:200]!r}, which is not expected or comes twice")
                continue
            missing.discard(member.name)
            key, _, ending = member.name.partition(".")
            if not order or order[-1] != key:
                order.append(key)
            if ending == "json":
                if text := _facts(file, member, rows[key], index, spec.steady):
                    yield Finding(shard, text, key)
                continue
            name = ending.removesuffix(".npy")
            column = header.fields.index(name)
            frames = 1 if name in header.static else header.num_frames
            offset = int(index.offsets_nc[rows[key], column])
            if text := _array(file, member, (frames, *header.grid), header.dtype, offset):
                yield Finding(shard, text, key, name)
    except _BadTar as damage:
        unseen = f"; the {len(missing)} members from there on can't be found by their names" if missing else ""
        yield Finding(shard, f"{damage}{unseen}; copy it again, or run tools/shard.py again")
        return
    for name in sorted(missing):
        key, _, ending = name.partition(".")
        yield Finding(shard, f"no member {name!r}", key, None if ending == "json" else ending.removesuffix(".npy"))
    if not missing and tuple(order) != header.keys:
        yield Finding(shard, "the members of a trajectory do not lie together, in the order of the index")


def _array(file: BinaryIO, member: _Member, shape: tuple[int, ...], dtype: str, offset: int) -> str | None:
    """What is wrong with a member that should be an array of this shape whose numbers start at byte `offset`."""
    start = os.pread(file.fileno(), 10, member.start)
    length = int.from_bytes(start[8:10], "little")
    if start[:8] != b"\x93NUMPY\x01\x00" or length > min(MAX_NPY_HEADER_BYTES, member.size - 10):
        return "not an .npy array of format 1.0"
    try:
        stated = ast.literal_eval(os.pread(file.fileno(), length, member.start + 10).decode("ascii"))
        found = np.dtype(stated["descr"]), tuple(stated["shape"]), bool(stated["fortran_order"])
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        return f"header of the array can't be read ({type(error).__name__})"
    if found != (np.dtype(dtype).newbyteorder("<"), shape, False):
        return f"array is {found[0]} {found[1]}{' in Fortran order' if found[2] else ''}, expected {dtype} {shape}"
    if member.start + 10 + length != offset:
        return f"numbers start at byte {member.start + 10 + length}, at {offset} in the index"
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if 10 + length + num_bytes != member.size:
        return f"member of {member.size} bytes, expected {10 + length + num_bytes}"
    return None


def _facts(file: BinaryIO, member: _Member, row: int, index: ShardIndex, steady: bool) -> str | None:
    """What differs between the JSON of a trajectory and the index."""
    if member.size > MAX_JSON_BYTES:
        return f"JSON of {member.size} bytes"
    try:
        facts = json.loads(os.pread(file.fileno(), member.size, member.start))
        family = facts["family"]
        stated = {name: float(value) for name, value in facts["parameters"].items()}
        times_t = _stated_times(facts.get("times"), index.header.num_frames)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        return f"its JSON can't be read ({type(error).__name__}: {error})"
    header = index.header
    parameters = zip(header.parameters, index.parameters_np[row].tolist(), strict=True)
    known = {name: value for name, value in parameters if not math.isnan(value)}
    for what, found, expected in (("family", family, header.family), ("parameters", stated, known)):
        if found != expected:
            return f"{what} {str(found)[:200]} in its JSON, {str(expected)[:200]} in the index"
    expected_t = index.times_nt[row]
    if (times_t is None) != steady or (times_t is not None and not _same_times(times_t, expected_t)):
        return f"times {_ends(times_t)} in its JSON, {_ends(expected_t)} in the index"
    return None


def _stated_times(times: Any, num_frames: int) -> np.ndarray | None:
    """(T,) the times that a trajectory's JSON states: a list, or the first and the step where they are even."""
    if times is None:
        return None
    if isinstance(times, dict):
        step = 0.0 if times["dt"] is None else float(times["dt"])
        return float(times["first"]) + step * np.arange(num_frames)
    return np.array([float(time) for time in times])


def _same_times(a_t: np.ndarray, b_t: np.ndarray) -> bool:
    if a_t.shape != b_t.shape or a_t[0] != b_t[0]:
        return False
    return bool(np.allclose(np.diff(a_t), np.diff(b_t), rtol=DT_TOLERANCE, atol=0))


def _ends(times_t: np.ndarray | None) -> str:
    """Times for a message."""
    return f"{times_t[0]:g} to {times_t[-1]:g} s" if times_t is not None and len(times_t) else "none"


# The frames


def _frames(file: BinaryIO, part: Part, spec: FamilySpec, index: ShardIndex, result: _ShardScan) -> None:
    """Checks every frame of a shard and takes the moments of its fields."""
    header = index.header
    moments = [FieldMoments() for _ in header.fields]
    damaged = set()
    ended = False
    for row, key in enumerate(header.keys):
        for column, name in enumerate(header.fields):
            of_field = FieldMoments()
            checksums = index.checksums_nct[row, column].tolist()
            if name in header.static and len(set(checksums)) > 1:
                text = "a static field whose checksums differ between frames in the index; run tools/shard.py again"
                result.findings.append(Finding(part.entry.file, text, key, name))
            for first, raw, expected in _slabs(file, index, row, column):
                whole, cut = divmod(len(raw), header.frame_bytes)
                bad = list(_bad_frames(raw, expected[:whole], header, spec.masked))
                if whole < len(expected):
                    if not ended:  # said once, not of every frame after it
                        ends = f"the file ends {header.frame_bytes - cut} bytes before the frame does"
                        bad.append((whole, f"{ends}; what comes after is missing too"))
                    ended = True
                    damaged.add(key)
                result.findings += [Finding(part.entry.file, text, key, name, first + frame) for frame, text in bad]
                if bad:
                    damaged.add(key)
                elif not damaged:
                    of_field.add(np.frombuffer(raw, header.dtype).reshape(len(expected), *header.grid), spec.masked)
            if spec.steady and name not in header.static:
                of_field.u = of_field.delta  # frame 0 stands for no value: it is zeros in place of the solution
            moments[column].merge(of_field)
    # Training takes no shard of another size than the manifest's.
    cut = os.fstat(file.fileno()).st_size != part.entry.bytes
    result.num_damaged = part.entry.trajectories if cut else len(damaged)
    if not damaged:
        result.moments = moments


def _slabs(file: BinaryIO, index: ShardIndex, row: int, column: int) -> Iterator[tuple[int, memoryview, Sequence[int]]]:
    """(number of the first frame, bytes, expected checksums) of the frames of a field, a few MiB at a time."""
    header = index.header
    num_frames = 1 if header.fields[column] in header.static else header.num_frames
    at_once = max(1, SLAB_BYTES // header.frame_bytes)
    for first in range(0, num_frames, at_once):
        expected = index.checksums_nct[row, column, first : min(first + at_once, num_frames)].tolist()
        position = int(index.offsets_nc[row, column]) + first * header.frame_bytes
        yield first, _read(file, position, len(expected) * header.frame_bytes), expected


def _read(file: BinaryIO, position: int, size: int) -> memoryview:
    """The `size` bytes from `position` on, fewer where the file ends."""
    raw, done = memoryview(bytearray(size)), 0
    while done < size and (count := os.preadv(file.fileno(), [raw[done:]], position + done)):
        done += count
    return raw[:done]


def _bad_frames(
    raw: memoryview, expected: Sequence[int], header: IndexHeader, masked: bool
) -> Iterator[tuple[int, str]]:
    """(number in the slab, what is wrong) of every damaged frame of a slab."""
    size = header.frame_bytes
    for frame, checksum in enumerate(expected):
        piece = raw[frame * size : (frame + 1) * size]
        if (found := xxhash.xxh3_64_intdigest(piece)) != checksum:
            yield frame, f"checksum {found:016x}, expected {checksum:016x}; run tools/shard.py again"
        elif text := _not_finite(np.frombuffer(piece, header.dtype), masked):
            yield frame, text


def _not_finite(values: np.ndarray, masked: bool) -> str | None:
    if np.isfinite(values).all():
        return None
    infinite, missing = int(np.isinf(values).sum()), int(np.isnan(values).sum())
    if infinite:
        return f"{infinite} of {values.size} values are infinite; leave that trajectory out, or name them as the mask"
    return None if masked else f"{missing} of {values.size} values are NaN in a family without a mask"


def _statistics(data: FamilyData, of_training: Sequence[list[FieldMoments] | None]) -> Iterator[Finding]:
    """In what the manifest's statistics differ from those of the training split, if all of it could be read."""
    spec = data.spec
    total = [FieldMoments() for _ in spec.fields]
    for moments in of_training:
        if moments is None:
            return
        for mine, other in zip(total, moments, strict=True):
            mine.merge(other)
    found = finish(total)
    for quantity, kinds in found.items():
        for kind, values in kinds.items():
            stated = data.statistics[quantity][kind]
            for name, value, rms, expected in zip(spec.fields, values, kinds["rms"], stated, strict=True):
                if not abs(value - expected) <= STATISTICS_TOLERANCE * rms:
                    yield Finding(
                        f"family {spec.name}",
                        f"statistics.{quantity}.{kind} is {expected:.9g} in the manifest, {value:.9g} in the training "
                        "split's shards; run tools/shard.py again",
                        field=name,
                    )
