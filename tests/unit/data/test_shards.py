"""The writer: what anybody's WebDataset reads out of the shards is what the HDF5 files hold."""

import hashlib
import io
import json
import shutil

import h5py
import numpy as np
import pytest
import webdataset
from synthetic import COUNTS, make_shards, waves, write_arrays, write_sources

from ups_scale.data import shards
from ups_scale.data.index import read_index
from ups_scale.data.manifest import load_manifest
from ups_scale.errors import DataError


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
                assert (facts["family"], facts["dt"]) == (name, pytest.approx(data.dt))
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
def test_only_what_is_no_longer_right_is_written_again(own_sources, own_shards, shard_folder, damage):
    before = times(own_shards)
    expected = damage(own_shards, own_sources)
    manifest = make_shards(own_sources, own_shards)
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
    write, calls = shards.ShardIndex.to_bytes, []

    def fail_at_second(index):
        calls.append(index)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return write(index)

    monkeypatch.setattr(shards.ShardIndex, "to_bytes", fail_at_second)
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
def test_what_is_not_finite_is_refused_with_its_place(own_sources, tmp_path, bad):
    with h5py.File(own_sources / "reaction_diffusion_2d_train.h5", "a") as file:
        data = file["0007/data"][()].astype(np.float64)
        data[5, 3, 2, 1] = bad
        del file["0007/data"]
        file["0007/data"] = data
    with pytest.raises(DataError) as error:
        make_shards(own_sources, tmp_path / "out")
    for part in (
        "reaction_diffusion_2d_train.h5",
        "trajectory 7, field inhibitor, frame 5",
        "leave that trajectory out",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out").glob("*.tmp"))


def write_advection(path, grid=8, num_frames=4, seed=0, **said):
    u_nctx = waves(4, 1, num_frames, (grid,), seed)
    return write_arrays(path, ("tensor",), u_nctx, {}, {"family": "advection_1d", "split": "train", **said}).path


def test_inputs_that_do_not_go_together(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    with pytest.raises(DataError, match=r"in: the folder holds no \.hdf5 or \.h5 file; make some with"):
        make_shards(folder, out)
    write_advection(folder / "a.hdf5")
    write_advection(folder / "b.hdf5", grid=16, seed=1)
    with pytest.raises(DataError, match=r"b\.hdf5: grid is \(16,\) but .*a\.hdf5.*\(8,\); shard them into separate"):
        make_shards(folder, out)
    write_advection(folder / "b.hdf5", boundary="wall", seed=1)
    with pytest.raises(DataError, match=r"b\.hdf5: boundary is wall but .*a\.hdf5.*periodic"):
        make_shards(folder, out)
    (folder / "b.hdf5").write_bytes((folder / "a.hdf5").read_bytes())
    with pytest.raises(DataError, match=r"b\.hdf5: the same content as .*a\.hdf5; give each file once"):
        make_shards(folder, out)
    (folder / "b.hdf5").unlink()
    write_advection(folder / "a.hdf5", split="test")
    with pytest.raises(DataError, match=r"advection_1d: no training trajectories in .*a\.hdf5"):
        make_shards(folder, out)
    assert not out.exists()


def test_out_that_is_a_file(source_folder, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match=r"out: can't be written .*choose another --out"):
        make_shards(source_folder, tmp_path / "out")


def test_two_files_of_a_family_are_numbered_on(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_advection(folder / "a.hdf5", seed=1)
    write_advection(folder / "b.hdf5", seed=2)
    data = make_shards(folder, tmp_path / "out").families["advection_1d"]
    assert [entry.file for entry in data.shards["train"]] == [f"advection_1d-train-0000{n}.tar" for n in range(2)]
    assert data.num_trajectories("train") == 8
