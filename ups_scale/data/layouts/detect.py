"""`--layout auto`: recognises PDEBench's layout and The Well's by their structure.

Everything else is refused with a list of what the input holds and a mapping that would settle it, filled in as far as
the structure tells; what only its owner knows is marked "?".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from ups_scale.data.layouts import pdebench_names
from ups_scale.data.layouts.containers import kind_of, open_container
from ups_scale.data.layouts.pdebench_arrays import coordinates_of, on_points, places_of
from ups_scale.data.layouts.the_well import GROUPS, ROOT_ATTRIBUTES, missing_parts
from ups_scale.data.layouts.units import seconds
from ups_scale.data.layouts.well_parts import clean
from ups_scale.data.source import open_hdf5
from ups_scale.errors import DataError

UNDECIDED = "?"
# Keys of a field in a mapping -> netCDF's attributes that say the same.
MEANINGS = {"fill": ("_FillValue", "missing_value"), "scale": ("scale_factor",), "offset": ("add_offset",)}
AXIS_NAMES = {
    "t": ("t", "time", "times", "t-coordinate"),
    "x": ("x", "lon", "longitude", "x-coordinate"),
    "y": ("y", "lat", "latitude", "y-coordinate"),
    "z": ("z", "depth", "level", "height", "z-coordinate"),
}
LISTED = 40
DRAFTED = 12
SEARCHED = 2000


@dataclass(frozen=True)
class Recognised:
    """A layout, and the sentence that says by what it was recognised."""

    layout: str
    why: str


@dataclass(frozen=True)
class Array:
    """One array of an input: name, shape, dtype; attributes that change what its numbers mean, and its unit, if it
    states them; for each axis the name of its coordinate, if the file attaches one."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: Mapping[str, float]
    unit: str | None = None
    coordinates: tuple[str | None, ...] = ()


def recognise(path: Path, family: str | None = None) -> Recognised:
    """The layout of a file, by its attributes, groups and arrays.

    Args:
        family: name in the registry, which settles what a PDEBench file holds that says nothing about itself.

    Raises:
        DataError: no known layout, or more than one; the message lists what there is and gives a mapping to fill in.
    """
    if path.is_dir() or (path.suffix not in (".h5", ".hdf5") and kind_of(path) != "hdf5"):
        raise _refused(path, ["both are HDF5 files, and this is none"])
    with open_hdf5(path) as file:
        found: list[Recognised] = []
        reasons: list[str] = []
        for look in (_the_well, _pdebench):
            result = look(path, file, family)
            if isinstance(result, Recognised):
                found.append(result)
            else:
                reasons.append(result)
        if len(found) == 1:
            return found[0]
        if found:
            reasons = [f"it fits {entry.layout} ({entry.why})" for entry in found]
            reasons.append(f"give --layout {' or '.join(entry.layout for entry in found)}")
    raise _refused(path, reasons)


def _the_well(path: Path, file: h5py.File, family: str | None) -> Recognised | str:
    missing = missing_parts(path, file)
    if not missing:
        return Recognised(
            "the_well", f"{path}: The Well's layout, by its root attributes and groups (dataset_name, t0_fields, ...)"
        )
    if len(missing) == len(ROOT_ATTRIBUTES) + len(GROUPS):
        return "it has nothing of The Well's layout"
    return f"for The Well's layout it lacks {', '.join(missing)}"


def _pdebench(path: Path, file: h5py.File, family: str | None) -> Recognised | str:
    try:
        recognised = pdebench_names.recognise_family(path, file, family)
        if recognised is None:
            return (
                "PDEBench's layout needs a family, which neither an attribute `family` nor the file's name nor its "
                "arrays tell (if it is in that layout, give --layout pdebench --family NAME)"
            )
        chosen, why = recognised
        groups, _ = places_of(path, file, on_points(chosen, coordinates_of(path, file, chosen)))
    except DataError as error:
        return f"for PDEBench's layout: {str(error).removeprefix(f'{path}: ')}"
    kind = f"{len(groups)} groups with `data`" if groups else "an array per field"
    return Recognised("pdebench", f"{path}: PDEBench's layout of {chosen.name}: {why}; it has {kind}")


def _refused(path: Path, reasons: list[str]) -> DataError:
    arrays = _arrays(path)
    lines = [f"  {array.name} {array.shape} {array.dtype}" for array in arrays[:LISTED]]
    if len(arrays) > LISTED:
        lines.append(f"  and {len(arrays) - LISTED} more")
    return DataError(
        f"{path}: not recognised as a known layout: {'; '.join(reasons)}. It holds\n"
        + ("\n".join(lines) or "  no arrays")
        + f'\nDescribe it in a mapping file and give that as --layout. Fill in "{UNDECIDED}", and leave out what '
        f"you don't want:\n{_formatted(mapping_draft(arrays))}"
    )


def _formatted(draft: dict[str, Any]) -> str:
    """JSON with a line per entry."""
    lines = []
    for key, value in draft.items():
        if isinstance(value, list) and value:
            inner = ",\n".join(f"    {json.dumps(entry)}" for entry in value)
            lines.append(f'  "{key}": [\n{inner}\n  ]')
        else:
            lines.append(f'  "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}"


def mapping_draft(arrays: list[Array]) -> dict[str, Any]:
    """A mapping (`mapping.schema.json`) for these arrays, the first of them if they are many, with "?" for what they
    don't tell."""
    coordinates = _coordinates(arrays)
    used = {array.name for array in coordinates.values()}
    largest = max((len(array.shape) for array in arrays if array.name not in used), default=0)
    fields = []
    for array in arrays:
        if array.name in used or len(array.shape) < min(2, largest) or not array.shape:
            continue
        entry: dict[str, Any] = {
            "name": clean(array.name.rpartition("/")[2]),
            "unit": array.unit or UNDECIDED,
            "array": array.name,
            "axes": _axes(array, coordinates),
        }
        for key, attributes in MEANINGS.items():
            values = [array.meaning[name] for name in attributes if name in array.meaning]
            if values and math.isfinite(values[0]):
                entry[key] = values[0]
        fields.append(entry)
    named = {letter for entry in fields for letter in entry["axes"]} & set("xyz")
    space = sorted(named | (set(coordinates) & set("xyz"))) or ["x"]
    draft: dict[str, Any] = {"format": 1, "family": UNDECIDED, "fields": fields[:DRAFTED]}
    if "t" in coordinates:
        draft["time"] = {"array": coordinates["t"].name, "unit_s": seconds(coordinates["t"].unit) or UNDECIDED}
    else:
        draft["time"] = {"dt": UNDECIDED}
    draft["space"] = {
        axis: {"array": coordinates[axis].name, "points": UNDECIDED}
        if axis in coordinates
        else {"extents": [UNDECIDED, UNDECIDED]}
        for axis in space
    }
    draft["boundaries"] = {axis: [UNDECIDED, UNDECIDED] for axis in space}
    draft["mask"] = "fill" if any("fill" in entry for entry in fields) else None
    return draft


def _coordinates(arrays: list[Array]) -> dict[str, Array]:
    """The arrays that are the points of an axis, by their names; axes of size 1 beside it don't count."""
    out: dict[str, Array] = {}
    for letter, names in AXIS_NAMES.items():
        fitting = [
            array
            for array in arrays
            if (len(array.shape) == 1 or sum(size > 1 for size in array.shape) == 1)
            and array.name.rpartition("/")[2].lower() in names
        ]
        if len(fitting) == 1:
            out[letter] = fitting[0]
    return out


def _axes(array: Array, coordinates: dict[str, Array]) -> list[str]:
    """For each axis the one coordinate that the file attaches to it or whose length it has, else "?"."""
    by_name = {entry.name: letter for letter, entry in coordinates.items()}
    out = []
    for number, size in enumerate(array.shape):
        attached = array.coordinates[number] if number < len(array.coordinates) else None
        letters = [
            letter
            for letter, entry in coordinates.items()
            if size == max(entry.shape) or (letter == "t" and size + 1 == max(entry.shape))
        ]
        if attached in by_name:
            letters = [by_name[attached]]
        same = sum(other == size for other in array.shape) > 1 and attached not in by_name
        out.append(letters[0] if len(letters) == 1 and not same else UNDECIDED)
    return out


def _arrays(path: Path) -> list[Array]:
    """The arrays of an input of any kind."""
    with open_container(path) as container:
        listed = container.arrays()
    return [
        Array(
            array.name,
            array.shape,
            str(array.dtype),
            array.attributes,
            array.unit,
            array.dims,
        )
        for array in listed
    ]
