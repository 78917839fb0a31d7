"""Reading frames out of HDF5 arrays, a slab at a time."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ups_scale.data.source import hdf5_item, hdf5_reads
from ups_scale.errors import DataError

# Components of a vector lie side by side in the file, so that a slab with all of them is read and unpacked at once and
# kept for the fields that ask for the others.
SLAB_BYTES = 64 * 1024**2
CHUNK_BYTES = 1024**3
# Arrays that stay open: closing one drops its cache of chunks, and a chunk may hold many trajectories.
OPEN_ARRAYS = 8


class Slabs:
    """Reads an open file's arrays; keeps the last of them open, and the last slab of those with components.

    Args:
        path: the file's, for messages.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self.kept: tuple[object, Any] | None = None
        self.item = lru_cache(maxsize=OPEN_ARRAYS)(partial(hdf5_item, path, file))

    def read(
        self, name: str, lead: tuple[int, ...], frames: range | None = None, component: tuple[int, ...] = ()
    ) -> np.ndarray:
        """Part of the array `name`, floating point: (len(frames), ...), or (...) without frames.

        Args:
            lead: index into the axes before the frames.
            frames: of the axis after them; None where the array has no such axis.
            component: index into the last axes.

        Raises:
            DataError: the file is damaged there, or leads out of itself.
        """
        array = self.item(name)
        with hdf5_reads(self.path, f"{name}[{', '.join(str(index) for index in lead)}]"):
            if not isinstance(array, h5py.Dataset) or array.dtype.kind not in "fiub":
                raise DataError(
                    f"{self.path}: {name} is no array of numbers; the file has changed since it was looked at"
                )
            rows = lead if frames is None else (*lead, slice(frames.start, frames.stop, frames.step))
            if not component:
                return _floats(np.asarray(array[rows]))
            if array.chunks and set(array.chunks[-len(component) :]) == {1}:  # each component has chunks of its own
                return _floats(np.asarray(array[(*rows, ..., *component)]))
            if frames is None:
                return np.array(self._slab(array, rows)[(..., *component)], _float_type(array.dtype))
            return self._in_slabs(array, lead, frames, component)

    def _in_slabs(
        self, array: h5py.Dataset, lead: tuple[int, ...], frames: range, component: tuple[int, ...]
    ) -> np.ndarray:
        """As `read`, out of slabs with all components. They start at multiples of their length, so that the next
        field, asked for the same frames in other portions, finds them kept."""
        num_frames = array.shape[len(lead)]
        frame_bytes = math.prod(array.shape[len(lead) + 1 :]) * array.dtype.itemsize
        step = max(1, SLAB_BYTES // max(1, frame_bytes))
        space = array.shape[len(lead) + 1 : len(array.shape) - len(component)]
        out = np.empty((len(frames), *space), _float_type(array.dtype))
        done = 0
        for start in range(frames[0] // step * step, frames[-1] + 1, step):
            asked = [frame - start for frame in frames if start <= frame < start + step]
            if asked:
                slab = self._slab(array, (*lead, slice(start, min(start + step, num_frames))))
                out[done : done + len(asked)] = slab[asked[0] : asked[-1] + 1 : frames.step][(..., *component)]
                done += len(asked)
        return out

    def _slab(self, array: h5py.Dataset, rows: tuple[Any, ...]) -> Any:
        key = (array.name, rows)
        if self.kept is None or self.kept[0] != key:
            self.kept = None  # the old slab goes before the new one comes, so that there are never two
            self.kept = (key, np.asarray(array[rows]))
        return self.kept[1]


def _float_type(dtype: np.dtype) -> np.dtype:
    """The file's floating type, of other kinds float64, in this machine's byte order."""
    return dtype.newbyteorder("=") if dtype.kind == "f" else np.dtype(np.float64)


def _floats(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=_float_type(values.dtype))


def check_written(path: Path, array: h5py.Dataset) -> None:
    """Raises a `DataError` if parts of an array were never written: they would read as zeros."""
    with hdf5_reads(path, str(array.name)):
        if array.chunks:
            expected = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))
            written = array.id.get_num_chunks()
            what = "chunks"
        else:
            expected, written = array.nbytes, array.id.get_storage_size()
            what = "bytes"
        if written < expected:
            raise DataError(
                f"{path}: of {array.name} only {written:,} of {expected:,} {what} were ever written; whatever made the "
                "file was stopped: make it again"
            )


def check_storage(path: Path, array: h5py.Dataset) -> None:
    """Raises a `DataError` if an array's chunks are compressed by what isn't installed, or too large to unpack."""
    with hdf5_reads(path, str(array.name)):
        properties = array.id.get_create_plist()
        codes = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
        missing = [code for code in codes if not h5py.h5z.filter_avail(code)]
        if missing:
            raise DataError(
                f"{path}: {array.name} is compressed by HDF5 filter {missing[0]}, which isn't installed here; write it "
                "with gzip (h5repack -f GZIP=4 old new)"
            )
        if array.chunks and math.prod(array.chunks) * array.dtype.itemsize > CHUNK_BYTES:
            raise DataError(
                f"{path}: {array.name} is stored in chunks of {array.chunks}, more than {CHUNK_BYTES / 1024**3:.0f} "
                "GiB each, which must be read whole; write it in smaller ones (h5repack -l CHUNK=...)"
            )
