"""The byte index of one shard: where each field of each trajectory lies in the tar, and a checksum of every frame.

File `<shard>.tar.idx`: the magic line; the length of the header and the xxh3_64 of all that follows (8 bytes each,
little-endian, like everything here); the header (JSON); then raw arrays in this order: `offsets` uint64 (N, C), the
position of a field's first frame in the tar; `checksums` uint64 (N, C, T), xxh3_64 of each frame's bytes (a static
field has but one frame, whose checksum stands T times); `parameters` float64 (N, P), NaN where not stated; `times`
float64 (N, T) in s, NaN if the family is steady. Never a pickle: everything is bounds-checked before it is used.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xxhash

from ups_scale.data.patience import patiently
from ups_scale.errors import DataError

MAGIC = b"ups-index-2\n"
MAX_HEADER_BYTES = 64 * 2**20
MAX_BYTES = 2**62
"""No file is larger, and offsets below it fit the system's calls."""
DTYPES = ("float32", "float16")
KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
"""A trajectory's key: what WebDataset takes for one, the part of a member's name before the first dot."""


@dataclass(frozen=True)
class IndexHeader:
    """What all trajectories of a shard share, and the shard's identity.

    `left_out` lists trajectories of the source that are not in the shard, since they hold values that are not finite:
    (number in the source, field, frame).
    """

    shard: str
    shard_bytes: int
    shard_sha256: str
    family: str
    split: str
    fields: tuple[str, ...]
    static: tuple[str, ...]
    parameters: tuple[str, ...]
    dtype: str
    num_frames: int
    grid: tuple[int, ...]
    keys: tuple[str, ...]
    statistics: dict
    source: str
    left_out: tuple[tuple[int, str, int], ...] = ()

    @property
    def num_trajectories(self) -> int:
        return len(self.keys)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame of one field."""
        return math.prod(self.grid) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class ShardIndex:
    """Header and arrays of one shard's index: offsets_nc, checksums_nct, parameters_np, times_nt (see the module's
    text)."""

    header: IndexHeader
    offsets_nc: np.ndarray
    checksums_nct: np.ndarray
    parameters_np: np.ndarray
    times_nt: np.ndarray

    def to_bytes(self) -> bytes:
        header = json.dumps(asdict(self.header), sort_keys=True, separators=(",", ":")).encode()
        arrays = (
            self.offsets_nc.astype("<u8").tobytes(),
            self.checksums_nct.astype("<u8").tobytes(),
            self.parameters_np.astype("<f8").tobytes(),
            self.times_nt.astype("<f8").tobytes(),
        )
        return _seal(header, b"".join(arrays))


def _seal(header: bytes, arrays: bytes) -> bytes:
    body = header + arrays
    return MAGIC + len(header).to_bytes(8, "little") + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little") + body


def read_index(path: Path) -> ShardIndex:
    """The index stored at `path`.

    Raises:
        DataError: missing, truncated, of another format, or with figures that cannot be true; the message names the
            file and says what was found.
    """
    return parse_index(read_raw(path), path)


def read_raw(path: Path) -> bytes:
    """The bytes of an index's file, unchecked; a `DataError` if they can't be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise DataError(f"{path}: the shard's index can't be read (no plain file); run tools/shard.py again")
        return patiently(path.read_bytes)
    except OSError as error:
        raise DataError(
            f"{path}: the shard's index can't be read ({error.strerror}); run tools/shard.py again"
        ) from None


def parse_index(raw: bytes, path: Path | str) -> ShardIndex:
    """The index whose file `path` holds `raw`; raises as `read_index`."""
    try:
        return _parse(raw)
    except _Damage as damage:
        raise DataError(f"{path}: {damage}; the file is damaged: run tools/shard.py again") from None


class _Damage(Exception):
    """What is wrong with an index."""


def _parse(raw: bytes) -> ShardIndex:
    if not raw.startswith(MAGIC):
        raise _Damage(f"not an index of format 2 (starts with {raw[: len(MAGIC)]!r})")
    start = len(MAGIC) + 16
    length = int.from_bytes(raw[start - 16 : start - 8], "little")
    if len(raw) < start or length > MAX_HEADER_BYTES or start + length > len(raw):
        raise _Damage(f"header of {length} bytes in a file of {len(raw)} bytes")
    stated, found = int.from_bytes(raw[start - 8 : start], "little"), xxhash.xxh3_64_intdigest(memoryview(raw)[start:])
    if found != stated:
        raise _Damage(f"checksum {found:016x}, expected {stated:016x}")
    header = _parse_header(raw[start : start + length])
    num, fields, frames = header.num_trajectories, len(header.fields), header.num_frames
    shapes = [
        ("<u8", (num, fields)),
        ("<u8", (num, fields, frames)),
        ("<f8", (num, len(header.parameters))),
        ("<f8", (num, frames)),
    ]
    expected = start + length + sum(8 * math.prod(shape) for _, shape in shapes)
    if len(raw) != expected:
        raise _Damage(f"{len(raw)} bytes where the header asks for {expected}")
    arrays, position = [], start + length
    for dtype, shape in shapes:
        arrays.append(np.frombuffer(raw, dtype, math.prod(shape), position).reshape(shape))
        position += 8 * math.prod(shape)
    index = ShardIndex(header, *arrays)
    for column, name in enumerate(header.fields):
        last = header.shard_bytes - (1 if name in header.static else frames) * header.frame_bytes
        if last < 0 or int(index.offsets_nc[:, column].max()) > last:
            raise _Damage(f"an offset of {name} lies past the end of the shard ({header.shard_bytes} bytes)")
    return index


def _parse_header(raw: bytes) -> IndexHeader:
    try:
        content = json.loads(raw)
        for name in ("fields", "static", "parameters", "grid", "keys"):
            content[name] = tuple(content[name])
        content["left_out"] = tuple((int(row), str(field), int(frame)) for row, field, frame in content["left_out"])
        header = IndexHeader(**content)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _Damage(f"unreadable header ({type(error).__name__}: {error})") from None
    counts = (header.shard_bytes, header.num_frames, *header.grid)
    texts = (
        *(header.shard, header.shard_sha256, header.family, header.split, header.source),
        *(*header.fields, *header.static, *header.parameters, *header.keys),
    )
    possible = (
        all(isinstance(count, int) and 0 < count < MAX_BYTES for count in counts)
        and all(isinstance(text, str) for text in texts)
        and bool(header.keys and header.fields and header.grid)
        and all(map(KEY.fullmatch, header.keys))
        and len(set(header.keys)) == len(header.keys)
        and set(header.static) <= set(header.fields)
        and isinstance(header.statistics, dict)
    )
    if not possible or header.dtype not in DTYPES:
        raise _Damage(f"impossible header (sizes {counts}, dtype {header.dtype!r}, {len(header.keys)} trajectories)")
    return header
