"""The byte index of one shard: where each field of each trajectory lies in the tar, and a checksum of every frame.

File `<shard>.tar.idx`: the magic line, the length of the header (8 bytes, little-endian), the header (JSON), then raw
little-endian arrays in this order: `offsets` uint64 (N, C), the position of a field's first frame in the tar;
`checksums` uint64 (N, C, T), xxh3_64 of each frame's bytes; `parameters` float64 (N, P), NaN where not stated. Never a
pickle: everything is bounds-checked before it is used.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ups_scale.errors import DataError

MAGIC = b"ups-index-1\n"
MAX_HEADER_BYTES = 64 * 2**20
DTYPES = ("float32",)


@dataclass(frozen=True)
class IndexHeader:
    """What all trajectories of a shard share, and the shard's identity."""

    shard: str
    shard_bytes: int
    shard_sha256: str
    family: str
    split: str
    fields: tuple[str, ...]
    parameters: tuple[str, ...]
    dtype: str
    num_frames: int
    grid: tuple[int, ...]
    keys: tuple[str, ...]
    statistics: dict
    source: str

    @property
    def num_trajectories(self) -> int:
        return len(self.keys)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame of one field."""
        return math.prod(self.grid) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class ShardIndex:
    """Header and arrays of one shard's index: offsets_nc, checksums_nct, parameters_np (see the module's text)."""

    header: IndexHeader
    offsets_nc: np.ndarray
    checksums_nct: np.ndarray
    parameters_np: np.ndarray

    def to_bytes(self) -> bytes:
        header = json.dumps(asdict(self.header), sort_keys=True, separators=(",", ":")).encode()
        arrays = (
            self.offsets_nc.astype("<u8").tobytes(),
            self.checksums_nct.astype("<u8").tobytes(),
            self.parameters_np.astype("<f8").tobytes(),
        )
        return MAGIC + len(header).to_bytes(8, "little") + header + b"".join(arrays)


def read_index(path: Path) -> ShardIndex:
    """The index stored at `path`.

    Raises:
        DataError: missing, truncated, of another format, or with figures that cannot be true; the message names the
            file and says what was found.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the shard's index can't be read ({error.strerror}); make the shards again") from None
    remedy = "the file is damaged: delete it and run tools/shard.py again"
    if not raw.startswith(MAGIC):
        raise DataError(f"{path}: not an index of format 1 (starts with {raw[:12]!r}); {remedy}")
    start = len(MAGIC) + 8
    length = int.from_bytes(raw[len(MAGIC) : start], "little")
    if length > MAX_HEADER_BYTES or start + length > len(raw):
        raise DataError(f"{path}: header of {length} bytes in a file of {len(raw)} bytes; {remedy}")
    try:
        fields = json.loads(raw[start : start + length])
        for name in ("fields", "parameters", "grid", "keys"):
            fields[name] = tuple(fields[name])
        header = IndexHeader(**fields)
        counts = (len(header.keys), len(header.fields), header.num_frames, len(header.parameters), *header.grid)
        if not all(isinstance(n, int) and n >= 0 for n in counts) or header.dtype not in DTYPES:
            raise ValueError(f"counts {counts}, dtype {header.dtype!r}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{path}: unreadable header ({error}); {remedy}") from None
    num, fields_, frames, params = counts[:4]
    shapes = [("<u8", (num, fields_)), ("<u8", (num, fields_, frames)), ("<f8", (num, params))]
    expected = start + length + sum(8 * math.prod(shape) for _, shape in shapes)
    if len(raw) != expected:
        raise DataError(f"{path}: {len(raw)} bytes where its header asks for {expected}; {remedy}")
    arrays, position = [], start + length
    for dtype, shape in shapes:
        arrays.append(np.frombuffer(raw, dtype, math.prod(shape), position).reshape(shape))
        position += 8 * math.prod(shape)
    index = ShardIndex(header, *arrays)
    last = header.shard_bytes - header.num_frames * header.frame_bytes
    if num and (last < 0 or int(index.offsets_nc.max(initial=0)) > last):
        raise DataError(f"{path}: an offset lies past the end of the shard ({header.shard_bytes} bytes); {remedy}")
    return index
