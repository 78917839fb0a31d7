"""HDF5, netCDF-4 and MATLAB v7.3 as containers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from ups_scale.data.layouts.attributes import ATTRIBUTES, described
from ups_scale.data.layouts.containers import (
    Array,
    Slab,
    is_real,
    native,
    no_such_array,
    runs,
)
from ups_scale.data.layouts.missing import same
from ups_scale.data.layouts.storage import check_written, not_unpacked
from ups_scale.data.source import hdf5_attribute, hdf5_item, hdf5_names, hdf5_reads, open_hdf5, text_of
from ups_scale.errors import DataError

# Arrays that stay open: closing one drops its cache of chunks, and a chunk may hold many trajectories.
OPEN_ARRAYS = 8
MAX_DEPTH = 8
MAX_ARRAYS = 10_000
MATLAB_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
MATLAB_NUMBERS = ("double", "single", "logical", *MATLAB_INTEGERS)


@contextmanager
def open_hdf5_container(path: Path) -> Iterator[Hdf5]:
    """The open file. Raises `DataError`."""
    with path.open("rb") as file:
        matlab = file.read(10) == b"MATLAB 7.3"
    with open_hdf5(path) as opened:
        yield Hdf5(path, opened, matlab)


class Hdf5:
    """An open HDF5 file.

    MATLAB counts axes in the order of memory, HDF5 against it: an array that MATLAB shows as (256, 100) is (100, 256)
    in its file. Here it is (256, 100), as it would be from a v5 file.
    """

    def __init__(self, path: Path, file: h5py.File, matlab: bool) -> None:
        self.path = path
        self.kind = "MATLAB v7.3" if matlab else "HDF5"
        self._file = file
        self._matlab = matlab
        self._dataset = lru_cache(maxsize=OPEN_ARRAYS)(self._look_at)
        self.array = lru_cache(maxsize=OPEN_ARRAYS)(self._array)

    def arrays(self) -> tuple[Array, ...]:
        return tuple(array for array, _ in self._walk() if isinstance(array, Array))

    def _array(self, name: str) -> Array:
        return self._described(name, self._dataset(name))

    def read(self, name: str, slab: Slab) -> np.ndarray:
        dataset = self._dataset(name)
        with hdf5_reads(self.path, name):
            if self._matlab:
                return native(np.asarray(dataset[slab[::-1]]).T)
            return native(np.asarray(dataset[slab]))

    def verify(self, name: str, fill: float | None = None) -> str | None:
        dataset = self._dataset(name)
        with hdf5_reads(self.path, name):
            reads_as_fill = fill is not None and same(fill, float(dataset.fillvalue), dataset.dtype)
        if not reads_as_fill:
            check_written(self.path, dataset)
        return None

    def _look_at(self, name: str) -> h5py.Dataset:
        """The array, which can be read; an error otherwise."""
        item = hdf5_item(self.path, self._file, name)
        if item is None:
            others = {other: what for array, what in self._walk() if not isinstance(array, Array) for other in (array,)}
            raise no_such_array(self.path, name, [array.name for array in self.arrays()], others)
        refusal = self._refusal(name, item)
        if refusal:
            raise DataError(f"{self.path}: {name} is {refusal}; only arrays of real numbers are read")
        return item

    def _refusal(self, name: str, item: h5py.Dataset | h5py.Group) -> str | None:
        """What an item is, if it is not an array of real numbers that can be read."""
        if not isinstance(item, h5py.Dataset):
            return "a struct or a sparse array" if self._matlab else "a group"
        with hdf5_reads(self.path, name):
            if item.shape is None or 0 in item.shape or "MATLAB_empty" in item.attrs:
                return "empty"
            if item.dtype.kind == "c" or (item.dtype.names and set(item.dtype.names) <= {"real", "imag", "r", "i"}):
                return "complex (write its real and imaginary part as two arrays)"
            if self._matlab and "MATLAB_class" in item.attrs:
                found = text_of(hdf5_attribute(self.path, item, "MATLAB_class"))
                if found not in MATLAB_NUMBERS:
                    return f"a {found} array"
            if not is_real(item.dtype):
                return f"of type {item.dtype}"
            return not_unpacked(item)

    def _described(self, name: str, dataset: h5py.Dataset) -> Array:
        with hdf5_reads(self.path, name):
            shape = tuple(int(size) for size in dataset.shape)
            attributes = {key: dataset.attrs[key] for key in ATTRIBUTES if key in dataset.attrs}
            stated = dataset.id.get_create_plist().fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
            unwritten = float(dataset.fillvalue) if stated else None
            chunks = dataset.chunks or runs(shape, dataset.dtype, "C")
            turn = slice(None, None, -1 if self._matlab else 1)
            array = described(name, shape[turn], dataset.dtype, chunks[turn], attributes, unwritten)
            if "DIMENSION_LIST" not in dataset.attrs:
                return array
            scales = (dim[0].name if len(dim) else None for dim in dataset.dims)
            return replace(array, dims=tuple(scale.lstrip("/") if scale else None for scale in scales)[turn])

    def _walk(self) -> Iterator[tuple[Array | str, str]]:
        """Every array, and every other dataset's name with what it is. Groups may hold each other in circles."""
        groups = [("", self._file)]
        with hdf5_reads(self.path, "/"):
            seen = {h5py.h5o.get_info(self._file.id).addr}
        num = 0
        while groups:
            prefix, group = groups.pop(0)
            for part in hdf5_names(self.path, group):
                name = f"{prefix}{part}"
                if self._matlab and name.startswith("#"):
                    continue
                num += 1
                if num > MAX_ARRAYS:
                    raise DataError(f"{self.path}: more than {MAX_ARRAYS:,} arrays; copy what is needed to another")
                try:
                    item = hdf5_item(self.path, group, part)
                    if item is None:
                        continue
                    if isinstance(item, h5py.Group):
                        with hdf5_reads(self.path, name):
                            address = h5py.h5o.get_info(item.id).addr
                        if address not in seen and name.count("/") < MAX_DEPTH:
                            seen.add(address)
                            groups.append((f"{name}/", item))
                        continue
                    refusal = self._refusal(name, item)
                    yield (name, refusal) if refusal else (self._described(name, item), "")
                except DataError as error:  # a damaged array is no reason not to list the others
                    yield name, f"not readable ({error})"
