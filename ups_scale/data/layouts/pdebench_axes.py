"""The axes of a PDEBench file: times, and the extents of the domain."""

from __future__ import annotations

import json
import math
from pathlib import Path

import h5py
import numpy as np

from ups_scale.data.layouts import pdebench_names
from ups_scale.data.layouts.axes import check_times, even_extents, same_points
from ups_scale.data.layouts.findings import Findings
from ups_scale.data.source import hdf5_attribute, hdf5_item, hdf5_names, hdf5_reads, hdf5_shape, text_of
from ups_scale.errors import DataError
from ups_scale.physics.families import Family

# The most points of an axis that are read.
COORDINATE_SIZE = 2**24


def axis_sizes(
    path: Path, file: h5py.File, chosen: Family, groups: tuple[str, ...] | None
) -> dict[str, tuple[int, ...]]:
    """Lengths that axes may have, by the coordinates that the file has."""
    sizes: dict[str, tuple[int, ...]] = {}
    for letter in "TXYZ"[: 1 + chosen.dimensions]:
        name = coordinate_name(path, file, groups[0] if groups else None, letter.lower())
        shape = hdf5_shape(path, hdf5_item(path, file, name))
        if len(shape) == 1 or (letter == "T" and shape):
            # t-coordinate has an entry more than there are frames, in most files
            sizes[letter] = (shape[-1], shape[-1] - 1) if letter == "T" else (shape[-1],)
    if chosen.steady:
        sizes.pop("T", None)
        sizes["1"] = (1,)
    return sizes


def coordinate_name(path: Path, file: h5py.File, group: str | None, axis: str) -> str:
    if group is not None:
        return f"{group}/grid/{axis}"
    name = f"{axis}-coordinate"
    # Incompressible flow has its times, one row per trajectory, under this name.
    return "t" if axis == "t" and hdf5_item(path, file, name) is None else name


def coordinate(path: Path, file: h5py.File, group: str | None, axis: str) -> np.ndarray:
    name = coordinate_name(path, file, group, axis)
    array = hdf5_item(path, file, name)
    shape = hdf5_shape(path, array)
    if not shape:
        where = hdf5_item(path, file, f"{group}/grid") if group else file
        found = ", ".join(hdf5_names(path, where)[:12]) if isinstance(where, h5py.Group) else ""
        expected = name if group or axis != "t" else "t-coordinate"
        raise DataError(
            f"{path}: no array `{expected}`, which gives the {axis} axis; found {found}. Write it into the file"
        )
    if math.prod(shape) > COORDINATE_SIZE:
        raise DataError(f"{path}: {name} has shape {shape}; expected the points of one axis")
    assert isinstance(array, h5py.Dataset)
    with hdf5_reads(path, name):
        return np.asarray(array[()], np.float64)


def times_of(
    path: Path, file: h5py.File, chosen: Family, groups: tuple[str, ...] | None, num: int, frames: int
) -> np.ndarray:
    """(N, T) float64 in s; NaN (N, 2) for a steady problem."""
    if chosen.steady:
        return np.broadcast_to(np.nan, (num, 2))
    rows: list[np.ndarray] = []
    for group in groups or (None,):
        name = coordinate_name(path, file, group, "t")
        times = coordinate(path, file, group, "t")
        if times.shape[:-1] not in ((), (num,)) or times.shape[-1] not in (frames, frames + 1):
            raise DataError(
                f"{path}: {name} has shape {times.shape} for {frames} frames of {num} trajectories; expected {frames} "
                f"entries, or {frames + 1} as PDEBench has it"
            )
        check_times(path, name, np.atleast_2d(times[..., :frames]))
        rows.append(times[..., :frames])
    return np.stack(rows) if groups else np.broadcast_to(rows[0], (num, frames))


def extents_of(
    path: Path, file: h5py.File, chosen: Family, groups: tuple[str, ...] | None, grid: tuple[int, ...]
) -> tuple[tuple[tuple[float, float], ...], tuple[str, ...]]:
    """(low, high) of the domain per axis: stated by the file, else half a cell beyond the points (cell centres); and
    notes on what isn't stated."""
    attribute = hdf5_attribute(path, file, "extents")
    if attribute is not None:
        stated = text_of(attribute)
        try:
            extents = tuple((float(low), float(high)) for low, high in json.loads(stated))
        except (ValueError, TypeError):
            extents = ()
        if len(extents) != chosen.dimensions or not all(-math.inf < low < high < math.inf for low, high in extents):
            raise DataError(
                f"{path}: attribute extents is {stated!r}; write JSON [[low, high], ...] into it, a pair for each of "
                f"{chosen.dimensions} axes"
            )
        return extents, ()
    axes = "xyz"[: len(grid)]
    if chosen.name == "incompressible_ns_2d" and not any(hdf5_item(path, file, f"{axis}-coordinate") for axis in axes):
        size = pdebench_names.domain_size(path, file, len(grid))
        note = "nothing states the size of its domain, which is taken as 1; the attribute `extents` can"
        return (size, ()) if size else (((0.0, 1.0),) * len(grid), (note,))
    found = Findings(path)
    pairs = [found.attempt(_extent, path, file, groups, axis) for axis in axes]
    found.raise_all()
    return tuple(pairs), ()


def _extent(path: Path, file: h5py.File, groups: tuple[str, ...] | None, axis: str) -> tuple[float, float]:
    """Of one axis, which must be the same in all groups, as a family has but one grid."""
    first = coordinate(path, file, groups[0] if groups else None, axis).reshape(-1)
    for group in (groups or ())[1:]:
        points = coordinate(path, file, group, axis).reshape(-1)
        if not same_points(points, first):
            raise DataError(
                f"{path}: group {group} has another {axis} axis than the first, {groups[0] if groups else ''}; put it "
                "into a file of its own"
            )
    name = f"{groups[0]}/grid/{axis}" if groups else f"{axis}-coordinate"
    return even_extents(path, f"the {axis} axis ({name})", first)
