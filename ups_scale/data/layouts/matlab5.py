"""MATLAB v5 (save -v6, -v7) as a container.

The format ("MAT-File Format", MathWorks): 128 bytes of header, then elements: a tag (type, number of bytes) and data. A
variable is an element of type matrix, or such an element compressed by zlib; in it are its flags, dimensions, name, and
numbers, which may be of a smaller type than the variable's. It is read here and not by `scipy.io.loadmat`, whose C code
ends the process on some damaged files and holds a variable several times over.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, Literal, Protocol

import numpy as np

from ups_scale.data.layouts.containers import (
    Array,
    Slab,
    native,
    no_such_array,
    num_values,
    reads,
    runs,
)
from ups_scale.data.layouts.unpacked import Unpacked
from ups_scale.errors import DataError

HEADER_BYTES = 128
TAG_BYTES = 8
# Types of elements: those that hold numbers, and variables.
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
INT32, UINT32, MATRIX, COMPRESSED = 5, 6, 14, 15
# Classes of variables: numbers, and others.
NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
OTHERS = {1: "a cell array", 2: "a struct", 3: "an object", 4: "a text", 5: "a sparse array", 16: "a function"}
COMPLEX_FLAG = 0x800
MAX_AXES = 32
MAX_NAME_BYTES = 1024
CHUNK_BYTES = 2**20


@contextmanager
def open_matlab5(path: Path) -> Iterator[Matlab5]:
    """The open file. Raises `DataError`."""
    with reads(path, "the file"):
        file = path.open("rb")
    with file, closing(Unpacked(path)) as unpacked:
        yield Matlab5(path, file, unpacked)


@dataclass(frozen=True)
class _Element:
    """Where a variable's numbers are: in the element whose content starts at byte `start` of the file and takes
    `num_bytes` there, `offset` bytes into that content (inflated, if it is compressed), as `stored`."""

    array: Array
    compressed: bool
    start: int
    num_bytes: int
    offset: int
    stored: np.dtype


class Matlab5:
    """An open MATLAB v5 file. Variables are mapped for each slab; compressed ones are unpacked before."""

    def __init__(self, path: Path, file: BinaryIO, unpacked: Unpacked) -> None:
        self.path = path
        self.kind = "MATLAB v5"
        self._file = file
        self._unpacked = unpacked
        self._elements: dict[str, _Element] = {}
        self._others: dict[str, str] = {}
        with reads(path, "the list of variables"):
            self._scan()

    def arrays(self) -> tuple[Array, ...]:
        return tuple(element.array for element in self._elements.values())

    def array(self, name: str) -> Array:
        return self._element(name).array

    def read(self, name: str, slab: Slab) -> np.ndarray:
        element = self._element(name)
        array = element.array
        with reads(self.path, name):
            if element.compressed:
                values = self._unpacked.read(
                    name, element.stored, array.shape, "F", slab, partial(self._inflate, element)
                )
            else:
                offset = element.start + element.offset
                values = np.array(np.memmap(self.path, element.stored, "r", offset, array.shape, "F")[slab])
            return native(values).astype(array.dtype, copy=False)

    def verify(self, name: str, fill: float | None = None) -> str | None:
        """Nothing: that variables are whole is seen on opening, and zlib's checksum is compared on reading."""
        self._element(name)
        return None

    def _element(self, name: str) -> _Element:
        if name not in self._elements:
            raise no_such_array(self.path, name, list(self._elements), self._others)
        return self._elements[name]

    def _scan(self) -> None:
        """Finds all variables; of each as much is read as says what it is."""
        size = self._file.seek(0, 2)
        self._file.seek(HEADER_BYTES - 2)
        self._order: Literal["<", ">"] = "<" if self._file.read(2) == b"IM" else ">"
        start = HEADER_BYTES
        while start < size:
            self._file.seek(start)
            kind, num_bytes = self._words(_exactly(self._file, TAG_BYTES))
            start += TAG_BYTES
            if kind not in (MATRIX, COMPRESSED) or start + num_bytes > size:
                raise ValueError(f"no whole variable at byte {start - TAG_BYTES:,} of {size:,}")
            self._describe(kind == COMPRESSED, start, num_bytes)
            start += num_bytes

    def _describe(self, compressed: bool, start: int, num_bytes: int) -> None:
        stream = self._content(compressed, start, num_bytes)
        if compressed:
            kind, inner_bytes = self._words(_exactly(stream, TAG_BYTES))
            if kind != MATRIX:
                raise ValueError(f"a compressed element of type {kind} at byte {start:,}")
        else:
            inner_bytes = num_bytes
        flags, _ = self._words(self._numbers(stream, UINT32, TAG_BYTES))
        what = flags & 0xFF
        if what not in NUMBERS and what not in OTHERS:  # opaque ones go on otherwise, and their name does not matter
            return
        dims = np.frombuffer(self._numbers(stream, INT32, 4 * MAX_AXES), f"{self._order}i4")
        name = self._numbers(stream, None, MAX_NAME_BYTES).decode("latin-1")
        if not name:  # what MATLAB keeps for itself
            return
        if name in self._elements or name in self._others:
            raise DataError(f"{self.path}: two variables are called {name!r}; save it again")
        shape = tuple(int(size) for size in dims)
        if what in OTHERS:
            self._others[name] = OTHERS[what]
        elif flags & COMPLEX_FLAG:
            self._others[name] = "complex (write its real and imaginary part as two arrays)"
        elif len(shape) < 2 or min(shape) <= 0:
            self._others[name] = "empty"
        else:
            kind, count, small = self._tag(stream)
            stored = np.dtype(STORED[kind]).newbyteorder(self._order)
            offset = stream.tell() - (start if not compressed else 0)
            expected = num_values(shape) * stored.itemsize
            room = inner_bytes + (TAG_BYTES if compressed else 0) - offset
            if stored.kind == "f" and NUMBERS[what][0] != "f":
                raise ValueError(f"{name} states integers and stores floating point numbers")
            if count != expected or count > (4 if small else room):
                raise ValueError(f"{name} states shape {shape}, {expected:,} bytes, and has {min(count, room):,}")
            array = Array(name, shape, np.dtype(NUMBERS[what]), runs(shape, stored, "F"))
            self._elements[name] = _Element(array, compressed, start, num_bytes, offset, stored)

    def _content(self, compressed: bool, start: int, num_bytes: int) -> _Stream:
        self._file.seek(start)
        return _Inflated(self._file, num_bytes) if compressed else self._file

    def _words(self, data: bytes) -> tuple[int, int]:
        first, second = np.frombuffer(data, f"{self._order}u4")
        return int(first), int(second)

    def _tag(self, stream: _Stream) -> tuple[int, int, bool]:
        """(type, number of bytes, whether they are in the tag itself); the stream is left where they start."""
        first = int(np.frombuffer(_exactly(stream, 4), f"{self._order}u4")[0])
        if first >> 16:
            return first & 0xFFFF, first >> 16, True
        return first, int(np.frombuffer(_exactly(stream, 4), f"{self._order}u4")[0]), False

    def _numbers(self, stream: _Stream, kind: int | None, max_bytes: int) -> bytes:
        """The bytes of an element of this type (None: any)."""
        found, count, small = self._tag(stream)
        if kind not in (None, found) or count > (4 if small else max_bytes):
            raise ValueError(f"an element of type {found} and {count:,} bytes where one of type {kind} was expected")
        return _exactly(stream, 4 if small else -count % 8 + count)[:count]

    def _inflate(self, element: _Element, to: IO[bytes]) -> None:
        stream = self._content(True, element.start, element.num_bytes)
        _exactly(stream, element.offset)
        left = num_values(element.array.shape) * element.stored.itemsize
        while left:
            data = _exactly(stream, min(left, CHUNK_BYTES))
            to.write(data)
            left -= len(data)
        if len(stream.read(TAG_BYTES)) == TAG_BYTES:  # reaching the end makes zlib compare the checksum
            raise ValueError("bytes beyond the numbers")


class _Stream(Protocol):
    def read(self, num_bytes: int, /) -> bytes: ...

    def tell(self) -> int: ...


class _Inflated:
    """What a zlib stream of `num_bytes` bytes, which starts at the file's position, inflates to; never more in memory
    than is asked for."""

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self._file = file
        self._left = num_bytes
        self._zlib = zlib.decompressobj()
        self._position = 0

    def read(self, num_bytes: int, /) -> bytes:
        """At most `num_bytes`, fewer at the end alone."""
        out = bytearray()
        while len(out) < num_bytes and not self._zlib.eof:
            packed = self._zlib.unconsumed_tail
            if not packed:
                packed = self._file.read(min(CHUNK_BYTES, self._left))
                self._left -= len(packed)
                if not packed:
                    raise EOFError("the compressed data ends early")
            out += self._zlib.decompress(packed, num_bytes - len(out))
        self._position += len(out)
        return bytes(out)

    def tell(self) -> int:
        return self._position


def _exactly(stream: _Stream, num_bytes: int) -> bytes:
    data = stream.read(num_bytes)
    if len(data) < num_bytes:
        raise EOFError(f"{len(data)} of {num_bytes} bytes")
    return data
