"""What is no error but said: a caller's word against the file's, chunks that are not there, splits that are guesses."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from pdebench_files import numbers, write_arrays, write_incompressible
from well_files import add_field, write_well

from ups_scale.data.layouts import inspect
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
    assert mapped(tmp_path, data, family="navier_stokes_3d").notes == ()


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
