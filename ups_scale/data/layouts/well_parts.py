"""The parts that files in The Well's layout are made of: axes, attributes, arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ups_scale.data.layouts.axes import check_count
from ups_scale.data.source import hdf5_attribute, hdf5_item, hdf5_reads, hdf5_shape, text_of
from ups_scale.errors import DataError


@dataclass(frozen=True)
class Stored:
    """Where a field lies: its array, which axes that has (trajectories, frames, each of space), and the index into the
    component axes after them."""

    array: str
    sample: bool
    time: bool
    dims: tuple[bool, ...]
    component: tuple[int, ...] = ()


@dataclass(frozen=True)
class Axes:
    """The file's axes: N, T, the names and sizes of those of space."""

    num: int
    num_frames: int
    names: tuple[str, ...]
    grid: tuple[int, ...]

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        space = {name: (size,) for name, size in zip(self.names, self.grid, strict=True)}
        return {"N": (self.num,), "T": (self.num_frames,), **space}


def clean(name: str) -> str:
    """A name of letters, digits and _ that starts with a letter."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
    return name if name[:1].isalpha() else f"well_{name}"


def axes_of(path: Path, file: h5py.File) -> Axes:
    dimensions = hdf5_item(path, file, "dimensions")
    assert isinstance(dimensions, h5py.Group)
    names = text_list(path, dimensions, "spatial_dims")
    stated = _count(path, file, "n_spatial_dims")
    if not 1 <= len(names) <= 3 or len(names) != stated or len(set(names)) < len(names):
        raise DataError(
            f"{path}: @spatial_dims of dimensions is {', '.join(names)} and @n_spatial_dims is {stated}; expected 1 to "
            "3 different names, and their number"
        )
    grid = tuple(hdf5_shape(path, number_array(path, file, f"dimensions/{name}"))[-1] for name in names)
    frames = hdf5_shape(path, number_array(path, file, "dimensions/time"))[-1]
    num = _count(path, file, "n_trajectories")
    check_count(path, num)
    return Axes(num, frames, names, grid)


def axis_names(axes: Axes, sample: bool, time: bool, dims: tuple[bool, ...]) -> list[str]:
    space = [name for name, there in zip(axes.names, dims, strict=True) if there]
    return ["N"] * sample + ["T"] * time + space


def field_names(path: Path, file: h5py.File, group: str) -> tuple[str, ...]:
    """The group's @field_names, empty if the file does not have the group."""
    item = hdf5_item(path, file, group)
    return text_list(path, item, "field_names") if isinstance(item, h5py.Group) else ()


def number_array(path: Path, file: h5py.File, name: str, kinds: str = "fiu", scalar: bool = False) -> h5py.Dataset:
    item = hdf5_item(path, file, name)
    if isinstance(item, h5py.Dataset):
        with hdf5_reads(path, name):
            if item.dtype.kind in kinds and (item.shape or (scalar and item.shape == ())) and 0 not in item.shape:
                return item
    raise DataError(f"{path}: {name} holds no numbers; The Well's layout has an array there")


def text_list(path: Path, item: h5py.Group | h5py.Dataset, name: str) -> tuple[str, ...]:
    """An attribute that is a list of names; a single name may stand for itself."""
    value = hdf5_attribute(path, item, name)
    if value is None:
        raise DataError(f"{path}: {item.name} has no attribute {name}; write the list of names into it")
    with hdf5_reads(path, f"attribute {name} of {item.name}"):
        return tuple(text_of(entry) for entry in np.atleast_1d(value).tolist())


def flag(path: Path, item: h5py.Group | h5py.Dataset, name: str, default: bool | None = None) -> bool:
    value = hdf5_attribute(path, item, name)
    if value is None and default is not None:
        return default
    if np.ndim(value) or not isinstance(value, bool | int | np.bool_ | np.integer):
        raise DataError(f"{path}: attribute {name} of {item.name} is {value!r}; expected true or false")
    return bool(value)


def _count(path: Path, file: h5py.File, name: str) -> int:
    value = hdf5_attribute(path, file, name)
    with hdf5_reads(path, f"attribute {name}"):
        count = int(value)
    if count < 1:
        raise DataError(f"{path}: attribute {name} is {count}; expected at least 1")
    return count
