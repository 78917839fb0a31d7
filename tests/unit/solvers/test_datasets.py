"""Descriptions of generated data sets, the files that they are cut into, processes, and the command itself."""

import json
import math
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from ups_scale.data.manifest import load_manifest
from ups_scale.data.scan import scan
from ups_scale.errors import DataError
from ups_scale.solvers import SETUPS, datasets, generate_family
from ups_scale.solvers.datasets import (
    build,
    check_foreign,
    check_space,
    load_dataset,
    make_parts,
    parts_of,
    remove_strays,
    split_counts,
)
from ups_scale.solvers.files import Written, is_there
from ups_scale.solvers.setups import USUAL

TOOL = Path(__file__).parents[3] / "tools" / "generate.py"
TENTHS = {"train": 0.8, "valid": 0.1, "test": 0.1}


def described(folder, sets, name="mine.json", **rest) -> Path:
    path = folder / name
    path.write_text(json.dumps({"format": 1, "sets": sets, **rest}))
    return path


# Counts.


def test_splits_get_their_share_and_at_least_one_each():
    assert split_counts(320, TENTHS) == {"train": 256, "valid": 32, "test": 32}
    assert split_counts(3, TENTHS) == {"train": 1, "valid": 1, "test": 1}
    assert split_counts(7, {"test": 1.0}) == {"test": 7}
    assert split_counts(320, TENTHS, 0.05) == {"train": 13, "valid": 2, "test": 2}
    assert split_counts(10, TENTHS, 0.01) == {"train": 1, "valid": 1, "test": 1}


@pytest.mark.parametrize(
    ("count", "fractions", "message"),
    [
        (2, TENTHS, r"trajectories 2: too few for 3 splits with at least one each; .*\(train alone\)"),
        (9, {"train": 0.8, "dev": 0.2}, "splits: unknown split dev; known: train, valid, test"),
        (9, {}, r"splits: unknown split \(none given\); known: train"),
        (9, {"train": 0.8, "test": 0.1}, "splits train=0.8,test=0.1: fractions must be above 0 and add up to 1"),
        (9, {"train": 1.5, "test": -0.5}, "fractions must be above 0 and add up to 1"),
        (9, {"train": math.nan}, "splits train=nan: fractions must be above 0"),
    ],
)
def test_bad_splits_are_refused(count, fractions, message):
    with pytest.raises(DataError, match=message):
        split_counts(count, fractions)


# Descriptions.


def test_what_a_description_says_and_leaves_out(tmp_path):
    sets = {
        "burgers_1d": {},
        "thin": {
            "family": "burgers_1d",
            "trajectories": 100,
            "parameters": {"nu": 0.02},
            "grid": 64,
            "frames": 9,
            "stride": 2,
            "ood": {"regime": 10, "resolution": 0},
        },
        "water": {"family": "shallow_water_2d", "boundary": "wall", "points": 50, "parameters": {"height": [1.5, 2]}},
    }
    dataset = load_dataset(described(tmp_path, sets, out="here", seed=4))
    assert dataset.out == Path("here")
    usual, thin, water = dataset.sets
    assert (usual.label, usual.request.name, usual.request.seed) == ("burgers_1d", "burgers_1d", 4)
    assert usual.counts == {"train": 256, "valid": 32, "test": 32}
    assert (usual.request.grid, usual.request.num_frames, usual.request.points) == (None, None, None)
    assert thin.counts == {"train": 80, "valid": 10, "test": 10, "ood_regime": 10}
    request = thin.request
    assert (request.grid, request.num_frames, request.stride) == ((64,), 9, 2)
    assert request.ranges == {"nu": (0.02, 0.02)}
    request = water.request
    assert (request.boundary, request.points, request.ranges) == ("wall", 50, {"height": (1.5, 2.0)})


def test_a_share_takes_a_part_of_every_set_and_the_first_of_its_trajectories(tmp_path):
    path = described(tmp_path, {"burgers_1d": {"trajectories": 100, "ood": {"regime": 30, "resolution": 4}}})
    (one,) = load_dataset(path, {"share": 0.1}).sets
    assert one.counts == {"train": 8, "valid": 1, "test": 1, "ood_regime": 3, "ood_resolution": 1}
    (whole,) = load_dataset(path).sets
    assert one.request == whole.request
    assert [part.first for part in parts_of(load_dataset(path, {"share": 0.1}), tmp_path)] == [0] * 5


def test_a_description_extends_another_key_by_key(tmp_path):
    described(tmp_path, {"burgers_1d": {"trajectories": 50, "grid": 64}, "kdv": {"family": "korteweg_de_vries_1d"}})
    (tmp_path / "inner").mkdir()
    child = tmp_path / "inner" / "child.json"
    child.write_text(json.dumps({"format": 1, "extends": "../mine.json", "sets": {"burgers_1d": {"grid": 128}}}))
    burgers, kdv = load_dataset(child).sets
    assert (burgers.request.grid, sum(burgers.counts.values())) == ((128,), 50)
    assert kdv.request.name == "korteweg_de_vries_1d"
    (only,) = load_dataset(child, {"only": ["kdv"]}).sets
    assert only == kdv


@pytest.mark.parametrize(
    ("sets", "rest", "message"),
    [
        (
            {"burgers_1d": {"trajectorys": 4}},
            {},
            'sets.burgers_1d.trajectorys: unknown key; did you mean "trajectories"',
        ),
        ({"burgers_1d": {}}, {"shares": 0.5}, 'shares: unknown key; did you mean "share"?'),
        ({"burgers_1d": {}}, {"share": 0}, "share: found 0; allowed: "),
        ({"burgers_1d": {}}, {"format": 2}, "format: found 2, but this version of ups_scale reads format 1; update"),
        ({"burgers_1d": {}}, {"only": ["kdv", "burgers_1d"]}, "only: no set is called kdv; there are burgers_1d"),
        ({}, {}, "sets: found none; name at least one"),
        ({"a/b": {}}, {}, "sets.a/b: not a name for this; allowed: letters, digits, _, . and -, a letter first"),
        ({"heat": {}}, {}, "sets.heat: unknown family 'heat'; can be generated: advection_1d, burgers_1d"),
        ({"burgers_1d": {"trajectories": 2}}, {}, "sets.burgers_1d: trajectories 2: too few for 3 splits"),
        (
            {"burgers_1d": {"splits": {"train": 0.5}}},
            {},
            "sets.burgers_1d: splits train=0.5: fractions must be above 0",
        ),
        (
            {"burgers_1d": {"parameters": {"nu": 1e-9}}},
            {},
            "sets.burgers_1d: burgers_1d: nu from 1e-09 to 1e-09; its solver is stable and resolves the solution for "
            "nu from 0.003 to 1",
        ),
        (
            {"burgers_1d": {"parameters": {"nu": [1, 2, 3]}}},
            {},
            "sets.burgers_1d.parameters.nu: found [1, 2, 3]; ",
        ),
        ({"burgers_1d": {"parameters": {"mu": 1}}}, {}, "burgers_1d: nothing called 'mu' is drawn; can be set: nu"),
        ({"burgers_1d": {"frames": 1}}, {}, "sets.burgers_1d.frames: found 1; allowed: "),
        ({"burgers_1d": {"stride": 0}}, {}, "sets.burgers_1d.stride: found 0; allowed: "),
        ({"burgers_1d": {"grid": 100}}, {}, "sets.burgers_1d: burgers_1d: grid 100; give 1 equal numbers"),
        (
            {"burgers_1d": {"boundary": "wall"}},
            {},
            "sets.burgers_1d: burgers_1d: boundary 'wall'; its solver has periodic",
        ),
        ({"burgers_1d": {"points": 9}}, {}, "sets.burgers_1d: burgers_1d: points 9: 1 to 1048576, and of 2D families"),
        (
            {"burgers_1d": {"ood": {"boundary": 9}}},
            {},
            "burgers_1d: no split 'ood_boundary'; it has train, valid, test, ",
        ),
        (
            {"burgers_1d": {"ood": {"regimes": 9}}},
            {},
            'sets.burgers_1d.ood.regimes: unknown key; did you mean "regime"?',
        ),
    ],
)
def test_what_is_wrong_is_said_by_file_and_key(tmp_path, sets, rest, message):
    path = described(tmp_path, sets, **rest)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        load_dataset(path)
    assert str(error.value).startswith(f"{path}: 1 problem\n")


def test_all_problems_come_at_once(tmp_path):
    sets = {"heat": {}, "burgers_1d": {"trajectories": 1}, "kdv": {"family": "korteweg_de_vries_1d"}}
    with pytest.raises(DataError) as error:
        load_dataset(described(tmp_path, sets, only=["heat", "burgers_1d", "wave"]))
    assert str(error.value).startswith(f"{tmp_path / 'mine.json'}: 3 problems\n")
    for part in ("only: no set is called wave", "sets.heat: unknown family", "sets.burgers_1d: trajectories 1"):
        assert part in str(error.value)
    with pytest.raises(DataError) as error:
        load_dataset(described(tmp_path, {"burgers_1d": {"grids": 3, "stride": 0}}, share=2))
    assert str(error.value).startswith(f"{tmp_path / 'mine.json'}: 3 problems\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; check the path"),
        ("{", "malformed JSON"),
        ("[]", "found []; a description of a data set is a JSON object"),
        ('{"sets": {"burgers_1d": {}}}', "format: missing; write 1"),
        (
            '{"format": 1, "extends": "gone.json"}',
            'no such file; the path in "extends" starts at the folder of its own',
        ),
        ('{"format": 1, "extends": "mine.json"}', "goes in a circle"),
    ],
)
def test_files_that_are_no_descriptions(tmp_path, text, message):
    if text is not None:
        (tmp_path / "mine.json").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        load_dataset(tmp_path / "mine.json")


def test_flags_are_described_as_flags():
    with pytest.raises(DataError, match=re.escape("--families: 1 problem\n  sets.burgers_1d: burgers_1d: grid 3;")):
        build("--families", [{"sets": {"burgers_1d": {"grid": 3}}}])


# Files.


def test_parts_cover_every_split_once_in_files_of_about_equal_size(tmp_path, monkeypatch):
    sets = {
        "burgers_1d": {"trajectories": 100, "frames": 4, "ood": {"resolution": 9}},
        "darcy": {"family": "darcy_2d", "trajectories": 10},
    }
    dataset = load_dataset(described(tmp_path, sets))
    size = 4 * 128 * 4
    monkeypatch.setattr(datasets, "PART_BYTES", 30 * size)
    parts = parts_of(dataset, tmp_path)
    found = {(part.path.name, part.first, part.count) for part in parts if part.label == "burgers_1d"}
    assert found == {
        *((f"burgers_1d_train-{number:04d}.hdf5", 30 * number, min(30, 80 - 30 * number)) for number in range(3)),
        ("burgers_1d_valid.hdf5", 0, 10),
        ("burgers_1d_test.hdf5", 0, 10),
        ("burgers_1d_ood_resolution.hdf5", 0, 9),
    }
    for one in dataset.sets:
        for split, count in one.counts.items():
            mine = [part for part in parts if (part.label, part.split) == (one.label, split)]
            assert [index for part in mine for index in range(part.first, part.first + part.count)] == list(
                range(count)
            )
    assert len({part.path for part in parts}) == len(parts)
    assert {part.num_bytes for part in parts if part.count == 30} == {30 * size}
    # Permeability and solution, once each.
    of_darcy = sum(part.num_bytes for part in parts if (part.label, part.split) == ("darcy", "train"))
    assert of_darcy == 8 * 2 * 32 * 32 * 4


def test_a_trajectory_larger_than_a_part_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "PART_BYTES", 1)
    dataset = load_dataset(described(tmp_path, {"burgers_1d": {"trajectories": 5, "splits": {"test": 1.0}}}))
    assert [(part.first, part.count) for part in parts_of(dataset, tmp_path)] == [(number, 1) for number in range(5)]


def test_a_disk_without_room_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    parts = parts_of(load_dataset(described(tmp_path, {"burgers_1d": {"trajectories": 1000}})), tmp_path)
    need = sum(part.num_bytes for part in parts)

    def with_free(num_bytes):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=num_bytes))

    with_free(need)
    check_space(parts, tmp_path, None)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "some.tar").write_bytes(bytes(2**20))
    for free, shards, needed in ((need - 1, None, need), (2 * need - 2**20 - 1, tmp_path / "shards", 2 * need - 2**20)):
        with_free(free)
        with pytest.raises(DataError) as error:
            check_space(parts, tmp_path, shards)
        assert f"{needed / 2**20:.1f} MiB are needed, {free / 2**20:.1f} MiB are free; free some" in str(error.value)
    # What is there already needs no room.
    small = parts_of(load_dataset(described(tmp_path, {"burgers_1d": {"trajectories": 3, "frames": 2}})), tmp_path)
    list(make_parts(small))
    with_free(0)
    check_space(small, tmp_path, None)


def test_files_that_are_not_the_generators_are_left_alone(tmp_path):
    dataset = load_dataset(described(tmp_path, {"burgers_1d": {"trajectories": 3, "frames": 2}}))
    parts = parts_of(dataset, tmp_path)
    mine = [tmp_path / name for name in ("burgers_1d_train-0001.hdf5", "burgers_1d_notes.txt", "burgers_1d_train.hdf5")]
    for path in mine:
        path.write_text("mine")
    with pytest.raises(DataError, match=r"burgers_1d_train.hdf5: there already, and not made by this generator; move"):
        check_foreign(parts)
    mine.pop().unlink()
    check_foreign(parts)
    list(make_parts(parts))
    # An earlier run with more trajectories, and one of a split that this run isn't about.
    for name in ("burgers_1d_train-0000.hdf5", "burgers_1d_ood_regime.hdf5"):
        shutil.copy(parts[0].path, tmp_path / name)
    assert remove_strays(parts, tmp_path) == [tmp_path / "burgers_1d_train-0000.hdf5"]
    assert all(path.exists() for path in (*mine, tmp_path / "burgers_1d_ood_regime.hdf5", *(p.path for p in parts)))


def test_a_regime_within_the_range_of_training_is_none(tmp_path):
    sets = {"burgers_1d": {"trajectories": 9, "ood": {"regime": 1}, "parameters": {"nu": [0.003, 0.05]}}}
    message = "nu is drawn from 0.003 to 0.05, and for ood_regime from 0.003 to 0.005, which is not out of it"
    with pytest.raises(DataError, match=message):
        load_dataset(described(tmp_path, sets))


def arrays_of(folder) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.iterdir()):
        with h5py.File(path) as file:
            names: list[str] = []
            file.visit(names.append)
            found |= {f"{path.name}/{n}": file[n][()].tobytes() for n in names if isinstance(file[n], h5py.Dataset)}
    return found


def test_processes_make_what_one_makes_and_keep_what_is_there(tmp_path):
    path = described(
        tmp_path,
        {
            "burgers_1d": {"trajectories": 4, "frames": 3, "splits": {"train": 0.5, "test": 0.5}},
            "reaction_diffusion_2d": {"trajectories": 2, "frames": 3, "grid": 16, "splits": {"train": 1}},
            "acoustics_2d-obstacles": {"trajectories": 2, "frames": 3, "grid": 16, "splits": {"train": 1}},
        },
    )
    dataset, folders = load_dataset(path), {workers: tmp_path / str(workers) for workers in (1, 2)}
    made, said, advanced = {}, [], []
    for workers, folder in folders.items():
        folder.mkdir()
        parts = parts_of(dataset, folder)
        if workers == 2:
            kept = list(make_parts(parts[:1]))
            assert not kept[0].kept
        made[workers] = list(make_parts(parts, workers=workers, say=said.append, advance=advanced.append))
        assert {one.part.path for one in made[workers]} == {part.path for part in parts}
        assert all(is_there(part) for part in parts)
    assert arrays_of(folders[1]) == arrays_of(folders[2]) != {}
    assert sum(advanced) == 2 * sum(part.num_bytes for part in parts)
    assert said == [f"{parts[0].path}: already there with the same settings, kept"]
    assert [one.part.path.name for one in made[2] if one.kept] == ["burgers_1d_train.hdf5"]
    again = list(make_parts(parts, workers=1, say=said.append))
    assert all(one.kept for one in again)
    assert len(said) == 1 + len(parts)


def test_an_error_in_a_process_ends_the_run_and_what_is_whole_stays(tmp_path):
    parts = parts_of(load_dataset(described(tmp_path, {"burgers_1d": {"trajectories": 3, "frames": 2}})), tmp_path)
    gone = parts_of(load_dataset(described(tmp_path, {"kdv": {"family": "advection_1d"}})), tmp_path / "gone")
    with pytest.raises(DataError, match=r"gone/kdv_train\.hdf5: can't be written"):
        list(make_parts([parts[0], gone[0]], workers=2))
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.timeout(60)
def test_a_process_that_is_killed_is_an_error_that_says_what_to_do(tmp_path):
    described_set = {"burgers_1d": {"trajectories": 300, "frames": 200}}
    parts = parts_of(load_dataset(described(tmp_path, described_set)), tmp_path)
    others = {child.pid for child in multiprocessing.active_children()}

    def kill():
        while len(list(tmp_path.glob("*.tmp"))) < 2:
            time.sleep(0.01)
        for pid in {child.pid for child in multiprocessing.active_children()} - others:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(DataError, match=r"was killed by SIGKILL, perhaps for want of memory; .* with fewer --workers"):
        list(make_parts(parts, workers=2))
    killer.join()


# The command.


def run_tool(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    return ended.value.code, capsys.readouterr()


def test_the_command_lists_what_can_be_generated(monkeypatch, capsys):
    code, streams = run_tool(monkeypatch, capsys, "--list")
    assert code == 0
    for name, setup in SETUPS.items():
        assert f"{name}: {setup.family.equation}\n" in streams.out
    assert "nu 0.005 to 0.05; ood_regime, ood_resolution" in streams.out
    assert "boundary open or wall or periodic; drawn: height 1.5 to 2.5; ood_regime, ood_boundary," in streams.out


def test_the_command_writes_a_file_per_family_and_split(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "new" / "hdf5"
    arguments = (
        "--families",
        "burgers_1d,darcy_2d",
        "--trajectories",
        3,
        "--frames",
        2,
        "--workers",
        1,
        "--out",
        folder,
    )
    code, streams = run_tool(monkeypatch, capsys, *arguments, "--json", "--ood", "regime=2", "--seed", 5)
    assert code == 0
    report = json.loads(streams.out)
    assert [(row["set"], row["split"]) for row in report["sets"]] == [
        (name, split) for name in ("burgers_1d", "darcy_2d") for split in ("train", "valid", "test", "ood_regime")
    ]
    paths = {path for row in report["sets"] for path in row["paths"]}
    assert paths == {str(path) for path in folder.iterdir()}
    with h5py.File(folder / "burgers_1d_ood_regime.hdf5") as file:
        assert (file.attrs["seed"], file["tensor"].shape) == (5, (2, 2, 128))
    code, streams = run_tool(monkeypatch, capsys, *arguments, "--ood", "regime=2", "--seed", 5)
    assert code == 0
    assert streams.err.count("kept") == 8
    assert "0 trajectories made" in streams.out


def test_all_stands_for_the_usual_families(tmp_path, monkeypatch, capsys):
    seen = []

    def keep(parts, **settings):
        seen.extend(parts)
        return (Written(part, 0, 0.0, True) for part in parts)

    monkeypatch.setattr(datasets, "make_parts", keep)
    code, _ = run_tool(monkeypatch, capsys, "--families", "all", "--trajectories", 3, "--out", tmp_path / "hdf5")
    assert code == 0
    assert tuple(dict.fromkeys(part.request.name for part in seen)) == USUAL
    assert len(seen) == 3 * len(USUAL)


def test_flags_become_the_request(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "hdf5"
    arguments = ("--families", "shallow_water_2d", "--trajectories", 2, "--splits", "train=0.5,test=0.5", "--stride", 2)
    more = ("--frames", 3, "--boundary", "wall", "--parameter", "height=1.5:1.6", "--points", 20, "--workers", 1)
    code, _ = run_tool(monkeypatch, capsys, *arguments, *more, "--out", folder)
    assert code == 0
    assert {path.name for path in folder.iterdir()} == {
        f"shallow_water_2d-points_{split}.hdf5" for split in ("train", "test")
    }
    with h5py.File(folder / "shallow_water_2d-points_test.hdf5") as file:
        settings = json.loads(file.attrs["settings"])
        assert (settings["ranges"], settings["points"]) == ({"height": [1.5, 1.6]}, 20)
        assert json.loads(file.attrs["boundary"]) == [["wall", "wall"]] * 2
        assert file.attrs["dt"] == 2 * SETUPS["shallow_water_2d"].dt
        assert file["height"].shape == (1, 3, 20)


def test_a_recipe_becomes_shards_and_a_manifest(tmp_path, monkeypatch, capsys):
    burgers = {"trajectories": 40, "frames": 3, "grid": 64, "ood": {"regime": 4, "resolution": 4}}
    path = described(
        tmp_path, {"burgers_1d": burgers, "darcy_2d": {}, "kdv": {"family": "korteweg_de_vries_1d"}}, out="unused"
    )
    out = tmp_path / "data"
    arguments = ("--recipe", path, "--share", 0.5, "--only", "burgers_1d", "--shard", "--out", out, "--workers", 1)
    code, streams = run_tool(monkeypatch, capsys, *arguments)
    assert code == 0
    assert f"manifest: {out / 'manifest.json'}" in streams.out
    manifest = load_manifest(out / "manifest.json")
    usual, finer = manifest.families["burgers_1d"], manifest.families["burgers_1d-128"]
    assert {split: usual.num_trajectories(split) for split in usual.splits} == {
        "train": 16,
        "valid": 2,
        "test": 2,
        "ood_regime": 2,
    }
    assert finer.splits == ("ood_resolution",)
    assert (usual.spec.grid, finer.spec.grid) == ((64,), (128,))
    # Without training data of its own it has the statistics of what it is a variant of, which is no damage.
    assert finer.statistics == usual.statistics
    assert scan(manifest).problems == ()
    u = generate_family(load_dataset(path).sets[0].request, 16).fields_btcx.astype(np.float64)
    assert usual.spec.u_rms[0] == pytest.approx(math.sqrt((u**2).mean()), rel=1e-5)


def test_what_an_earlier_run_left_is_not_sharded_too(tmp_path, monkeypatch, capsys):
    """A set that was made smaller, to try it out, or cut otherwise."""
    path = described(tmp_path, {"burgers_1d": {"trajectories": 40, "frames": 3}})
    arguments = ("--recipe", path, "--out", tmp_path / "data", "--workers", 1)
    assert run_tool(monkeypatch, capsys, *arguments, "--share", 0.5)[0] == 0
    monkeypatch.setattr(datasets, "PART_BYTES", 10 * 3 * 128 * 4)
    assert run_tool(monkeypatch, capsys, *arguments, "--shard")[0] == 0
    family = load_manifest(tmp_path / "data" / "manifest.json").families["burgers_1d"]
    assert {split: family.num_trajectories(split) for split in family.splits} == {"train": 32, "valid": 4, "test": 4}


def test_json_is_all_that_is_printed_with_shards_too(tmp_path, monkeypatch, capsys):
    path = described(tmp_path, {"burgers_1d": {"trajectories": 10, "frames": 3}})
    arguments = ("--recipe", path, "--out", tmp_path / "data", "--workers", 1, "--json", "--shard")
    monkeypatch.setattr("ups_scale.data.shards.convert", lambda *_, **__: SimpleNamespace(path="manifest.json"))
    code, streams = run_tool(monkeypatch, capsys, *arguments)
    assert code == 0
    assert len(json.loads(streams.out)["sets"]) == 3


FAMILIES = ("--families", "burgers_1d", "--trajectories", 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--families", "heat", "--trajectories", 4), "error: unknown family 'heat'; can be generated: advection_1d"),
        ((*FAMILIES, "--splits", "train"), "error: --splits train: 'train' is not NAME=NUMBER, such as train=0.8"),
        ((*FAMILIES, "--splits", "train=x"), "error: --splits train=x: 'train=x' is not NAME=NUMBER"),
        ((*FAMILIES, "--splits", "train=0.3"), "error: --families: 1 problem\n  sets.burgers_1d: splits train=0.3: fr"),
        ((*FAMILIES, "--ood", "regime=many"), "error: --ood regime=many: 'regime=many' is not NAME=NUMBER"),
        ((*FAMILIES, "--ood", "regime=inf"), "error: --ood regime=inf: "),
        ((*FAMILIES, "--ood", "regime=nan"), "error: --ood regime=nan: "),
        (
            (*FAMILIES, "--ood", "regime=-3"),
            "error: --families: 1 problem\n  sets.burgers_1d.ood.regime: found -3; allow",
        ),
        ((*FAMILIES, "--ood", "weather=3"), "error: --families: 1 problem\n  sets.burgers_1d.ood.weather: unknown key"),
        (
            (*FAMILIES, "--ood", "boundary=3"),
            "error: --families: 1 problem\n  sets.burgers_1d: burgers_1d: no split 'ood",
        ),
        ((*FAMILIES, "--frames", "1"), "error: --families: 1 problem\n  sets.burgers_1d.frames: found 1; allowed: "),
        (
            (*FAMILIES, "--parameter", "nu"),
            "error: --parameter nu: not NAME=LOW:HIGH or NAME=VALUE, such as nu=0.01:0.1",
        ),
        ((*FAMILIES, "--parameter", "nu=1:2:3"), "error: --parameter nu=1:2:3: not NAME=LOW:HIGH or NAME=VALUE"),
        (
            (*FAMILIES, "--parameter", "nu=nan"),
            "error: --families: 1 problem\n  sets.burgers_1d: burgers_1d: nu from nan",
        ),
        ((*FAMILIES, "--seed", "-1"), "error: --families: 1 problem\n  seed: found -1; allowed: "),
        ((*FAMILIES, "--share", "0.5"), "usage: "),
        ((*FAMILIES, "--only", "burgers_1d"), "usage: "),
        (("--recipe", "gone.json"), "error: gone.json: 1 problem\n  no such file; check the path"),
        (
            ("--recipe", "{recipe}", "--only", "kdv"),
            "error: {recipe}: 1 problem\n  only: no set is called kdv; there are",
        ),
        (("--recipe", "{recipe}", "--share", "7"), "error: {recipe}: 1 problem\n  share: found 7.0; allowed: "),
        (("--recipe", "{recipe}", "--grid", "64"), "usage: "),
        (("--recipe", "{recipe}", "--trajectories", "64"), "usage: "),
        (("--families", "burgers_1d"), "usage: "),
        ((*FAMILIES, "--workers", "0"), "usage: "),
        ((), "usage: "),
    ],
)
def test_the_command_refuses_bad_input_without_a_traceback(tmp_path, monkeypatch, capsys, arguments, message):
    recipe = described(tmp_path, {"burgers_1d": {"trajectories": 10, "frames": 2}})
    monkeypatch.chdir(tmp_path)
    filled = [str(argument).replace("{recipe}", str(recipe)) for argument in arguments]
    code, streams = run_tool(monkeypatch, capsys, *filled, "--out", tmp_path / "out")
    assert code == 2
    assert streams.err.startswith(message.replace("{recipe}", str(recipe)))
    assert "Traceback" not in streams.err
    assert not (tmp_path / "out").exists()
