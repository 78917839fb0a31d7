"""Containers of arrays: what a file (or a Zarr folder) holds, and slabs of it, whatever its format.

    format              read by            a slab costs
    HDF5, netCDF-4      h5py               the slab
    MATLAB v7.3         h5py               the slab; axes in MATLAB's order, which is the reverse of HDF5's
    Zarr v2, v3         zarr               the chunks that the slab touches
    netCDF-3            scipy              the slab
    npz, uncompressed   numpy              the slab
    MATLAB v5           `matlab5.py`       the slab
    npz, MATLAB v5,     zipfile, zlib      the whole array once, into a temporary file (`unpacked.py`); then the slab
    compressed

Files come from strangers: nothing is unpickled, no link out of a file is followed, sizes are checked before memory is
asked for, and whatever a library says against a file becomes a `DataError` that names file and array.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from ups_scale.errors import DataError, remedy

# An index into an array: for each axis a position, or a slice that goes forward.
Slab = tuple[int | slice, ...]
# Chunks are unpacked whole; larger ones are refused.
MAX_CHUNK_BYTES = 512 * 1024**2
# Shorter reads than this cost as much as one of it.
RUN_BYTES = 2**16
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Array:
    """An array of real numbers.

    Attributes:
        name, shape, dtype: as its format has them.
        chunks: for each axis how many entries are best read together: the chunk's, or those that lie side by side.
        attributes: those of netCDF that change what the numbers mean: _FillValue, missing_value, scale_factor and
            add_offset.
        unit: what its attribute `units` says.
        valid: least and most number that is a value, where the file says so (valid_range, valid_min, valid_max).
        unwritten: what reads where nothing was written, where that isn't 0 or NaN and no _FillValue says so.
        unclear: attribute -> what it says, where that can't be understood. Such arrays are listed, but not to be used.
        dims: for each axis the name of its dimension or of the coordinate attached to it, if the file says it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...]
    attributes: Mapping[str, float] = field(default_factory=dict)
    unit: str | None = None
    valid: tuple[float, float] | None = None
    unwritten: float | None = None
    unclear: Mapping[str, str] = field(default_factory=dict)
    dims: tuple[str | None, ...] = ()

    @property
    def chunk_bytes(self) -> int:
        """What must be read into memory for any part of a chunk."""
        return num_values(self.chunks) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name} {self.shape}"


class Container(Protocol):
    """An open container. All its methods raise `DataError`."""

    path: Path
    kind: str

    def arrays(self) -> tuple[Array, ...]:
        """All its arrays of real numbers, without reading them."""

    def array(self, name: str) -> Array:
        """The array called `name`; an error if there is none, or if it does not hold real numbers."""

    def read(self, name: str, slab: Slab) -> np.ndarray:
        """A slab of an array, in the file's dtype and this machine's byte order. Not to be written to: formats that
        keep arrays give views of them."""

    def verify(self, name: str, fill: float | None = None) -> str | None:
        """Checks what reading slabs does not: that all of the array was written (unless what was not reads as `fill`),
        and its checksum where the format has one. Returns what is no error but worth a note."""


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """The open container at `path`; its format is told by its first bytes, of folders by Zarr's metadata.

    Raises:
        DataError: no such file, or none of these formats.
    """
    # Each format is imported where it is met: scipy and zarr take long to import, and zarr is optional.
    kind = kind_of(path)
    opener: Callable[[Path], AbstractContextManager[Container]]
    if kind == "zarr":
        from ups_scale.data.layouts.zarr_store import open_zarr

        opener = open_zarr
    elif kind == "npz":
        from ups_scale.data.layouts.npz import open_npz

        opener = open_npz
    elif kind == "netcdf3":
        from ups_scale.data.layouts.netcdf3 import open_netcdf3

        opener = open_netcdf3
    elif kind == "matlab5":
        from ups_scale.data.layouts.matlab5 import open_matlab5

        opener = open_matlab5
    else:
        from ups_scale.data.layouts.hdf5 import open_hdf5_container

        opener = open_hdf5_container
    with opener(path) as container:
        yield container


def kind_of(path: Path) -> str:
    """`path`'s format: hdf5 (with netCDF-4 and MATLAB v7.3), zarr, npz, netcdf3 or matlab5.

    Raises:
        DataError: no such file, or another format.
    """
    if path.is_dir():
        if any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
            return "zarr"
        raise DataError(f"{path}: a folder without zarr.json or .zgroup, so not a Zarr group; give a file, or a group")
    try:
        with path.open("rb") as file:
            head = file.read(128)
            hdf5 = _is_hdf5(file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error}); {remedy(error, 'get it again')}") from None
    if hdf5:
        return "hdf5"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "npz"
    if head[:4] in (b"CDF\x01", b"CDF\x02"):
        return "netcdf3"
    if head[:4] == b"CDF\x05":
        raise DataError(f"{path}: netCDF CDF-5, which is not read; convert it: nccopy -k nc4 {path.name} new.nc")
    if head[:6] == b"MATLAB" and head[126:128] in (b"IM", b"MI"):
        return "matlab5"
    raise DataError(
        f"{path}: neither HDF5, netCDF, Zarr, MATLAB v5 or v7.3, nor npz (it starts with {head[:8]!r}); if it should "
        "be, get it again; MATLAB v4 files: save them again with save -v7"
    )


def runs(shape: Sequence[int], dtype: np.dtype, order: str) -> tuple[int, ...]:
    """`Array.chunks` of an array in one piece: its fastest axes are read together up to a run that is worth a read."""
    chunks = [1] * len(shape)
    run = dtype.itemsize
    for axis in range(len(shape))[:: -1 if order == "C" else 1]:
        if run >= RUN_BYTES:
            break
        chunks[axis] = min(shape[axis], -(-RUN_BYTES // run))
        run *= chunks[axis]
    return tuple(chunks)


def num_values(shape: Sequence[int]) -> int:
    """Product of a shape, exact however large a damaged file says it is."""
    total = 1
    for size in shape:
        total *= int(size)
    return total


def no_such_array(path: Path, name: str, names: Sequence[str], others: Mapping[str, str] | None = None) -> DataError:
    """The error for a name that is no array of real numbers; `others` says of the other names what they are."""
    if others and name in others:
        return DataError(f"{path}: {name} is {others[name]}; only arrays of real numbers are read")
    lowered = {other.lower(): other for other in reversed(names)}
    near = [lowered[word] for word in difflib.get_close_matches(name.lower(), lowered, n=1)]
    listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return DataError(
        f"{path}: no array {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; it has {listed or 'none'}")
    )


@contextmanager
def reads(path: Path, what: str) -> Iterator[None]:
    """A block in which a library reads `what` of a file. On damaged files scipy, numpy, zipfile and zarr raise nearly
    anything (struct.error, zlib.error, IndexError, MemoryError...), so every `Exception` becomes a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{path}: {what} can't be read ({type(error).__name__}: {reason}); the file is damaged, get it again"
        ) from error


def native(values: np.ndarray) -> np.ndarray:
    """The values in this machine's byte order."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def is_real(dtype: np.dtype) -> bool:
    """Whether its values are real numbers (truth values count as 0 and 1)."""
    return dtype.kind in "fiub" and dtype.itemsize <= 8


def _is_hdf5(file: IO[bytes]) -> bool:
    """Whether HDF5's signature stands at 0, 512, 1024, 2048...: a block of the user's may come before it."""
    size = file.seek(0, 2)
    offset = 0
    while offset < size:
        file.seek(offset)
        if file.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
            return True
        offset = offset * 2 or 512
    return False
