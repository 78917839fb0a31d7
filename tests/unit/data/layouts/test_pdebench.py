"""PDEBench's layout against the arrays that the files were made from."""

import pickle

import h5py
import numpy as np
import pytest
from pdebench_files import (
    DT,
    centres,
    numbers,
    read_whole,
    write_arrays,
    write_chunked,
    write_darcy,
    write_groups,
    write_incompressible,
)

from ups_scale.data.layouts import blocks, inspect
from ups_scale.data.layouts.pdebench import inspect_pdebench
from ups_scale.errors import DataError

PERIODIC, OPEN = ("periodic", "periodic"), ("open", "open")


def refusal(path, *args) -> str:
    with pytest.raises(DataError) as error:
        inspect_pdebench(path, *args)
    assert str(path) in str(error.value)
    return str(error.value)


def rows(splits) -> dict[str, list[int]]:
    return {split: part[:, 0].tolist() for split, part in splits.items()}


# Every family under the names that PDEBench publishes.


@pytest.mark.parametrize(
    ("name", "family", "parameters"),
    [
        ("1D_Advection_Sols_beta0.4.hdf5", "advection_1d", {"beta": 0.4}),
        ("1D_Burgers_Sols_Nu0.001.hdf5", "burgers_1d", {"nu": 0.001}),
        ("1D_Burgers_Sols_Nu4.0.hdf5", "burgers_1d", {"nu": 4.0}),
        ("ReacDiff_Nu0.5_Rho10.0.hdf5", "reaction_diffusion_1d", {"nu": 0.5, "rho": 10.0}),
        ("ReacDiff_react_Nu2.0_Rho5.0.hdf5", "reaction_diffusion_1d", {"nu": 2.0, "rho": 5.0}),
    ],
)
def test_one_field_in_one_dimension(tmp_path, name, family, parameters):
    u_ntx = numbers(20, 4, 8)
    source = inspect_pdebench(write_arrays(tmp_path / name, {"tensor": u_ntx}))
    assert (source.layout, source.family, source.grid, source.num_frames) == ("pdebench", family, (8,), 4)
    assert source.parameters == tuple(parameters)
    np.testing.assert_array_equal(source.parameters_np, np.tile(list(parameters.values()), (20, 1)))
    np.testing.assert_allclose(source.times_nt, np.tile(DT * np.arange(4), (20, 1)))
    assert source.extents == (pytest.approx((0.0, 1.0), abs=1e-6),)
    assert source.boundaries == (PERIODIC,)
    assert not source.masked
    assert not source.steady
    np.testing.assert_array_equal(read_whole(source)["u"], u_ntx)


@pytest.mark.parametrize(
    ("name", "grid", "sides", "parameters"),
    [
        ("1D_CFD_Rand_Eta1.e-8_Zeta1.e-8_periodic_Train.hdf5", (8,), PERIODIC, (np.nan, 1e-8, 1e-8)),
        ("1D_CFD_Shock_Eta0.01_Zeta0.1_trans_Train.hdf5", (8,), OPEN, (np.nan, 0.01, 0.1)),
        ("2D_CFD_Rand_M0.1_Eta0.01_Zeta0.02_periodic_128_Train.hdf5", (8, 6), PERIODIC, (0.1, 0.01, 0.02)),
        ("2D_CFD_Turb_M1.0_Eta1e-08_Zeta1e-08_periodic_512_Train.hdf5", (8, 6), PERIODIC, (1.0, 1e-8, 1e-8)),
        ("2D_CFD_Rand_Eta1e-08_Zeta1e-08_M1.0_periodic_Train.hdf5", (8, 6), PERIODIC, (1.0, 1e-8, 1e-8)),
        ("3D_CFD_Rand_M1.0_Eta1e-08_Zeta1e-08_periodic_Train.hdf5", (4, 3, 2), PERIODIC, (1.0, 1e-8, 1e-8)),
    ],
)
def test_compressible_flow(tmp_path, name, grid, sides, parameters):
    names = ("density", "pressure", "Vx", "Vy", "Vz")[: 2 + len(grid)]
    arrays = {array: numbers(10, 3, *grid, seed=seed) for seed, array in enumerate(names)}
    source = inspect_pdebench(write_arrays(tmp_path / name, arrays))
    assert source.family == f"compressible_flow_{len(grid)}d"
    assert source.grid == grid
    assert source.boundaries == (sides,) * len(grid)
    np.testing.assert_array_equal(source.parameters_np, np.tile(parameters, (10, 1)))
    found = read_whole(source)
    assert list(found) == ["density", "pressure", *(f"velocity_{axis}" for axis in "xyz"[: len(grid)])]
    for values, written in zip(found.values(), arrays.values(), strict=True):
        np.testing.assert_array_equal(values, written)


def test_flow_known_by_its_arrays_must_state_its_boundaries(tmp_path):
    arrays = {name: numbers(10, 3, 8) for name in ("density", "pressure", "Vx")}
    path = write_arrays(tmp_path / "Sod1.hdf5", arrays)
    said = refusal(path)
    for part in ("nothing states the boundaries", "_periodic_ or _trans_", "Write the attribute `boundary`"):
        assert part in said
    with h5py.File(path, "a") as file:
        file.attrs["boundary"] = "open"
    source = inspect_pdebench(path)
    assert (source.family, source.boundaries) == ("compressible_flow_1d", (OPEN,))


@pytest.mark.parametrize(
    ("name", "family", "fields", "grid", "config", "parameters", "sides"),
    [
        (
            "1D_diff-sorp_NA_NA.h5",
            "diffusion_sorption_1d",
            ("u",),
            (16,),
            {"D": "5E-4", "por": 0.29},  # YAML takes 5E-4 for text
            (5e-4,),
            (("dirichlet", "robin"),),
        ),
        (
            "2D_diff-react_NA_NA.h5",
            "reaction_diffusion_2d",
            ("activator", "inhibitor"),
            (6, 4),
            {"Du": 1e-3, "Dv": 5e-3, "k": 5e-3},
            (1e-3, 5e-3, 5e-3),
            (("neumann", "neumann"),) * 2,
        ),
        (
            "2D_rdb_NA_NA.h5",
            "shallow_water_2d",
            ("height",),
            (6, 4),
            {"T_end": 1.0, "gravity": 1.0},
            (),
            (("neumann", "neumann"),) * 2,
        ),
    ],
)
@pytest.mark.parametrize("at_the_root", [False, True])
def test_a_group_per_trajectory(tmp_path, name, family, fields, grid, config, parameters, sides, at_the_root):
    u_ntxc = numbers(10, 3, *grid, len(fields))
    path = write_groups(tmp_path / name, u_ntxc, config)
    if at_the_root:  # as its generator for diffusion-sorption writes them
        with h5py.File(path, "a") as file:
            for group in list(file):
                file.attrs[f"{group}/config"] = file[group].attrs.pop("config")
    source = inspect_pdebench(path)
    assert (source.family, source.grid, source.num_frames, source.boundaries) == (family, grid, 3, sides)
    np.testing.assert_array_equal(source.parameters_np, np.tile(parameters, (10, 1)))
    assert source.extents == ((pytest.approx(-1.0, abs=1e-6), pytest.approx(1.0, abs=1e-6)),) * len(grid)
    found = read_whole(source)
    assert tuple(found) == fields
    for number, values in enumerate(found.values()):
        np.testing.assert_array_equal(values, u_ntxc[..., number])


def test_darcy_is_steady_and_its_permeability_given(tmp_path):
    u_nxy, nu_nxy = numbers(10, 6, 4), numbers(10, 6, 4, seed=1)
    source = inspect_pdebench(write_darcy(tmp_path / "2D_DarcyFlow_beta0.01_Train.hdf5", u_nxy, nu_nxy))
    assert (source.family, source.steady, source.grid, source.num_frames) == ("darcy_2d", True, (6, 4), 2)
    assert [(field.name, field.static) for field in source.fields] == [("permeability", True), ("u", False)]
    assert np.isnan(source.times_nt).all()
    np.testing.assert_array_equal(source.parameters_np, 0.01)
    found = read_whole(source)
    np.testing.assert_array_equal(found["permeability"], nu_nxy[:, None])
    np.testing.assert_array_equal(found["u"], np.stack([np.zeros_like(u_nxy), u_nxy], axis=1))
    with source.contents.open() as read:
        np.testing.assert_array_equal(read(1, 3, range(1, 2)), u_nxy[3][None])
    assert source.splits["test"].tolist() == [[0, 0, 2]]
    # Its generator names the file otherwise, and the arrays speak for themselves.
    for name in ("2D_DecayFlow_beta1.0_Train.hdf5", "mine.hdf5"):
        assert inspect_pdebench(write_darcy(tmp_path / name, u_nxy, nu_nxy)).family == "darcy_2d"


def test_incompressible_flow(tmp_path):
    path = write_incompressible(tmp_path / "ns_incom_inhom_2d_512-0.h5")
    source = inspect_pdebench(path)
    assert (source.family, source.grid, source.num_frames) == ("incompressible_ns_2d", (6, 4), 5)
    assert source.extents == ((0.0, 2.0), (0.0, 1.0))  # its configuration's domain_size; it has no coordinates
    np.testing.assert_array_equal(source.parameters_np, np.full((4, 1), 0.01))
    found = read_whole(source)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(source.times_nt, file["t"])  # every trajectory has its own
        np.testing.assert_array_equal(found["velocity_x"], file["velocity"][..., 0])
        np.testing.assert_array_equal(found["velocity_y"], file["velocity"][..., 1])
        np.testing.assert_array_equal(found["particles"], file["particles"][..., 0])
        np.testing.assert_array_equal(found["force_y"], file["force"][..., 1][:, None])
    with h5py.File(path, "a") as file:
        del file.attrs["config"]
    source = inspect_pdebench(path)
    assert source.extents == ((0.0, 1.0), (0.0, 1.0))
    assert np.isnan(source.parameters_np).all()


def test_an_interrupted_run_is_refused(tmp_path):
    """Its generator makes the arrays first and fills them frame by frame: what is missing would read as zeros."""
    path = tmp_path / "ns_incom_inhom_2d_512-0.h5"
    with h5py.File(path, "w") as file:
        for name, shape in (("velocity", (2, 5, 4, 4, 2)), ("particles", (2, 5, 4, 4, 1)), ("force", (2, 4, 4, 2))):
            file.create_dataset(name, shape, "f4", chunks=(1, 1, *shape[2:]), compression="lzf")[:, :2] = 1.0
        file["t"] = np.array([[0, 0.1, 0, 0, 0]] * 2)
    said = refusal(path)
    assert "4 problems" in said
    assert "t goes from 0.1 at frame 1 to 0 at frame 2 (trajectory 0); times must increase" in said
    assert "of /velocity only 4 of 10 chunks were ever written" in said


# What `tools/generate.py` writes.


def test_attributes_describe_generated_files(tmp_path):
    u_ntxy = numbers(3, 4, 6, 4)
    said = {"family": "navier_stokes_2d", "split": "ood_viscous", "extents": "[[0, 2], [0, 1]]", "boundary": "wall"}
    path = write_arrays(tmp_path / "a.hdf5", {"vorticity": u_ntxy}, {**said, "licence": "CC0-1.0"})
    with h5py.File(path, "a") as file:
        file["parameters/nu"] = [1e-3, 2e-3, 3e-3]
    source = inspect_pdebench(path)
    assert rows(source.splits) == {"ood_viscous": [0, 1, 2]}
    assert source.extents == ((0.0, 2.0), (0.0, 1.0))
    assert source.boundaries == (("wall", "wall"),) * 2
    assert source.licence == "CC0-1.0"
    np.testing.assert_array_equal(source.parameters_np[:, 0], [1e-3, 2e-3, 3e-3])
    np.testing.assert_array_equal(read_whole(source)["vorticity"], u_ntxy)
    with h5py.File(path, "a") as file:
        file.attrs["boundary"] = '[["wall", "open"], ["periodic", "periodic"]]'
    assert inspect_pdebench(path).boundaries == (("wall", "open"), PERIODIC)


# Splits.


@pytest.mark.parametrize("num", [10, 15, 100])
def test_test_split_is_the_first_tenth_of_hdf5_and_the_last_of_h5(tmp_path, num):
    tenth = num // 10
    first = rows(
        inspect_pdebench(write_arrays(tmp_path / "1D_Advection_beta1.hdf5", {"tensor": numbers(num, 2, 4)})).splits
    )
    last = rows(inspect_pdebench(write_groups(tmp_path / "2D_rdb.h5", numbers(num, 2, 4, 4, 1))).splits)
    assert first["test"] == list(range(tenth))
    assert first["valid"] == list(range(tenth, 2 * tenth))
    assert last["test"] == list(range(num - tenth, num))
    assert last["valid"] == list(range(num - 2 * tenth, num - tenth))
    for splits in (first, last):
        assert sorted(row for part in splits.values() for row in part) == list(range(num))


def test_too_few_for_tenths_needs_another_split(tmp_path):
    path = write_incompressible(tmp_path / "ns_incom_inhom_2d_512-0.h5")
    with pytest.raises(DataError, match=r"4 trajectories can't be split in tenths.*--split seed:0 or --split time"):
        inspect(path, "pdebench")
    dealt = inspect(path, "pdebench", split="seed:3").splits
    assert sorted(row for part in rows(dealt).values() for row in part) == [0, 1, 2, 3]
    cut = inspect(path, "pdebench", split="time").splits
    assert cut["train"][:, 1:].tolist() == [[0, 4]] * 4
    assert cut["test"][:, 1:].tolist() == [[4, 5]] * 4


def test_unknown_splits_and_steady_ones_in_time(tmp_path):
    path = write_darcy(tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5", numbers(10, 4, 4), numbers(10, 4, 4))
    assert len(inspect(path, "pdebench", split="seed:0").splits["train"]) == 8
    with pytest.raises(DataError, match=r"--split time needs trajectories of at least 3 frames; these have no time"):
        inspect(path, "pdebench", split="time")
    for split in ("seed", "seed:-1", "seed:x", "random"):
        with pytest.raises(DataError, match=rf"--split {split}: unknown; give source, seed:N with a number N, or time"):
            inspect(path, "pdebench", split=split)


# Traps.


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("frames", [1, 5])
def test_time_axis_may_have_one_entry_more_than_frames(tmp_path, frames, extra):
    path = write_arrays(tmp_path / "1D_Advection_beta1.hdf5", {"tensor": numbers(10, frames, 8)})
    with h5py.File(path, "a") as file:
        del file["t-coordinate"]
        file["t-coordinate"] = np.append(0.1 * np.arange(frames), [-9.0] * extra)  # the last is no frame's time
    np.testing.assert_allclose(inspect_pdebench(path).times_nt[0], 0.1 * np.arange(frames))


def test_uneven_times_are_carried(tmp_path):
    path = write_arrays(tmp_path / "1D_Advection_beta1.hdf5", {"tensor": numbers(10, 4, 8)})
    with h5py.File(path, "a") as file:
        file["t-coordinate"][:4] = [0.0, 0.1, 0.5, 0.7]
    np.testing.assert_array_equal(inspect_pdebench(path).times_nt, np.tile([0.0, 0.1, 0.5, 0.7], (10, 1)))


def test_groups_may_have_times_of_their_own(tmp_path):
    path = write_groups(tmp_path / "2D_rdb_NA_NA.h5", numbers(10, 3, 4, 4, 1))
    with h5py.File(path, "a") as file:
        file["0003/grid/t"][:] = [0.0, 1.0, 3.0]
    times_nt = inspect_pdebench(path).times_nt
    np.testing.assert_array_equal(times_nt[3], [0.0, 1.0, 3.0])
    np.testing.assert_allclose(times_nt[2], DT * np.arange(3))


def test_float32_axes_of_many_points_are_even(tmp_path):
    path = write_arrays(tmp_path / "1D_Burgers_Nu0.1.hdf5", {"tensor": numbers(10, 3, 4096)})
    with h5py.File(path, "a") as file:
        file["x-coordinate"][:] = centres(4096, -1, 1).astype(np.float32)
    assert inspect_pdebench(path).extents[0] == pytest.approx((-1, 1), abs=1e-5)


def test_axes_of_a_grid_that_is_not_square(tmp_path):
    u_ntxy = numbers(10, 3, 4, 6)
    source = inspect_pdebench(write_arrays(tmp_path / "a.hdf5", {"vorticity": u_ntxy}, {"family": "navier_stokes_2d"}))
    assert source.grid == (4, 6)
    np.testing.assert_array_equal(read_whole(source)["vorticity"], u_ntxy)


def test_nan_is_no_mask(tmp_path):
    u_ntx = numbers(10, 3, 8)
    u_ntx[0, 0, 0] = np.nan
    source = inspect_pdebench(write_arrays(tmp_path / "1D_Advection_beta1.hdf5", {"tensor": u_ntx}))
    assert not source.masked
    np.testing.assert_array_equal(read_whole(source)["u"], u_ntx)


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2", "<i4", "|u1"])
def test_number_types(tmp_path, dtype):
    u_ntx = (10 * numbers(10, 3, 8)).clip(0).astype(dtype)
    source = inspect_pdebench(write_arrays(tmp_path / "1D_Advection_beta1.hdf5", {"tensor": u_ntx}))
    found = read_whole(source)["u"]
    assert found.dtype.kind == "f"
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, u_ntx)


def test_stated_parameters_win_and_arrays_come_before_names(tmp_path):
    path = write_arrays(tmp_path / "1D_Burgers_Sols_Nu0.001.hdf5", {"tensor": numbers(10, 3, 8)})
    with h5py.File(path, "a") as file:
        file["parameters/nu"] = np.arange(10.0)
    np.testing.assert_array_equal(inspect_pdebench(path).parameters_np[:, 0], np.arange(10.0))
    np.testing.assert_array_equal(inspect_pdebench(path, None, {"nu": 7.0}).parameters_np, 7.0)


def test_attribute_and_name_that_differ(tmp_path):
    path = write_arrays(tmp_path / "1D_Burgers_Sols_Nu0.01.hdf5", {"tensor": numbers(10, 3, 8)}, {"Nu": 0.01})
    np.testing.assert_array_equal(inspect_pdebench(path).parameters_np, 0.01)
    path = path.rename(tmp_path / "1D_Burgers_Sols_Nu0.1.hdf5")
    said = refusal(path)
    for part in ("which nu is it?", "attribute Nu says 0.01", "its name says 0.1", "--parameter nu=VALUE"):
        assert part in said
    np.testing.assert_array_equal(inspect_pdebench(path, None, {"nu": 0.01}).parameters_np, 0.01)


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


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (replace("t-coordinate", None), ("no array `t-coordinate`", "Write it into the file")),
        (replace("x-coordinate", None), ("no array `x-coordinate`", "Write it into the file")),
        (
            replace("tensor", None),
            ("not PDEBench's layout of advection_1d", "`tensor` (N, T, X), or `u` (N, T, X), or a group"),
        ),
        (replace("tensor", np.zeros((10, 4))), ("tensor (10, 4), x-coordinate (8,)", "--layout MAPPING.json")),
        (replace("tensor", np.zeros((1, 10, 4, 8))), ("(1, 10, 4, 8)", "(N, T, X)")),
        (replace("tensor", np.zeros((0, 4, 8))), ("(0, 4, 8)", "(N, T, X)")),
        (replace("tensor", np.zeros((10, 4, 8), "S3")), ("Expected numbers in", "tensor (10, 4, 8) |S3")),
        (replace("tensor", np.zeros((10, 4, 8), "c8")), ("Expected numbers in", "tensor (10, 4, 8) complex64")),
        (
            replace("tensor", np.zeros((10, 8, 4))),
            ("tensor has shape (10, 8, 4), expected (N, T, X)", "lengths T 5 or 4, X 8", "looks like (N, X, T)"),
        ),
        (
            replace("tensor", np.zeros((4, 8, 10))),
            ("expected (N, T, X)", "looks like (T, X, N): transpose it to (N, T, X)"),
        ),
        (replace("tensor", np.zeros((10, 7, 8))), ("T 5 or 4, X 8", "which no order of its axes fits")),
        (replace("t-coordinate", [0, -0.1, -0.2, -0.3, -0.4]), ("t-coordinate goes from 0 at frame 0 to -0.1",)),
        (replace("t-coordinate", [0, 0.1, 0.1, 0.3, 0.4]), ("from 0.1 at frame 1 to 0.1 at frame 2", "must increase")),
        (replace("t-coordinate", [0, 0.1, np.nan, 0.3, 0.4]), ("t-coordinate is nan at frame 2 of trajectory 0",)),
        (
            replace("x-coordinate", [0, 1, 2, 3, 4.5, 5, 6, 7]),
            ("the x axis (x-coordinate) does not increase in even steps", "step 3 (from 3 to 4.5) is 1.5, others 1"),
        ),
        (replace("x-coordinate", 7 - np.arange(8.0)), ("step 0 (from 7 to 6) is -1",)),
        (replace("x-coordinate", [0, 1, np.nan, 3, 4, 5, 6, 7]), ("the x axis (x-coordinate) is nan at point 2",)),
        (replace("parameters/beta", np.zeros(3)), ("parameters/beta has shape (3,)", "each of 10 trajectories")),
        (attribute("family", "heat"), ("unknown family 'heat'", "give --family, one of acoustics_2d, advection_1d")),
        (attribute("family", "navier_stokes_2d"), ("layout of navier_stokes_2d", "`vorticity` (N, T, X, Y)")),
        (attribute("family", "darcy_2d"), ("layout of darcy_2d", "`tensor` (N, 1, X, Y) and `nu` (N, X, Y)")),
        (attribute("family", "incompressible_ns_2d"), ("`velocity` (N, T, X, Y, 2), `particles`",)),
        (attribute("split", "dev"), ("attribute split is 'dev'", "write one of train, valid, test, ood, ood_<name>")),
        (attribute("split", np.bytes_(b"train\xff")), ("attribute split is", "write one of")),
        (attribute("boundary", "porous"), ("attribute boundary is 'porous'", "write one of periodic")),
        (attribute("boundary", '[["wall", "wall"], ["wall", "wall"]]'), ("the low and high side of each of 1 axes",)),
        (attribute("extents", "[[1, 0]]"), ("attribute extents is '[[1, 0]]'", "[[low, high], ...]")),
        (attribute("extents", "0, 1"), ("attribute extents is '0, 1'", "[[low, high], ...]")),
        (
            lambda file: file.attrs.__delitem__("family"),
            ("neither an attribute `family` nor the file's name", "give --family"),
        ),
    ],
)
def test_errors_say_what_was_found_and_what_to_do(tmp_path, change, parts):
    path = write_arrays(tmp_path / "mine.hdf5", {"tensor": numbers(10, 4, 8)}, {"family": "advection_1d"})
    alter(path, lambda file: file.__setitem__("parameters/beta", np.ones(10)))
    alter(path, change)
    said = refusal(path)
    for part in parts:
        assert part in said


def test_all_problems_come_at_once(tmp_path):
    path = write_arrays(tmp_path / "mine.hdf5", {"tensor": numbers(10, 4, 8)}, {"family": "advection_1d", "split": "?"})
    alter(path, replace("x-coordinate", np.arange(8.0) ** 2))
    alter(path, replace("t-coordinate", np.zeros(5)))
    said = refusal(path, None, {"nu": 1.0})
    for part in ("4 problems", "attribute split is '?'", "times must increase", "even steps", "has no parameter nu"):
        assert part in said
    assert said.count(str(path)) == 1


def test_many_damaged_trajectories_are_counted(tmp_path):
    path = write_groups(tmp_path / "2D_rdb_NA_NA.h5", numbers(10, 3, 4, 4, 1))
    alter(path, replace("0001/grid/x", np.arange(4.0)))
    for number in range(1, 10):
        alter(path, replace(f"{number:04d}/data", None))
    said = refusal(path)
    assert "7 problems" in said
    assert "\n  0005/data holds no array of numbers" in said
    assert "\n  and 4 more arrays" in said


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (replace("0003/data", np.zeros((3, 4, 5, 2))), ("0003/data has shape (3, 4, 5, 2)", "(3, 4, 4, 2)")),
        (replace("0003/data", None), ("0003/data holds no array of numbers", "leave the trajectory out")),
        (replace("0003/grid/t", [0, 1.0]), ("0003/grid/t has shape (2,) for 3 frames", "expected 3 entries, or 4")),
        (replace("0003/grid/y", None), ("no array `0003/grid/y`", "found t, x. Write")),
        (replace("0003/grid/y", np.arange(4.0)), ("group 0003 has another y axis than the first, 0000", "its own")),
        (lambda file: file["0003"].attrs.__setitem__("config", "sim: ["), ("0003: du can't be read", "expected YAML")),
        (lambda file: file["0003"].attrs.__setitem__("config", "sim: {Du: x}"), ("0003: du", "`sim: {du: 0.001}`")),
        (lambda file: file["0003"].attrs.__setitem__("config", "[" * 60000), ("too deeply nested",)),
        (lambda file: file["0003"].attrs.__setitem__("config", "a: &a {b: 1}\nc: {<<: *a}"), ("merge keys",)),
    ],
)
def test_errors_in_groups(tmp_path, change, parts):
    config = {"Du": 1e-3, "Dv": 5e-3, "k": 5e-3}
    path = write_groups(tmp_path / "mine.h5", numbers(10, 3, 4, 4, 2), config, {"family": "reaction_diffusion_2d"})
    alter(path, change)
    said = refusal(path)
    for part in parts:
        assert part in said


def test_groups_in_another_order_of_axes(tmp_path):
    path = write_groups(tmp_path / "2D_diff-react_NA_NA.h5", numbers(10, 3, 6, 4, 2))
    for number in range(10):
        alter(path, replace(f"{number:04d}/data", np.zeros((2, 3, 6, 4))))
    said = refusal(path)
    for part in ("0000/data has shape (2, 3, 6, 4), expected (T, X, Y, C)", "this looks like (C, T, X, Y)"):
        assert part in said


def test_arrays_of_different_shapes(tmp_path):
    arrays = {name: numbers(10, 3, 8) for name in ("density", "pressure", "Vx")}
    path = write_arrays(tmp_path / "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5", arrays)
    alter(path, replace("Vx", np.zeros((9, 3, 8))))
    assert "Vx has shape (9, 3, 8), where the first array asks for (10, 3, 8)" in refusal(path)


def test_missing_foreign_and_truncated_files(tmp_path):
    assert "no such file; check the path" in refusal(tmp_path / "absent.hdf5")
    text = tmp_path / "text.hdf5"
    text.write_text("no HDF5")
    assert "not a readable HDF5 file" in refusal(text)
    whole = write_arrays(tmp_path / "1D_Advection_beta1.hdf5", {"tensor": numbers(10, 4, 8)}).read_bytes()
    half = tmp_path / "1D_Advection_beta2.hdf5"
    half.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refusal(half)


# Reading.


def test_contents_travel_to_other_processes(tmp_path):
    u_ntxc = numbers(10, 3, 4, 4, 2)
    source = inspect_pdebench(write_groups(tmp_path / "2D_diff-react_NA_NA.h5", u_ntxc))
    with pickle.loads(pickle.dumps(source.contents)).open() as read:
        np.testing.assert_array_equal(read(1, 7, range(1, 3)), u_ntxc[7, 1:3, ..., 1])
        np.testing.assert_array_equal(read(0, 2, range(0, 3, 2)), u_ntxc[2, ::2, ..., 0])


@pytest.mark.parametrize("kept_bytes", [1, 500, 2**20])
def test_a_block_serves_all_components_and_memory_is_bounded(tmp_path, monkeypatch, kept_bytes):
    u_ntxc = numbers(10, 5, 4, 4, 2)  # 128 bytes a frame
    source = inspect_pdebench(write_groups(tmp_path / "2D_diff-react_NA_NA.h5", u_ntxc))
    monkeypatch.setattr(blocks, "KEPT_BYTES", kept_bytes)
    sizes = []
    original = h5py.Dataset.__getitem__

    def counting(self, index, **rest):
        values = original(self, index, **rest)
        sizes.append(values.nbytes)
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
    with source.contents.open() as read:
        for field in (0, 1):
            np.testing.assert_array_equal(read(field, 4, range(5)), u_ntxc[4, ..., field])
        if kept_bytes > 2 * 5 * 128:
            assert sizes == [5 * 128]  # read once for both fields
        assert max(sizes) <= max(128, kept_bytes // 2)
        np.testing.assert_array_equal(read(0, 5, range(5)), u_ntxc[5, ..., 0])


def test_only_the_asked_frames_are_read(tmp_path, monkeypatch):
    u_ntx = numbers(10, 50, 2**14)
    source = inspect_pdebench(write_arrays(tmp_path / "1D_Advection_beta1.hdf5", {"tensor": u_ntx}))
    asked = []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, index: asked.append(index) or original(self, index))
    with source.contents.open() as read:
        np.testing.assert_array_equal(read(0, 9, range(10, 12)), u_ntx[9, 10:12])
    assert asked == [(9, slice(10, 12, 1), slice(None))]


def test_chunks_of_many_trajectories_are_unpacked_once(tmp_path, monkeypatch):
    u_ntx = numbers(40, 12, 16)
    source = inspect_pdebench(write_chunked(tmp_path / "1D_Advection_beta1.hdf5", u_ntx, (20, 4, 16)))
    asked = []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, index: asked.append(index) or original(self, index))
    with source.contents.open() as read:
        for trajectory in range(40):
            np.testing.assert_array_equal(read(0, trajectory, range(12)), u_ntx[trajectory])
    assert len(asked) == 2 * 3


# Files from strangers.


def outside(path):
    with h5py.File(path, "w") as file:
        file["secret"] = np.ones((10, 4, 8))
    return path


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (
            lambda file, other: file.__setitem__("tensor", h5py.ExternalLink(str(other), "secret")),
            "an external link to",
        ),
        (lambda file, other: file.__setitem__("tensor", h5py.SoftLink("/tensor")), "a soft link to '/tensor'"),
        (lambda file, other: file.__setitem__("tensor", h5py.SoftLink("/x-coordinate")), "links aren't followed"),
        (
            lambda file, other: file.create_dataset("tensor", (10, 4, 8), "f4", external=[(str(other), 0, 1280)]),
            "keeps its numbers in other files (external storage)",
        ),
        (
            lambda file, other: file.create_virtual_dataset("tensor", layout_of(other)),
            "keeps its numbers in other files (a virtual dataset)",
        ),
    ],
)
def test_nothing_leads_out_of_a_file(tmp_path, make, part):
    path = write_arrays(tmp_path / "1D_Advection_beta1.hdf5", {"tensor": numbers(10, 4, 8)})
    other = outside(tmp_path / "other.h5")
    alter(path, replace("tensor", None))
    alter(path, lambda file: make(file, other))
    assert part in refusal(path)
    with pytest.raises(DataError):
        inspect(path, "auto")


def layout_of(other):
    layout = h5py.VirtualLayout((10, 4, 8), "f8")
    layout[:] = h5py.VirtualSource(other, "secret", (10, 4, 8))
    return layout


def test_links_in_groups_and_coordinates_are_refused(tmp_path):
    path = write_groups(tmp_path / "2D_rdb_NA_NA.h5", numbers(10, 3, 4, 4, 1))
    alter(path, replace("0004/data", None))
    alter(path, lambda file: file["0004"].__setitem__("data", h5py.SoftLink("/0003/data")))
    assert "/0004/data is a soft link to '/0003/data'" in refusal(path)
    alter(path, replace("0003/grid/x", None))
    alter(path, lambda file: file["0003/grid"].__setitem__("x", h5py.SoftLink("/0003/grid/x")))
    said = refusal(path)
    assert "2 problems" in said
    assert "/0003/grid/x is a soft link" in said
    alter(path, replace("0005", None))
    alter(path, lambda file: file.__setitem__("0005", h5py.SoftLink("/0006")))
    assert "/0005 is a soft link to '/0006'" in refusal(path)  # not nine trajectories


def test_a_group_linked_into_itself_is_no_trap(tmp_path):
    path = write_groups(tmp_path / "2D_rdb_NA_NA.h5", numbers(10, 3, 4, 4, 1))
    alter(path, lambda file: file["0003"].__setitem__("again", file["/"]))
    assert inspect_pdebench(path).num_trajectories == 10


def test_arrays_never_written_and_huge_ones(tmp_path):
    path = write_arrays(tmp_path / "1D_Advection_beta1.hdf5", {"tensor": numbers(10, 4, 8)})
    alter(path, replace("tensor", None))
    alter(path, lambda file: file.create_dataset("tensor", (10, 4, 8), "f4"))
    assert "of /tensor only 0 of 1,280 bytes were ever written" in refusal(path)
    alter(path, replace("tensor", None))
    alter(path, lambda file: file.create_dataset("tensor", (10**12, 4, 8), "f4", chunks=(10**4, 4, 8)))
    assert "1,000,000,000,000 trajectories; a file may have 1 to 10,000,000" in refusal(path)
    alter(path, replace("tensor", None))
    alter(path, lambda file: file.create_dataset("tensor", (10**7, 4, 8), "f4", chunks=(10**4, 4, 8)))
    assert "of /tensor only 0 of 1,000 chunks were ever written" in refusal(path)
    alter(path, replace("tensor", None))
    alter(path, lambda file: file.create_dataset("tensor", (10**7, 4, 8), "f4", chunks=(9 * 10**6, 4, 8)))
    assert "in chunks of (9000000, 4, 8), more than 512 MiB each" in refusal(path)


@pytest.mark.parametrize("kind", ["arrays", "groups"])
def test_flipped_bytes_give_a_source_or_a_data_error(tmp_path, kind):
    """Nothing else may come out, whatever a byte of a file's structure becomes."""
    if kind == "arrays":
        path = write_arrays(tmp_path / "1D_Advection_beta1.hdf5", {"tensor": numbers(10, 2, 4)})
    else:
        path = write_groups(tmp_path / "2D_rdb_NA_NA.h5", numbers(10, 2, 4, 4, 1), {"gravity": 1.0})
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            source = inspect_pdebench(path)
            read_whole(source)
        except DataError:
            refused += 1
    assert refused > 10


# Scattered points.


def write_points(path, attributes=None):
    """Two trajectories of an acoustic wave at 5 points: moving and static fields, and positions."""
    arrays = {name: numbers(2, 4, 5, seed=number) for number, name in enumerate(("pressure", "Vx", "Vy"))}
    said = {
        "family": "acoustics_2d",
        "split": "train",
        "extents": "[[-1, 1], [0, 3]]",
        "boundary": '[["wall", "open"], ["open", "open"]]',
        "coordinates": '["x", "y"]',
    }
    said |= attributes or {}
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        for number, name in enumerate(("density", "sound_speed", "x", "y")):
            file[name] = np.abs(numbers(2, 5, seed=10 + number)).astype(np.float64)
        file["t-coordinate"] = DT * np.arange(5)
        file.attrs.update({name: value for name, value in said.items() if value is not None})
    return path


@pytest.mark.parametrize("layout", ["pdebench", "auto"])
def test_points_lie_in_the_domain_that_is_stated(tmp_path, layout):
    path = write_points(tmp_path / "a.hdf5")
    source = inspect(path, layout)
    assert (source.geometry, source.coordinates, source.grid) == ("points", ("x", "y"), (5,))
    assert source.extents == ((-1.0, 1.0), (0.0, 3.0))
    assert source.boundaries == (("wall", "open"), OPEN)
    assert [field.name for field in source.fields if field.static] == ["density", "sound_speed", "x", "y"]
    assert (source.num_trajectories, source.num_frames, source.masked) == (2, 4, False)
    found = read_whole(source)
    with h5py.File(path) as file:
        for name, array in (("pressure", "pressure"), ("velocity_y", "Vy"), ("density", "density"), ("y", "y")):
            values = found[name] if found[name].shape == file[array].shape else found[name][:, 0]
            np.testing.assert_array_equal(values, file[array])


def test_names_of_positions_are_free(tmp_path):
    path = write_points(tmp_path / "a.hdf5", {"coordinates": '["east", "north"]'})
    alter(path, lambda file: (file.move("x", "east"), file.move("y", "north")))
    source = inspect_pdebench(path)
    assert source.coordinates == ("east", "north")
    assert [field.name for field in source.fields][-2:] == ["east", "north"]


@pytest.mark.parametrize(
    "said",
    [
        "x, y",
        "5",
        "null",
        "[]",
        '["x"]',
        '["x", "y", "z"]',
        '["x", "x"]',
        '["x", 5]',
        '["x", "../y"]',
        '["pressure", "y"]',
        '["x", "density"]',
        '[["x"], ["y"]]',
        '"xy"',
        '{"x": 1, "y": 2}',
    ],
)
def test_bad_names_of_positions_are_refused(tmp_path, said):
    found = refusal(write_points(tmp_path / "a.hdf5", {"coordinates": said}))
    assert f"attribute coordinates is {said!r}; write JSON into it, the names of 2 arrays of positions (N, P)" in found


def test_points_without_a_domain_are_refused(tmp_path):
    found = refusal(write_points(tmp_path / "a.hdf5", {"extents": None}))
    assert "its points are scattered, and nothing states the domain; write the attribute `extents`" in found
    assert "a pair for each of 2 axes" in refusal(write_points(tmp_path / "b.hdf5", {"extents": "[[0, 1]]"}))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (replace("y", None), "not PDEBench's layout of acoustics_2d"),
        (replace("y", np.zeros((2, 6))), "y has shape (2, 6)"),
        (replace("y", np.zeros((3, 5))), "y has shape (3, 5)"),
        (replace("y", np.zeros((2, 4, 5))), "not PDEBench's layout of acoustics_2d"),
        (replace("Vy", np.zeros((2, 4, 6))), "Vy has shape (2, 4, 6), where the first array asks for (2, 4, 5)"),
        (attribute("boundary", '[["wall", "wall"]]'), "the low and high side of each of 2 axes"),
    ],
)
def test_arrays_of_points_must_go_together(tmp_path, change, part):
    path = write_points(tmp_path / "a.hdf5")
    alter(path, change)
    assert part in refusal(path)


def test_points_missing_are_named_by_what_was_expected(tmp_path):
    """(N, P) arrays, by the names that the attribute gives."""
    path = write_points(tmp_path / "a.hdf5")
    alter(path, replace("y", None))
    said = refusal(path)
    assert "`y` (N, " in said or "y (N, P)" in said


# Points without a value.


@pytest.mark.parametrize("masked", [True, False, None])
def test_masked_says_whether_nan_stands_for_no_value(tmp_path, masked):
    u_ntxy = numbers(3, 4, 6, 4)
    u_ntxy[:, :, 2:4, 1] = np.nan
    said = {"family": "navier_stokes_2d", "split": "train"} | ({} if masked is None else {"masked": masked})
    source = inspect_pdebench(write_arrays(tmp_path / "a.hdf5", {"vorticity": u_ntxy}, said))
    assert source.masked is bool(masked)
    np.testing.assert_array_equal(read_whole(source)["vorticity"], u_ntxy)
