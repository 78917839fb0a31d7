"""The Well's layout against the arrays that the files were made from."""

import pickle

import h5py
import numpy as np
import pytest
from pdebench_files import read_whole
from well_files import add_boundary, add_field, add_scalar, ends, numbers, write_well

from ups_scale.data.layouts import blocks, inspect
from ups_scale.data.layouts.the_well import inspect_the_well
from ups_scale.errors import DataError


@pytest.fixture
def path(tmp_path):
    """A file with one field, `density`, in the folder of the training split."""
    path = write_well(tmp_path / "data" / "train" / "shear_flow.hdf5")
    with h5py.File(path, "a") as file:
        add_field(file, 0, "density", numbers(3, 5, 6, 4))
    return path


def alter(path, change, *args, **kwargs):
    with h5py.File(path, "a") as file:
        change(file, *args, **kwargs)


def refusal(path, *args) -> str:
    with pytest.raises(DataError) as error:
        inspect_the_well(path, *args)
    assert str(path) in str(error.value)
    return str(error.value)


def test_scalars_vectors_and_tensors(path):
    vector, tensor, flat = numbers(3, 5, 6, 4, 2), numbers(3, 5, 6, 4, 2, 2), numbers(3, 5, 6, 4, 4)
    alter(path, add_field, 1, "velocity", vector)
    alter(path, add_field, 2, "D", tensor)
    alter(path, add_field, 2, "E-field", flat)
    with h5py.File(path, "a") as file:
        file["t0_fields/density"].attrs["units"] = "kg/m3"
        file.attrs["license"] = "CC-BY-4.0"
    source = inspect_the_well(path)
    assert (source.layout, source.family, source.grid, source.num_frames) == ("the_well", "shear_flow", (6, 4), 5)
    assert source.boundaries == (("periodic", "periodic"), ("wall", "wall"))
    assert source.extents == ((pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6)),) * 2
    assert source.fields[0].unit == "kg/m3"
    assert source.licence == "CC-BY-4.0"
    assert source.parameters == ("Reynolds",)
    np.testing.assert_array_equal(source.parameters_np, 1e4)
    np.testing.assert_allclose(source.times_nt, np.tile(np.linspace(0, 1, 5), (3, 1)), rtol=1e-6)
    found = read_whole(source)
    assert list(found) == [
        "density",
        "velocity_x",
        "velocity_y",
        *(f"D_{suffix}" for suffix in ("xx", "xy", "yx", "yy")),
        *(f"E_field_{suffix}" for suffix in ("xx", "xy", "yx", "yy")),
    ]
    np.testing.assert_array_equal(found["velocity_y"], vector[..., 1])
    np.testing.assert_array_equal(found["D_xy"], tensor[..., 0, 1])
    np.testing.assert_array_equal(found["E_field_yx"], flat[..., 2])


def test_three_dimensions(tmp_path):
    path = write_well(tmp_path / "MHD.hdf5", (4, 3, 2), num=1)
    vector = numbers(1, 5, 4, 3, 2, 3)
    alter(path, add_field, 1, "B", vector)
    source = inspect_the_well(path)
    assert (source.grid, [field.name for field in source.fields]) == ((4, 3, 2), ["B_x", "B_y", "B_z"])
    np.testing.assert_array_equal(read_whole(source)["B_z"], vector[..., 2])


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("time", [False, True])
@pytest.mark.parametrize("dims", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("order", [0, 1])
def test_absent_axes_are_constant(path, sample, time, dims, order):
    lead = (3,) * sample + (5,) * time
    values = numbers(*lead, *(size for size, there in zip((6, 4), dims, strict=True) if there), *(2,) * order)
    alter(path, add_field, order, "given", values, sample, time, dims)
    source = inspect_the_well(path)
    name = "given_y" if order else "given"
    field = next(field for field in source.fields if field.name == name)
    assert field.static is not time
    component = values[..., 1] if order else values
    full = component.reshape(
        3 if sample else 1, 5 if time else 1, *(n if d else 1 for n, d in zip((6, 4), dims, strict=True))
    )
    np.testing.assert_array_equal(read_whole(source)[name], np.broadcast_to(full, (3, 5 if time else 1, 6, 4)))


def test_scalars_are_parameters_and_those_that_vary_in_time_uniform_fields(path):
    forcing = numbers(3, 5)
    alter(path, add_scalar, "Schmidt", np.array([0.1]))
    alter(path, add_scalar, "amplitude", np.array([1.0, 2.0, 3.0]), sample=True)
    alter(path, add_scalar, "forcing", forcing, sample=True, time=True)
    source = inspect_the_well(path)
    assert source.parameters == ("Schmidt", "amplitude", "Reynolds")
    np.testing.assert_array_equal(source.parameters_np, [[0.1, 1, 1e4], [0.1, 2, 1e4], [0.1, 3, 1e4]])
    assert [(field.name, field.static) for field in source.fields] == [("density", False), ("forcing", False)]
    found = read_whole(source)["forcing"]
    np.testing.assert_array_equal(found, np.broadcast_to(forcing[:, :, None, None], (3, 5, 6, 4)))
    stated = inspect_the_well(path, None, {"Schmidt": 7.0})
    np.testing.assert_array_equal(stated.parameters_np[:, 0], 7.0)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_split_is_the_folder(tmp_path, split):
    path = write_well(tmp_path / "data" / split / "a.hdf5")
    alter(path, add_field, 0, "density", numbers(3, 5, 6, 4))
    assert {name: part.tolist() for name, part in inspect_the_well(path).splits.items()} == {
        split: [[0, 0, 5], [1, 0, 5], [2, 0, 5]]
    }


def test_elsewhere_trajectories_are_dealt_and_a_single_one_is_cut(tmp_path):
    path = write_well(tmp_path / "a.hdf5", num=10)
    alter(path, add_field, 0, "density", numbers(10, 5, 6, 4))
    assert {name: len(part) for name, part in inspect(path, "the_well").splits.items()} == {
        "train": 8,
        "valid": 1,
        "test": 1,
    }
    path = write_well(tmp_path / "b.hdf5", num=1)
    alter(path, add_field, 0, "density", numbers(1, 5, 6, 4))
    splits = inspect_the_well(path).splits
    assert splits["train"].tolist() == [[0, 0, 4]]
    assert splits["test"].tolist() == [[0, 4, 5]]


def test_times_per_trajectory(path):
    times = np.cumsum(1 + np.abs(numbers(3, 5)), axis=1)

    def change(file):
        del file["dimensions/time"]
        file["dimensions/time"] = times
        file["dimensions/time"].attrs["sample_varying"] = True

    alter(path, change)
    np.testing.assert_array_equal(inspect_the_well(path).times_nt, times)


# Boundaries.


def test_sides_follow_the_masks(tmp_path):
    path = write_well(tmp_path / "a.hdf5", (6, 4, 5), boundaries=False)
    alter(path, add_field, 0, "density", numbers(3, 5, 6, 4, 5))
    alter(path, add_boundary, "x_wall", "WALL", ["x"], ends(6, True, False))
    alter(path, add_boundary, "z_periodic", "periodic", ["z"], ends(5, False, False))
    source = inspect_the_well(path)
    # What no mask covers is open, as the package's own loader has it.
    assert source.boundaries == (("wall", "open"), ("open", "open"), ("periodic", "periodic"))
    assert [field.name for field in source.fields] == ["density"]


def test_open_wins_where_a_side_is_partly_wall_and_the_mask_is_kept(tmp_path):
    path = write_well(tmp_path / "a.hdf5", boundaries=False)
    alter(path, add_field, 0, "density", numbers(3, 5, 6, 4))
    wall = np.zeros((6, 4), bool)
    wall[:, 0] = True  # all of the low side of y
    wall[0, :2] = True  # half of the low side of x
    opening = np.zeros((6, 4), bool)
    opening[0, 2:] = opening[-1] = True
    alter(path, add_boundary, "xy_wall", "WALL", ["x", "y"], wall)
    alter(path, add_boundary, "xy_open", "OPEN", ["x", "y"], opening)
    source = inspect_the_well(path)
    assert source.boundaries == (("open", "open"), ("wall", "open"))
    found = read_whole(source)
    np.testing.assert_array_equal(found["boundary_xy_wall"], np.broadcast_to(wall, (3, 1, 6, 4)))
    assert found["boundary_xy_open"].sum() == 3 * opening.sum()


def test_obstacles_become_static_fields(path):
    mask = np.zeros((3, 6, 4), bool)
    mask[:, 2:4, 1:3] = True
    mask[1, 4, 2] = True
    alter(path, add_boundary, "obstacle", "WALL", ["x", "y"], mask, sample=True)
    source = inspect_the_well(path)
    assert source.boundaries == (("periodic", "periodic"), ("wall", "wall"))
    assert source.fields[-1].name == "boundary_obstacle"
    assert source.fields[-1].static
    np.testing.assert_array_equal(read_whole(source)["boundary_obstacle"], mask[:, None])


# Refusals.


def attribute(name, key, value):
    return lambda file: file[name].attrs.__setitem__(key, value)


def replace(name, values):
    def change(file):
        said = dict(file[name].attrs)
        del file[name]
        if values is not None:
            file[name] = values
            file[name].attrs.update(said)

    return change


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (attribute("/", "grid_type", "spherical"), ("its grid is spherical; only cartesian", "Interpolate")),
        (
            lambda file: file.attrs.__delitem__("dataset_name"),
            ("not The Well's layout", "aren't there: @dataset_name."),
        ),
        (lambda file: file.__delitem__("dimensions"), ("aren't there: dimensions.",)),
        (lambda file: file.__delitem__("boundary_conditions"), ("no group boundary_conditions",)),
        (attribute("/", "n_spatial_dims", 3), ("@spatial_dims of dimensions is x, y and @n_spatial_dims is 3",)),
        (attribute("/", "n_trajectories", 0), ("attribute n_trajectories is 0",)),
        (attribute("/", "n_trajectories", 10**9), ("1,000,000,000 trajectories; a file may have 1 to 10,000,000",)),
        (attribute("/", "n_trajectories", 4), ("expected (N, T, x, y)", "N 4, T 5, x 6, y 4", "no order of its axes")),
        (
            replace("t0_fields/density", np.zeros((3, 5, 4, 6))),
            ("/t0_fields/density has shape (3, 5, 4, 6), expected (N, T, x, y)", "this looks like (N, T, y, x)"),
        ),
        (replace("t0_fields/density", np.zeros((3, 5, 6))), ("by its attributes expected (N, T, x, y)",)),
        (replace("t0_fields/density", None), ("t0_fields/density holds no numbers",)),
        (replace("t0_fields/density", np.zeros((3, 5, 6, 4), "S1")), ("t0_fields/density holds no numbers",)),
        (attribute("t0_fields/density", "dim_varying", [True]), ("dim_varying of /t0_fields/density has 1 entries",)),
        (attribute("t0_fields/density", "time_varying", "yes"), ("time_varying of /t0_fields/density is 'yes'",)),
        (replace("dimensions/time", np.zeros(5)), ("/dimensions/time goes from 0 at frame 0 to 0 at frame 1",)),
        (replace("dimensions/x", [0, 1, 2, 3, 4, 6.0]), ("the x axis (/dimensions/x)", "step 4 (from 4 to 6) is 2")),
        (replace("dimensions/x", np.arange(18.0).reshape(3, 6)), ("/dimensions/x differs between trajectories",)),
        (attribute("dimensions/x", "time_varying", True), ("moving grids aren't taken",)),
        (
            attribute("boundary_conditions/y_wall", "bc_type", "POROUS"),
            ("/boundary_conditions/y_wall is of the type 'porous'; known are dirichlet",),
        ),
        (attribute("boundary_conditions/y_wall", "time_varying", True), ("moving boundaries aren't taken",)),
        (attribute("boundary_conditions/y_wall", "associated_dims", ["z"]), ("is z; expected names out of x, y",)),
        (replace("boundary_conditions/y_wall/mask", np.ones(5, bool)), ("(5,), expected (y)", "which no order")),
        (attribute("t0_fields/density", "time_varying", False), ("expected (N, x, y)",)),
        (
            lambda file: add_scalar(file, "Schmidt", np.zeros(4), sample=True),
            ("/scalars/Schmidt has shape (4,); by its attributes expected (N)",),
        ),
        (
            lambda file: (
                add_field(file, 0, "a b", numbers(3, 5, 6, 4)) or add_field(file, 0, "a-b", numbers(3, 5, 6, 4))
            ),
            ("two fields have the same name (density, a_b, a_b)",),
        ),
        (
            lambda file: (
                replace("t0_fields/density", None)(file)
                or file["t0_fields"].__setitem__("density", h5py.SoftLink("/dimensions/time"))
            ),
            ("/t0_fields/density is a soft link to '/dimensions/time'",),
        ),
        (
            lambda file: (
                replace("t0_fields/density", None)(file)
                or file["t0_fields"]
                .create_dataset("density", (3, 5, 6, 4), "f4")
                .attrs.update({"sample_varying": True, "time_varying": True, "dim_varying": [True, True]})
            ),
            ("of /t0_fields/density only 0 of 1,440 bytes were ever written",),
        ),
    ],
)
def test_errors_say_what_was_found_and_what_to_do(path, change, parts):
    alter(path, change)
    said = refusal(path)
    for part in parts:
        assert part in said


def test_masks_that_cover_other_sides_in_other_trajectories(path):
    mask = np.zeros((3, 4), bool)
    mask[1, 0] = True
    alter(path, lambda file: file.__delitem__("boundary_conditions/y_wall"))
    alter(path, add_boundary, "y_wall", "WALL", ["y"], mask, sample=True)
    assert "covers other sides of the domain in some trajectories than in others" in refusal(path)


def test_nothing_to_predict(path):
    alter(path, replace("t0_fields/density", numbers(3, 6, 4)))
    alter(path, attribute("t0_fields/density", "time_varying", False))
    assert "no field varies in time, so that there is nothing to predict" in refusal(path)


def test_all_problems_come_at_once(path):
    alter(path, replace("dimensions/x", np.arange(6.0) ** 2))
    alter(path, replace("dimensions/time", np.zeros(5)))
    alter(path, attribute("boundary_conditions/y_wall", "bc_type", "POROUS"))
    said = refusal(path, None, {"viscosity": 1.0})
    for part in (
        "4 problems",
        "even steps",
        "times must increase",
        "'porous'",
        "shear_flow has no parameter viscosity",
    ):
        assert part in said


def test_a_family_of_the_registry_must_have_its_fields(path):
    assert "family burgers_1d has the fields u (1)" in refusal(path, "burgers_1d")
    assert inspect_the_well(path, "my_flow").family == "my_flow"


def test_a_registered_family_must_know_the_parameters(tmp_path):
    path = write_well(tmp_path / "a.hdf5", num=10)
    alter(path, add_field, 0, "vorticity", numbers(10, 5, 6, 4))
    with h5py.File(path, "a") as file:
        file["t0_fields/vorticity"].attrs["units"] = "1/s"
    assert "family navier_stokes_2d has the fields vorticity (1/s) and the parameters nu" in refusal(
        path, "navier_stokes_2d"
    )
    with h5py.File(path, "a") as file:
        file.attrs["simulation_parameters"] = ["nu"]
        file.attrs["nu"] = 0.5
    np.testing.assert_array_equal(inspect_the_well(path, "navier_stokes_2d").parameters_np, 0.5)
    with h5py.File(path, "a") as file:
        del file.attrs["simulation_parameters"]
    assert np.isnan(inspect_the_well(path, "navier_stokes_2d").parameters_np).all()


def test_contents_travel_and_read_only_what_is_asked(path, monkeypatch):
    values = numbers(3, 5, 6, 4, 2)
    alter(path, add_field, 1, "velocity", values)
    source = inspect_the_well(path)
    asked = []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, index: asked.append(index) or original(self, index))
    with pickle.loads(pickle.dumps(source.contents)).open() as read:
        np.testing.assert_array_equal(read(2, 1, range(2, 4)), values[1, 2:4, ..., 1])
        np.testing.assert_array_equal(read(1, 1, range(2, 4)), values[1, 2:4, ..., 0])
        everything = slice(None)
        # A block of all trajectories and components, which are small, kept for the second.
        assert asked == [(slice(0, 3), slice(0, 5), everything, everything, everything)]
    asked.clear()
    monkeypatch.setattr(blocks, "KEPT_BYTES", 3 * 2 * values[0, 0].nbytes)  # two frames for each of three fields
    with source.contents.open() as read:
        np.testing.assert_array_equal(read(1, 1, range(1, 4)), values[1, 1:4, ..., 0])
        np.testing.assert_array_equal(read(2, 1, range(3, 5)), values[1, 3:5, ..., 1])
    # Frame 3 was kept.
    assert [index[:2] for index in asked] == [(slice(1, 2), slice(a, b)) for a, b in ((0, 2), (2, 4), (4, 5))]


def test_flipped_bytes_give_a_source_or_a_data_error(path):
    whole = path.read_bytes()
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            read_whole(inspect_the_well(path))
        except DataError:
            refused += 1
    assert refused > 10


def test_the_packages_own_file(tmp_path):
    dummy = pytest.importorskip("the_well.utils.dummy_data", reason="needs the package the_well")
    path = tmp_path / "dummy.hdf5"
    dummy.write_dummy_data(str(path))
    source = inspect(path, "auto")
    assert (source.layout, source.family, source.grid, source.num_frames) == ("the_well", "dummy_dataset", (32, 32), 10)
    assert [(field.name, field.static) for field in source.fields] == [
        ("constant_field", True),
        ("field_x", False),
        ("field_y", False),
        ("time_varying_scalar", False),
    ]
    # Its masks mark no point at all; an axis with a periodic boundary is periodic nevertheless.
    assert source.boundaries == (("periodic", "periodic"),) * 2
    np.testing.assert_array_equal(source.parameters_np, [[0.25, 0.75]] * 2)
    found = read_whole(source)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(found["field_y"], file["t1_fields/field"][..., 1])
        np.testing.assert_array_equal(found["time_varying_scalar"][1, :, 3, 5], file["scalars/time_varying_scalar"])
