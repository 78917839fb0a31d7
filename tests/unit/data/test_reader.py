"""Random access by index: the source's bytes, or an error that names what is damaged."""

import gc
import json
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from synthetic import NUM_FRAMES

from ups_scale.data import reader as reader_module
from ups_scale.data.index import read_index
from ups_scale.data.manifest import load_manifest
from ups_scale.data.reader import DamagedItem, ShardReader
from ups_scale.errors import DataError

FAMILIES = ("advection_1d", "navier_stokes_2d", "reaction_diffusion_2d")


def open_reader(folder, family="reaction_diffusion_2d", split="train"):
    return ShardReader(load_manifest(folder), family, split)


def window(reader, trajectory, first, length):
    out = np.full((len(reader.data.spec.fields), length, *reader.data.spec.grid), np.nan, np.float32)
    reader.read_window(trajectory, first, out)
    return out


def random_windows(seed, count, num):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        length = int(rng.integers(1, NUM_FRAMES + 1))
        yield int(rng.integers(num)), int(rng.integers(NUM_FRAMES - length + 1)), length


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_windows_are_the_source_bit_by_bit(shard_folder, sources, family, split):
    reader, u_nctx = open_reader(shard_folder, family, split), sources[family, split].u_nctx
    assert reader.num_trajectories == len(u_nctx)
    for trajectory, first, length in random_windows(0, 60, len(u_nctx)):
        expected = u_nctx[trajectory][:, first : first + length]
        assert window(reader, trajectory, first, length).tobytes() == expected.tobytes()


def test_threads_share_a_reader(shard_folder, sources, monkeypatch):
    monkeypatch.setattr(reader_module, "OPEN_SHARDS", 2)  # files are dropped while others still read from them
    reader, u_nctx = open_reader(shard_folder), sources["reaction_diffusion_2d", "train"].u_nctx
    start = threading.Barrier(6)

    def read_some(seed):
        start.wait(10)
        return all(
            np.array_equal(window(reader, n, first, length), u_nctx[n][:, first : first + length])
            for n, first, length in random_windows(seed, 150, len(u_nctx))
        )

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read_some, range(6)))


def test_few_files_stay_open(shard_folder, monkeypatch):
    monkeypatch.setattr(reader_module, "OPEN_SHARDS", 3)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    reader = open_reader(shard_folder)
    for trajectory in range(reader.num_trajectories):
        window(reader, trajectory, 0, 2)
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    del reader
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_batch(shard_folder, sources):
    reader, written = open_reader(shard_folder), sources["reaction_diffusion_2d", "train"]
    batch = reader.read([3, 0, 11], [1, 0, 4], 5)
    assert batch.family == "reaction_diffusion_2d"
    assert batch.u_btcx.shape == (3, 5, 2, 16, 16)
    for row, (trajectory, first) in enumerate(((3, 1), (0, 0), (11, 4))):
        expected = written.u_nctx[trajectory][:, first : first + 5].swapaxes(0, 1)
        np.testing.assert_array_equal(batch.u_btcx[row].numpy(), expected)
    parameters = np.stack([written.parameters[name] for name in ("Du", "Dv", "k")], 1)[[3, 0, 11]]
    torch.testing.assert_close(batch.parameters_bp, torch.from_numpy(parameters.astype(np.float32)), rtol=0, atol=0)
    assert batch.dt_b.dtype == torch.float32
    assert batch.keys[2] == "reaction_diffusion_2d-train-00011-000000"
    assert torch.equal(batch.to("cpu").u_btcx, batch.u_btcx)


def test_a_batch_of_no_windows_has_the_axes_of_any_other(shard_folder):
    batch = open_reader(shard_folder).read([], [], 3)
    assert batch.u_btcx.shape == (0, 3, 2, 16, 16)
    assert batch.parameters_bp.shape == (0, 3)


@pytest.mark.parametrize(
    ("trajectory", "first", "length"), [(12, 0, 1), (-1, 0, 1), (0, -1, 2), (0, 11, 2), (0, 0, 13)]
)
def test_what_is_not_there_is_refused(shard_folder, trajectory, first, length):
    with pytest.raises(DataError, match=r"asked of .* (12|with 12)$"):
        window(open_reader(shard_folder), trajectory, first, length)


@pytest.mark.parametrize("frame", range(NUM_FRAMES))
def test_one_flipped_byte_is_found_where_it_is(own_shards, frame):
    name, field = "reaction_diffusion_2d-train-00004.tar", 1
    index = read_index(own_shards / f"{name}.idx")
    size = index.header.frame_bytes
    position = int(index.offsets_nc[0, field]) + frame * size + int(np.random.default_rng(frame).integers(size))
    with (own_shards / name).open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))
    reader = open_reader(own_shards)
    for first in range(NUM_FRAMES - 3):
        if first <= frame < first + 4:
            with pytest.raises(DamagedItem) as error:
                window(reader, 4, first, 4)
            assert (error.value.shard, error.value.key) == (name, f"{name[:-4]}-000000")
            assert f"field inhibitor, frame {frame}: checksum" in str(error.value)
            assert str(error.value).startswith(f"{name}: trajectory {name[:-4]}-000000")
        else:
            window(reader, 4, first, 4)  # frames beside it are whole
    window(reader, 3, 0, NUM_FRAMES)


def test_truncated_shard(own_shards):
    path = own_shards / "advection_1d-train-00001.tar"
    index = read_index(own_shards / f"{path.name}.idx")
    end = int(index.offsets_nc[3, 0]) + 7 * index.header.frame_bytes + 5
    os.truncate(path, end)
    reader = open_reader(own_shards, "advection_1d")
    window(reader, 5 + 3, 0, 7)
    with pytest.raises(DamagedItem, match=rf"field u, frames 4 to 8 can't be read: the file ends at byte {end}"):
        window(reader, 5 + 3, 4, 5)


def test_a_read_error_is_damage(shard_folder, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(DamagedItem, match=r"can't be read: .*Input/output error"):
        window(open_reader(shard_folder), 0, 0, 1)


def test_damage_travels_between_processes():
    error = DamagedItem("a.tar", "k", "gone")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.shard, copy.key, copy.reason) == (DamagedItem, str(error), "a.tar", "k", "gone")


def test_missing_shard(own_shards):
    reader = open_reader(own_shards, "advection_1d")
    path = own_shards / "advection_1d-train-00001.tar"
    path.unlink()
    with pytest.raises(
        DataError, match=r"00001\.tar: no such shard, though .*manifest\.json lists it; run tools/shard"
    ):
        open_reader(own_shards, "advection_1d")
    window(reader, 0, 0, 1)
    with pytest.raises(DataError, match=r"00001\.tar: the shard can't be opened \(No such file"):
        window(reader, 5, 0, 1)


def test_missing_index(own_shards):
    (own_shards / "advection_1d-train-00001.tar.idx").unlink()
    with pytest.raises(DataError, match=r"00001\.tar\.idx: the shard's index can't be read"):
        open_reader(own_shards, "advection_1d")


def test_index_of_another_shard(own_shards):
    other = (own_shards / "advection_1d-train-00000.tar.idx").read_bytes()
    (own_shards / "advection_1d-train-00001.tar.idx").write_bytes(other)
    with pytest.raises(DataError, match=r"00001\.tar\.idx: not the index that .*manifest\.json lists \(SHA-256"):
        open_reader(own_shards, "advection_1d")


def test_manifest_that_disagrees_with_its_index(own_shards):
    path = own_shards / "manifest.json"
    content = json.loads(path.read_text())
    content["families"]["advection_1d"]["num_frames"] = 11
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"number of trajectories differ from .*manifest\.json"):
        open_reader(own_shards, "advection_1d")


def test_absent_family_and_split(shard_folder):
    with pytest.raises(DataError, match=r"no family 'heat'; it has advection_1d, navier_stokes_2d"):
        open_reader(shard_folder, "heat")
    with pytest.raises(DataError, match=r"advection_1d has no 'ood' split; it has train, valid, test"):
        open_reader(shard_folder, "advection_1d", "ood")
