"""Which arrays of a PDEBench file hold which fields, and whether their shapes go together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py

from ups_scale.data.layouts.axes import check_count, check_order
from ups_scale.data.layouts.findings import Findings
from ups_scale.data.layouts.pdebench_axes import axis_sizes
from ups_scale.data.layouts.storage import check_storage, check_written
from ups_scale.data.source import NAME, hdf5_attribute, hdf5_item, hdf5_names, hdf5_reads, hdf5_shape, text_of
from ups_scale.errors import DataError
from ups_scale.physics.families import Family, Field

# The registry's name of a field -> PDEBench's array of it.
ARRAYS = {"velocity_x": "Vx", "velocity_y": "Vy", "velocity_z": "Vz", "permeability": "nu"}
COMPONENTS = {
    "velocity_x": ("velocity", 0),
    "velocity_y": ("velocity", 1),
    "particles": ("particles", 0),
    "force_x": ("force", 0),
    "force_y": ("force", 1),
}
# Axes of an array by what is in it, before those of space.
LEADING = {"frames": "NT", "given": "N", "solution": "N1"}


@dataclass(frozen=True)
class Place:
    """Where a field lies: the array, the index into its last axis if it has one of components, and its `form`:
    "frames" (N, T, ...), "given" (N, ...) for what does not change in time, "solution" (N, 1, ...)."""

    array: str
    component: int | None
    form: str

    @property
    def axes(self) -> str:
        return LEADING[self.form]


def coordinates_of(path: Path, file: h5py.File, chosen: Family) -> tuple[str, ...]:
    """Names of the arrays that hold the positions of scattered points, by the attribute `coordinates`; none of a grid.

    Raises:
        DataError: it isn't a name for each axis, or the file does not state the domain.
    """
    attribute = hdf5_attribute(path, file, "coordinates")
    if attribute is None:
        return ()
    text = text_of(attribute)
    try:
        stated = json.loads(text)
    except ValueError:
        stated = None
    names = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    taken = {field.name for field in chosen.fields}
    if (
        names != stated
        or len(set(names)) != chosen.dimensions
        or len(names) != chosen.dimensions
        or not all(NAME.fullmatch(name) and name not in taken for name in names)
    ):
        raise DataError(
            f"{path}: attribute coordinates is {text!r}; write JSON into it, the names of {chosen.dimensions} arrays "
            'of positions (N, P), such as ["x", "y"]'
        )
    if hdf5_attribute(path, file, "extents") is None:
        raise DataError(
            f"{path}: its points are scattered, and nothing states the domain; write the attribute `extents`, JSON "
            "[[low, high], ...]"
        )
    return tuple(names)


def on_points(chosen: Family, coordinates: Sequence[str]) -> Family:
    """The family as it lies on scattered points: along one axis, with the positions as fields that don't change."""
    if not coordinates:
        return chosen
    positions = tuple(Field(name, "1", static=True) for name in coordinates)
    return replace(chosen, dimensions=1, fields=(*chosen.fields, *positions))


def places_of(path: Path, file: h5py.File, chosen: Family) -> tuple[tuple[str, ...] | None, tuple[Place, ...]]:
    """(groups of trajectories, or None; where each field lies)."""
    dynamic = [field for field in chosen.fields if not field.static]
    places = []
    for field in chosen.fields:
        form = "given" if field.static else "solution" if chosen.steady else "frames"
        candidates: list[tuple[str, int | None]] = [(field.name, None), (ARRAYS.get(field.name, field.name), None)]
        if len(dynamic) == 1 and not field.static:
            candidates.append(("tensor", None))
        if chosen.name == "incompressible_ns_2d":
            candidates = [COMPONENTS[field.name], *candidates]
        for array, component in candidates:
            shape = hdf5_shape(path, hdf5_item(path, file, array))
            axes = len(LEADING[form]) + chosen.dimensions
            if len(shape) == axes + (component is not None):
                places.append(Place(array, component, form))
                break
    if len(places) == len(chosen.fields):
        return None, tuple(places)
    with hdf5_reads(path, "/"):
        names = sorted(file)  # with links, which are refused: a trajectory must not be missing unsaid
    groups = tuple(
        name for name in names if name != "parameters" and isinstance(hdf5_item(path, file, name), h5py.Group)
    )
    if not any(hdf5_shape(path, hdf5_item(path, file, f"{name}/data")) for name in groups):
        groups = ()
    if groups and not chosen.steady and not any(field.static for field in chosen.fields):
        return groups, tuple(Place("data", number, "frames") for number in range(len(chosen.fields)))
    raise _not_this_layout(path, file, chosen)


def _not_this_layout(path: Path, file: h5py.File, chosen: Family) -> DataError:
    space = ", ".join("XYZ"[: chosen.dimensions])
    dynamic = [field.name for field in chosen.fields if not field.static]
    given = [field.name for field in chosen.fields if field.static]
    if chosen.name == "incompressible_ns_2d":
        expected = "`velocity` (N, T, X, Y, 2), `particles` (N, T, X, Y, 1) and `force` (N, X, Y, 2)"
    elif chosen.steady:
        arrays = " and ".join(f"`{ARRAYS.get(name, name)}`" for name in given)
        expected = f"`tensor` (N, 1, {space}) and {arrays} (N, {space})"
    else:
        arrays = " and ".join(f"`{ARRAYS.get(name, name)}`" for name in dynamic)
        expected = (f"`tensor` (N, T, {space}), or " if len(dynamic) == 1 else "") + f"{arrays} (N, T, {space})"
        if given:
            expected += " and " + " and ".join(f"`{ARRAYS.get(name, name)}`" for name in given) + f" (N, {space})"
        else:
            expected += f", or a group per trajectory with `data` (T, {space}, {len(dynamic)})"
    return DataError(
        f"{path}: not PDEBench's layout of {chosen.name}. Expected numbers in {expected}; found "
        f"{_listing(path, file)}. Rearrange the arrays, name another family (--family), or describe the file in a "
        "mapping (--layout MAPPING.json)"
    )


def _listing(path: Path, file: h5py.File) -> str:
    """A file's arrays with their shapes, and of groups the first two."""
    arrays: list[str] = []
    groups: list[str] = []
    for name in hdf5_names(path, file):
        item = hdf5_item(path, file, name)
        if isinstance(item, h5py.Dataset):
            with hdf5_reads(path, name):
                kind = "" if hdf5_shape(path, item) else f" {item.dtype}"
                arrays.append(f"{name} {item.shape}{kind}")
        elif len(groups) < 2:
            data = hdf5_item(path, file, f"{name}/data")
            shape = hdf5_shape(path, data)
            groups.append(f"{name}/data {shape}" if shape else f"group {name} without data")
    return ", ".join((arrays + groups)[:10]) or "no arrays"


def _number_array(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    array = hdf5_item(path, file, name)
    if not hdf5_shape(path, array):
        raise DataError(f"{path}: {name} holds no array of numbers; write it, or leave the trajectory out")
    return array


def shapes_of(
    path: Path,
    file: h5py.File,
    chosen: Family,
    groups: tuple[str, ...] | None,
    places: tuple[Place, ...],
) -> tuple[int, int, tuple[int, ...]]:
    """(N, T, grid) of the first predicted field, whose axes must be in PDEBench's order."""
    place = next(place for place in places if place.form != "given")
    name = f"{groups[0]}/data" if groups else place.array
    shape = hdf5_shape(path, _number_array(path, file, name))
    axes = _axes(chosen, place, groups is not None)
    sizes = axis_sizes(path, file, chosen, groups)
    if place.component is not None:
        sizes["C"] = (sum(other.array == place.array for other in places),)
    if len(shape) != len(axes) or 0 in shape:
        raise _not_this_layout(path, file, chosen)
    check_order(path, name, shape, axes, sizes)
    by_axis = dict(zip(axes, shape, strict=True))
    num = len(groups) if groups else by_axis["N"]
    check_count(path, num)
    return num, by_axis.get("T", 1), tuple(by_axis[letter] for letter in "XYZ"[: chosen.dimensions])


def _axes(chosen: Family, place: Place, grouped: bool) -> str:
    leading = "T" if grouped else place.axes
    return leading + "XYZ"[: chosen.dimensions] + ("" if place.component is None else "C")


def check_arrays(
    path: Path, file: h5py.File, chosen: Family, groups: tuple[str, ...] | None, places: tuple[Place, ...]
) -> None:
    """Every array has the shape that goes with the others', and was written whole."""
    num, frames, grid = shapes_of(path, file, chosen, groups, places)
    counts = {place.array: sum(other.array == place.array for other in places) for place in places}
    found = Findings(path)
    if groups is not None:
        expected: tuple[int, ...] = (frames, *grid, len(places))
        for group in groups:
            found.attempt(_check_array, path, file, f"{group}/data", expected)
    else:
        leading = {"frames": (num, frames), "given": (num,), "solution": (num, 1)}
        for place in {place.array: place for place in places}.values():
            components = () if place.component is None else (counts[place.array],)
            expected = (*leading[place.form], *grid, *components)
            found.attempt(_check_array, path, file, place.array, expected)
    if len(found.problems) > 5:
        found.problems[5:] = [f"and {len(found.problems) - 5} more arrays"]
    found.raise_all()


def _check_array(path: Path, file: h5py.File, name: str, expected: tuple[int, ...]) -> None:
    array = _number_array(path, file, name)
    shape = hdf5_shape(path, array)
    if shape != expected:
        raise DataError(f"{path}: {name} has shape {shape}, where the first array asks for {expected}; rearrange it")
    check_storage(path, array)
    check_written(path, array)
