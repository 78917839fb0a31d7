"""The layout "a mapping file says it": any container, whose arrays and axes a JSON file names.

    mapping.json -> load_mapping -> what must hold in the file (arrays, axes, sizes) -> Source
                    mapping_file.py                                 this file            reads through mapped.py

Nothing is guessed: what the mapping says is compared with the shapes and coordinates in the file, and a disagreement is
refused with both.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from ups_scale.data.layouts.attributes import RANGE
from ups_scale.data.layouts.axes import check_times
from ups_scale.data.layouts.blocks import unpacking_notes
from ups_scale.data.layouts.containers import Array, Container, num_values, open_container
from ups_scale.data.layouts.findings import Findings
from ups_scale.data.layouts.mapped import MappedContents, MappedField
from ups_scale.data.layouts.mapping_file import check_given, domain_axes, free_axes, load_mapping
from ups_scale.data.layouts.missing import Missing, missing_of, suspects_of
from ups_scale.data.layouts.space_axis import check_even, decreases, extents_of
from ups_scale.data.layouts.units import seconds
from ups_scale.data.source import (
    Dealt,
    Source,
    check_names,
    split_by_seed,
    split_in_time,
    whole,
)
from ups_scale.errors import DataError
from ups_scale.physics.families import FAMILIES, Field

__all__ = ["inspect_mapping", "load_mapping"]

# Coordinates, times and parameters are read whole.
MAX_COORDINATES = 2**26
MAX_FRAME_BYTES = 2 * 1024**3
MAX_TRAJECTORIES = 2**24


def inspect_mapping(
    path: Path, mapping: Path, family: str | None = None, parameters: Mapping[str, float] | None = None
) -> Source:
    """What the input at `path` holds, as the mapping file `mapping` says.

    Args:
        family: another name of the family than the mapping's.
        parameters: values for all trajectories; they win over the mapping's.

    Raises:
        DataError: the mapping is not valid, or does not fit the input; the message has all that could be found out.
    """
    document = load_mapping(mapping)
    parameters = parameters or {}
    check_given(mapping, document, family, parameters)
    name = family or document["family"]
    fields = tuple(Field(field["name"], field["unit"], field["static"]) for field in document["fields"])
    _check_registry(mapping, document, name)
    check_names(path, name, fields, tuple(document["parameters"]))
    with open_container(path) as container:
        return _Inspection(container, document).source(name, fields, parameters)


def _check_registry(mapping: Path, document: Mapping[str, Any], name: str) -> None:
    known = FAMILIES.get(name)
    found = len(domain_axes(document)), document["steady"]
    if known and found != (known.dimensions, known.steady):
        raise DataError(
            f"{mapping}: family {name} is {_kind(known.dimensions, known.steady)} in the registry; the mapping states "
            f"one that is {_kind(*found)}. Name the family otherwise"
        )


def _kind(dimensions: int, steady: bool) -> str:
    return f"{dimensions}D and {'steady' if steady else 'not steady'}"


class _Inspection:
    """Compares a mapping with an open container, and makes a source of both."""

    def __init__(self, container: Container, document: Mapping[str, Any]) -> None:
        self.container = container
        self.document = document
        self.path = container.path
        self.found = Findings(container.path)
        self.steady: bool = document["steady"]
        self.notes: list[str] = []
        # Letter -> its size, and the array (in words) that says so.
        self.sizes: dict[str, tuple[int, str]] = {}

    def source(self, family: str, fields: tuple[Field, ...], parameters: Mapping[str, float]) -> Source:
        document, found = self.document, self.found
        domain = domain_axes(document)
        points = document["geometry"] == "points"
        arrays = [found.attempt(self._array, number) for number in range(len(fields))]
        axes = {} if points else {letter: found.attempt(self._points, letter) for letter in domain}
        times = found.attempt(self._times)
        found.raise_all()
        for number in self._by_size(arrays):
            found.attempt(self._check_sizes, number, arrays[number])
        found.raise_all()
        num = self.sizes.get("n", (1, ""))[0]
        num_frames = 2 if self.steady else self.sizes.get("t", (1, ""))[0]
        lattice = ("p",) if points else domain
        grid = tuple(self._size(letter) for letter in lattice)
        self._check_memory(grid, num)
        mapped = tuple(found.attempt(self._mapped, number, array) for number, array in enumerate(arrays))
        contents = MappedContents(
            self.path,
            mapped,
            lattice,
            grid,
            frozenset(letter for letter, points_x in axes.items() if points_x is not None and decreases(points_x)),
            self.steady,
        )
        extents = [found.attempt(self._extents, letter, axes.get(letter)) for letter in domain]
        times_nt = found.attempt(self._times_nt, times, num, num_frames)
        parameters_np = found.attempt(self._parameters, parameters, num)
        splits, dealt = found.attempt(self._splits, num, num_frames) or ({}, None)
        found.raise_all()
        slow = unpacking_notes(self.container, {field.array: field.block_axes for field in mapped}, len(mapped))
        source = Source(
            path=self.path,
            layout="mapping",
            family=family,
            fields=fields,
            parameters=tuple(document["parameters"]),
            grid=grid,
            extents=tuple(extents),
            boundaries=tuple(
                (document["boundaries"][letter][0], document["boundaries"][letter][1]) for letter in domain
            ),
            times_nt=times_nt,
            parameters_np=parameters_np,
            splits=splits,
            dealt=dealt,
            chunk_bytes=max(array.chunk_bytes for array in arrays),
            contents=contents,
            licence=document["licence"],
            steady=self.steady,
            masked=document["mask"] is not None,
            geometry=document["geometry"],
            coordinates=tuple(document["coordinates"]),
            notes=tuple(dict.fromkeys(self.notes)) + _near_miss(family) + slow,
        )
        if points:
            self._check_positions(source)
        return source

    # Arrays and their axes

    def _array(self, number: int) -> Array:
        """The array of a field, which has as many axes as the mapping says."""
        entry = self.document["fields"][number]
        array = self._used(entry["array"], () if "valid" in entry else RANGE)
        if len(array.shape) != len(entry["axes"]):
            raise DataError(
                f"{self.path}: fields[{number}].axes: {_listed(entry['axes'])} are {len(entry['axes'])} axes, but the "
                f"array {array} has {len(array.shape)}; name each, and those that aren't n, t, x, y, z or p c and d, "
                "with an index"
            )
        for letter, position in entry["index"].items():
            size = array.shape[entry["axes"].index(letter)]
            if position >= size:
                raise DataError(
                    f"{self.path}: fields[{number}].index.{letter}: position {position}, but {letter} of {array} has "
                    f"{size}: 0 to {size - 1}"
                )
        self._check_dims(number, array)
        if array.unit is not None and "".join(array.unit.split()) != "".join(entry["unit"].split()):
            self.notes.append(f"{entry['name']} is in {entry['unit']} by the mapping; the file says {array.unit!r}")
        self._verify(array, entry.get("fill"))
        return array

    def _check_dims(self, number: int, array: Array) -> None:
        """Raises a `DataError` if the file attaches to an axis what the mapping says is the coordinate of another: on a
        square grid sizes don't tell them apart."""
        document, entry = self.document, self.document["fields"][number]
        letters = {axis["array"]: letter for letter, axis in document["space"].items() if "array" in axis}
        if document["time"] and "array" in document["time"]:
            letters[document["time"]["array"]] = "t"
        for letter, dim in zip(entry["axes"], array.dims, strict=False):
            if letters.get(dim, letter) != letter:
                says = [letters.get(dim) or dim or "?" for dim in array.dims]
                raise DataError(
                    f"{self.path}: fields[{number}].axes: {_listed(entry['axes'])}, but the file says that the axes of "
                    f"{array} are {_listed([dim or '?' for dim in array.dims])}, which is {_listed(says)}; write that"
                )

    def _used(self, name: str, also: tuple[str, ...] = ()) -> Array:
        """The array called `name`; an error if what its attributes say of its numbers can't be understood.

        Args:
            also: attributes of a range of values, which are not looked at otherwise.
        """
        array = self.container.array(name)
        asked = {key: text for key, text in array.unclear.items() if key not in RANGE or key in also}
        if asked:
            listed = "; ".join(f"{key} = {text}" for key, text in asked.items())
            remedy = '. Correct it, or say in the field what are values: "valid": [LOW, HIGH], or null if all are'
            raise DataError(f"{self.path}: the array {array} has {listed}{remedy if set(asked) & set(RANGE) else ''}")
        return array

    def _verify(self, array: Array, fill: float | None = None) -> None:
        note = self.container.verify(array.name, fill)
        if note:
            self.notes.append(note)

    def _line(self, name: str, what: str) -> np.ndarray:
        """The numbers of a coordinate as float64 (size,), whatever axes of size 1 it has."""
        array = self._used(name)
        if sum(size > 1 for size in array.shape) > 1:
            raise DataError(f"{self.path}: {what}: the array {array} has more than one axis; give the coordinate alone")
        return self._all(array, what).reshape(-1)

    def _all(self, array: Array, what: str) -> np.ndarray:
        if num_values(array.shape) > MAX_COORDINATES:
            raise DataError(f"{self.path}: {what}: the array {array} is too large for a coordinate or parameter")
        self._verify(array)
        stored = self.container.read(array.name, tuple(slice(None) for _ in array.shape))
        suspect = Missing(suspects=suspects_of(array)).suspect(stored)
        if suspect:
            raise DataError(f"{self.path}: {what}: the array {array} {suspect[0]}; write all its numbers into the file")
        scale, offset = array.attributes.get("scale_factor", 1.0), array.attributes.get("add_offset", 0.0)
        if (scale, offset) != (1.0, 0.0):
            raise DataError(
                f"{self.path}: {what}: the array {array} is packed (scale_factor, add_offset), which is read of fields "
                "alone; write it as floating point"
            )
        return stored.astype(np.float64)

    def _points(self, letter: str) -> np.ndarray | None:
        """Points of an axis of space in the file's order, None where the mapping gives its extents alone."""
        name = self.document["space"][letter].get("array")
        if name is None:
            return None
        what = f"space.{letter}.array"
        points = self._line(name, what)
        self.sizes[letter] = len(points), f"{what} is {self.container.array(name)}"
        check_even(self.path, what, name, points)
        return points

    def _times(self) -> np.ndarray | None:
        """Times in s, (T,) or (N, T); None where there is no array of them."""
        time = self.document["time"]
        if time is None or "array" not in time:
            return None
        array = self._used(time["array"])
        stated = seconds(array.unit)
        if stated is not None and not math.isclose(stated, time["unit_s"], rel_tol=1e-6):
            raise DataError(
                f"{self.path}: time.unit_s: found {time['unit_s']:g}, but the array {array} is in {array.unit!r}, "
                f"which is {stated} s; write that"
            )
        where = f"time.array is {array}"
        if time["axes"] == ["t"]:
            times = self._line(array.name, "time.array")
            self.sizes["t"] = len(times), where
        else:
            if len(array.shape) != 2:
                raise DataError(
                    f"{self.path}: time.axes: n and t are 2 axes, but the array {array} has {len(array.shape)}"
                )
            times = self._all(array, "time.array")
            times = times.T if time["axes"] == ["t", "n"] else times
            self.sizes["n"], self.sizes["t"] = (times.shape[0], where), (times.shape[1], where)
        times = times * time["unit_s"]
        check_times(self.path, f"time.array {array.name} (in s)", np.atleast_2d(times))
        return times

    def _by_size(self, arrays: Sequence[Array]) -> list[int]:
        """Numbers of the fields, those with most axes first: sizes that no coordinate states are taken from them."""
        return sorted(range(len(arrays)), key=lambda number: -len(free_axes(self.document["fields"][number])))

    def _check_sizes(self, number: int, array: Array) -> None:
        """Compares an array's axes with the coordinates and with the fields before it."""
        entry = self.document["fields"][number]
        free = free_axes(entry)
        sizes = {letter: array.shape[entry["axes"].index(letter)] for letter in free}
        wrong = [letter for letter in free if letter in self.sizes and self.sizes[letter][0] != sizes[letter]]
        if wrong:
            reasons = [
                f"{letter} has {sizes[letter]} in {array}, but {self.sizes[letter][0]} by {self.sizes[letter][1]}"
                for letter in wrong
            ]
            others = [letter for letter in permutations(free) if self._fits(letter, list(sizes.values()))]
            hint = f"; its sizes would fit {_listed(others[0])}" if len(others) == 1 else ""
            raise DataError(
                f"{self.path}: fields[{number}].axes: {_listed(entry['axes'])}: {'; '.join(reasons)}{hint}. Correct "
                "the axes, or name the array that belongs to it"
            )
        for letter, size in sizes.items():
            self.sizes.setdefault(letter, (size, f"fields[{number}].array is {array}"))

    def _fits(self, letters: Sequence[str], sizes: Sequence[int]) -> bool:
        return all(self.sizes.get(letter, (size, ""))[0] == size for letter, size in zip(letters, sizes, strict=True))

    def _size(self, letter: str) -> int:
        if letter not in self.sizes:  # only static fields may lack an axis, and there is always another field
            raise DataError(f"{self.path}: nothing says how many points {letter} has")
        return self.sizes[letter][0]

    def _mapped(self, number: int, array: Array) -> MappedField:
        """How a field is read; an error where the file says of its numbers what the mapping leaves out."""
        entry = self.document["fields"][number]
        scale, offset = array.attributes.get("scale_factor", 1.0), array.attributes.get("add_offset", 0.0)
        if entry["scale"] != scale and scale != 1:
            raise DataError(
                f"{self.path}: fields[{number}].scale: the array {array} is packed, with scale {scale!r}, and the "
                f'mapping has {entry["scale"]!r}; write "scale": {scale!r}'
            )
        if entry.get("offset", 0.0) != offset and offset != 0:
            # Another one that is stated moves the origin, as from kelvin to degrees Celsius.
            if "offset" not in entry:
                raise DataError(
                    f"{self.path}: fields[{number}].offset: the array {array} is packed, with offset {offset!r}, and "
                    f'the mapping has none; write "offset": {offset!r}, or another to move the origin'
                )
            self.notes.append(
                f"the offset of {entry['name']} is {entry['offset']:g} by the mapping, in place of the file's "
                f"{offset:g}: it is stored moved by {entry['offset'] - offset:g}"
            )
        missing, note = missing_of(self.path, number, array, entry)
        if note:
            self.notes.append(note)
        return MappedField(
            array.name,
            tuple(entry["axes"]),
            dict(entry["index"]),
            missing,
            entry["static"],
            entry["scale"],
            entry.get("offset", 0.0),
        )

    # Space and time

    def _extents(self, letter: str, points: np.ndarray | None) -> tuple[float, float]:
        periodic = self.document["boundaries"][letter][0] == "periodic"
        return extents_of(self.path, letter, self.document["space"][letter], points, periodic)

    def _times_nt(self, times: np.ndarray | None, num: int, num_frames: int) -> np.ndarray:
        if self.steady:
            return np.broadcast_to(np.nan, (num, num_frames))
        time = self.document["time"]
        if times is not None:
            return np.broadcast_to(times, (num, num_frames))
        if time is None:
            return np.zeros((1, 1)).repeat(num, axis=0)
        return np.broadcast_to(time["start"] + time["dt"] * np.arange(num_frames), (num, num_frames))

    def _check_positions(self, source: Source) -> None:
        """The points of a point set lie in the domain that the mapping states."""
        with source.contents.open() as read:
            for letter, (low, high) in zip(source.coordinates, source.extents, strict=True):
                number = next(i for i, field in enumerate(source.fields) if field.name == letter)
                shared = "n" not in free_axes(self.document["fields"][number])
                for trajectory in range(1 if shared else source.num_trajectories):
                    positions = read(number, trajectory, range(1))
                    least, most = float(positions.min()), float(positions.max())
                    if not (low <= least <= most <= high):  # NaN too
                        raise DataError(
                            f"{self.path}: space.{letter}.extents: found [{low:g}, {high:g}], but {letter} runs from "
                            f"{least:g} to {most:g} (trajectory {trajectory}); state the domain that all points lie in"
                        )

    # Parameters, splits, sizes

    def _parameters(self, given: Mapping[str, float], num: int) -> np.ndarray:
        parameters_np = np.full((num, len(self.document["parameters"])), np.nan)
        for column, (name, entry) in enumerate(self.document["parameters"].items()):
            if name in given:
                parameters_np[:, column] = given[name]
            elif "array" in entry:
                what = f"parameters.{name}.array"
                values = self._line(entry["array"], what)
                if len(values) not in (1, num):
                    raise DataError(
                        f"{self.path}: {what}: {self.container.array(entry['array'])} has {len(values)} numbers for "
                        f"{num} trajectories; expected one for each, or a single one for all"
                    )
                parameters_np[:, column] = values
            elif entry["value"] is not None:
                parameters_np[:, column] = entry["value"]
        return parameters_np

    def _splits(self, num: int, num_frames: int) -> tuple[Mapping[str, np.ndarray], Dealt | None]:
        split = self.document["split"]
        if split is None and num == 1 and not self.steady:
            return split_in_time(num, num_frames), None
        if split is not None and split["by"] == "time":
            return split_in_time(num, num_frames, split["shares"]), None
        if split is None or split["by"] == "seed":
            dealt = Dealt(0) if split is None else Dealt(split["seed"], tuple(split["shares"]))
            return split_by_seed(num, num_frames, dealt), dealt
        splits = {}
        for name, (start, end) in split["ranges"].items():
            stop = num if end is None else end
            if not start < stop <= num:
                raise DataError(
                    f"{self.path}: split.ranges.{name}: found {[start, stop]}, but there are {num} trajectories"
                )
            splits[name] = whole(range(start, stop), num_frames)
        return splits, None

    def _check_memory(self, grid: tuple[int, ...], num: int) -> None:
        frame_bytes = 8 * math.prod(grid)
        if frame_bytes > MAX_FRAME_BYTES:
            raise DataError(f"{self.path}: a frame of {grid} takes {frame_bytes / 1024**3:.1f} GiB; at most 2 are")
        if num > MAX_TRAJECTORIES:
            raise DataError(f"{self.path}: {num:,} trajectories; at most {MAX_TRAJECTORIES:,} are read")


def _near_miss(family: str) -> tuple[str, ...]:
    """A note on a new family whose name is nearly one of the registry's."""
    digits = re.sub(r"\D", "", family)
    like = [name for name in FAMILIES if re.sub(r"\D", "", name) == digits]
    near = [] if family in FAMILIES else difflib.get_close_matches(family.lower(), like, n=1, cutoff=0.85)
    return tuple(f"family {family} is new; if you mean {name}, write that" for name in near)


def _listed(axes: Sequence[str]) -> str:
    return "[" + ", ".join(axes) + "]"
