"""What netCDF's attributes say of an array's numbers: no values, a packing, a unit. In Zarr they are as xarray
writes them."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping

import numpy as np

from ups_scale.data.layouts.containers import Array

# Single numbers. What any of them says changes what the array's numbers mean.
SINGLE = ("_FillValue", "missing_value", "scale_factor", "add_offset")
RANGE = ("valid_range", "valid_min", "valid_max")
ATTRIBUTES = (*SINGLE, *RANGE, "_Unsigned", "units")
# netCDF writes these where nothing was written. Of bytes it has defaults too, but every byte may be a value.
NETCDF_FILLS = {"i2": -32767.0, "i4": -2147483647.0, "f4": 9.969209968386869e36, "f8": 9.969209968386869e36}
BYTE_FILLS = {"i1": -127.0, "u1": 255.0}


def described(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    chunks: tuple[int, ...],
    attributes: Mapping[str, object],
    unwritten: float | None = None,
) -> Array:
    """An array with what its attributes say; what can't be understood of them is in its `unclear`.

    Args:
        attributes: as the format's library gives them; others than `ATTRIBUTES` are not looked at.
        unwritten: what reads where nothing was written.
    """
    stated = {key: attributes[key] for key in ATTRIBUTES if attributes.get(key) is not None}
    numbers, unclear = {}, {}
    for key in SINGLE:
        if key in stated:
            found = _floats(stated[key], 1, dtype)
            if found is None:
                unclear[key] = f"{_shown(stated[key])}, which is not one number; write one there, or delete it"
            else:
                numbers[key] = found[0]
    sign = str(_text(stated.get("_Unsigned"))).strip().lower()
    if (dtype.kind, sign) in (("i", "true"), ("u", "false")):
        meant = np.dtype(f"{'u' if dtype.kind == 'i' else 'i'}{dtype.itemsize}")
        unclear["_Unsigned"] = (
            f"{_shown(stated['_Unsigned'])} of {dtype} numbers, which are not converted; write the array as {meant} or "
            "as floating point, without that attribute"
        )
    # Where a _FillValue is declared, that is what reads where nothing was written; 0 and bytes may be values.
    stands_out = unwritten and np.isfinite(unwritten) and dtype.kind != "b"
    if not stands_out or "_FillValue" in stated or BYTE_FILLS.get(dtype.str[1:]) == unwritten:
        unwritten = None
    valid = _valid(stated, dtype, unclear)
    return Array(name, shape, dtype, chunks, numbers, unit_of(stated), valid, unwritten, unclear)


def unit_of(attributes: Mapping[str, object]) -> str | None:
    """What the attribute `units` says, if it is a text."""
    value = _text(attributes.get("units"))
    return value if isinstance(value, str) else None


def decoded(attributes: Mapping[str, object], dtype: np.dtype) -> dict[str, object]:
    """A Zarr array's attributes, with the numbers that xarray writes as base64 of a little-endian float64."""
    out = dict(attributes)
    for key in ("_FillValue", "missing_value"):
        value = out.get(key)
        if dtype.kind == "f" and isinstance(value, str):
            try:
                (out[key],) = struct.unpack("<d", base64.b64decode(value, validate=True))
            except (binascii.Error, ValueError, struct.error):
                continue  # it stays a text, which is no number
    return out


def _valid(stated: Mapping[str, object], dtype: np.dtype, unclear: dict[str, str]) -> tuple[float, float] | None:
    """Least and most number that is a value; a side that isn't stated ends where the dtype does."""
    given = [key for key in RANGE if key in stated]
    if not given:
        return None
    if dtype.kind == "b":
        low, high = 0.0, 1.0
    else:
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        low, high = float(limits.min), float(limits.max)
    for key in given[:1] if given[0] == "valid_range" else given:
        found = _floats(stated[key], 2 if key == "valid_range" else 1, dtype)
        packed = dtype.kind in "iu" and "scale_factor" in stated and np.asarray(stated[key]).dtype.kind == "f"
        if packed:  # by netCDF's rule it is then of the unpacked ones, which not all writers keep to
            unclear[key] = f"{_shown(stated[key])}, which may be of the stored numbers or of the unpacked ones"
            return None
        if found is None or np.isnan(found).any():
            wanted = "two numbers" if key == "valid_range" else "one number"
            unclear[key] = f"{_shown(stated[key])}, which is not {wanted}"
            return None
        if key != "valid_max":
            low = max(low, found[0])
        if key != "valid_min":
            high = min(high, found[-1])
    if low > high:
        unclear[given[0]] = f"{_shown(stated[given[0]])}, which leaves no number (from {low:g} to {high:g})"
        return None
    return low, high


def _floats(value: object, num: int, dtype: np.dtype) -> list[float] | None:
    """`value` as that many numbers, None if it isn't. Truth values are numbers of arrays of them alone."""
    try:
        values = np.asarray(value)
    except (ValueError, OverflowError):  # lists in lists of different lengths
        return None
    if values.size != num or values.dtype.kind not in ("fiub" if dtype.kind == "b" else "fiu"):
        return None
    return [float(number) for number in values.reshape(-1)]


def _text(value: object) -> object:
    """`value` as str if it is a text, also one in an array of one, as netCDF-4 has it."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _shown(value: object) -> str:
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    text = repr(_text(value))
    return text if len(text) <= 80 else text[:77] + "..."
