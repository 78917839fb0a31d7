"""The writer: what anybody's WebDataset reads out of the shards is what the HDF5 files hold."""

import dataclasses
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import webdataset
from array_source import Arrays, array_source, convert_sources
from synthetic import COUNTS, SHARD_MIB, make_shards, waves, write_arrays, write_sources

from ups_scale.data import shard_plan, shard_writer, shards
from ups_scale.data.entries import cut
from ups_scale.data.index import read_index
from ups_scale.data.manifest import load_manifest
from ups_scale.data.source import Dealt, split_by_seed, split_in_time
from ups_scale.errors import DataError
from ups_scale.physics.families import Field


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != "manifest.json"}


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture
def own_sources(source_folder, tmp_path):
    return shutil.copytree(source_folder, tmp_path / "sources")


def test_plain_webdataset_reads_every_shard(shard_folder, sources):
    manifest = load_manifest(shard_folder)
    for name, data in manifest.families.items():
        for split, entries in data.shards.items():
            written = sources[name, split]
            urls = [str(shard_folder / entry.file) for entry in entries]
            samples = list(webdataset.WebDataset(urls, shardshuffle=False))
            assert len(samples) == COUNTS[split]
            for number, sample in enumerate(samples):
                assert {key for key in sample if key[0] != "_"} == {"json", *(f"{f}.npy" for f in data.spec.fields)}
                for column, field in enumerate(data.spec.fields):
                    values = np.load(io.BytesIO(sample[f"{field}.npy"]), allow_pickle=False)
                    assert values.dtype == np.float32
                    np.testing.assert_array_equal(values, written.u_nctx[number, column])
                facts = json.loads(sample["json"])
                assert facts["family"] == name
                assert facts["units"] == dict(zip(data.spec.fields, data.spec.units, strict=True))
                assert facts["times"] == {"first": 0.0, "dt": pytest.approx(data.spec.dt)}
                stated = {key.lower(): values[number] for key, values in written.parameters.items()}
                assert facts["parameters"] == stated


def test_the_index_gives_the_bytes_of_the_frames(shard_folder, sources):
    for name, data in load_manifest(shard_folder).families.items():
        first = 0
        for entry in data.shards["train"]:
            raw = (shard_folder / entry.file).read_bytes()
            index = read_index(shard_folder / (entry.file + ".idx"))
            assert (entry.bytes, entry.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
            for row, number in enumerate(range(first, first + entry.trajectories)):
                for column in range(len(data.spec.fields)):
                    start = int(index.offsets_nc[row, column])
                    expected = sources[name, "train"].u_nctx[number, column].tobytes()
                    assert raw[start : start + len(expected)] == expected
            first += entry.trajectories
        assert first == COUNTS["train"]


def test_statistics_are_of_the_training_split_alone(shard_folder, sources):
    for name, data in load_manifest(shard_folder).families.items():
        u_nctx = sources[name, "train"].u_nctx.astype(np.float64)
        for quantity, values in (("u", u_nctx), ("delta", np.diff(u_nctx, axis=2))):
            over = tuple(axis for axis in range(values.ndim) if axis != 1)
            found = data.statistics[quantity]
            np.testing.assert_allclose(found["mean"], values.mean(over), rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(found["std"], values.std(over), rtol=1e-12)
            np.testing.assert_allclose(found["rms"], np.sqrt((values**2).mean(over)), rtol=1e-12)


def test_statistics_of_a_field_with_a_large_mean(tmp_path):
    """One-pass sums of squares would lose all digits of the deviation here."""
    said = {"family": "advection_1d", "split": "train"}
    u_nctx = (1e4 + waves(6, 1, 4, (16,), 0)).astype(np.float32)
    path = write_arrays(tmp_path / "a.hdf5", ("tensor",), u_nctx, {}, said).path
    manifest = make_shards(path, tmp_path / "out", shard_mib=1e-3)
    found = manifest.families["advection_1d"].statistics["u"]
    np.testing.assert_allclose(found["std"], u_nctx.astype(np.float64).std(), rtol=1e-9)


@pytest.mark.parametrize("workers", [1, 2])
def test_bytes_do_not_depend_on_time_place_or_workers(shard_folder, tmp_path, workers):
    write_sources(tmp_path)  # made anew
    manifest = make_shards(tmp_path, tmp_path / "out", workers=workers)
    assert manifest.digest == load_manifest(shard_folder).digest
    assert digests(tmp_path / "out") == digests(shard_folder)
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_second_run_writes_nothing(source_folder, own_shards, capsys):
    before = times(own_shards)
    make_shards(source_folder, own_shards)
    assert times(own_shards) == before
    assert capsys.readouterr().out == ""  # standard output is for figures


def changed_source(folder, sources):
    with h5py.File(sources / "navier_stokes_2d_valid.hdf5", "a") as file:
        file["vorticity"][2] += 1
    return {f"navier_stokes_2d-valid-0000{n}.tar" for n in range(4)}


def deleted_shard(folder, sources):
    (folder / "advection_1d-train-00001.tar").unlink()
    return {"advection_1d-train-00001.tar"}


def deleted_index(folder, sources):
    (folder / "advection_1d-train-00001.tar.idx").unlink()
    return {"advection_1d-train-00001.tar"}


def truncated_shard(folder, sources):
    path = folder / "advection_1d-train-00002.tar"
    path.write_bytes(path.read_bytes()[:-1])
    return {path.name}


def flipped_shard(folder, sources):
    flip(folder / "advection_1d-train-00002.tar", 1600)
    return {"advection_1d-train-00002.tar"}


def flipped_index(folder, sources):
    flip(folder / "advection_1d-train-00002.tar.idx", -3)
    return {"advection_1d-train-00002.tar"}


def flip(path, position):
    raw = bytearray(path.read_bytes())
    raw[position] ^= 4
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "damage", [changed_source, deleted_shard, deleted_index, truncated_shard, flipped_shard, flipped_index]
)
def test_only_what_is_no_longer_right_is_written_again(own_sources, own_shards, shard_folder, damage, capsys):
    before = times(own_shards)
    expected = damage(own_shards, own_sources)
    manifest = make_shards(own_sources, own_shards)
    said = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    damaged = expected if damage in (truncated_shard, flipped_shard, flipped_index) else set()
    assert {Path(line.partition(": damaged (")[0]).name for line in said} == damaged
    assert all(line.endswith("; it is written anew") for line in said)
    rewritten = {name for name, time in times(own_shards).items() if time != before.get(name)} - {"manifest.json"}
    assert rewritten == expected | {f"{name}.idx" for name in expected}
    same = manifest.digest == load_manifest(shard_folder).digest
    assert same == (damage is not changed_source)


def test_stated_parameter_or_other_cut_is_written_again(source_folder, tmp_path, capsys):
    path = source_folder / "advection_1d_train.hdf5"
    options = {"layout": "pdebench", "workers": 1, "show_progress": False}
    shards.convert([path], tmp_path, shard_mib=0.0075, **options)
    shards.convert([path], tmp_path, shard_mib=0.0075, parameters={"beta": 3.0}, **options)
    assert (read_index(tmp_path / "advection_1d-train-00000.tar.idx").parameters_np == 3.0).all()
    manifest = shards.convert([path], tmp_path, shard_mib=1.0, **options)
    assert [e.trajectories for e in manifest.families["advection_1d"].shards["train"]] == [12]
    note = capsys.readouterr().err
    assert "also holds 2 shards that these inputs did not give" in note
    assert "such as advection_1d-train-00001.tar" in note


def test_a_run_that_fails_leaves_no_manifest_and_the_next_one_finishes(
    own_sources, shard_folder, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    make_shards(own_sources, out)
    for name in ("advection_1d-train-00000.tar", "navier_stokes_2d-test-00003.tar", "navier_stokes_2d-train-00005.tar"):
        (out / name).unlink()
    write, calls = shard_writer.ShardIndex.to_bytes, []

    def fail_at_second(index):
        calls.append(index)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return write(index)

    monkeypatch.setattr(shard_writer.ShardIndex, "to_bytes", fail_at_second)
    with pytest.raises(RuntimeError, match="power cut"):
        make_shards(own_sources, out)
    assert not (out / "manifest.json").exists()
    assert not list(out.glob("*.tmp"))
    assert (out / "advection_1d-train-00000.tar.idx").exists()
    monkeypatch.undo()
    (out / "advection_1d-train-00009.tar.tmp").write_bytes(b"left by a kill")
    assert make_shards(own_sources, out).digest == load_manifest(shard_folder).digest
    assert not list(out.glob("*.tmp"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_what_is_not_finite_is_refused_with_its_place_and_left_out_on_request(own_sources, tmp_path, bad, capsys):
    with h5py.File(own_sources / "reaction_diffusion_2d_train.h5", "a") as file:
        data = file["0007/data"][()].astype(np.float64)
        data[5, 3, 2, 1] = bad
        del file["0007/data"]
        file["0007/data"] = data
    out = tmp_path / "out"
    with pytest.raises(DataError) as error:
        make_shards(own_sources, out)
    for part in (
        "1 trajectory holds NaN or infinity (in float32)",
        "reaction_diffusion_2d_train.h5: trajectory 7, field inhibitor, frame 5",
        "Run again with --leave-out-bad",
        "mask in a mapping file",
    ):
        assert part in str(error.value)
    assert "float16" not in str(error.value)
    assert not (out / "manifest.json").exists()
    assert not list(out.glob("*.tmp"))
    name = "reaction_diffusion_2d-train-00007.tar"  # one trajectory to a shard: none is left for this one
    assert not (out / name).exists()

    written = times(out)
    manifest = shards.convert(
        [own_sources], out, layout="pdebench", shard_mib=SHARD_MIB, leave_out_bad=True, show_progress=False
    )
    assert (
        "warning: 1 trajectory holds NaN or infinity (in float32); these trajectories are left out"
        in capsys.readouterr().err
    )
    assert {key: time for key, time in times(out).items() if key != "manifest.json"} == written
    data = manifest.families["reaction_diffusion_2d"]
    assert data.num_trajectories("train") == COUNTS["train"] - 1
    assert name not in [shard.file for shard in data.shards["train"]]
    said = json.loads((out / "manifest.json").read_text())["provenance"]["left_out"]
    assert said == [
        {
            "entry": "reaction_diffusion_2d",
            "source": "reaction_diffusion_2d_train.h5",
            "trajectory": 7,
            "field": "inhibitor",
            "frame": 5,
        }
    ]


def write_advection(path, grid=8, num_frames=4, seed=0, **said):
    u_nctx = waves(4, 1, num_frames, (grid,), seed)
    return write_arrays(path, ("tensor",), u_nctx, {}, {"family": "advection_1d", "split": "train", **said}).path


def test_the_same_file_twice(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_advection(folder / "a.hdf5")
    shutil.copy(folder / "a.hdf5", folder / "b.hdf5")
    with pytest.raises(DataError, match=r"b\.hdf5: the same content as .*a\.hdf5; give each file once"):
        make_shards(folder, out)
    assert not out.exists()


def test_the_same_problem_of_many_files_is_said_once(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.hdf5").write_text("no HDF5")
    write_advection(tmp_path / "a.hdf5")
    with pytest.raises(DataError) as error:
        make_shards(tmp_path, tmp_path / "out")
    assert len(str(error.value).splitlines()) == 1
    assert "0.hdf5: not a readable HDF5 file" in str(error.value)
    assert "(and the same of 4 more files: 1.hdf5, 2.hdf5, 3.hdf5, ...)" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_auto_says_what_it_took_the_inputs_for(source_folder, tmp_path, capsys):
    shards.convert([source_folder], tmp_path / "out", show_progress=False)
    said = capsys.readouterr().err
    assert "PDEBench's layout of advection_1d: " in said
    assert ".hdf5" in said


def test_out_that_is_a_file(source_folder, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match=r"out: can't be written .*something else has that name"):
        make_shards(source_folder, tmp_path / "out")


def test_two_files_of_a_family_are_numbered_on(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_advection(folder / "a.hdf5", seed=1)
    write_advection(folder / "b.hdf5", seed=2)
    data = make_shards(folder, tmp_path / "out").families["advection_1d"]
    assert [entry.file for entry in data.shards["train"]] == [f"advection_1d-train-0000{n}.tar" for n in range(2)]
    assert data.num_trajectories("train") == 8


def test_a_second_run_at_the_same_time_is_refused(source_folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"out: another run of tools/shard\.py is writing there; wait for it"):
            make_shards(source_folder, out)
    make_shards(source_folder, out)


def test_licences_are_the_sources_own_or_the_given_one(monkeypatch, tmp_path):
    values = waves(3, 1, 4, (8,), 0)[:, 0]
    own = array_source(tmp_path / "a.npz", {"u": values}, licence="CC-BY-4.0")
    silent = array_source(tmp_path / "b.npz", {"u": values + 1})
    data = convert_sources(monkeypatch, [own, silent], tmp_path / "out", licence="MIT")
    assert data.families["mine"].licences == ("CC-BY-4.0", "MIT")
    sources = json.loads((tmp_path / "out/manifest.json").read_text())["provenance"]["sources"]
    assert [(s["file"], s["layout"], s["licence"]) for s in sources] == [
        ("a.npz", "arrays", "CC-BY-4.0"),
        ("b.npz", "arrays", "MIT"),
    ]
    assert all(len(source["xxh3_128"]) == 32 for source in sources)


def test_times_may_differ_but_must_increase(monkeypatch, tmp_path):
    values = waves(2, 1, 4, (8,), 0)[:, 0]
    even = array_source(tmp_path / "a.npz", {"u": values}, times=1.0 + 0.2 * np.arange(4))
    data = convert_sources(monkeypatch, [even], tmp_path / "even").families["mine"]
    assert (data.spec.dt, data.regular) == (pytest.approx(0.2), True)

    rows = np.array([[0.0, 0.1, 0.2, 0.5], [0.0, 0.1, 0.3, 0.4]])
    uneven = array_source(tmp_path / "b.npz", {"u": values + 1}, times=rows)
    data = convert_sources(monkeypatch, [even, uneven], tmp_path / "both").families["mine"]
    assert (data.spec.dt, data.regular) == (pytest.approx(0.15), False)
    index = read_index(tmp_path / "both/mine-train-00001.tar.idx")
    np.testing.assert_array_equal(index.times_nt, rows)
    sample = next(iter(webdataset.WebDataset(str(tmp_path / "both/mine-train-00001.tar"), shardshuffle=False)))
    assert json.loads(sample["json"])["times"] == rows[0].tolist()

    rows[1, 2] = 0.05
    backward = array_source(tmp_path / "c.npz", {"u": values + 2}, times=rows)
    expected = r"c\.npz: trajectory 1: time goes from 0\.1 s to 0\.05 s after frame 1; times must increase"
    with pytest.raises(DataError, match=expected):
        convert_sources(monkeypatch, [backward], tmp_path / "backward")


def test_long_trajectories_are_cut_into_equal_pieces_within_their_range(monkeypatch, tmp_path, capsys):
    values = np.random.default_rng(0).standard_normal((2, 1000, 16)).astype(np.float32)
    splits = split_in_time(2, 1000)  # 800, 100, 100 frames
    source = array_source(tmp_path / "a.npz", {"u": values}, splits=splits)
    shard_mib = 130 * 16 * 4 / 2**20
    data = convert_sources(monkeypatch, [source], tmp_path / "out", shard_mib=shard_mib).families["mine"]
    assert data.num_frames == {"train": 114, "valid": 100, "test": 100}  # 7 x 114 of 800
    assert {split: data.num_trajectories(split) for split in data.splits} == {"train": 14, "valid": 2, "test": 2}
    assert "mine, train: trajectories are cut into pieces of 114 frames; the last 2 frames" in capsys.readouterr().err
    index = read_index(tmp_path / "out/mine-train-00008.tar.idx")  # the second piece of trajectory 1
    raw = (tmp_path / "out/mine-train-00008.tar").read_bytes()
    start = int(index.offsets_nc[0, 0])
    assert raw[start : start + 114 * 64] == values[1, 114:228].tobytes()
    np.testing.assert_allclose(index.times_nt[0], 0.05 * np.arange(114, 228))


def test_pieces_are_not_shorter_than_64_frames(tmp_path):
    source = array_source(tmp_path / "a.npz", {"u": np.zeros((1, 100, 16), np.float32)})
    splits, dropped = cut(source, shard_bytes=1, value_bytes=4)
    assert splits["train"].tolist() == [[0, 0, 100]]
    assert dropped == {}
    source = dataclasses.replace(source, grid=(2**26,))
    splits, dropped = cut(source, shard_bytes=1e9, value_bytes=4)  # a member of a tar is less than 8 GiB
    assert splits["train"].tolist() == [[0, first, first + 25] for first in (0, 25, 50, 75)]


def test_single_frames(monkeypatch, tmp_path):
    source = array_source(tmp_path / "a.npz", {"u": waves(3, 1, 1, (8,), 0)[:, 0]})
    data = convert_sources(monkeypatch, [source], tmp_path / "out").families["mine"]
    assert data.num_frames == {"train": 1}
    assert data.statistics["delta"] == {"mean": (0.0,), "std": (0.0,), "rms": (0.0,)}


def test_a_mapping_that_takes_another_array_makes_other_shards(monkeypatch, tmp_path):
    """The same file, the same name of the field, other content: nothing may be kept."""
    arrays = {"a": waves(3, 1, 4, (8,), 0)[:, 0], "b": waves(3, 1, 4, (8,), 1)[:, 0]}
    source = array_source(tmp_path / "a.npz", arrays)
    fields = (Field("u", "1"),)
    for name in arrays:
        chosen = dataclasses.replace(source, fields=fields, contents=Arrays(source.path, (name,)))
        convert_sources(monkeypatch, [chosen], tmp_path / "out")
        sample = next(iter(webdataset.WebDataset(str(tmp_path / "out/mine-train-00000.tar"), shardshuffle=False)))
        np.testing.assert_array_equal(np.load(io.BytesIO(sample["u.npy"])), arrays[name][0])


def test_a_layout_that_reads_otherwise_than_before_makes_all_shards_anew(monkeypatch, tmp_path):
    sources = [
        array_source(tmp_path / f"{name}.npz", {"u": waves(3, 1, 4, (8,), seed)[:, 0]})
        for seed, name in enumerate("ab")
    ]
    out = tmp_path / "out"
    convert_sources(monkeypatch, sources, out)
    written, before = digests(out), times(out)
    assert sum(name.endswith(".tar") for name in written) == 2
    convert_sources(monkeypatch, sources, out)
    assert times(out) == before
    monkeypatch.setattr(shard_plan, "READERS", shard_plan.READERS + 1)
    convert_sources(monkeypatch, sources, out)
    after, again = times(out), digests(out)
    for name in written:
        if name.endswith((".tar", ".idx")):
            assert after[name] > before[name], name
            assert (again[name] == written[name]) == name.endswith(".tar"), "the same content, with another fingerprint"
    before = times(out)
    convert_sources(monkeypatch, sources, out)
    assert times(out) == before


def test_few_trajectories_in_many_inputs_are_dealt_together(monkeypatch, tmp_path, capsys):
    dealt = Dealt(0)
    u = waves(20, 1, 3, (8,), 0)[:, 0]
    sources = [
        array_source(tmp_path / f"{n}.npz", {"u": u[4 * n : 4 * n + 4]}, dealt=dealt, splits=split_by_seed(4, 3, dealt))
        for n in range(5)
    ]
    data = convert_sources(monkeypatch, sources, tmp_path / "out").families["mine"]
    assert {split: data.num_trajectories(split) for split in data.splits} == {"train": 16, "valid": 2, "test": 2}
    assert "too few to be dealt" not in capsys.readouterr().err
    urls = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    stored = [np.load(io.BytesIO(s["u.npy"])) for s in webdataset.WebDataset(urls, shardshuffle=False)]
    assert sorted(values.tobytes() for values in stored) == sorted(values.tobytes() for values in u)


@dataclasses.dataclass(frozen=True)
class Touched(Arrays):
    """A file that is written to while it is read."""

    def open(self):
        os.utime(self.path, ns=(0, 0))
        return super().open()


@dataclasses.dataclass(frozen=True)
class Unreadable(Arrays):
    """A file on a disk that fails."""

    @contextmanager
    def open(self):
        def read(field, trajectory, frames):
            raise OSError(errno.EIO, "Input/output error")

        yield read


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Touched, r"a\.npz: changed while it was read; run again"),
        (Unreadable, r"a\.npz: trajectory 0, field u can't be read \(.*Input/output error\); .* get it again"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_inputs_that_change_or_fail_while_they_are_read(monkeypatch, tmp_path, kind, message, workers):
    source = array_source(tmp_path / "a.npz", {"u": waves(3, 1, 4, (8,), 0)[:, 0]})
    source = dataclasses.replace(source, contents=kind(source.path, ("u",)))
    with pytest.raises(DataError, match=message):
        convert_sources(monkeypatch, [source], tmp_path / "out", workers=workers)
    assert not (tmp_path / "out/manifest.json").exists()


def test_many_trajectories_left_out_are_counted_and_twenty_named(monkeypatch, tmp_path):
    u = waves(30, 1, 4, (8,), 0)[:, 0]
    u[5:, 1] = np.inf
    source = array_source(tmp_path / "a.npz", {"u": u})
    with pytest.raises(DataError) as error:
        convert_sources(monkeypatch, [source], tmp_path / "out")
    assert str(error.value).count("a.npz: trajectory") == 20
    assert "25 trajectories hold NaN or infinity" in str(error.value)
    assert "and 5 more" in str(error.value)


@pytest.mark.parametrize(
    ("grid", "num_cores", "expected"),
    [((64, 64), 2, 2), ((64, 64), 64, 4), ((256, 256, 256), 64, 2), ((512, 512, 512), 64, 1), ((8,), 1, 1)],
)
def test_workers_are_as_many_as_memory_allows(tmp_path, grid, num_cores, expected):
    source = array_source(tmp_path / "a.npz", {"u": np.zeros((1, 2, 4))})
    assert shards.num_workers([dataclasses.replace(source, grid=grid)], num_cores) == expected


def test_chunks_that_are_unpacked_whole_count_as_memory(tmp_path):
    source = array_source(tmp_path / "a.npz", {"u": np.zeros((1, 2, 4))})
    workers = [shards.num_workers([dataclasses.replace(source, chunk_bytes=n * 2**20)], 64) for n in (1, 100, 400)]
    assert workers == [4, 2, 1]


def test_a_field_without_any_value_is_told(monkeypatch, tmp_path, capsys):
    u = waves(2, 1, 3, (6,), 0)[:, 0]
    source = array_source(tmp_path / "a.npz", {"u": u, "v": np.full_like(u, np.nan)}, masked=True)
    convert_sources(monkeypatch, [source], tmp_path / "out")
    assert "warning: mine, field v: no point of the training split has a value" in capsys.readouterr().err


def test_all_training_data_left_out(monkeypatch, tmp_path):
    source = array_source(tmp_path / "a.npz", {"u": np.full((2, 3, 4), np.nan)})
    with pytest.raises(DataError, match=r"mine: every training trajectory was left out for NaN or infinity"):
        convert_sources(monkeypatch, [source], tmp_path / "out", leave_out_bad=True)
    assert not (tmp_path / "out/manifest.json").exists()
