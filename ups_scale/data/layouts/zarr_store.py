"""Zarr groups (formats 2 and 3, in a folder) as containers."""

from __future__ import annotations

import itertools
import os
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ups_scale.data.layouts.attributes import decoded, described
from ups_scale.data.layouts.containers import (
    MAX_CHUNK_BYTES,
    Array,
    Slab,
    is_real,
    native,
    no_such_array,
    num_values,
    reads,
)
from ups_scale.errors import DataError

MAX_DEPTH = 4
CRC_BYTES = 4
BLOSC_HEADER = struct.Struct("<4xI4xI")
MAX_ARRAYS = 10_000
# Where chunks lie in an array's folder, in formats 2 and 3.
CHUNK_KEY = re.compile(r"c|(c[./])?[0-9]+([./][0-9]+)*")
# What chunks may be packed with. Not "pickle" above all: numcodecs would unpickle what a stranger wrote.
CODECS = frozenset(
    (
        *("bytes", "transpose", "sharding_indexed", "shuffle", "delta", "fixedscaleoffset", "quantize", "bitround"),
        *("packbits", "astype", "blosc", "gzip", "zlib", "zstd", "lz4", "bz2", "lzma"),
        *("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"),
    )
)


@contextmanager
def open_zarr(path: Path) -> Iterator[Zarr]:
    """The open group. Raises `DataError`."""
    try:
        import zarr
    except ImportError:
        raise DataError(
            f"{path}: Zarr is read with the package zarr; install it: pip install 'ups_scale[zarr]'"
        ) from None
    _check_plain(path)
    with reads(path, "the group"):
        group = zarr.open(str(path), mode="r", use_consolidated=False)
    if not isinstance(group, zarr.Group):
        raise DataError(f"{path}: a Zarr array without a group; move it into a folder that is a group, for its name")
    yield Zarr(path, group)


class Zarr:
    """An open Zarr group. A chunk that was never written reads as the array's fill value, as Zarr defines it."""

    def __init__(self, path: Path, group: Any) -> None:
        self.path = path
        self.kind = "Zarr"
        self._nodes: dict[str, Any] = {}
        self._others: dict[str, str] = {}
        with reads(path, "the list of arrays"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr warns of files that are none of its own; they are left out
            members = list(islice(group.members(max_depth=MAX_DEPTH), MAX_ARRAYS + 1))
        if len(members) > MAX_ARRAYS:
            raise DataError(f"{path}: more than {MAX_ARRAYS:,} arrays; put what is needed into another group")
        for name, node in members:
            if hasattr(node, "dtype"):
                with reads(path, name):
                    refusal = _refusal(node)
                if refusal:
                    self._others[name] = refusal
                else:
                    self._nodes[name] = node
            else:
                self._others[name] = "a group"

    def arrays(self) -> tuple[Array, ...]:
        return tuple(self.array(name) for name in self._nodes)

    def array(self, name: str) -> Array:
        if name not in self._nodes:
            raise no_such_array(self.path, name, list(self._nodes), self._others)
        node = self._nodes[name]
        chunks = tuple(getattr(node, "shards", None) or node.chunks)
        dtype = np.dtype(node.dtype)
        attributes = decoded(node.attrs, dtype)
        if node.metadata.zarr_format == 2 and attributes.get("_FillValue") is None:
            fill = node.metadata.fill_value
            if fill is not None and fill != 0 and not np.isnan(fill):  # where xarray has a _FillValue
                attributes["_FillValue"] = fill
        dims = getattr(node.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS") or ()
        if not isinstance(dims, list | tuple) or len(dims) != len(node.shape):
            dims = ()
        folder = name.rpartition("/")[0]  # dimensions are named as the arrays beside them
        named = tuple(f"{folder}/{dim}" if folder and dim else dim for dim in dims)
        return replace(described(name, tuple(node.shape), dtype, chunks, attributes), dims=named)

    def read(self, name: str, slab: Slab) -> np.ndarray:
        self.array(name)
        node = self._nodes[name]
        with reads(self.path, name):
            if "blosc" in _codecs(node.metadata.to_dict()):
                self._check_blosc(name, node, slab)
            return native(np.asarray(node[slab]))

    def verify(self, name: str, fill: float | None = None) -> str | None:
        """Zarr leaves out chunks that are the fill value everywhere, so that missing ones are no error; nothing tells
        them from those that a copy lost."""
        self.array(name)
        node = self._nodes[name]
        with reads(self.path, name):
            value = node.metadata.fill_value
            what = "shards" if getattr(node, "shards", None) else "chunks"
            stored = getattr(node, "shards", None) or node.chunks
            # By what there is: a damaged store may state more chunks than anybody can count.
            grid = [-(-size // chunk) for size, chunk in zip(node.shape, stored, strict=True)]
            number, there = num_values(grid), self._num_chunks(name, grid)
        if there >= number or (fill is not None and value == fill):
            return None
        if value is None:
            raise DataError(
                f"{self.path}: {number - there:,} of the {number:,} {what} of {name} are not there, and it has no fill "
                "value that they would read as; copy the store again, or write it whole"
            )
        return (
            f"{number - there:,} of the {number:,} {what} of {name} are not there and read as {value}, as Zarr has it "
            f"of {what} that hold nothing else; if the store was copied, compare it with the original"
        )

    def _num_chunks(self, name: str, grid: Sequence[int]) -> int:
        """How many of the chunks of an array, `grid` of them along its axes, have a file."""
        folder, number = self.path / name, 0
        for base, _, files in os.walk(folder):
            for file in files:
                path = Path(base, file)
                key = path.relative_to(folder).as_posix()
                if CHUNK_KEY.fullmatch(key):
                    place = [int(part) for part in re.findall("[0-9]+", key)]
                    number += len(place) == len(grid) and all(at < size for at, size in zip(place, grid, strict=True))
                    if path.stat().st_size == 0:
                        raise DataError(f"{path}: an empty file, and no chunk is; copy the store again")
        return number

    def _check_blosc(self, name: str, node: Any, slab: Slab) -> None:
        """Raises a `ValueError` if a chunk that a slab touches is not as long as its header says: numcodecs would read
        on into other memory."""
        trailer = CRC_BYTES if list(_codecs(node.metadata.to_dict()))[-1] == "crc32c" else 0
        axes = zip(slab, node.shape, node.chunks, strict=True)
        for place in itertools.product(*(_touched(part, size, chunk) for part, size, chunk in axes)):
            key = node.metadata.encode_chunk_key(place)
            try:
                data = (self.path / name / key).open("rb")
            except FileNotFoundError:
                continue
            with data:
                head = data.read(BLOSC_HEADER.size)
                found = data.seek(0, 2) - trailer
            num_bytes, stated = BLOSC_HEADER.unpack(head)
            if stated != found or num_bytes > MAX_CHUNK_BYTES:
                raise ValueError(f"chunk {key} states {stated:,} bytes of {num_bytes:,}, and has {found:,}")


def _check_plain(store: Path) -> None:
    """Raises a `DataError` if a store holds anything but folders and files: links lead out of it, and pipes are waited
    for."""
    folders = [str(store)]
    while folders:
        with reads(store, "the folder"), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    what = "a link" if entry.is_symlink() else "no plain file"
                    raise DataError(
                        f"{entry.path}: {what}, which is not followed; copy what it stands for into the store"
                    )


def _refusal(node: Any) -> str | None:
    """What a node is, if it is not an array of real numbers that can be read."""
    if not is_real(np.dtype(node.dtype)):
        return f"of type {node.dtype}"
    if 0 in node.shape:
        return "empty"
    codec = next((name for name in _codecs(node.metadata.to_dict()) if name not in CODECS), None)
    if codec is not None:
        return f"packed with the codec {codec!r}, which is not trusted (write it with blosc, zstd or gzip)"
    if getattr(node, "shards", None) and "blosc" in _codecs(node.metadata.to_dict()):
        return "sharded with blosc inside, which numcodecs reads without looking at its bounds (write it with zstd)"
    for chunk in (node.chunks, getattr(node, "shards", None)):
        if chunk and num_values(chunk) * np.dtype(node.dtype).itemsize > MAX_CHUNK_BYTES:
            return f"stored in chunks of {tuple(chunk)}, too large for memory"
    return None


def _touched(part: int | slice, size: int, chunk: int) -> range:
    """Numbers of the chunks of an axis that an index touches."""
    rows = range(size)[part]
    if isinstance(rows, int):
        return range(rows // chunk, rows // chunk + 1)
    return range(rows[0] // chunk, rows[-1] // chunk + 1) if rows else range(0)


def _codecs(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Names of all codecs of an array, those inside of others too."""
    for key in ("filters", "compressor", "codecs", "index_codecs"):
        value = metadata.get(key) or ()
        for codec in (value,) if isinstance(value, Mapping) else value:
            yield str(codec.get("id", codec.get("name"))).removeprefix("numcodecs.")
            yield from _codecs(codec.get("configuration") or {})
