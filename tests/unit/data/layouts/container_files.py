"""The same arrays in every container."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest

Arrays = Mapping[str, np.ndarray]


def write_hdf5(path: Path, arrays: Arrays) -> Path:
    with h5py.File(path / "a.h5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path / "a.h5"


def write_hdf5_chunked(path: Path, arrays: Arrays) -> Path:
    with h5py.File(path / "a.hdf5", "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, chunks=tuple(-(-size // 2) for size in values.shape), compression=1)
    return path / "a.hdf5"


def write_matlab73(path: Path, arrays: Arrays) -> Path:
    """As MATLAB does: a block of text before the file, and axes in the reverse order."""
    with h5py.File(path / "a73.mat", "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file[name] = values.T
            file[name].attrs["MATLAB_class"] = np.bytes_("single" if values.dtype == np.float32 else "double")
    with (path / "a73.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 .".ljust(124) + b"\x00\x02IM")
    return path / "a73.mat"


def write_matlab5(path: Path, arrays: Arrays, compress: bool = False) -> Path:
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(path / "a5.mat", dict(arrays), do_compression=compress)
    return path / "a5.mat"


def write_matlab5_compressed(path: Path, arrays: Arrays) -> Path:
    return write_matlab5(path, arrays, compress=True)


def write_npz(path: Path, arrays: Arrays) -> Path:
    np.savez(path / "a.npz", **{name: np.asfortranarray(values) for name, values in arrays.items()})
    return path / "a.npz"


def write_npz_compressed(path: Path, arrays: Arrays) -> Path:
    np.savez_compressed(path / "c.npz", **arrays)
    return path / "c.npz"


def write_netcdf3(path: Path, arrays: Arrays) -> Path:
    """The first array's first axis is the unlimited one, whose records lie apart in the file."""
    scipy_io = pytest.importorskip("scipy.io")
    with scipy_io.netcdf_file(path / "a.nc", "w") as file:
        first = next(iter(arrays))
        for name, values in arrays.items():
            for axis, size in enumerate(values.shape):
                file.createDimension(f"{name}{axis}", None if (name, axis) == (first, 0) else size)
            variable = file.createVariable(name, values.dtype, tuple(f"{name}{axis}" for axis in range(values.ndim)))
            variable[:] = values
    return path / "a.nc"


def write_zarr(path: Path, arrays: Arrays, zarr_format: int = 2) -> Path:
    zarr = pytest.importorskip("zarr", reason="the optional package zarr is not installed")
    group = zarr.open_group(str(path / f"a{zarr_format}.zarr"), mode="w", zarr_format=zarr_format)
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=tuple(-(-size // 2) for size in values.shape))
    return path / f"a{zarr_format}.zarr"


def write_zarr3(path: Path, arrays: Arrays) -> Path:
    return write_zarr(path, arrays, 3)


WRITERS: dict[str, Callable[[Path, Arrays], Path]] = {
    "hdf5": write_hdf5,
    "hdf5, chunked": write_hdf5_chunked,
    "matlab v7.3": write_matlab73,
    "matlab v5": write_matlab5,
    "matlab v5, compressed": write_matlab5_compressed,
    "npz": write_npz,
    "npz, compressed": write_npz_compressed,
    "netcdf3": write_netcdf3,
    "zarr v2": write_zarr,
    "zarr v3": write_zarr3,
}
