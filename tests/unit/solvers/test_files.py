"""The HDF5 files of tools/generate.py: layouts, attributes, reruns, failures, and the command itself."""

import json
import runpy
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from ups_scale.errors import DataError
from ups_scale.solvers import SETUPS, files, generate_family
from ups_scale.solvers.files import prepare_folder, split_counts, write_family

TOOL = Path(__file__).parents[3] / "tools" / "generate.py"


def write(folder, name, count=2, **changes):
    said = []
    arguments = {"num_frames": 3, "seed": 0, "say": said.append, **changes}
    written = write_family(name, {"test": count}, folder, **arguments)
    return written[0], said


@pytest.mark.parametrize(("name", "key"), [("advection_1d", "tensor"), ("burgers_1d", "tensor")])
def test_one_dimensional_families_are_a_tensor(tmp_path, name, key):
    written, _ = write(tmp_path, name)
    assert written.path == tmp_path / f"{name}_test.hdf5"
    made = generate_family(name, 2, split="test", num_frames=3)
    with h5py.File(written.path) as file:
        assert set(file) == {key, "x-coordinate", "t-coordinate", "parameters"}
        assert np.array_equal(file[key], made.fields_btcx[:, :, 0])
        np.testing.assert_allclose(file["x-coordinate"], np.arange(128) / 128)
        np.testing.assert_allclose(file["t-coordinate"], np.arange(4) * SETUPS[name].dt)
        for parameter, values in made.parameters.items():
            assert np.array_equal(file[f"parameters/{parameter}"], values)


def test_navier_stokes_is_an_array_per_field(tmp_path):
    written, _ = write(tmp_path, "navier_stokes_2d")
    with h5py.File(written.path) as file:
        assert set(file) == {"vorticity", "x-coordinate", "y-coordinate", "t-coordinate", "parameters"}
        assert file["vorticity"].shape == (2, 3, 32, 32)
        assert file["vorticity"].dtype == np.float32
        assert file["parameters/nu"].shape == (2,)
        assert len(file["t-coordinate"]) == 4


def test_reaction_diffusion_is_a_group_per_trajectory(tmp_path):
    written, _ = write(tmp_path, "reaction_diffusion_2d")
    assert written.path.suffix == ".h5"
    made = generate_family("reaction_diffusion_2d", 2, split="test", num_frames=3)
    with h5py.File(written.path) as file:
        assert list(file) == ["0000", "0001"]
        group = file["0001"]
        assert np.array_equal(np.moveaxis(group["data"][()], -1, 1), made.fields_btcx[1])
        assert group["data"].dtype == np.float32
        np.testing.assert_allclose(group["grid/x"], -1 + (np.arange(32) + 0.5) / 16)
        np.testing.assert_allclose(group["grid/t"], np.arange(3) * SETUPS["reaction_diffusion_2d"].dt)
        sim = yaml.safe_load(group.attrs["config"])["sim"]
        assert [sim[key] for key in ("Du", "Dv", "k")] == [made.parameters[key][1] for key in ("du", "dv", "k")]


@pytest.mark.parametrize("name", SETUPS)
def test_files_describe_themselves(tmp_path, name):
    written, _ = write(tmp_path, name, seed=3)
    setup = SETUPS[name]
    with h5py.File(written.path) as file:
        found = dict(file.attrs)
    assert (found["family"], found["split"], found["seed"]) == (name, "test", 3)
    assert (found["num_trajectories"], found["num_frames"], found["dt"]) == (2, 3, setup.dt)
    assert (found["equation"], found["boundary"]) == (setup.family.equation, setup.family.boundary)
    assert json.loads(found["extents"]) == [list(extent) for extent in setup.extents]


def test_a_rerun_keeps_what_matches_and_says_what_differs(tmp_path):
    first, said = write(tmp_path, "advection_1d")
    assert (said, first.skipped) == ([], False)
    stamp = first.path.stat().st_mtime_ns
    again, said = write(tmp_path, "advection_1d")
    assert again.skipped
    assert said == [f"{first.path}: already there with the same settings, kept"]
    assert first.path.stat().st_mtime_ns == stamp
    changed, said = write(tmp_path, "advection_1d", count=4, seed=1)
    assert said == [f"{first.path}: seed is 0, wanted 1; num_trajectories is 2, wanted 4; making it again"]
    assert changed.shape == (4, 3, 1, 128)
    first.path.write_bytes(b"not HDF5")
    _, said = write(tmp_path, "advection_1d", count=4, seed=1)
    assert said == [f"{first.path}: not a readable HDF5 file; making it again"]
    with h5py.File(first.path) as file:
        assert file["tensor"].shape == (4, 3, 128)


@pytest.mark.parametrize("name", ["burgers_1d", "reaction_diffusion_2d"])
@pytest.mark.parametrize("failure", [DataError("not finite"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_nothing_half_written_remains(tmp_path, monkeypatch, name, failure):
    whole, _ = write(tmp_path, name)
    before = whole.path.read_bytes()

    def fail_after_one(*arguments, **settings):
        yield generate_family(name, 1, split="test", num_frames=3)
        raise failure

    monkeypatch.setattr(files, "generate_batches", fail_after_one)
    expected = DataError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        write(tmp_path, name, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == [whole.path.name]
    assert whole.path.read_bytes() == before


def test_splits_get_their_share_and_at_least_one_each():
    tenths = {"train": 0.8, "valid": 0.1, "test": 0.1}
    assert split_counts(320, tenths) == {"train": 256, "valid": 32, "test": 32}
    assert split_counts(3, tenths) == {"train": 1, "valid": 1, "test": 1}
    assert split_counts(7, {"test": 1.0}) == {"test": 7}


@pytest.mark.parametrize(
    ("count", "fractions", "message"),
    [
        (2, {"train": 0.8, "valid": 0.1, "test": 0.1}, r"--trajectories 2: too few for 3 splits .*--splits train=1"),
        (9, {"train": 0.8, "dev": 0.2}, "--splits: unknown split dev; known: train, valid, test"),
        (9, {"train": 0.8, "test": 0.1}, "--splits train=0.8,test=0.1: fractions must be above 0 and add up to 1"),
    ],
)
def test_bad_splits_are_refused(count, fractions, message):
    with pytest.raises(DataError, match=message):
        split_counts(count, fractions)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/out: can't write there \(Not a directory\); choose a folder"):
        prepare_folder(tmp_path / "file" / "out")


def run_tool(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    return ended.value.code, capsys.readouterr()


def test_the_command_writes_a_file_per_family_and_split(tmp_path, monkeypatch, capsys):
    arguments = ("--families", "all", "--trajectories", 3, "--frames", 2, "--out", tmp_path / "new" / "hdf5", "--json")
    code, streams = run_tool(monkeypatch, capsys, *arguments)
    assert code == 0
    report = json.loads(streams.out)
    assert len(report["files"]) == 12
    assert {file["path"] for file in report["files"]} == {str(path) for path in (tmp_path / "new" / "hdf5").iterdir()}
    code, streams = run_tool(monkeypatch, capsys, *arguments[:-1])
    assert code == 0
    assert streams.err.count("kept") == 12
    assert "0 trajectories made" in streams.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--families", "heat"), "error: unknown family 'heat'; can be generated: advection_1d"),
        (("--families", "all", "--splits", "train"), "error: --splits train: 'train' is not NAME=FRACTION"),
        (("--families", "all", "--frames", "1"), "error: --frames 1: must be at least 2"),
    ],
)
def test_the_command_refuses_bad_input_without_a_traceback(tmp_path, monkeypatch, capsys, arguments, message):
    code, streams = run_tool(monkeypatch, capsys, "--trajectories", 4, "--out", tmp_path / "out", *arguments)
    assert code == 2
    assert streams.err.startswith(message)
    assert "Traceback" not in streams.err
    assert not (tmp_path / "out").exists()
