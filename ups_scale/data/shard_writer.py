"""Writes one shard, a tar of trajectories of one family and split, and its index.

A trajectory is the members `<key>.<field>.npy`, (T, *grid) each, (1, *grid) of a static field, and `<key>.json`. A
field passes through memory in slabs of frames: read, checked, hashed, counted into the statistics and written at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ups_scale.atomic import write_aside, write_bytes
from ups_scale.data import workers
from ups_scale.data.index import IndexHeader, ShardIndex, read_index
from ups_scale.data.moments import FieldMoments, to_json
from ups_scale.data.source import Contents, Frames
from ups_scale.data.tar_stream import MAX_NAME, TarStream
from ups_scale.errors import DataError, remedy
from ups_scale.physics.families import Field

SLAB_BYTES = 8 * 2**20
REGULAR_TOLERANCE = 1e-3
"""How far a step in time may differ from the median one, as a part of it, for frames to count as evenly spaced."""


@dataclass(frozen=True)
class Job:
    """One shard to write; all that a worker process is told.

    Attributes:
        path: the shard's file.
        source: the input's, for messages.
        contents: reads the input.
        entry: name of the manifest's entry.
        pieces: (n, 3) rows of (trajectory, first frame, end of frames), all of the same number of frames T.
        times_nt: (n, T) in s, NaN if steady.
        parameters_np: (n, P), NaN where not stated.
        fingerprint: identity of what the shard will hold.
    """

    path: Path
    source: Path
    contents: Contents
    entry: str
    split: str
    fields: tuple[Field, ...]
    parameters: tuple[str, ...]
    grid: tuple[int, ...]
    steady: bool
    masked: bool
    dtype: str
    pieces: np.ndarray
    times_nt: np.ndarray
    parameters_np: np.ndarray
    fingerprint: str

    @property
    def num_frames(self) -> int:
        return self.times_nt.shape[1]

    @cached_property
    def frame_bytes(self) -> int:
        return math.prod(self.grid) * np.dtype(self.dtype).itemsize

    def stored_frames(self, field: Field) -> int:
        return 1 if field.static else self.num_frames

    def member(self, row: int, kind: str) -> str:
        return f"{self.path.stem}-{row:06d}.{kind}"


@dataclass(frozen=True)
class _Bad:
    """The first value of a trajectory that is not finite."""

    field: str
    frame: int


def index_path(shard: Path) -> Path:
    return shard.with_name(shard.name + ".idx")


def is_whole(path: Path, fingerprint: str) -> bool:
    """Whether a shard and its index are there, of this fingerprint, with the bytes that were written.

    Raises:
        Damaged: they have been, and are no more.
    """
    if not index_path(path).exists():  # of a run that was killed between the two
        return False
    try:
        header = read_index(index_path(path)).header
        if header.source != fingerprint:
            return False
        if (size := path.stat().st_size) != header.shard_bytes:
            raise Damaged(f"{size:,} bytes, {header.shard_bytes:,} were written")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != header.shard_sha256:
                raise Damaged("SHA-256 differs")
    except DataError:
        raise Damaged("its index can't be read") from None
    except OSError as error:
        raise Damaged(f"can't be read: {error.strerror or error}") from None
    return True


class Damaged(Exception):
    """What is wrong with a shard that was whole once."""


def write_shard(job: Job, advance: Callable[[int], None]) -> list[tuple[int, str, int]]:
    """Writes a shard and its index; returns what is left out: (trajectory, field, frame) of values not finite.

    `advance` is told of every slab's bytes. A shard from which everything is left out is not written.

    Raises:
        DataError: the input can't be read, or a member's name is too long.
        OSError: the shard can't be written.
    """
    longest = max((job.member(0, f"{field.name}.npy") for field in job.fields), key=len)
    if len(longest) > MAX_NAME:
        raise DataError(
            f"{job.source}: the name {longest} of a member of a shard has {len(longest)} letters; tar takes "
            f"{MAX_NAME}. Use shorter names of family and fields"
        )
    index_path(job.path).unlink(missing_ok=True)
    job.path.unlink(missing_ok=True)
    keys, rows, left_out = [], [], []
    offsets = np.zeros((len(job.pieces), len(job.fields)), np.uint64)
    checksums = np.zeros((len(job.pieces), len(job.fields), job.num_frames), np.uint64)
    statistics = [FieldMoments() for _ in job.fields]
    try:
        with ExitStack() as stack:
            read = stack.enter_context(_opened(job))
            tar = stack.enter_context(TarStream(stack.enter_context(write_aside(job.path))))
            for row, trajectory in enumerate(job.pieces[:, 0].tolist()):
                before = tar.mark()
                found = _write_trajectory(job, row, read, tar, offsets[row], checksums[row], advance)
                if isinstance(found, _Bad):
                    tar.take_back(before)
                    left_out.append((trajectory, found.field, found.frame))
                    continue
                rows.append(row)
                keys.append(job.member(row, "")[:-1])
                for total, part in zip(statistics, found, strict=True):
                    total.merge(part)
            if not rows:
                raise _NothingLeft  # through `write_aside`, which removes what it began
    except _NothingLeft:
        return left_out
    header = IndexHeader(
        shard=job.path.name,
        shard_bytes=tar.position,
        shard_sha256=tar.sha256,
        family=job.entry,
        split=job.split,
        fields=tuple(field.name for field in job.fields),
        static=tuple(field.name for field in job.fields if field.static),
        parameters=job.parameters,
        dtype=job.dtype,
        num_frames=job.num_frames,
        grid=job.grid,
        keys=tuple(keys),
        statistics=to_json(statistics),
        source=job.fingerprint,
        left_out=tuple(left_out),
    )
    index = ShardIndex(header, offsets[rows], checksums[rows], job.parameters_np[rows], job.times_nt[rows])
    write_bytes(index_path(job.path), index.to_bytes())
    return left_out


class _NothingLeft(Exception):
    pass


@dataclass
class _Input:
    """The input that a worker process has open: the next shard is mostly of the same, and what of it has been unpacked
    and kept serves that too."""

    contents: Contents
    read: Frames
    open: ExitStack


_input: _Input | None = None


@contextmanager
def _opened(job: Job) -> Iterator[Frames]:
    """The job's input, open. In a worker process it stays so, unless reading it fails."""
    global _input
    if _input is not None and _input.contents != job.contents:
        _input.open.close()
        _input = None
    if _input is None:
        with ExitStack() as stack:
            with reading(job.source, "the file"):
                read = stack.enter_context(job.contents.open())
            _input = _Input(job.contents, read, stack.pop_all())
    keep = False
    try:
        yield _input.read
        keep = workers.in_worker
    finally:
        if not keep:
            _input.open.close()
            _input = None


def _write_trajectory(
    job: Job,
    row: int,
    read: Frames,
    tar: TarStream,
    offsets_c: np.ndarray,
    checksums_ct: np.ndarray,
    advance: Callable[[int], None],
) -> list[FieldMoments] | _Bad:
    """Writes the members of one trajectory and fills its rows of the index; stops at the first value that is bad."""
    statistics = [FieldMoments() for _ in job.fields]
    columns = {f"{field.name}.npy": column for column, field in enumerate(job.fields)}
    for kind in sorted((*columns, "json")):  # webdataset's order
        if kind == "json":
            facts = _facts(job, row)
            tar.start_member(job.member(row, kind), len(facts))
            tar.write(facts)
            continue
        column = columns[kind]
        field = job.fields[column]
        num_frames = job.stored_frames(field)
        head = _npy_header((num_frames, *job.grid), job.dtype)
        tar.start_member(job.member(row, kind), len(head) + num_frames * job.frame_bytes)
        tar.write(head)
        offsets_c[column] = tar.position
        trajectory, first = job.pieces[row, :2].tolist()
        step = max(1, SLAB_BYTES // job.frame_bytes)
        for start in range(0, num_frames, step):
            frames = range(start, min(start + step, num_frames))
            offset = 0 if field.static else first
            asked = range(frames.start + offset, frames.stop + offset)
            values = _read(job, read, column, trajectory, asked)
            with np.errstate(over="ignore"):  # what overflows is infinite then, and noticed
                slab = np.ascontiguousarray(values, np.dtype(job.dtype).newbyteorder("<"))
            bad = np.isinf(slab) if job.masked else ~np.isfinite(slab)
            if bad.any():
                at = int(bad.reshape(len(slab), -1).any(axis=1).argmax())
                return _Bad(field.name, offset + start + at)
            tar.write(slab)
            checksums_ct[column, frames.start : frames.stop] = [xxhash.xxh3_64_intdigest(frame) for frame in slab]
            statistics[column].add(slab, job.masked)
            if slab.dtype.itemsize < values.dtype.itemsize and job.dtype == "float16":
                lost = np.subtract(values, slab, dtype=np.float64)
                statistics[column].rounding.add(lost[np.isfinite(lost)])
            advance(slab.nbytes)
        if field.static:
            checksums_ct[column] = checksums_ct[column, 0]
        elif job.steady:
            # Frame 0 is a stand-in of zeros: only the solution counts, and that is what the change over one frame is.
            statistics[column].u = statistics[column].delta
    return statistics


def _read(job: Job, read: Frames, column: int, trajectory: int, frames: range) -> np.ndarray:
    """(len(frames), *grid), as the input has them."""
    with reading(job.source, f"trajectory {trajectory}, field {job.fields[column].name}"):
        values = read(column, trajectory, frames)
    assert values.shape == (len(frames), *job.grid), f"{values.shape} read for {len(frames)} frames of {job.grid}"
    return values


@contextmanager
def reading(source: Path, what: str) -> Iterator[None]:
    """A block that reads an input: what the system says against it becomes a `DataError` that names the input."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{source}: {what} can't be read ({error}); "
            + remedy(error, "the file is damaged or its disk is, get it again")
        ) from error


def _npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """What `np.save` writes before the values."""
    head = io.BytesIO()
    descr = np.dtype(dtype).newbyteorder("<").str
    np.lib.format.write_array_header_1_0(head, {"descr": descr, "fortran_order": False, "shape": shape})
    return head.getvalue()


def _facts(job: Job, row: int) -> bytes:
    """The trajectory's `.json`: family, units, the parameters that are stated, and its times in s."""
    parameters = zip(job.parameters, job.parameters_np[row].tolist(), strict=True)
    facts: dict[str, Any] = {
        "family": job.entry,
        "units": {field.name: field.unit for field in job.fields},
        "parameters": {name: value for name, value in parameters if not math.isnan(value)},
    }
    if not job.steady:
        times = job.times_nt[row]
        steps = np.diff(times)
        dt = float(np.median(steps)) if len(steps) else None
        if dt is None or (np.abs(steps - dt) <= REGULAR_TOLERANCE * dt).all():
            facts["times"] = {"first": float(times[0]), "dt": dt}
        else:
            facts["times"] = times.tolist()
    return json.dumps(facts, sort_keys=True, allow_nan=False).encode()
