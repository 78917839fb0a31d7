"""Validation finds all that is wrong with a data set at once, and nothing wrong with a sound one."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import mixed_shards
import numpy as np
import pytest
import xxhash
from small_shards import write_shards

from ups_scale.data.index import read_index
from ups_scale.data.manifest import load_manifest
from ups_scale.data.reader import ShardReader
from ups_scale.data.scan import scan
from ups_scale.data.validate import inspect
from ups_scale.errors import DataError

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools" / "validate.py"
DEMO = ROOT / "recipes" / "demo.json"


@pytest.fixture
def folder(tmp_path):
    mixed_shards.write(tmp_path / "mixed")
    return tmp_path / "mixed"


def change(folder, edit):
    """Edits the manifest."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    edit(content["families"])
    path.write_text(json.dumps(content))


def flip(path, position):
    raw = bytearray(path.read_bytes())
    raw[position] ^= 0x20
    path.write_bytes(raw)


def reseal(folder, name, index):
    """Writes an index, and lists it in the manifest with the checksums of what lies there."""
    raw = (folder / name).read_bytes()
    header = replace(index.header, shard_bytes=len(raw), shard_sha256=sha256(raw).hexdigest())
    sealed = replace(index, header=header).to_bytes()
    (folder / f"{name}.idx").write_bytes(sealed)
    family, split, _ = name.split("-")

    def edit(families):
        for entry in families[family]["splits"][split]:
            if entry["file"] == name:
                entry |= {"bytes": len(raw), "sha256": header.shard_sha256, "index_sha256": sha256(sealed).hexdigest()}

    change(folder, edit)


def problems(folder):
    return [str(finding) for finding in inspect(load_manifest(folder)).problems]


def deep(folder):
    return [str(finding) for finding in scan(load_manifest(folder), threads=2).problems]


def test_nothing_is_wrong_with_sound_data(folder, shard_folder):
    for path in (folder, shard_folder):
        found = inspect(load_manifest(path), threads=2)
        assert (found.problems, found.notes) == ((), ())
        told = []
        result = scan(load_manifest(path), threads=2, progress=told.append)
        assert (result.problems, result.damaged) == ((), {})
        assert result.num_bytes == sum(told) == sum(file.stat().st_size for file in path.glob("*.tar"))


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (("statistics", "u", "mean"), [9.96921e36, 1], r"beyond 1e\+20; is a fill value taken for a number\? Name it"),
        (("statistics", "u", "rms"), [0.001, 1], r"contradict each other \(rms² = mean² \+ std²\); run tools/shard"),
        (("extents",), [[1, 0]], "family waves_1d: extent of axis x is 1 to 0; expected low < high, both finite"),
        (("boundaries",), [["periodic", "open"]], "an axis is periodic on both sides or on none"),
    ],
)
def test_impossible_figures_of_a_family(folder, place, value, text):
    def edit(families):
        node = families["waves_1d"]
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value

    change(folder, edit)
    assert re.search(text, "\n".join(problems(folder)))


@pytest.mark.parametrize(("quantity", "what"), [("u", "zero everywhere"), ("delta", "the same in all frames")])
def test_a_field_that_leaves_nothing_to_predict(folder, quantity, what):
    def edit(families):
        for name in ("waves_1d", "darcy_2d"):
            for values in families[name]["statistics"][quantity].values():
                values[0] = 0

    change(folder, edit)
    # Permeability, darcy's first field, is given and may be anything.
    assert problems(folder) == []
    notes = inspect(load_manifest(folder)).notes
    told = f"family waves_1d: field height: {what} in the training split: nothing of it is learned"
    assert [str(note) for note in notes] == [told]


def test_a_mean_that_hides_the_variation_is_a_note(folder):
    def edit(families):
        for kind, value in (("mean", 273.0), ("std", 1.0), ("rms", math.hypot(273, 1))):
            families["waves_1d"]["statistics"]["u"][kind][0] = value

    change(folder, edit)
    assert problems(folder) == []
    (note,) = inspect(load_manifest(folder)).notes
    assert "field height: its mean 273 is large against its standard deviation 1" in str(note)


def test_a_steady_family_has_two_frames(folder):
    change(folder, lambda families: families["darcy_2d"]["num_frames"].update(train=3))
    assert any("a steady family has 2, what is given and the solution" in problem for problem in problems(folder))


def test_sizes_that_no_file_has_are_no_crash(folder):
    """Manifest, index and its header agree on them."""
    name = "waves_1d-train-00000.tar"
    path = folder / f"{name}.idx"
    index = read_index(path)
    for grid, num_bytes in ((10**13, 2**61), (10**16, 2**61)):
        header = replace(index.header, grid=(grid,), shard_bytes=num_bytes)
        raw = replace(index, header=header).to_bytes()
        path.write_bytes(raw)

        def edit(families, grid=grid, num_bytes=num_bytes, raw=raw):
            families["waves_1d"]["grid"] = [grid]
            families["waves_1d"]["splits"] = {"train": families["waves_1d"]["splits"]["train"][:1]}
            families["waves_1d"]["num_frames"] = {"train": 6}
            shard = families["waves_1d"]["splits"]["train"][0]
            shard.update(bytes=num_bytes, index_sha256=sha256(raw).hexdigest())

        change(folder, edit)
        found = [str(problem) for problem in scan(load_manifest(folder)).problems]
        assert any(f"{name}: " in text and "bytes, where one frame has" in text for text in found)
        with pytest.raises(DataError):
            ShardReader(load_manifest(folder), "waves_1d", "train", strict=False).read([0], [0], 3)


def test_all_that_is_wrong_with_the_files_at_once(folder):
    (folder / "waves_1d-train-00000.tar").unlink()
    with (folder / "waves_1d-train-00001.tar").open("ab") as file:
        file.write(b"more")
    (folder / "waves_1d-valid-00000.tar.idx").unlink()
    flip(folder / "ocean_2d-train-00000.tar.idx", -9)
    (folder / "ocean_2d-train-00001.tar.idx").write_bytes((folder / "ocean_2d-train-00000.tar.idx").read_bytes())
    change(folder, lambda families: families["darcy_2d"]["splits"].update(ood=families["darcy_2d"]["splits"]["valid"]))
    change(folder, lambda families: families["darcy_2d"]["num_frames"].update(ood=2))
    found = "\n".join(problems(folder))
    for text in (
        "waves_1d-train-00000.tar: no such shard, though manifest.json lists it; run tools/shard.py again",
        "waves_1d-train-00001.tar: 10244 bytes, expected 10240; copy it again, or run tools/shard.py again",
        "waves_1d-valid-00000.tar.idx: the shard's index can't be read (No such file or directory)",
        "ocean_2d-train-00000.tar.idx: checksum ",
        "ocean_2d-train-00001.tar.idx: checksum ",
        "darcy_2d-valid-00000.tar: listed 2 times in the manifest",
        "darcy_2d-valid-00000.tar.idx: split 'valid' in the index, 'ood' in manifest.json",
    ):
        assert text in found


def test_an_index_that_is_sound_and_another_ones(folder):
    (folder / "waves_1d-train-00001.tar.idx").write_bytes((folder / "waves_1d-train-00000.tar.idx").read_bytes())
    assert problems(folder)[0].startswith("waves_1d-train-00001.tar.idx: not the index that ")
    reseal(folder, "waves_1d-train-00001.tar", read_index(folder / "waves_1d-train-00000.tar.idx"))
    found = problems(folder)
    assert "waves_1d-train-00001.tar.idx: file 'waves_1d-train-00000.tar' in the index" in found[0]
    assert any(
        line.startswith("indices: trajectory waves_1d-train-00000-000000: 2 trajectories have") for line in found
    )


@pytest.mark.parametrize(
    ("shard", "times", "text"),
    [
        ("waves_1d", [0, 0.1, 0.2, 0.2, 0.4, 0.5], "frame 3: time goes from 0.2 s to 0.2 s; times must increase"),
        ("waves_1d", [0, 0.1, 0.2, 0.3, 0.4, np.nan], "times that are no finite numbers; run tools/shard.py again"),
        ("waves_1d", [0, 0.1, 0.2, 0.3, 0.4, 0.9], "frame 5: 0.5 s after the frame before, though the manifest says"),
        ("ocean_2d", [0, 5, 2, 3, 4, 5], "frame 2: time goes from 5 s to 2 s; times must increase"),
        ("darcy_2d", [0, 1], "states times, though the family is steady; run tools/shard.py again"),
    ],
)
def test_times(folder, shard, times, text):
    name = f"{shard}-train-00001.tar"
    index = read_index(folder / f"{name}.idx")
    times_nt = index.times_nt.copy()
    times_nt[1] = times
    reseal(folder, name, replace(index, times_nt=times_nt))
    (line,) = problems(folder)
    assert line.startswith(f"{name}.idx: trajectory {name[:-4]}-000001")
    assert text in line


def test_notes_on_leaks_between_splits_and_on_what_is_left_over(tmp_path):
    u = np.random.default_rng(0).normal(size=(4, 3, 8)).astype(np.float32)
    u[3] = u[1]
    write_shards(tmp_path, {"u": u}, num_frames={"train": 3, "test": 3})

    def to_test(families):
        splits = families["made_up"]["splits"]
        splits["test"] = [splits["train"].pop()]

    change(tmp_path, to_test)
    for name in ("old.tar", "old.tar.idx", "new.tar.tmp", "notes.txt"):
        (tmp_path / name).write_text("")
    leak, stray = map(str, inspect(load_manifest(tmp_path)).notes)
    assert leak == "family made_up: 1 trajectories of split test are in split train too, number for number"
    assert "holds 3 files that the manifest does not list (new.tar.tmp, old.tar, old.tar.idx); delete" in stray


def test_every_damaged_frame_is_found_and_no_other(folder):
    rng = np.random.default_rng(3)
    expected = set()
    for name in ("waves_1d-train-00000.tar", "ocean_2d-valid-00000.tar", "darcy_2d-train-00001.tar"):
        index = read_index(folder / f"{name}.idx")
        header = index.header
        for _ in range(4):
            row, column = int(rng.integers(2)), int(rng.integers(len(header.fields)))
            frame = 0 if header.fields[column] in header.static else int(rng.integers(header.num_frames))
            place = (name, header.keys[row], header.fields[column], frame)
            if place not in expected:
                start = int(index.offsets_nc[row, column]) + frame * header.frame_bytes
                flip(folder / name, start + int(rng.integers(header.frame_bytes)))
                expected.add(place)
    result = scan(load_manifest(folder), threads=2)
    found = {(f.where, f.key, f.field, f.frame) for f in result.problems if f.frame is not None}
    assert found == expected
    whole = [finding for finding in result.problems if finding.frame is None]
    assert sorted(f.where for f in whole) == sorted({name for name, *_ in expected})
    assert all(finding.text.startswith("SHA-256 ") for finding in whole)
    for family, split in (("waves_1d", "train"), ("ocean_2d", "valid"), ("darcy_2d", "train")):
        keys = {key for name, key, *_ in expected if name.startswith(family)}
        assert result.damaged[family, split] == len(keys)


def test_a_shard_of_another_size_counts_whole_as_training_takes_none_of_it(folder):
    name = "waves_1d-train-00000.tar"
    os.truncate(folder / name, (folder / name).stat().st_size - 512)  # of the end's padding
    result = scan(load_manifest(folder))
    assert result.damaged == {("waves_1d", "train"): 2}


def test_a_shard_that_ends_early(folder):
    name = "waves_1d-train-00000.tar"
    index = read_index(folder / f"{name}.idx")
    end = int(index.offsets_nc[1, 1]) + 2 * index.header.frame_bytes + 10
    os.truncate(folder / name, end)
    found = [f for f in scan(load_manifest(folder)).problems if f.frame is not None]
    assert [f.frame for f in found] == [2]
    assert "frame 2: the file ends 54 bytes before the frame does; what comes after is missing too" in str(found[0])


def test_what_only_the_values_give_away(folder):
    """With right checksums, NaN without a mask, infinity and other numbers are found all the same."""
    name = "waves_1d-train-00001.tar"
    index = read_index(folder / f"{name}.idx")
    raw = bytearray((folder / name).read_bytes())
    checksums = index.checksums_nct.copy()
    for frame, value in ((1, np.nan), (4, -np.inf)):
        start = int(index.offsets_nc[0, 0]) + frame * index.header.frame_bytes
        values = np.frombuffer(bytes(raw[start : start + index.header.frame_bytes]), np.float32).copy()
        values[3] = value
        raw[start : start + index.header.frame_bytes] = values.tobytes()
        checksums[0, 0, frame] = xxhash.xxh3_64_intdigest(values.tobytes())
    (folder / name).write_bytes(raw)
    reseal(folder, name, replace(index, checksums_nct=checksums))
    key = f"{name}: trajectory {name[:-4]}-000000, field height"
    assert deep(folder) == [
        f"{key}, frame 1: 1 of 16 values are NaN in a family without a mask",
        f"{key}, frame 4: 1 of 16 values are infinite; leave that trajectory out, or name them as the mask",
    ]


@pytest.mark.parametrize("quantity", ["u", "delta"])
@pytest.mark.parametrize("family", ["waves_1d", "ocean_2d", "darcy_2d"])
def test_statistics_are_those_of_the_training_split(folder, family, quantity):
    def edit(families):
        kinds = families[family]["statistics"][quantity]
        kinds["mean"][-1] += 1e-5 * kinds["rms"][-1]

    change(folder, edit)
    (line,) = deep(folder)
    assert f"statistics.{quantity}.mean is " in line
    assert "in the training split's shards; run tools/shard.py again" in line


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (b'"depth": 0.', b'"depth": 1.', "parameters {'depth': 1."),
        (b'"family": "waves_1d"', b'"family": "waves_2d"', "family waves_2d in its JSON, waves_1d in the index"),
        (b'"first": 0.0', b'"first": 7.0', "times 7 to 7.5 s in its JSON, 0 to 0.5 s in the index"),
        (b'"parameters"', b'"parameterz"', "its JSON can't be read (KeyError: 'parameters')"),
        (b"'descr': '<f4'", b"'descr': '|O4'", "array is object (6, 16), expected float32 (6, 16)"),
        (b"'descr': '<f4'", b"'descr': '<i4'", "array is int32 (6, 16), expected float32 (6, 16)"),
        (b"'shape': (6, 16)", b"'shape': (16, 6)", "array is float32 (16, 6), expected float32 (6, 16)"),
        (b"-000000.json", b"-000000.pyd\0", "-000000.pyd', which is not expected or comes twice"),
    ],
)
def test_what_plain_webdataset_sees_is_what_the_index_says(folder, old, new, text):
    name = "waves_1d-train-00000.tar"
    raw = bytearray((folder / name).read_bytes())
    at = raw.index(old)
    raw[at : at + len(old)] = new
    if old.startswith(b"-0000"):  # the header's own checksum
        header = at // 512 * 512
        raw[header + 148 : header + 156] = b" " * 8
        raw[header + 148 : header + 156] = b"%06o\0 " % sum(raw[header : header + 512])
    (folder / name).write_bytes(raw)
    reseal(folder, name, read_index(folder / f"{name}.idx"))
    assert problems(folder) == []
    found = deep(folder)
    assert any(text in line for line in found), found


def test_memory_does_not_grow_with_the_shard(tmp_path):
    u = np.random.default_rng(0).normal(size=(2, 64, 256, 256)).astype(np.float32)  # 16 MiB per trajectory
    manifest = write_shards(tmp_path, {"u": u})
    scan(manifest)
    tracemalloc.start()
    scan(manifest)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * 2**20


# The command


def run(*arguments):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_command_on_sound_data(folder):
    fits = ("--set", "evaluate.every_steps=0", "--set", "model.patch_size=2")
    done = run("--recipe", DEMO, "--data", folder, "--deep", *fits)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert done.stderr.startswith("read 0.00 GiB at ")
    assert done.stdout.splitlines() == [
        "waves_1d: 16, 4 train of 6 frames + 2 valid of 5 frames, 0.000 GiB, periodic",
        "ocean_2d: 6x4, 4 train of 6 frames + 2 valid of 5 frames, 0.000 GiB, open, masked, irregular",
        "darcy_2d: 4x4, 4 train of 2 frames + 2 valid of 2 frames, 0.000 GiB, dirichlet, steady",
    ]


def test_command_says_everything_at_once(folder):
    flip(folder / "waves_1d-train-00000.tar", 1600)
    (folder / "stray.tar").touch()
    change(folder, lambda families: families["waves_1d"].update(extents=[[1, 1]]))
    done = run("--recipe", DEMO, "--data", folder, "--deep", "--set", "curriculum.horizons=[8]", "--world-size", 3000)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {DEMO} on {folder}: ")
    for text in (
        '1 context + 8 predicted frames = 9 does not fit family "waves_1d", which has 6 frames per trajectory in its',
        'evaluate.horizons: a window of 1 context + 16 predicted frames = 17 does not fit family "ocean_2d"',
        "data.batch_tokens gives a draw of darcy_2d ",
        "fewer than the 3000 ranks",
        "family waves_1d: extent of axis x is 1 to 1",
        "waves_1d-train-00000.tar: SHA-256 ",
        f"note: {folder}: holds 1 files that the manifest does not list (stray.tar)",
    ):
        assert text in done.stderr


def test_command_goes_on_to_the_data_when_the_recipe_is_wrong(folder, tmp_path):
    recipe = {"extends": str(DEMO), "format": 1, "run": {"name": "x"}, "data": {"manifest": str(folder)}, "modle": {}}
    (tmp_path / "mine.json").write_text(json.dumps(recipe))
    (folder / "waves_1d-train-00000.tar").unlink()
    done = run("--recipe", tmp_path / "mine.json", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 2
    assert [problem["about"] for problem in report["problems"]] == ["recipe", "data"]
    assert "modle: unknown key" in report["problems"][0]["text"]
    assert report["problems"][1]["where"] == "waves_1d-train-00000.tar"


def test_command_lists_fifty_and_json_all(folder):
    for path in folder.glob("*.tar"):
        index = read_index(f := folder / f"{path.name}.idx")
        assert f.is_file()
        raw = bytearray(path.read_bytes())
        for row in index.offsets_nc:
            for start, name in zip(row.tolist(), index.header.fields, strict=True):
                frames = 1 if name in index.header.static else index.header.num_frames
                for frame in range(frames):
                    raw[start + frame * index.header.frame_bytes] ^= 1
        path.write_bytes(raw)
    fits = ("--set", "evaluate.every_steps=0", "--set", "model.patch_size=2")
    done = run("--recipe", DEMO, "--data", folder, "--deep", *fits)
    # 9 shards; (4 x 6 + 2 x 5) frames of the waves' two fields, of the ocean's one, 6 x (2 + 1) of darcy's.
    total = 9 + 3 * (4 * 6 + 2 * 5) + 6 * 3
    assert f": {total} problems\n" in done.stderr
    assert f"and {total - 50} more: --json lists them all" in done.stderr
    assert (
        "waves_1d, train: 4 trajectories can't be read whole, 100.000%; more than data.max_damaged_share" in done.stderr
    )
    report = json.loads(run("--recipe", DEMO, "--data", folder, "--deep", "--json", *fits).stdout)
    assert len(report["problems"]) == total
    frames = [problem for problem in report["problems"] if problem["frame"] is not None]
    assert {"where", "key", "field", "frame", "text", "about"} <= frames[0].keys()
    assert report["damaged"][0] == {
        "family": "waves_1d",
        "split": "train",
        "trajectories": 4,
        "share": 1.0,
        "stops_training": True,
    }


@pytest.mark.parametrize(("arguments", "text"), [(("--world-size", "0"), "--world-size 0: expected 1 or more")])
def test_command_refuses_impossible_options(arguments, text):
    done = run("--recipe", DEMO, *arguments)
    assert (done.returncode, done.stderr) == (2, f"error: {text}\n")
