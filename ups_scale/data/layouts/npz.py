"""NumPy's .npz as a container."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Literal

import numpy as np

from ups_scale.data.layouts.containers import (
    Array,
    Slab,
    is_real,
    native,
    no_such_array,
    num_values,
    reads,
    runs,
)
from ups_scale.data.layouts.unpacked import Unpacked
from ups_scale.errors import DataError

MAX_HEADER_BYTES = 10_000
CHUNK_BYTES = 2**20
LOCAL_HEADER_BYTES = 30
ENCRYPTED = 0x1


@contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """The open file. Raises `DataError`."""
    with reads(path, "the zip file's table"):
        archive = zipfile.ZipFile(path)
    with archive, closing(Unpacked(path)) as unpacked:
        yield Npz(path, archive, unpacked)


class Npz:
    """An open npz file.

    An uncompressed array is mapped for each slab anew, so that its pages don't count as this process' memory after it.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, unpacked: Unpacked) -> None:
        self.path = path
        self.kind = "npz"
        self._archive = archive
        self._unpacked = unpacked
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._seen: dict[str, tuple[Array, bool, int]] = {}
        self._offsets: dict[str, int] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in self._members:
                raise DataError(f"{path}: two members are called {info.filename!r}; write it again with np.savez")
            self._members[name] = info

    def arrays(self) -> tuple[Array, ...]:
        return tuple(self._headers()[0].values())

    def array(self, name: str) -> Array:
        return self._header(name)[0]

    def read(self, name: str, slab: Slab) -> np.ndarray:
        array, fortran, start = self._header(name)
        info = self._members[name]
        order: Literal["C", "F"] = "F" if fortran else "C"
        with reads(self.path, name):
            if info.compress_type == zipfile.ZIP_STORED:
                if name not in self._offsets:
                    self._offsets[name] = self._data_offset(info) + start
                mapped = np.memmap(self.path, array.dtype, "r", self._offsets[name], array.shape, order)
                return native(np.array(mapped[slab]))
            unpack = partial(self._unpack, array)
            return native(self._unpacked.read(name, array.dtype, array.shape, order, slab, unpack))

    def verify(self, name: str, fill: float | None = None) -> str | None:
        """Compares a stored member with its checksum; a compressed one is compared whenever it is read."""
        self._header(name)
        if self._members[name].compress_type == zipfile.ZIP_STORED:
            with reads(self.path, name), self._archive.open(self._members[name]) as file:
                while file.read(CHUNK_BYTES):
                    pass
        return None

    def _unpack(self, array: Array, to: IO[bytes]) -> None:
        left = num_values(array.shape) * array.dtype.itemsize
        with self._archive.open(self._members[array.name]) as file:
            _read_header(file)
            while left:
                data = file.read(min(left, CHUNK_BYTES))
                if not data:
                    raise EOFError(f"{left:,} bytes are missing")
                to.write(data)
                left -= len(data)
            if file.read(1):  # reaching the end makes zipfile compare the checksum
                raise ValueError("bytes beyond the array")

    def _header(self, name: str) -> tuple[Array, bool, int]:
        """The array, whether it is in Fortran's order, and how many bytes its header takes."""
        if name not in self._seen:
            self._seen[name] = self._read_header(name)
        return self._seen[name]

    def _read_header(self, name: str) -> tuple[Array, bool, int]:
        if name not in self._members:
            arrays, others = self._headers()
            raise no_such_array(self.path, name, list(arrays), others)
        info = self._members[name]
        if info.flag_bits & ENCRYPTED:
            raise DataError(f"{self.path}: {name} is encrypted; write it again with np.savez")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{self.path}: {name} is packed by method {info.compress_type}; use np.savez_compressed")
        with reads(self.path, name), self._archive.open(info) as file:
            shape, fortran, dtype = _read_header(file)
            start = file.tell()
        if dtype.hasobject:
            raise DataError(f"{self.path}: {name} holds pickled Python objects, which are never loaded; write numbers")
        if not is_real(dtype):
            raise DataError(f"{self.path}: {name} is of type {dtype}; only arrays of real numbers are read")
        expected = start + num_values(shape) * dtype.itemsize
        if expected != info.file_size or 0 in shape:
            raise DataError(
                f"{self.path}: {name} states shape {shape} of {dtype}, {expected:,} bytes, but has {info.file_size:,}"
                + ("; it is empty" if expected == info.file_size else "; the file is damaged, get it again")
            )
        return Array(name, shape, dtype, runs(shape, dtype, "F" if fortran else "C")), fortran, start

    def _headers(self) -> tuple[dict[str, Array], dict[str, str]]:
        arrays, others = {}, {}
        for name, info in self._members.items():
            if info.filename.endswith(".npy"):
                try:
                    arrays[name] = self._header(name)[0]
                except DataError as error:  # one bad member is no reason not to list the others
                    others[name] = f"not readable ({error})"
        return arrays, others

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        """Where a stored member's bytes start: its local header may be longer than the table says."""
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            head = file.read(LOCAL_HEADER_BYTES)
        magic, name_bytes, extra_bytes = struct.unpack("<4s22xHH", head)
        if magic != b"PK\x03\x04":
            raise ValueError("no local header where the zip file's table says")
        return info.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version}; 1.0 and 2.0 are read")
    return read(file, max_header_size=MAX_HEADER_BYTES)
