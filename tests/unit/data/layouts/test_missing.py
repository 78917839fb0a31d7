"""Numbers that are no values: by netCDF's attributes in every format that has them, and by the mapping."""

from __future__ import annotations

import base64
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ups_scale.data.layouts.containers import open_container
from ups_scale.data.layouts.mapping import inspect_mapping
from ups_scale.data.source import Source
from ups_scale.errors import DataError

T, X = 4, 6
U = np.random.default_rng(0).standard_normal((T, X)).astype(np.float32)
COUNTS = np.arange(T * X, dtype=np.int16).reshape(T, X)
FIELD: dict[str, Any] = {"name": "u", "unit": "1", "array": "u", "axes": ["t", "x"]}
PLAIN: dict[str, Any] = {
    "format": 1,
    "family": "smoke",
    "fields": [FIELD],
    "time": {"dt": 1},
    "space": {"x": {"extents": [0, 1]}},
    "boundaries": {"x": ["wall", "wall"]},
}
NETCDF_FILL = 9.969209968386869e36


def write_hdf5(folder: Path, values: np.ndarray, attributes: dict[str, Any], fill: float | None = None) -> Path:
    with h5py.File(folder / "a.nc", "w") as file:
        file.create_dataset("u", data=values, fillvalue=fill).attrs.update(attributes)
    return folder / "a.nc"


def write_netcdf3(folder: Path, values: np.ndarray, attributes: dict[str, Any]) -> Path:
    scipy_io = pytest.importorskip("scipy.io")
    with scipy_io.netcdf_file(folder / "a3.nc", "w") as file:
        for axis, size in enumerate(values.shape):
            file.createDimension(f"d{axis}", size)
        variable = file.createVariable("u", values.dtype, tuple(f"d{axis}" for axis in range(values.ndim)))
        variable[:] = values
        for name, value in attributes.items():
            setattr(variable, name, value)
    return folder / "a3.nc"


def write_zarr(
    folder: Path, values: np.ndarray, attributes: dict[str, Any], zarr_format: int = 2, fill: float | None = None
) -> Path:
    zarr = pytest.importorskip("zarr", reason="the optional package zarr is not installed")
    path = folder / f"a{zarr_format}.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    array = group.create_array("u", data=values, chunks=(2, 3)[: values.ndim], fill_value=fill)
    array.attrs.update({name: np.asarray(value).tolist() for name, value in attributes.items()})
    return path


def write_zarr3(folder: Path, values: np.ndarray, attributes: dict[str, Any], fill: float = 0) -> Path:
    return write_zarr(folder, values, attributes, 3, fill)


Writer = Callable[[Path, np.ndarray, dict[str, Any]], Path]
WRITERS: dict[str, Writer] = {
    "hdf5": write_hdf5,
    "netcdf3": write_netcdf3,
    "zarr v2": write_zarr,
    "zarr v3": write_zarr3,
}
every_format = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def inspect(path: Path, field: dict[str, Any] | None = None, mask: str | None = None, **changes: Any) -> Source:
    mapping = path.parent / "mapping.json"
    mapping.write_text(json.dumps({**PLAIN, "fields": [{**FIELD, **(field or {})}], "mask": mask, **changes}))
    return inspect_mapping(path, mapping)


def frames(path: Path, field: dict[str, Any] | None = None, mask: str | None = None) -> np.ndarray:
    source = pickle.loads(pickle.dumps(inspect(path, field, mask)))
    with source.contents.open() as read:
        return read(0, 0, range(T))


def refusal(path: Path, field: dict[str, Any] | None = None, mask: str | None = None) -> str:
    with pytest.raises(DataError) as raised:
        frames(path, field, mask)
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value)


def as_xarray_writes(value: float) -> str:
    return base64.standard_b64encode(struct.pack("<d", value)).decode()


def check_suspect(path: Path, stored: np.ndarray, number: float, says: str) -> None:
    """The number is refused as it is met, and each of the remedies that the message names is one."""
    text = refusal(path)
    assert says in text
    assert f'in trajectory 0, frames 0 to {T - 1}. Write "mask": "fill" and the field\'s "fill": {number!r}, or' in text
    np.testing.assert_array_equal(frames(path, {"fill": None}), stored)
    expected = np.where(stored == stored.dtype.type(number), np.nan, stored)
    np.testing.assert_array_equal(frames(path, {"fill": number}, "fill"), expected)


# Declared fills in Zarr


@pytest.mark.parametrize(("values", "fill"), [(U, float(np.float32(1e20))), (COUNTS, -1.0)])
def test_the_fill_value_of_a_zarr_2_array_is_declared_to_be_no_value(values, fill: float, tmp_path: Path) -> None:
    holed = values.copy()
    holed[1, 2] = fill
    declares = f"u declares {fill:g} to be no value"
    check_suspect(write_zarr(tmp_path, holed, {}, fill=fill), holed, fill, declares)
    assert "fields[0].fill: found -5.0" in refusal(tmp_path / "a2.zarr", {"fill": -5}, "fill")
    np.testing.assert_array_equal(frames(write_zarr(tmp_path, values, {}, fill=fill)), values)
    # An attribute says more than the array's own.
    check_suspect(write_zarr(tmp_path, holed, {"_FillValue": fill}, fill=7), holed, fill, declares)


def test_a_chunk_of_zarr_2_that_was_never_written_is_no_value(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="the optional package zarr is not installed")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("u", shape=(T, X), chunks=(2, 3), dtype="f4", fill_value=NETCDF_FILL)[:2] = U[:2]
    expected = np.concatenate([U[:2], np.full((T - 2, X), NETCDF_FILL, np.float32)])
    check_suspect(tmp_path / "a.zarr", expected, float(np.float32(NETCDF_FILL)), "u declares 9.96921e+36")


@pytest.mark.parametrize("fill", [None, 0, np.nan])
def test_fill_values_of_zarr_that_say_nothing(fill: float | None, tmp_path: Path) -> None:
    holed = U.copy()
    holed[1, 2] = 0
    np.testing.assert_array_equal(frames(write_zarr(tmp_path, holed, {}, fill=fill)), holed)


@pytest.mark.parametrize("write", [write_zarr, write_zarr3])
@pytest.mark.parametrize("name", ["_FillValue", "missing_value"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_fills_as_xarray_writes_them_into_zarr(write: Writer, name: str, dtype: str, tmp_path: Path) -> None:
    holed = U.astype(dtype)
    holed[1, 2] = 1e20
    path = write(tmp_path, holed, {name: as_xarray_writes(1e20)})
    check_suspect(path, holed, 1e20, "u declares 1e+20 to be no value")
    # NaN is what it writes most often; the writer of shards refuses it without a mask.
    holed[1, 2] = np.nan
    path = write(tmp_path, holed, {name: as_xarray_writes(np.nan)})
    np.testing.assert_array_equal(frames(path, mask="nan"), holed)
    np.testing.assert_array_equal(frames(path, {"fill": -999}, "fill"), holed)


# Attributes that can't be understood


@every_format
@pytest.mark.parametrize("name", ["_FillValue", "missing_value", "scale_factor", "add_offset"])
def test_several_numbers_and_texts_are_no_number(write: Writer, name: str, tmp_path: Path) -> None:
    for found, shown in (([1.0, 2.0], "[1.0, 2.0]"), ("1e20", "'1e20'"), ("99", "'99'")):
        path = write(tmp_path, U, {name: found})
        assert f"the array u (4, 6) has {name} = {shown}, which is not one number; write one there" in refusal(path)
        with open_container(path) as container:
            assert [array.name for array in container.arrays()] == ["u"]


def test_other_text_than_xarrays_is_no_number(tmp_path: Path) -> None:
    for text in (base64.b64encode(struct.pack("<f", 1e20)).decode(), "not base64!", "1e20", "NaN", "\u0661", ""):
        assert f"_FillValue = {text!r}, which is not" in refusal(write_zarr3(tmp_path, U, {"_FillValue": text}))
    path = write_zarr3(tmp_path, COUNTS, {"_FillValue": as_xarray_writes(5)})
    assert "_FillValue = 'AAAAAAAAFEA=', which is not one number" in refusal(path)
    ragged = write_zarr3(tmp_path, U, {})
    described = json.loads((ragged / "u" / "zarr.json").read_text())
    for value in ([[1], [2, 3]], {"a": 1}, True, 10**400):
        described["attributes"] = {"missing_value": value}
        (ragged / "u" / "zarr.json").write_text(json.dumps(described))
        assert "which is not one number" in refusal(ragged)


@every_format
def test_unsigned_numbers_in_a_signed_type_are_refused(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, COUNTS, {"_Unsigned": "true"})
    text = refusal(path)
    assert (
        "u (4, 6) has _Unsigned = 'true' of int16 numbers, which are not converted; write the array as uint16" in text
    )
    with open_container(path) as container:
        assert [array.name for array in container.arrays()] == ["u"]
    np.testing.assert_array_equal(frames(write(tmp_path, COUNTS, {"_Unsigned": "false"})), COUNTS)


def test_coordinates_are_asked_for_their_attributes_too(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path, U, {})
    for attributes, message in (
        ({"_Unsigned": "true"}, "x (6,) has _Unsigned = 'true'"),
        ({"_FillValue": [1, 2]}, "x (6,) has _FillValue = [1, 2]"),
        ({"missing_value": 3}, "space.x.array: the array x (6,) declares 3 to be no value"),
    ):
        with h5py.File(path, "r+") as file:
            file.pop("x", None)
            file["x"] = np.arange(X)
            file["x"].attrs.update(attributes)
        frames(path)  # it is not used
        with pytest.raises(DataError) as raised:
            inspect(path, space={"x": {"array": "x"}})
        assert message in str(raised.value)


def test_a_time_that_was_never_written_is_refused(tmp_path: Path) -> None:
    """It increases, as it must."""
    path = write_hdf5(tmp_path, U, {})
    with h5py.File(path, "r+") as file:
        file.create_dataset("t", (T,), "f8", fillvalue=NETCDF_FILL)[:3] = np.arange(3)
    with pytest.raises(
        DataError, match=r"time.array: the array t \(4,\) reads as 9.96921e\+36 where nothing was written"
    ):
        inspect(path, time={"array": "t"})


# What reads where nothing was written


def test_frames_of_a_chunk_of_netcdf4_that_were_never_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file.create_dataset("u", (T, X), "f4", chunks=(T, X), fillvalue=NETCDF_FILL)[:3] = U[:3]
    stored = np.concatenate([U[:3], np.full((1, X), NETCDF_FILL, np.float32)])
    fill = float(np.float32(NETCDF_FILL))
    check_suspect(tmp_path / "a.nc", stored, fill, "u reads as 9.96921e+36 where nothing was written, and has it")
    # With a fill of its own besides, as the message says.
    assert 'The field\'s "fill" is -5.0, and it has one' in refusal(tmp_path / "a.nc", {"fill": -5}, "fill")
    both = frames(tmp_path / "a.nc", {"fill": -5, "valid": [-9, 9]}, "fill")
    np.testing.assert_array_equal(both, np.where(stored > 9, np.nan, stored))


@pytest.mark.parametrize(
    ("dtype", "fill"), [("i2", -32767), ("i4", -2147483647), ("f4", NETCDF_FILL), ("f8", NETCDF_FILL)]
)
def test_netcdf3_reads_its_defaults_where_nothing_was_written(dtype: str, fill: float, tmp_path: Path) -> None:
    values = (10 * U).astype(dtype)
    np.testing.assert_array_equal(frames(write_netcdf3(tmp_path, values, {})), values)
    values[3] = fill
    path = write_netcdf3(tmp_path, values, {})
    with open_container(path) as container:
        assert container.array("u").unwritten == fill
    text = refusal(path)
    assert f"u reads as {fill:g} where nothing was written, and has it in trajectory 0" in text
    np.testing.assert_array_equal(frames(path, {"fill": None}), values)
    expected = np.where(np.arange(T)[:, None] == 3, np.nan, values)
    np.testing.assert_array_equal(frames(path, {"fill": fill}, "fill"), expected)
    # With a fill declared, that is what netCDF writes.
    path = write_netcdf3(tmp_path, values, {"_FillValue": np.dtype(dtype).type(99)})
    np.testing.assert_array_equal(frames(path), values)


def test_bytes_and_zeros_may_all_be_values(tmp_path: Path) -> None:
    small = np.array([[-127, 0, 127] * 2] * T, np.int8)
    np.testing.assert_array_equal(frames(write_netcdf3(tmp_path, small, {})), small)
    np.testing.assert_array_equal(frames(write_hdf5(tmp_path, small, {}, fill=-127)), small)
    large = small.view(np.uint8) | 128
    large[0] = 255
    np.testing.assert_array_equal(frames(write_hdf5(tmp_path, large, {}, fill=255)), large)
    for fill in (None, 0, -1):
        np.testing.assert_array_equal(frames(write_hdf5(tmp_path, COUNTS, {}, fill=fill)), COUNTS)
    for fill in (0, np.nan):
        np.testing.assert_array_equal(frames(write_hdf5(tmp_path, U * 0, {}, fill=fill)), U * 0)


# Ranges


@every_format
@pytest.mark.parametrize(
    ("attributes", "low", "high"),
    [
        ({"valid_range": np.array([3, 20], "i2")}, 3, 20),
        ({"valid_min": np.int16(3)}, 3, 32767),
        ({"valid_max": np.int16(20)}, -32768, 20),
        ({"valid_min": np.int16(3), "valid_max": np.int16(20)}, 3, 20),
    ],
)
def test_numbers_outside_of_a_declared_range(write: Writer, attributes, low: int, high: int, tmp_path: Path) -> None:
    packed = {"scale_factor": 0.5, "add_offset": 1.0}
    path = write(tmp_path, COUNTS, {**attributes, **packed})
    read_as = {"scale": 0.5, "offset": 1}
    text = refusal(path, read_as)
    outside = np.clip(COUNTS, low, high) != COUNTS
    assert f"u declares numbers outside [{low:g}, {high:g}] (valid_range, valid_min, valid_max) to be no values" in text
    assert f"and has {COUNTS[outside][0]} in trajectory 0, frames 0 to 3. " in text
    remedy = [float(low), float(high)]
    assert f'Write "mask": "nan" (or "fill") and the field\'s "valid": {remedy}, or "valid": null' in text
    values = COUNTS * 0.5 + 1
    np.testing.assert_array_equal(frames(path, {**read_as, "valid": None}), values)
    expected = np.where(outside, np.nan, values)
    np.testing.assert_array_equal(frames(path, {**read_as, "valid": remedy}, "nan"), expected)
    # The fill may lie outside, and a range that holds all numbers is no obstacle.
    inside = np.clip(COUNTS, low, high)
    np.testing.assert_array_equal(frames(write(tmp_path, inside, attributes)), inside)
    inside[2, 2] = -9 if low > -9 else 99
    path = write(tmp_path, inside, attributes)
    filled = frames(path, {"fill": int(inside[2, 2])}, "fill")
    np.testing.assert_array_equal(filled, np.where(np.arange(T * X).reshape(T, X) == 14, np.nan, inside))


def test_a_range_is_compared_in_the_precision_of_the_array(tmp_path: Path) -> None:
    values = np.full((T, X), 0.1, np.float32)
    values[0, 0] = np.nan
    path = write_hdf5(tmp_path, values, {"valid_range": [0.1, 0.1]})
    np.testing.assert_array_equal(frames(path, mask="nan"), values)
    np.testing.assert_array_equal(frames(path, {"valid": [0.1, 0.1]}, "nan"), values)


def test_the_mappings_own_range_wins_and_is_noted(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path, COUNTS, {"valid_range": np.array([3, 20], "i2")})
    own = {"valid": [0, 12]}
    np.testing.assert_array_equal(frames(path, own, "nan"), np.where(COUNTS > 12, np.nan, COUNTS))
    note = "values of u are in [0.0, 12.0] by the mapping, in place of the file's [3.0, 20.0]"
    assert inspect(path, own, "nan").notes == (note,)
    assert inspect(path, {"valid": [3, 20]}, "nan").notes == ()


@every_format
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"valid_range": "0, 5"}, "valid_range = '0, 5', which is not two numbers"),
        ({"valid_range": [1.0, 2.0, 3.0]}, "valid_range = [1.0, 2.0, 3.0], which is not two numbers"),
        ({"valid_max": [1.0, 2.0]}, "valid_max = [1.0, 2.0], which is not one number"),
        ({"valid_range": [5.0, 1.0]}, "valid_range = [5.0, 1.0], which leaves no number (from 5 to 1)"),
    ],
)
def test_a_range_that_can_not_be_understood(write: Writer, attributes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, U, attributes)
    assert f"the array u (4, 6) has {message}. Correct it, or say in the field what are values" in refusal(path)
    np.testing.assert_array_equal(frames(path, {"valid": None}), U)


@pytest.mark.parametrize(
    ("valid", "mask", "message"),
    [
        (
            [0, 1],
            None,
            'fields[0].valid: numbers outside become points without a value, which need a mask; write "mask"',
        ),
        ([1, 0], "nan", "fields[0].valid: found [1.0, 0.0]; the low end comes first"),
        ([1], "nan", "fields[0].valid: found [1]; allowed: [LOW, HIGH] or null"),
        (5, "nan", "fields[0].valid: found 5; allowed: [LOW, HIGH] or null"),
    ],
)
def test_the_key_valid_is_checked(valid: Any, mask: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        inspect(write_hdf5(tmp_path, U, {}), {"valid": valid}, mask)
    assert message in str(raised.value)
