"""The HDF5 files of generated trajectories: layouts, attributes, reruns, failures, and that they are read back."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import yaml

from ups_scale.data.layouts import inspect
from ups_scale.errors import DataError
from ups_scale.solvers import GENERATOR_VERSION, SETUPS, files, generate_family
from ups_scale.solvers.files import IDENTITY, Part, attributes, file_name, is_there, prepare_folder, write_part
from ups_scale.solvers.generate import Request

QUICK_TO_MAKE = [name for name in SETUPS if name not in ("kolmogorov_flow_2d", "compressible_flow_2d")]


def part_of(folder, name, count=2, *, split="test", first=0, label=None, **request) -> Part:
    asked = Request(name, **{"num_frames": 3, **request})
    return Part(label or name, folder / file_name(label or name, asked, split, None), asked, split, first, count)


def small(name):
    dimensions = len(SETUPS[name].grid)
    return {} if dimensions == 1 else {"grid": (16,) * dimensions}


def read(source, trajectory):
    """(T, C, *grid) as the layout gives it."""
    frames = []
    with source.contents.open() as reads:
        for number, field in enumerate(source.fields):
            values = reads(number, trajectory, range(1) if field.static else range(source.num_frames))
            frames.append(np.broadcast_to(values, (source.num_frames, *values.shape[1:])))
    return np.stack(frames, axis=1)


@pytest.mark.parametrize("name", ["advection_1d", "burgers_1d"])
def test_one_dimensional_families_are_a_tensor(tmp_path, name):
    written = write_part(part_of(tmp_path, name))
    assert written.part.path == tmp_path / f"{name}_test.hdf5"
    made = generate_family(written.part.request, 2, split="test")
    with h5py.File(written.part.path) as file:
        assert set(file) == {"tensor", "x-coordinate", "t-coordinate", "parameters"}
        assert np.array_equal(file["tensor"], made.fields_btcx[:, :, 0])
        np.testing.assert_allclose(file["x-coordinate"], np.arange(128) / 128)
        np.testing.assert_allclose(file["t-coordinate"], np.arange(4) * SETUPS[name].dt)
        for parameter, values in made.parameters.items():
            assert np.array_equal(file[f"parameters/{parameter}"], values)


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("navier_stokes_2d", {"vorticity": (2, 3, 16, 16)}),
        ("navier_stokes_3d", {f"V{axis}": (2, 3, 16, 16, 16) for axis in "xyz"}),
        ("compressible_flow_1d", dict.fromkeys(("density", "pressure", "Vx"), (2, 3, 128))),
        ("darcy_2d", {"tensor": (2, 1, 16, 16), "nu": (2, 16, 16)}),
        (
            "acoustics_2d",
            {
                **dict.fromkeys(("pressure", "Vx", "Vy"), (2, 3, 16, 16)),
                **dict.fromkeys(("density", "sound_speed"), (2, 16, 16)),
            },
        ),
    ],
)
def test_other_families_are_an_array_per_field(tmp_path, name, arrays):
    written = write_part(part_of(tmp_path, name, **small(name)))
    setup = SETUPS[name]
    axes = {f"{axis}-coordinate" for axis in "xyz"[: len(setup.grid)]}
    times = set() if setup.family.steady else {"t-coordinate"}
    with h5py.File(written.part.path) as file:
        assert set(file) == {*arrays, *axes, *times} | ({"parameters"} if setup.family.parameters else set())
        for array, shape in arrays.items():
            assert file[array].shape == shape
            assert file[array].dtype == np.float32
        for parameter in setup.family.parameters:
            assert file[f"parameters/{parameter}"].shape == (2,)
        assert setup.family.steady or len(file["t-coordinate"]) == 4


def test_reaction_diffusion_is_a_group_per_trajectory(tmp_path):
    written = write_part(part_of(tmp_path, "reaction_diffusion_2d"))
    assert written.part.path.suffix == ".h5"
    made = generate_family(written.part.request, 2, split="test")
    with h5py.File(written.part.path) as file:
        assert list(file) == ["0000", "0001"]
        group = file["0001"]
        assert np.array_equal(np.moveaxis(group["data"][()], -1, 1), made.fields_btcx[1])
        assert group["data"].dtype == np.float32
        np.testing.assert_allclose(group["grid/x"], -1 + (np.arange(32) + 0.5) / 16)
        np.testing.assert_allclose(group["grid/t"], np.arange(3) * SETUPS["reaction_diffusion_2d"].dt)
        sim = yaml.safe_load(group.attrs["config"])["sim"]
        assert [sim[key] for key in ("Du", "Dv", "k")] == [made.parameters[key][1] for key in ("du", "dv", "k")]


def test_names_of_files(tmp_path):
    request = Request("reaction_diffusion_2d")
    assert file_name("mine", request, "test", None) == "mine_test.h5"
    assert file_name("mine", request, "train", 12) == "mine_train-0012.h5"
    assert file_name("mine", replace(request, points=9), "ood_regime", 3) == "mine_ood_regime-0003.hdf5"


# Read back.


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in QUICK_TO_MAKE),
        ("shallow_water_2d", {"boundary": "wall"}),
        ("burgers_1d", {"stride": 2}),
        ("burgers_1d", {"first": 3, "split": "train"}),
        ("reaction_diffusion_2d", {"points": 30, "grid": None}),
        ("acoustics_2d-obstacles", {"points": 30, "grid": None}),
        ("darcy_2d", {"points": 30, "grid": None}),
        ("acoustics_2d", {"split": "ood_boundary"}),
        ("advection_1d-pdebench", {"grid": (256,), "stride": 5}),
    ],
)
def test_files_are_read_back_as_what_was_generated(tmp_path, name, changes):
    part = part_of(tmp_path, name, **{**small(name), **changes})
    write_part(part)
    setup, source = SETUPS[name], inspect(part.path, "auto")
    made = generate_family(part.request, 2, split=part.split, first=part.first)
    points = part.request.points
    kind = {"ood_boundary": setup.other_boundary}.get(part.split, changes.get("boundary") or setup.boundaries[0])
    assert (source.layout, source.family) == ("pdebench", setup.family.name)
    assert source.extents == setup.extents
    assert source.boundaries == setup.sides_of(kind)
    assert source.parameters == setup.family.parameters
    assert source.steady == setup.family.steady
    assert source.masked == (bool(setup.shapes) and points is None)
    assert (source.geometry, source.coordinates) == (("points", ("x", "y")) if points else ("grid", ()))
    assert {split: rows[:, 0].tolist() for split, rows in source.splits.items()} == {part.split: [0, 1]}
    assert source.notes == ()
    if setup.family.steady:
        assert np.isnan(source.times_nt).all()
    else:
        times = np.arange(3) * setup.dt * part.request.stride
        np.testing.assert_allclose(source.times_nt, np.tile(times, (2, 1)))
    for column, parameter in enumerate(source.parameters):
        np.testing.assert_allclose(source.parameters_np[:, column], made.parameters[parameter], rtol=1e-12)
    for row in range(2):
        found, expected = read(source, row), made.fields_btcx[row]
        if points:
            positions = np.broadcast_to(made.positions_bdp[row], (len(expected), 2, points))
            np.testing.assert_array_equal(found[:, -2:], positions)
            found = found[:, :-2]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        assert np.array_equal(np.isnan(found), np.isnan(expected))


def test_the_sides_of_sorption_are_of_two_kinds(tmp_path):
    part = part_of(tmp_path, "diffusion_sorption_1d")
    write_part(part)
    assert inspect(part.path, "auto").boundaries == (("dirichlet", "robin"),)


# Attributes.


@pytest.mark.parametrize("name", SETUPS)
def test_attributes_describe_the_file(tmp_path, name):
    setup, found = SETUPS[name], attributes(part_of(tmp_path, name, seed=3, first=7))
    assert (found["family"], found["split"], found["seed"]) == (setup.family.name, "test", 3)
    assert (found["first_trajectory"], found["num_trajectories"]) == (7, 2)
    assert found["num_frames"] == (2 if setup.family.steady else 3)
    assert (found["generator_version"], found["equation"]) == (GENERATOR_VERSION, setup.family.equation)
    assert json.loads(found["extents"]) == [list(extent) for extent in setup.extents]
    assert json.loads(found["boundary"]) == [list(sides) for sides in setup.sides_of(setup.boundaries[0])]
    assert found.get("dt") == (None if setup.family.steady else setup.dt)
    assert ("masked" in found, "coordinates" in found) == (bool(setup.shapes), False)
    settings = json.loads(found["settings"])
    assert (settings["setup"], settings["grid"]) == (name, list(setup.grid))
    assert settings["ranges"] == {key: [drawn.low, drawn.high] for key, drawn in setup.ranges.items()}
    assert set(IDENTITY) <= set(found)


def test_a_file_holds_its_attributes(tmp_path):
    part = part_of(tmp_path, "acoustics_2d-obstacles", grid=(16, 16))
    write_part(part)
    with h5py.File(part.path) as file:
        found = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    assert found == attributes(part)
    assert found["masked"]
    assert json.loads(found["settings"])["obstacles"] == "discs"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("burgers_1d", {}),
        ("compressible_flow_1d", {}),
        ("darcy_2d", {}),
        ("acoustics_2d", {}),
        ("reaction_diffusion_2d", {"points": 3000}),
    ],
)
def test_the_size_of_a_part_is_known_before(tmp_path, name, changes):
    part = part_of(tmp_path, name, 20, **changes)
    size = write_part(part).num_bytes
    # Beside the arrays there is what HDF5 keeps of them, coordinates and parameters.
    assert part.num_bytes <= size < 1.1 * part.num_bytes + 16_384


# Reruns.


def test_a_rerun_keeps_what_matches_and_says_what_differs(tmp_path):
    part, advanced = part_of(tmp_path, "advection_1d"), []
    assert not is_there(part)
    first = write_part(part, advance=advanced.append)
    assert (first.kept, first.differed) == (False, "")
    assert is_there(part)
    stamp = part.path.stat().st_mtime_ns
    again = write_part(part, advance=advanced.append)
    assert (again.kept, again.seconds, again.num_bytes) == (True, 0.0, first.num_bytes)
    assert sum(advanced) == 4
    assert part.path.stat().st_mtime_ns == stamp
    changed = write_part(part_of(tmp_path, "advection_1d", count=4, seed=1))
    assert (changed.kept, changed.differed) == (False, "seed is 0, wanted 1; num_trajectories is 2, wanted 4")
    part.path.write_bytes(b"not HDF5")
    assert not is_there(part)
    assert write_part(part).differed == "not a readable HDF5 file"
    with h5py.File(part.path) as file:
        assert file["tensor"].shape == (2, 3, 128)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_frames": 4}, "num_frames is 3, wanted 4"),
        ({"stride": 2}, "stride is 1, wanted 2"),
        ({"first": 2}, "first_trajectory is 0, wanted 2"),
        ({"split": "train"}, "split is test, wanted train"),
        ({"grid": (32, 32)}, '"grid": [16, 16]'),
        ({"boundary": "wall"}, '"boundary": "wall"'),
        ({"ranges": {"height": (1.5, 2.0)}}, '"height": [1.5, 2.0]'),
        ({"points": 10}, '"points": 10'),
    ],
)
def test_whatever_is_asked_for_otherwise_is_made_again(tmp_path, changes, said):
    part = part_of(tmp_path, "shallow_water_2d", 1, grid=(16, 16))
    write_part(part)
    other = replace(part_of(tmp_path, "shallow_water_2d", 1, **{"grid": (16, 16), **changes}), path=part.path)
    assert not is_there(other)
    written = write_part(other)
    assert said in written.differed
    assert ("settings is {" in written.differed) == said.startswith('"')
    assert is_there(other)


def test_files_of_another_version_and_foreign_ones_are_made_again(tmp_path, monkeypatch):
    part = part_of(tmp_path, "advection_1d")
    write_part(part)
    monkeypatch.setattr(files, "GENERATOR_VERSION", GENERATOR_VERSION + 1)
    wanted = f"generator_version is {GENERATOR_VERSION}, wanted {GENERATOR_VERSION + 1}"
    assert write_part(part).differed == wanted
    with h5py.File(part.path, "w") as file:
        file["tensor"] = np.zeros(3)
    assert "family is None, wanted advection_1d" in write_part(part).differed


# Failures.


@pytest.mark.parametrize("name", ["burgers_1d", "reaction_diffusion_2d", "acoustics_2d"])
@pytest.mark.parametrize("failure", [DataError("not finite"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_nothing_half_written_remains(tmp_path, monkeypatch, name, failure):
    whole = write_part(part_of(tmp_path, name, **small(name))).part
    before = whole.path.read_bytes()

    def fail_after_one(request, *arguments, **settings):
        yield generate_family(request, 1, split="test")
        raise failure

    monkeypatch.setattr(files, "generate_batches", fail_after_one)
    expected = DataError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected) as error:
        write_part(part_of(tmp_path, name, seed=1, **small(name)))
    if isinstance(failure, OSError):
        assert f"{whole.path}: can't be written" in str(error.value)
        assert "free some space, or use another disk" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [whole.path.name]
    assert whole.path.read_bytes() == before


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone/advection_1d_test\.hdf5: can't be written"):
        write_part(part_of(tmp_path / "gone", "advection_1d"))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/out: can't write there \(Not a directory\); choose a folder"):
        prepare_folder(tmp_path / "file" / "out")
    prepare_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
