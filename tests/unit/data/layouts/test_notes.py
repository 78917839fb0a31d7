"""What is no error but said: a caller's word against the file's, chunks that are not there, splits that are guesses."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from pdebench_files import numbers, write_arrays, write_chunked, write_incompressible
from well_files import add_field, write_well

from ups_scale.data.layouts import blocks, inspect
from ups_scale.data.layouts.pdebench import inspect_pdebench
from ups_scale.errors import DataError

PLAIN = {
    "format": 1,
    "family": "smoke",
    "fields": [{"name": "u", "unit": "1", "array": "u", "axes": ["n", "t", "x"]}],
    "time": {"dt": 1},
    "space": {"x": {"extents": [0, 1]}},
    "boundaries": {"x": ["wall", "wall"]},
}


def mapped(folder: Path, path: Path, **changes):
    mapping = folder / "mapping.json"
    mapping.write_text(json.dumps(PLAIN | changes))
    return inspect(path, str(mapping))


def test_the_callers_word_against_the_name(tmp_path):
    path = write_arrays(tmp_path / "1D_Burgers_Sols_Nu0.01.hdf5", {"tensor": numbers(10, 4, 8)})
    assert inspect_pdebench(path).notes == ()
    assert inspect_pdebench(path, "burgers_1d", {"nu": 0.01}).notes == ()
    assert inspect_pdebench(path, None, {"nu": 0.5}).notes == (
        "nu is 0.5, as --parameter says; its name or attribute says 0.01",
    )
    (note,) = inspect_pdebench(path, "advection_1d").notes
    assert note == "taken as advection_1d, as --family says; its name says burgers_1d"


def test_a_family_that_is_nearly_known(tmp_path):
    path = write_arrays(tmp_path / "1D_Burgers_Sols_Nu0.01.hdf5", {"tensor": numbers(10, 4, 8)})
    with pytest.raises(DataError, match=r"unknown family 'burger'; did you mean burgers_1d\?$"):
        inspect_pdebench(path, "burger")
    data = write_arrays(tmp_path / "mine.hdf5", {"u": numbers(3, 4, 8)})
    assert mapped(tmp_path, data, family="burgers1d").notes == (
        "family burgers1d is new; if you mean burgers_1d, write that",
    )
    assert mapped(tmp_path, data, family="porous_flow_3d").notes == ()


@pytest.mark.parametrize("value", ["inf", "-inf"])
def test_infinite_parameters_are_refused(tmp_path, value):
    path = write_arrays(tmp_path / "1D_Burgers_Sols_Nu0.01.hdf5", {"tensor": numbers(10, 4, 8)})
    with pytest.raises(DataError, match="parameter nu is infinite"):
        inspect(path, "pdebench", parameters={"nu": float(value)})


def test_a_domain_that_nothing_states_is_the_unit_square_and_said(tmp_path):
    path = write_incompressible(tmp_path / "ns_incom_inhom_2d_512-0.h5", num=10)
    assert inspect_pdebench(path).notes == ()
    with h5py.File(path, "a") as file:
        del file.attrs["config"]
    source = inspect_pdebench(path)
    assert source.extents == ((0.0, 1.0), (0.0, 1.0))
    assert source.notes == ("nothing states the size of its domain, which is taken as 1; the attribute `extents` can",)
    with h5py.File(path, "a") as file:
        file.attrs["config"] = "domain_size: [2, two]"
    with pytest.raises(DataError, match=r"domain_size is \"\[2, 'two'\]\"; expected 2 sizes above 0"):
        inspect_pdebench(path)


@pytest.mark.parametrize(("folder", "split"), [("test", "test"), ("val", "valid"), ("validation", "valid")])
def test_a_split_is_the_folders_also_from_within(tmp_path, monkeypatch, folder, split):
    path = write_well(tmp_path / folder / "flow.hdf5")
    with h5py.File(path, "a") as file:
        add_field(file, 0, "density", numbers(3, 5, 6, 4))
    monkeypatch.chdir(path.parent)
    source = inspect(Path("flow.hdf5"), "the_well")
    assert (list(source.splits), source.notes) == ([split], ())


def test_a_split_that_no_folder_tells_is_said(tmp_path):
    path = write_well(tmp_path / "mine" / "flow.hdf5")
    with h5py.File(path, "a") as file:
        add_field(file, 0, "density", numbers(3, 5, 6, 4))
    assert inspect(path, "the_well").notes == (
        "its folder is called mine, not train, valid or test: its trajectories are dealt to them by seed 0, 8:1:1",
    )
    assert inspect(path, "the_well", split="seed:3").notes == ()


def test_the_unit_that_times_declare(tmp_path):
    path = write_arrays(tmp_path / "mine.hdf5", {"u": numbers(3, 4, 8)})
    with h5py.File(path, "a") as file:
        file["when"] = np.arange(4.0)
        file["when"].attrs["units"] = "days since 2000-01-01"
    with pytest.raises(DataError, match=r"time.unit_s: found 3600, but .* which is 86400 s; write that"):
        mapped(tmp_path, path, time={"array": "when", "unit_s": 3600})
    assert mapped(tmp_path, path, time={"array": "when", "unit_s": 86400}).times_nt[0, 1] == 86400
    with h5py.File(path, "a") as file:
        file["when"].attrs["units"] = "months since 2000-01-01"
    assert mapped(tmp_path, path, time={"array": "when", "unit_s": 2.6e6}).times_nt[0, 1] == 2.6e6


def test_a_periodic_axis_must_say_where_it_closes(tmp_path):
    path = write_arrays(tmp_path / "mine.hdf5", {"u": numbers(3, 4, 33)})
    with h5py.File(path, "a") as file:
        file["x"] = np.linspace(0, 1, 33)
    periodic = {"boundaries": {"x": ["periodic", "periodic"]}}
    with pytest.raises(DataError, match=r"nothing says where it closes; .*If the last point repeats the first"):
        mapped(tmp_path, path, space={"x": {"array": "x"}}, **periodic)
    assert mapped(tmp_path, path, space={"x": {"array": "x", "points": "left"}}, **periodic).extents == ((0, 33 / 32),)


def test_an_offset_may_move_the_origin(tmp_path):
    stored = np.arange(96, dtype=np.int16).reshape(3, 4, 8)
    path = write_arrays(tmp_path / "mine.hdf5", {"u": stored})
    with h5py.File(path, "a") as file:
        file["u"].attrs.update(scale_factor=0.5, add_offset=273.15)
    field = PLAIN["fields"][0]
    for changes, message in (
        ({}, r"scale: .* is packed, with scale 0.5"),
        ({"scale": 0.5}, r"offset: .* is packed, with offset 273.15, and the mapping has none"),
    ):
        with pytest.raises(DataError, match=message):
            mapped(tmp_path, path, fields=[field | changes])
    assert mapped(tmp_path, path, fields=[field | {"scale": 0.5, "offset": 273.15}]).notes == ()
    source = mapped(tmp_path, path, fields=[field | {"scale": 0.5, "offset": 0}])
    assert source.notes == (
        "the offset of u is 0 by the mapping, in place of the file's 273.15: it is stored moved by -273.15",
    )
    with source.contents.open() as read:
        np.testing.assert_array_equal(read(0, 1, range(4)), stored[1] * 0.5)


def test_chunks_of_zarr_that_are_not_there(tmp_path):
    zarr = pytest.importorskip("zarr", reason="needs the package zarr")
    path = tmp_path / "mine.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    array = group.create_array("u", shape=(3, 4, 8), chunks=(1, 4, 8), dtype="f4", fill_value=0)
    array[:] = 1
    assert mapped(tmp_path, path).notes == ()
    (path / "u" / "1.0.0").unlink()
    (note,) = mapped(tmp_path, path).notes
    assert note.startswith("1 of the 3 chunks of u are not there and read as 0.0, as Zarr has it of chunks")
    described = json.loads((path / "u" / ".zarray").read_text())
    (path / "u" / ".zarray").write_text(json.dumps(described | {"fill_value": None}))
    with pytest.raises(DataError, match="1 of the 3 chunks of u are not there, and it has no fill value"):
        mapped(tmp_path, path)


SQUARE = {
    "fields": [{"name": "u", "unit": "K", "array": "u", "axes": ["t", "x", "y"]}],
    "time": {"array": "when", "unit_s": 1},
    "space": {"x": {"array": "lon"}, "y": {"array": "lat"}},
    "boundaries": {"x": ["wall", "wall"], "y": ["wall", "wall"]},
}


def square_hdf5(path):
    with h5py.File(path, "w") as file:
        file["u"] = numbers(8, 6, 6)
        for number, (name, size) in enumerate((("when", 8), ("lat", 6), ("lon", 6))):
            file[name] = np.arange(float(size))
            file[name].make_scale(name)
            file["u"].dims[number].attach_scale(file[name])
    return path


def square_netcdf3(path):
    with scipy.io.netcdf_file(path, "w") as file:
        for name, size in (("when", 8), ("lat", 6), ("lon", 6)):
            file.createDimension(name, size)
            file.createVariable(name, "f8", (name,))[:] = np.arange(size)
        file.createVariable("u", "f8", ("when", "lat", "lon"))[:] = numbers(8, 6, 6)
    return path


def square_zarr(path):
    zarr = pytest.importorskip("zarr", reason="needs the package zarr")
    group = zarr.open_group(path, mode="w", zarr_format=3)
    for name, size in (("when", 8), ("lat", 6), ("lon", 6)):
        group.create_array(name, data=np.arange(float(size)))
    group.create_array("u", data=numbers(8, 6, 6), dimension_names=("when", "lat", "lon"))
    return path


@pytest.mark.parametrize(
    ("write", "name"), [(square_hdf5, "a.hdf5"), (square_netcdf3, "a.nc"), (square_zarr, "a.zarr")]
)
def test_axes_that_the_file_names_otherwise_are_refused_also_on_a_square_grid(tmp_path, write, name):
    path = write(tmp_path / name)
    said = (
        r"\[t, x, y\], but the file says that the axes of u .* are \[when, lat, lon\], which is \[t, y, x\]; write that"
    )
    with pytest.raises(DataError, match=said):
        mapped(tmp_path, path, **SQUARE)
    field = SQUARE["fields"][0] | {"axes": ["t", "y", "x"]}
    assert mapped(tmp_path, path, **SQUARE | {"fields": [field]}).grid == (6, 6)


def test_a_unit_that_the_file_says_otherwise(tmp_path):
    path = square_hdf5(tmp_path / "a.hdf5")
    fields = [SQUARE["fields"][0] | {"axes": ["t", "y", "x"]}]
    with h5py.File(path, "a") as file:
        file["u"].attrs["units"] = "degC"
    assert mapped(tmp_path, path, **SQUARE | {"fields": fields}).notes == (
        "u is in K by the mapping; the file says 'degC'",
    )
    with h5py.File(path, "a") as file:
        file["u"].attrs["units"] = "K"
    assert mapped(tmp_path, path, **SQUARE | {"fields": fields}).notes == ()


@pytest.mark.parametrize(("dtype", "fill"), [("i2", 0.5), ("i2", 99_999), ("u1", -1)])
def test_a_fill_that_no_number_of_the_array_is(tmp_path, dtype, fill):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:  # of which a half was never written
        file.create_dataset("u", (12, 5, 8), dtype, chunks=(6, 5, 8))[:6] = 9
    field = PLAIN["fields"][0] | {"fill": fill}
    with pytest.raises(DataError, match=r"were ever written|which no number of the array u .* is"):
        mapped(tmp_path, path, fields=[field], mask="fill")
    with h5py.File(path, "a") as file:
        file["u"][6:] = 1
    with pytest.raises(DataError, match=r"fields\[0\].fill: found .*, which no number of the array u .* is"):
        mapped(tmp_path, path, fields=[field], mask="fill")


def test_a_range_that_may_be_of_unpacked_numbers(tmp_path):
    path = write_arrays(tmp_path / "mine.hdf5", {"u": np.full((3, 4, 8), 1500, np.int16)})
    with h5py.File(path, "a") as file:
        file["u"].attrs.update(scale_factor=0.01, valid_range=np.array([-2.0, 40.0]))
    field = PLAIN["fields"][0] | {"scale": 0.01}
    with pytest.raises(DataError, match=r"may be of the stored numbers or of the unpacked ones"):
        mapped(tmp_path, path, fields=[field])
    assert mapped(tmp_path, path, fields=[field | {"valid": None}]).num_trajectories == 3


def test_chunks_that_are_unpacked_again_and_again(tmp_path, monkeypatch):
    u = numbers(40, 6, 32)
    path = write_chunked(tmp_path / "1D_Advection_beta1.hdf5", u, (40, 1, 32))
    assert inspect(path, "pdebench").notes == ()
    monkeypatch.setattr(blocks, "KEPT_BYTES", 4 * u[0].nbytes)  # of four trajectories
    (note,) = inspect(path, "pdebench").notes
    assert note.startswith(
        "the chunks of tensor, 40x1x32, are unpacked about 10 times each, which is slow; in chunks of"
    )
    assert "h5repack -l tensor:CHUNK=1x1x32" in note
