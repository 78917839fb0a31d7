"""The boundary conditions of The Well's layout: a kind for each side, and masks of what lies within the domain."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from ups_scale.data.layouts.axes import check_order
from ups_scale.data.layouts.findings import Findings
from ups_scale.data.layouts.well_parts import Axes, Stored, axis_names, clean, flag, number_array, text_list
from ups_scale.data.source import hdf5_attribute, hdf5_item, hdf5_reads, text_of
from ups_scale.errors import DataError
from ups_scale.physics.families import Field

# Kinds of boundary; where several touch a side, the last holds.
STRENGTH = ("wall", "dirichlet", "neumann", "robin", "open", "periodic")


def boundaries_of(
    path: Path, file: h5py.File, axes: Axes
) -> tuple[tuple[tuple[str, str], ...], list[tuple[Field, Stored]]]:
    """(low side, high side) kind per axis, and a static field for each boundary that lies within the domain too."""
    group = hdf5_item(path, file, "boundary_conditions")
    if not isinstance(group, h5py.Group):
        raise DataError(f"{path}: no group boundary_conditions; The Well's layout states the boundaries there")
    with hdf5_reads(path, "boundary_conditions"):
        names = sorted(group)
    found = Findings(path)
    kinds: list[tuple[str, int, int]] = []
    walls: list[tuple[Field, Stored]] = []
    for name in names:
        sides, stored = found.attempt(_boundary, path, file, axes, name) or ([], None)
        kinds += sides
        if stored:
            walls.append((Field(clean(f"boundary_{name}"), "1", static=True), stored))
    found.raise_all()
    by_side = {(axis, side): "open" for axis in range(len(axes.names)) for side in (0, 1)}
    for kind, axis, side in sorted(kinds, key=lambda entry: STRENGTH.index(entry[0])):
        by_side[axis, side] = kind
    return tuple((by_side[axis, 0], by_side[axis, 1]) for axis in range(len(axes.names))), walls


def _boundary(path: Path, file: h5py.File, axes: Axes, name: str) -> tuple[list[tuple[str, int, int]], Stored | None]:
    """One group's (kind, axis, side) entries, and where its mask lies if that says more than they do."""
    entry = hdf5_item(path, file, f"boundary_conditions/{name}")
    if not isinstance(entry, h5py.Group):
        return [], None
    kind = text_of(hdf5_attribute(path, entry, "bc_type")).lower()
    if kind not in STRENGTH:
        raise DataError(f"{path}: {entry.name} is of the type {kind!r}; known are {', '.join(sorted(STRENGTH))}")
    dims = text_list(path, entry, "associated_dims")
    numbers = [axes.names.index(dim) for dim in dims if dim in axes.names]
    if len(numbers) < len(dims) or numbers != sorted(set(numbers)) or not dims:
        raise DataError(
            f"{path}: @associated_dims of {entry.name} is {', '.join(dims) or 'empty'}; expected names out of "
            f"{', '.join(axes.names)}, in that order"
        )
    if kind == "periodic":
        return [(kind, axis, side) for axis in numbers for side in (0, 1)], None
    if flag(path, entry, "time_varying", False):
        raise DataError(f"{path}: {entry.name} varies in time; moving boundaries aren't taken")
    there = tuple(axis in numbers for axis in range(len(axes.names)))
    sample = flag(path, entry, "sample_varying", False)
    array = number_array(path, file, f"boundary_conditions/{name}/mask", "biuf")
    expected = axis_names(axes, sample, False, there)
    if len(array.shape) != len(expected):
        raise DataError(f"{path}: {array.name} has shape {array.shape}; expected ({', '.join(expected)})")
    check_order(path, str(array.name), array.shape, expected, axes.sizes)
    faces: set[tuple[bool, ...]] = set()
    more = False
    for row in range(axes.num) if sample else (None,):
        with hdf5_reads(path, str(array.name)):
            mask = np.asarray(array[()] if row is None else array[row]).astype(bool)
        covers = np.all if kind == "wall" else np.any
        faces.add(tuple(bool(covers(face)) for face in _faces(mask)))
        more = more or _says_more(mask)
    if len(faces) > 1:
        raise DataError(
            f"{path}: {entry.name} covers other sides of the domain in some trajectories than in others; a family has "
            "one kind per side. Put them into files of their own"
        )
    covered = list(faces.pop())
    kinds = [
        (kind, axis, side)
        for axis, pair in zip(numbers, zip(covered[::2], covered[1::2], strict=True), strict=True)
        for side in (0, 1)
        if pair[side]
    ]
    return kinds, Stored(f"boundary_conditions/{name}/mask", sample, False, there) if more else None


def _faces(mask: np.ndarray) -> list[np.ndarray]:
    """The mask on the low and the high side of each axis, without the rim where sides meet, if that leaves anything."""
    faces = []
    for axis in range(mask.ndim):
        for side in (0, -1):
            face = mask.take(side, axis)
            inner = face[(slice(1, -1),) * face.ndim]
            faces.append(inner if inner.size else face)
    return faces


def _says_more(mask: np.ndarray) -> bool:
    """Whether a mask has points within the domain, or on parts of a side."""
    return bool(mask[(slice(1, -1),) * mask.ndim].any()) or any(face.any() and not face.all() for face in _faces(mask))
