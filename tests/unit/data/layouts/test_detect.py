"""Recognising layouts, refusing the rest with a mapping that would settle it, and finding inputs in folders."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from pdebench_files import numbers, read_whole, write_arrays, write_darcy, write_groups, write_incompressible
from well_files import add_field, write_well

from ups_scale.data.layouts import input_files, inspect, recognise
from ups_scale.errors import DataError


def refusal(path, *args) -> str:
    with pytest.raises(DataError) as error:
        recognise(path, *args)
    assert str(path) in str(error.value)
    return str(error.value)


def draft_in(message: str) -> dict:
    return json.loads(message[message.index("\n{") :])


@pytest.mark.parametrize(
    ("make", "family", "why"),
    [
        (
            lambda folder: write_arrays(folder / "1D_Burgers_Sols_Nu0.1.hdf5", {"tensor": numbers(10, 3, 8)}),
            "burgers_1d",
            "it is named as PDEBench names burgers_1d; it has an array per field",
        ),
        (
            lambda folder: write_groups(folder / "2D_rdb_NA_NA.h5", numbers(10, 3, 4, 4, 1)),
            "shallow_water_2d",
            "it is named as PDEBench names shallow_water_2d; it has 10 groups with `data`",
        ),
        (
            lambda folder: write_arrays(
                folder / "a.hdf5", {"vorticity": numbers(9, 3, 4, 4)}, {"family": "navier_stokes_2d", "split": "test"}
            ),
            "navier_stokes_2d",
            "its attribute family is 'navier_stokes_2d'",
        ),
        (
            lambda folder: write_darcy(folder / "a.hdf5", numbers(10, 4, 4), numbers(10, 4, 4)),
            "darcy_2d",
            "it holds tensor (N, 1, X, Y) and nu (N, X, Y)",
        ),
        (
            lambda folder: write_incompressible(folder / "a.h5", num=10),
            "incompressible_ns_2d",
            "it holds velocity, particles, force, t",
        ),
    ],
)
def test_pdebench_by_attribute_name_or_arrays(tmp_path, make, family, why):
    path = make(tmp_path)
    recognised = recognise(path)
    assert recognised.layout == "pdebench"
    assert f"{path}: PDEBench's layout of {family}: {why}" in recognised.why
    assert inspect(path, "auto").family == family


def test_the_well_by_its_attributes_and_groups(tmp_path):
    path = write_well(tmp_path / "train" / "a.h5")
    with h5py.File(path, "a") as file:
        add_field(file, 0, "density", numbers(3, 5, 6, 4))
    assert recognise(path).layout == "the_well"
    assert "root attributes and groups (dataset_name, t0_fields, ...)" in recognise(path).why
    assert inspect(path, "auto").layout == "the_well"


def test_a_family_settles_what_a_file_does_not_say(tmp_path):
    path = write_arrays(tmp_path / "mine.hdf5", {"tensor": numbers(10, 4, 8)})
    said = refusal(path)
    for part in (
        "it has nothing of The Well's layout",
        "PDEBench's layout needs a family",
        "give --layout pdebench --family NAME",
        "  tensor (10, 4, 8) float32",
    ):
        assert part in said
    assert recognise(path, "advection_1d").layout == "pdebench"
    assert inspect(path, "auto", family="advection_1d").family == "advection_1d"
    assert "not PDEBench's layout of darcy_2d" in refusal(path, "darcy_2d")


def test_a_name_alone_is_not_enough(tmp_path):
    path = write_arrays(tmp_path / "1D_Burgers_Sols_Nu0.1.hdf5", {"velocity": numbers(10, 4, 8)})
    said = refusal(path)
    assert "for PDEBench's layout: not PDEBench's layout of burgers_1d. Expected numbers in `tensor` (N, T, X)" in said


def test_what_lacks_a_part_of_the_well_is_told_which(tmp_path):
    path = write_well(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        del file.attrs["grid_type"], file["t0_fields"]
    assert "for The Well's layout it lacks @grid_type, t0_fields" in refusal(path)


def test_a_file_that_fits_both_is_ambiguous(tmp_path):
    path = write_well(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file["tensor"] = numbers(10, 5, 6)
        file.attrs["family"] = "advection_1d"
    said = refusal(path)
    assert "it fits the_well" in said
    assert "it fits pdebench" in said
    assert "give --layout the_well or pdebench" in said


def write_ocean(path):
    """As netCDF-4 has it: coordinates attached to the axes, units, packed numbers."""
    sst = (100 * numbers(6, 4, 5)).astype(np.int16)
    sst[:, 0, 0] = -32768
    with h5py.File(path, "w") as file:
        file["time"] = np.arange(6.0)
        file["time"].attrs["units"] = "hours since 2010-01-01"
        file["latitude"] = np.linspace(-60, 60, 4)
        file["longitude"] = np.linspace(0, 288, 5)
        file["sst"] = sst
        file["sst"].attrs.update({"units": "K", "_FillValue": np.int16(-32768), "scale_factor": 0.01})
        for number, name in enumerate(("time", "latitude", "longitude")):
            file[name].make_scale(name)
            file["sst"].dims[number].attach_scale(file[name])
    return sst


def test_the_mapping_that_would_settle_it(tmp_path):
    path = tmp_path / "ocean.nc"
    sst = write_ocean(path)
    draft = draft_in(refusal(path))
    assert draft == {
        "format": 1,
        "family": "?",
        "fields": [
            {"name": "sst", "unit": "K", "array": "sst", "axes": ["t", "y", "x"], "fill": -32768, "scale": 0.01}
        ],
        "time": {"array": "time", "unit_s": 3600},
        "space": {"x": {"array": "longitude", "points": "?"}, "y": {"array": "latitude", "points": "?"}},
        "boundaries": {"x": ["?", "?"], "y": ["?", "?"]},
        "mask": "fill",
    }
    draft["family"] = "sst"
    draft["boundaries"] = {"x": ["periodic", "periodic"], "y": ["wall", "wall"]}
    for axis in draft["space"].values():
        axis["points"] = "centres"
    mapping = tmp_path / "ocean.json"
    mapping.write_text(json.dumps(draft))
    source = inspect(path, str(mapping))
    assert (source.family, source.num_trajectories, source.num_frames) == ("sst", 1, 6)
    found = read_whole(source)["sst"][0]
    expected = np.where(sst == -32768, np.nan, 0.01 * sst)
    # The mapping decides the order of the axes: x first, as everywhere.
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, 2), rtol=1e-6)
    split = inspect(path, str(mapping), split="time").splits
    assert split["train"].tolist() == [[0, 0, 5]]


def test_what_a_file_does_not_tell_is_marked(tmp_path):
    path = tmp_path / "square.hdf5"
    with h5py.File(path, "w") as file:
        file["u"] = numbers(3, 8, 8, 8)
        file["x"] = np.arange(8.0)
        file["label"] = np.array([b"a", b"b"])
    said = refusal(path)
    draft = draft_in(said)
    assert draft["fields"] == [{"name": "u", "unit": "?", "array": "u", "axes": ["?"] * 4}]
    assert draft["time"] == {"dt": "?"}
    assert draft["space"] == {"x": {"array": "x", "points": "?"}}


def test_inputs_that_are_no_hdf5(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, u=numbers(3, 4, 5), x=np.arange(5.0))
    said = refusal(path)
    assert "both are HDF5 files, and this is none" in said
    assert draft_in(said)["fields"] == [{"name": "u", "unit": "?", "array": "u", "axes": ["?", "?", "x"]}]
    text = tmp_path / "notes.txt"
    text.write_text("nothing")
    assert "neither HDF5, netCDF, Zarr, MATLAB v5 or v7.3, nor npz" in refusal(text)
    assert "no such file; check the path" in refusal(tmp_path / "absent.h5")
    assert "no such file; check the path" in refusal(tmp_path / "absent.npz")


def test_circles_of_groups_end(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["group/u"] = numbers(3, 4)
        file["group/again"] = file["group"]
        file["group/root"] = file["/"]
        file["soft"] = h5py.SoftLink("/soft")
        file["out"] = h5py.ExternalLink("elsewhere.h5", "/u")
    assert "group/u (3, 4) float32" in refusal(path)


def test_many_arrays_are_cut_short(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for number in range(60):
            file[f"u{number:02d}"] = numbers(2, 3)
    said = refusal(path)
    assert "and 20 more" in said
    assert len(draft_in(said)["fields"]) == 12


def test_unknown_layouts(tmp_path):
    path = write_arrays(tmp_path / "1D_Burgers_Nu0.1.hdf5", {"tensor": numbers(10, 3, 8)})
    with pytest.raises(DataError, match=r"--layout pdbench: unknown; give auto, pdebench, the_well or a mapping file"):
        inspect(path, "pdbench")


# Inputs.


def test_folders_are_searched_to_all_depths(tmp_path):
    for name in (
        "data/train/a.hdf5",
        "data/test/b.hdf5",
        "c.h5",
        "d.nc",
        "e.MAT",
        "f.npz",
        "README.md",
        ".g.h5",
        ".h/i.h5",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for mark in ("s.zarr/x/c.h5", "t/zarr.json", "t/k.h5", "u/.zgroup", "v/.zarray"):
        (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / mark).touch()
    (tmp_path / "data" / "again").symlink_to(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in input_files([tmp_path])]
    assert found == ["c.h5", "d.nc", "data/test/b.hdf5", "data/train/a.hdf5", "e.MAT", "f.npz", "s.zarr", "t", "u", "v"]
    # Each once, though it is named twice; a file may have any suffix if it is named itself.
    named = [tmp_path / "README.md", tmp_path / "c.h5", tmp_path / "data" / ".." / "c.h5", tmp_path / "s.zarr"]
    assert input_files(named) == [tmp_path / "README.md", tmp_path / "c.h5", tmp_path / "s.zarr"]


def test_files_that_are_passed_over_are_told(tmp_path):
    for name in ("a.h5", "b.nc4", "old.cdf", "new.grib", "README.md", ".hidden"):
        (tmp_path / name).write_text("")
    notes = []
    assert [path.name for path in input_files([tmp_path], notes.append)] == ["a.h5", "b.nc4"]
    assert notes == [f"{tmp_path}: 2 files are passed over for the ending, such as {tmp_path / 'new.grib'}"]


def test_a_folder_that_can_not_be_read_is_named(tmp_path, monkeypatch):
    def fail(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", fail)
    with pytest.raises(DataError, match=r"can't be looked into \(Permission denied\); ask its owner"):
        input_files([tmp_path])


def test_missing_and_empty_inputs_are_all_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        input_files([tmp_path / "absent", tmp_path / "empty"])
    assert f"{tmp_path / 'absent'}: no such file or folder" in str(error.value)
    assert f"{tmp_path / 'empty'}: no input in this folder; expected .hdf5, .h5, .he5, .nc, .nc4, .mat, .npz" in str(
        error.value
    )
    with pytest.raises(DataError, match="no input given; name files or folders"):
        input_files([])
