"""Layouts against the arrays that the files were made from."""

import h5py
import numpy as np
import pytest
from synthetic import COUNTS, DT, NUM_FRAMES, centres, waves, write_arrays, write_groups

from ups_scale.data.layouts import inspect_pdebench, open_hdf5
from ups_scale.errors import DataError


def read_all(source):
    with open_hdf5(source.path) as file:
        return np.stack([source.read(file, n) for n in range(len(source.parameters_np))])


@pytest.mark.parametrize(
    ("family", "kind", "fields", "grid"),
    [
        ("advection_1d", "tensor", ("u",), (32,)),
        ("navier_stokes_2d", "fields", ("vorticity",), (16, 16)),
        ("reaction_diffusion_2d", "groups", ("activator", "inhibitor"), (16, 16)),
    ],
)
def test_containers_give_fields_frames_and_axes(sources, family, kind, fields, grid):
    written = sources[family, "train"]
    source = inspect_pdebench(written.path)
    assert (source.kind, source.fields, source.grid, source.num_frames) == (kind, fields, grid, NUM_FRAMES)
    assert source.splits == {"train": range(COUNTS["train"])}
    assert source.dt == pytest.approx(DT)
    u_nctx = read_all(source)
    assert u_nctx.dtype == np.float32
    np.testing.assert_array_equal(u_nctx, written.u_nctx)
    by_name = {name.lower(): values for name, values in written.parameters.items()}
    for column, name in enumerate(source.family.parameters):
        np.testing.assert_array_equal(source.parameters_np[:, column], by_name[name])


def test_axes_of_a_grid_that_is_not_square(tmp_path):
    u_nctx = waves(10, 1, 3, (4, 6), seed=0)
    path = write_arrays(tmp_path / "a.hdf5", ("vorticity",), u_nctx, {}, {"family": "navier_stokes_2d"}).path
    np.testing.assert_array_equal(read_all(inspect_pdebench(path)), u_nctx)
    u_nctx = waves(10, 2, 3, (4, 6), seed=1)
    path = write_groups(tmp_path / "b.h5", u_nctx, {}, {"family": "reaction_diffusion_2d"}).path
    np.testing.assert_array_equal(read_all(inspect_pdebench(path)), u_nctx)


def test_float64_and_integer_arrays_become_float32(tmp_path):
    path = tmp_path / "a.hdf5"
    u_nctx = waves(10, 1, 4, (8,), seed=0).astype(np.float64) * 1.000000001
    write_arrays(path, ("tensor",), u_nctx, {}, {"family": "advection_1d"})
    np.testing.assert_array_equal(read_all(inspect_pdebench(path)), u_nctx.astype(np.float32))


def test_cell_centred_points_give_the_extents_of_the_domain(sources):
    assert inspect_pdebench(sources["advection_1d", "train"].path).extents == (pytest.approx((0.0, 1.0)),)
    for pair in inspect_pdebench(sources["reaction_diffusion_2d", "train"].path).extents:
        assert pair == pytest.approx((-1.0, 1.0))


def test_stated_extents_and_boundary_win(tmp_path):
    said = {"family": "advection_1d", "extents": "[[0, 2]]", "boundary": "wall"}
    path = write_arrays(tmp_path / "a.hdf5", ("tensor",), waves(10, 1, 3, (8,), 0), {}, said).path
    source = inspect_pdebench(path)
    assert source.extents == ((0.0, 2.0),)
    assert source.boundary == "wall"


def test_float32_axes_of_many_points_are_even(tmp_path):
    path = write_arrays(
        tmp_path / "a.hdf5", ("tensor",), waves(10, 1, 3, (4096,), 0), {}, {"family": "burgers_1d"}
    ).path
    with h5py.File(path, "a") as file:
        del file["x-coordinate"], file["t-coordinate"]
        file["x-coordinate"] = centres(4096, -1, 1).astype(np.float32)
        file["t-coordinate"] = (100 + 0.01 * np.arange(4)).astype(np.float32)
    source = inspect_pdebench(path)
    assert source.dt == pytest.approx(0.01, rel=1e-3)
    assert source.extents[0] == pytest.approx((-1, 1), abs=1e-5)


@pytest.mark.parametrize("extra", [0, 1])
def test_time_axis_may_have_one_entry_more_than_frames(tmp_path, extra):
    path = write_arrays(tmp_path / "a.hdf5", ("tensor",), waves(10, 1, 5, (8,), 0), {}, {"family": "advection_1d"}).path
    with h5py.File(path, "a") as file:
        del file["t-coordinate"]
        file["t-coordinate"] = np.append(0.1 * np.arange(5), [9.0] * extra)  # the last entry is no frame's time
    source = inspect_pdebench(path)
    assert source.num_frames == 5
    assert source.dt == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "family", "parameter", "value"),
    [
        ("1D_Burgers_Sols_Nu0.001.hdf5", "burgers_1d", "nu", 0.001),
        ("1D_Advection_Sols_beta0.4.hdf5", "advection_1d", "beta", 0.4),
        ("1D_Burgers_Sols_Nu1.0.hdf5", "burgers_1d", "nu", 1.0),
    ],
)
@pytest.mark.parametrize("stated", [False, True])
def test_family_and_parameter_from_pdebench_names(tmp_path, name, family, parameter, value, stated):
    path = write_arrays(tmp_path / name, ("tensor",), waves(20, 1, 4, (8,), 0), {}, {}).path
    source = inspect_pdebench(path, family if stated else None)
    assert source.family.name == family
    np.testing.assert_array_equal(source.parameters_np[:, 0], value)
    np.testing.assert_array_equal(inspect_pdebench(path, None, {parameter: 7.0}).parameters_np[:, 0], 7.0)


def test_reaction_diffusion_by_name_and_config(tmp_path):
    u_nctx = waves(10, 2, 3, (4, 4), 0)
    path = write_groups(tmp_path / "2D_diff-react_NA_NA.h5", u_nctx, {"Du": np.arange(10.0)}, {}).path
    source = inspect_pdebench(path)
    assert source.family.name == "reaction_diffusion_2d"
    np.testing.assert_array_equal(source.parameters_np[:, 0], np.arange(10.0))
    assert np.isnan(source.parameters_np[:, 1:]).all()  # not stated


def test_yaml_numbers_in_scientific_notation(tmp_path):
    path = write_groups(tmp_path / "2D_diff-react.h5", waves(10, 2, 3, (4, 4), 0), {}, {}).path
    with h5py.File(path, "a") as file:
        for group in file.values():
            group.attrs["config"] = np.bytes_("sim: {Du: 1e-3, 5: x}")  # YAML reads 1e-3 as text
    assert (inspect_pdebench(path).parameters_np[:, 0] == 1e-3).all()


@pytest.mark.parametrize("num", [10, 15, 100])
def test_pdebench_splits(tmp_path, num):
    tenth = num // 10
    tensor = write_arrays(tmp_path / "1D_Advection_beta1.0.hdf5", ("tensor",), waves(num, 1, 2, (4,), 0), {}, {})
    groups = write_groups(tmp_path / "2D_diff-react_NA.h5", waves(num, 2, 2, (4, 4), 0), {}, {})
    first, last = inspect_pdebench(tensor.path).splits, inspect_pdebench(groups.path).splits
    assert first["test"] == range(tenth)
    assert last["test"] == range(num - tenth, num)
    for splits in (first, last):
        assert len(splits["valid"]) == tenth
        assert sorted(n for part in splits.values() for n in part) == list(range(num))  # none twice, none lost


def alter(path, change):
    with h5py.File(path, "a") as file:
        change(file)


def replace(name, values):
    def change(file):
        del file[name]
        if values is not None:
            file[name] = values

    return change


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


ARRAYS = [
    (replace("t-coordinate", None), "no array `t-coordinate`", "Write it into the file"),
    (replace("x-coordinate", None), "no array `x-coordinate`", "Write it into the file"),
    (
        replace("tensor", None),
        "not PDEBench's layout of advection_1d",
        "`tensor` (N, T, X), or `u` (N, T, X), or a group",
    ),
    (replace("tensor", np.zeros((10, 4))), "found t-coordinate (5,), tensor (10, 4), x-coordinate (8,)", "--family"),
    (replace("tensor", np.zeros((10, 4, 8, 8))), "(10, 4, 8, 8)", "(N, T, X)"),
    (replace("tensor", np.zeros((0, 4, 8))), "(0, 4, 8)", "(N, T, X)"),
    (replace("tensor", np.zeros((10, 4, 8), "S3")), "not PDEBench's layout", "Expected numbers"),
    (replace("tensor", np.zeros((10, 1, 8))), "trajectories of 1 frame", "at least 2"),
    (replace("t-coordinate", [0, 0.1, 0.2, 0.4, 0.5]), "not increasing in even steps", "resample"),
    (replace("t-coordinate", [0, -0.1, -0.2, -0.3, -0.4]), "not increasing in even steps", "resample"),
    (replace("t-coordinate", [0, 0.1, np.nan, 0.3, 0.4]), "not increasing in even steps", "resample"),
    (replace("t-coordinate", np.arange(7.0)), "the time axis has 7 entries for 4 frames", "expected 4, or 5"),
    (replace("x-coordinate", np.arange(8.0) ** 2), "the x axis has 8 coordinates for 8 points", "even steps"),
    (replace("x-coordinate", np.arange(9.0)), "the x axis has 9 coordinates for 8 points", "expected as many"),
    (replace("parameters/beta", np.zeros(3)), "parameters/beta has shape (3,)", "each of 10 trajectories"),
    (attribute("family", "heat"), "unknown family 'heat'", "give --family, one of advection_1d, burgers_1d"),
    (attribute("family", "navier_stokes_2d"), "not PDEBench's layout of navier_stokes_2d", "`vorticity` (N, T, X, Y)"),
    (attribute("split", "dev"), "attribute split is 'dev'", "write one of train, valid, test"),
    (attribute("boundary", "open"), "attribute boundary is 'open'", "write one of periodic"),
    (attribute("extents", "[[1, 0]]"), "attribute extents is '[[1, 0]]'", "[[low, high], ...]"),
    (attribute("extents", "0, 1"), "attribute extents is '0, 1'", "[[low, high], ...]"),
    (
        lambda file: file.attrs.__delitem__("family"),
        "neither an attribute `family` nor the file's name",
        "give --family",
    ),
]


@pytest.mark.parametrize(("change", "found", "remedy"), ARRAYS)
def test_errors_name_the_file_what_was_found_and_what_to_do(tmp_path, change, found, remedy):
    u_nctx = waves(10, 1, 4, (8,), 0)
    path = tmp_path / "mine.hdf5"
    write_arrays(path, ("tensor",), u_nctx, {"beta": np.ones(10)}, {"family": "advection_1d"})
    alter(path, change)
    with pytest.raises(DataError) as error:
        inspect_pdebench(path)
    for part in (str(path), found, remedy):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("change", "found", "remedy"),
    [
        (replace("0003/data", np.zeros((3, 4, 5, 2))), "0003/data (3, 4, 5, 2)", "(T, X, Y, 2)"),
        (replace("0003/data", None), "group 0003 without data", "(T, X, Y, 2)"),
        (replace("0003/grid/t", [0, 1, 2.0]), "group 0003 has another t axis than group 0000", "a file of its own"),
        (replace("0003/grid/y", None), "no array `0003/grid/y`", "Write it into the file"),
        (lambda file: file["0003"].attrs.__setitem__("config", "sim: ["), "group /0003", "expected YAML"),
        (lambda file: file["0003"].attrs.__setitem__("config", "sim: {Du: x}"), "group /0003: du", "sim: {du: 0.001}"),
    ],
)
def test_errors_in_groups(tmp_path, change, found, remedy):
    path = tmp_path / "mine.h5"
    write_groups(path, waves(10, 2, 3, (4, 4), 0), {"Du": np.ones(10)}, {"family": "reaction_diffusion_2d"})
    alter(path, change)
    with pytest.raises(DataError) as error:
        inspect_pdebench(path)
    for part in (str(path), found, remedy):
        assert part in str(error.value)


def test_unknown_parameter(sources):
    with pytest.raises(DataError, match=r"advection_1d has no parameter nu; --parameter can set beta"):
        inspect_pdebench(sources["advection_1d", "train"].path, None, {"nu": 1.0})


def test_too_few_trajectories_for_tenths(tmp_path):
    path = write_arrays(tmp_path / "1D_Advection_beta1.0.hdf5", ("tensor",), waves(9, 1, 2, (4,), 0), {}, {}).path
    with pytest.raises(DataError, match=r"9 trajectories can't be split in tenths; write the attribute `split`"):
        inspect_pdebench(path)


def test_missing_and_foreign_files(tmp_path, sources):
    with pytest.raises(DataError, match=r"absent\.hdf5: no such file; check the path"):
        inspect_pdebench(tmp_path / "absent.hdf5")
    text = tmp_path / "text.hdf5"
    text.write_text("no HDF5")
    with pytest.raises(DataError, match=r"text\.hdf5: not a readable HDF5 file .*; if it was downloaded or copied"):
        inspect_pdebench(text)
    half = tmp_path / "half.hdf5"
    whole = sources["navier_stokes_2d", "train"].path.read_bytes()
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"half\.hdf5: not a readable HDF5 file \(.*truncated"):
        inspect_pdebench(half)
