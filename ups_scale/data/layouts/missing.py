"""Which numbers of an array are no values: by the mapping, and by what the file says and the mapping doesn't.

What a file says alone is never applied and never passed over: such a number is an error as soon as it is met, and the
mapping then says what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ups_scale.data.layouts.containers import Array
from ups_scale.errors import DataError


@dataclass(frozen=True)
class Missing:
    """Which numbers of a field, as the file stores them, are no values.

    Attributes:
        fill: number that stands for no value.
        valid: least and most number that is a value.
        suspects: number -> what the file says of it, where the mapping says nothing.
        declared: `valid` by the file, where the mapping says nothing.
    """

    fill: float | None = None
    valid: tuple[float, float] | None = None
    suspects: Mapping[float, str] = field(default_factory=dict)
    declared: tuple[float, float] | None = None

    def suspect(self, stored: np.ndarray) -> tuple[str, str] | None:
        """What the file alone says of a number in `stored`, and the remedy; None if there is no such number."""
        for number, says in self.suspects.items():
            if (stored == as_stored(number, stored.dtype)).any():
                return says, self._remedy(number)
        if self.declared is not None:
            outside = self._outside(stored, self.declared)
            if self.fill is not None:
                outside &= stored != as_stored(self.fill, stored.dtype)
            if outside.any():
                low, high = self.declared
                says = (
                    f"declares numbers outside [{low:g}, {high:g}] (valid_range, valid_min, valid_max) to be no values"
                )
                remedy = f'"mask": "nan" (or "fill") and the field\'s "valid": {[low, high]}'
                return (
                    f"{says} and has {float(stored[outside].flat[0]):g}",
                    f'Write {remedy}, or "valid": null if they are values',
                )
        return None

    def apply(self, stored: np.ndarray, values: np.ndarray) -> np.ndarray:
        """`values` with NaN where the numbers that they are made of, `stored`, are none."""
        if self.fill is not None:
            values = np.where(stored == as_stored(self.fill, stored.dtype), np.nan, values)
        if self.valid is not None:
            values = np.where(self._outside(stored, self.valid), np.nan, values)
        return values

    def _remedy(self, number: float) -> str:
        if self.fill is None:
            return f'Write "mask": "fill" and the field\'s "fill": {number!r}, or "fill": null if it is a value'
        return (
            f'The field\'s "fill" is {self.fill!r}, and it has one: leave the other out with "valid": [LOW, HIGH], or '
            "write the same number for both into the file"
        )

    @staticmethod
    def _outside(stored: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
        low, high = (as_stored(end, stored.dtype) for end in ends)
        return (stored < low) | (stored > high)


def missing_of(path: Path, number: int, array: Array, entry: Mapping[str, Any]) -> tuple[Missing, str | None]:
    """What is no value of fields[number], and a note if the mapping overrides what the file says.

    Raises:
        DataError: the mapping has another fill than the file, or the file's range of values can't be understood.
    """
    fill, valid = entry.get("fill"), entry.get("valid")
    declared = _declared(array)
    if fill is not None and not _held(fill, array.dtype):
        raise DataError(
            f"{path}: fields[{number}].fill: found {fill!r}, which no number of the array {array} is: they are "
            f"{array.dtype}; write the number as the file stores it"
        )
    if fill is not None and declared and not any(same(fill, value, array.dtype) for value in declared):
        raise DataError(
            f"{path}: fields[{number}].fill: found {fill!r}, but the array {array} declares "
            f"{' and '.join(repr(value) for value in declared)}; write that"
        )
    suspects = {
        value: says
        for value, says in suspects_of(array).items()
        if ("fill" not in entry or fill is not None)
        and (fill is None or not same(fill, value, array.dtype))
        and (valid is None or valid[0] <= value <= valid[1])
    }
    note = None
    if valid is not None:
        if array.valid not in (None, tuple(valid)):
            note = (
                f"values of {entry['name']} are in {valid} by the mapping, in place of the file's {list(array.valid)}"
            )
        return Missing(fill, (valid[0], valid[1]), suspects), note
    return Missing(fill, None, suspects, None if "valid" in entry else array.valid), note


def suspects_of(array: Array) -> dict[float, str]:
    """Number -> what the file says of it: it is declared to be no value, or reads where nothing was written."""
    suspects = {
        value: f"declares {value:g} to be no value (_FillValue or missing_value; of Zarr v2, fill_value) and has it"
        for value in _declared(array)
    }
    if array.unwritten is not None and array.unwritten not in suspects:
        suspects[array.unwritten] = f"reads as {array.unwritten:g} where nothing was written, and has it"
    return suspects


def _declared(array: Array) -> list[float]:
    """Numbers that the file declares to be none. NaN and infinity need no guard: the writer refuses infinity, and NaN
    where the mapping has no mask."""
    found = {array.attributes[key] for key in ("_FillValue", "missing_value") if key in array.attributes}
    return sorted(value for value in found if math.isfinite(value))


def _held(value: float, dtype: np.dtype) -> bool:
    """Whether an array of this dtype can have this number, or one that it rounds to."""
    if dtype.kind == "f":
        return True
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return float(value).is_integer() and low <= value <= high


def as_stored(value: float, dtype: np.dtype) -> np.generic | float:
    """`value` as an array of this dtype has it: 1e20 in float32 isn't 1e20 in float64."""
    with np.errstate(over="ignore"):
        return dtype.type(value) if dtype.kind == "f" else value


def same(a: float, b: float, dtype: np.dtype) -> bool:
    """Whether two numbers are one in an array of this dtype."""
    return bool(as_stored(a, dtype) == as_stored(b, dtype))
