"""Classic netCDF (CDF-1 and CDF-2) as a container."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ups_scale.data.layouts.attributes import ATTRIBUTES, NETCDF_FILLS, described
from ups_scale.data.layouts.containers import Array, Slab, is_real, native, no_such_array, reads, runs


@contextmanager
def open_netcdf3(path: Path) -> Iterator[Netcdf3]:
    """The open file. Raises `DataError`."""
    yield Netcdf3(path)


class Netcdf3:
    """A classic netCDF file. It is opened for each slab anew, for scipy maps all of it and its pages would count as
    this process' memory for as long as it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kind = "netCDF-3"
        self._arrays: dict[str, Array] = {}
        self._others: dict[str, str] = {}
        with self._opened("the header") as file:
            for name, variable in file.variables.items():
                dtype = variable.data.dtype.newbyteorder("=")
                attributes = {key: getattr(variable, key) for key in ATTRIBUTES if hasattr(variable, key)}
                if not is_real(dtype):
                    self._others[name] = f"of type {dtype}"
                elif 0 in variable.data.shape:
                    self._others[name] = "empty"
                else:
                    shape = tuple(variable.data.shape)
                    chunks = runs(shape, dtype, "C")
                    unwritten = NETCDF_FILLS.get(dtype.str[1:])
                    array = described(name, shape, dtype, chunks, attributes, unwritten)
                    self._arrays[name] = replace(array, dims=tuple(variable.dimensions))

    def arrays(self) -> tuple[Array, ...]:
        return tuple(self._arrays.values())

    def array(self, name: str) -> Array:
        if name not in self._arrays:
            raise no_such_array(self.path, name, list(self._arrays), self._others)
        return self._arrays[name]

    def read(self, name: str, slab: Slab) -> np.ndarray:
        self.array(name)
        with self._opened(name) as file:
            return native(np.array(file.variables[name].data[slab]))

    def verify(self, name: str, fill: float | None = None) -> str | None:
        """Nothing: opening the file finds whether its arrays are whole, and it has no checksums."""
        self.array(name)
        return None

    @contextmanager
    def _opened(self, what: str) -> Iterator[Any]:
        import scipy.io

        with reads(self.path, what), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy warns where views of the map are still alive
            with scipy.io.netcdf_file(self.path, "r", mmap=True, maskandscale=False) as file:
                yield file
