"""Random access by index: the source's values, or an error that names what is damaged."""

import gc
import json
import os
import pickle
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shards import write_shards

from ups_scale.data import reader as reader_module
from ups_scale.data.index import read_index
from ups_scale.data.manifest import load_manifest
from ups_scale.data.reader import DamagedItem, ShardReader
from ups_scale.errors import DataError

NUM, NUM_FRAMES, GRID = 11, 12, (16, 12)
SHARDS = [f"made_up-train-{number:05d}.tar" for number in range(6)]


def values(num_fields, seed=0, num=NUM, frames=NUM_FRAMES, grid=GRID, dtype=np.float32):
    """(C, N, T, *grid)"""
    return np.random.default_rng(seed).normal(size=(num_fields, num, frames, *grid)).astype(dtype)


U_CNT = values(2)


def write(folder, **entry):
    return write_shards(folder, {"a": U_CNT[0], "b": U_CNT[1]}, **entry)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six shards of two trajectories each, the last of one; for reading only."""
    folder = tmp_path_factory.mktemp("shards")
    write(folder)
    return folder


@pytest.fixture
def own(folder, tmp_path):
    """A copy of `folder` to damage."""
    return shutil.copytree(folder, tmp_path / "own")


def open_reader(folder, **settings):
    return ShardReader(load_manifest(folder), "made_up", "train", **settings)


def window(reader, trajectory, frames):
    out = np.full((len(reader.data.spec.fields), len(frames), *reader.data.spec.grid), np.nan, np.float32)
    reader.read_window(trajectory, frames, out)
    return out


def flip(folder, shard, field, frame, row=0, position=5):
    """Flips a bit in a frame of a shard."""
    index = read_index(folder / f"{shard}.idx")
    with (folder / shard).open("r+b") as file:
        file.seek(int(index.offsets_nc[row, field]) + frame * index.header.frame_bytes + position)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


def rewrite_index(folder, number, change):
    """Replaces a shard's index by `change(index)`, and its SHA-256 in the manifest."""
    path = folder / f"{SHARDS[number]}.idx"
    raw = change(read_index(path)).to_bytes()
    path.write_bytes(raw)
    edit_manifest(
        folder,
        lambda entry: entry["splits"]["train"][number].update(index_sha256=sha256(raw).hexdigest()),
    )


def edit_manifest(folder, edit):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    edit(content["families"]["made_up"])
    path.write_text(json.dumps(content))


FRAMES = st.one_of(
    st.tuples(st.integers(0, NUM_FRAMES - 1), st.integers(1, NUM_FRAMES), st.integers(1, 4)).map(
        lambda drawn: range(drawn[0], min(NUM_FRAMES, drawn[0] + drawn[1] * drawn[2]), drawn[2])
    ),
    st.lists(st.integers(0, NUM_FRAMES - 1), min_size=1, max_size=6).map(tuple),
)


@settings(max_examples=150)
@given(st.integers(0, NUM - 1), FRAMES)
def test_windows_are_the_source_bit_by_bit(folder, trajectory, frames):
    expected = U_CNT[:, trajectory][:, list(frames)]
    assert window(open_once(folder), trajectory, frames).tobytes() == expected.tobytes()


READERS = {}


def open_once(folder):
    return READERS.setdefault(folder, open_reader(folder))


@settings(max_examples=40)
@given(st.integers(0, NUM - 1), FRAMES)
def test_float16_is_widened(tmp_path_factory, trajectory, frames):
    u_cnt = values(2, dtype=np.float16)
    folder = tmp_path_factory.getbasetemp() / "narrow"
    if not folder.exists():
        write_shards(folder, {"a": u_cnt[0], "b": u_cnt[1][:, :1]}, static=("b",))
    found = window(open_once(folder), trajectory, frames)
    np.testing.assert_array_equal(found[0], u_cnt[0, trajectory][list(frames)])
    np.testing.assert_array_equal(found[1], np.broadcast_to(u_cnt[1, trajectory, :1], found[1].shape))


@pytest.mark.parametrize("frames", [range(3, 7), range(0, 12, 4), (0, 0, 1), (11,)])
def test_a_static_field_stands_at_every_frame(tmp_path, frames):
    u_cnt = values(3)
    write_shards(tmp_path, {"a": u_cnt[0], "k": u_cnt[1, :, :1], "b": u_cnt[2]}, static=("k",))
    found = window(open_reader(tmp_path), 5, frames)
    np.testing.assert_array_equal(found[[0, 2]], u_cnt[[0, 2], 5][:, list(frames)])
    np.testing.assert_array_equal(found[1], np.broadcast_to(u_cnt[1, 5, :1], found[1].shape))


def keep_open(monkeypatch, num):
    few = lru_cache(maxsize=num)(reader_module._open_shard.__wrapped__)
    monkeypatch.setattr(reader_module, "_open_shard", few)


def test_threads_share_a_reader(folder, monkeypatch):
    keep_open(monkeypatch, 2)  # files are dropped while others still read from them
    reader, start = open_reader(folder), threading.Barrier(6)

    def read_some(seed):
        rng = np.random.default_rng(seed)
        start.wait(10)
        for _ in range(150):
            trajectory, first = int(rng.integers(NUM)), int(rng.integers(NUM_FRAMES - 4))
            frames = range(first, first + 4)
            if not np.array_equal(window(reader, trajectory, frames), U_CNT[:, trajectory, first : first + 4]):
                return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read_some, range(6)))


def test_few_files_stay_open_however_many_readers_there_are(folder, monkeypatch):
    keep_open(monkeypatch, 3)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for reader in [open_reader(folder) for _ in range(4)]:
        for trajectory in range(reader.num_trajectories):
            window(reader, trajectory, range(2))
            assert len(os.listdir("/proc/self/fd")) <= before + 3
    monkeypatch.undo()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_shard_written_anew_is_another_file(own):
    first = open_reader(own)
    found = window(first, 2, range(4))
    copy = own / "copy"
    copy.write_bytes((own / SHARDS[1]).read_bytes())
    copy.replace(own / SHARDS[1])
    np.testing.assert_array_equal(window(open_reader(own), 2, range(4)), found)
    assert reader_module._open_shard(str(own / SHARDS[1]), open_reader(own)._shards[1].identity)


@pytest.mark.parametrize(("failures", "lost"), [(3, False), (4, True)])
def test_a_shard_that_can_be_opened_a_moment_later_is_not_lost(own, monkeypatch, failures, lost):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    original, left = os.open, [failures]

    def fail(*args, **kwargs):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(116, "Stale file handle")
        return original(*args, **kwargs)

    reader = open_reader(own)
    monkeypatch.setattr(os, "open", fail)
    if lost:
        with pytest.raises(DamagedItem, match="the shard can't be opened"):
            window(reader, 0, range(1))
    else:
        np.testing.assert_array_equal(window(reader, 0, range(1)), U_CNT[:, 0, :1])


def test_an_open_file_that_went_stale_is_opened_anew(own, monkeypatch):
    reader = open_reader(own)
    window(reader, 0, range(1))
    stale = reader_module._open_shard(reader._shards[0].path, reader._shards[0].identity).descriptor
    original = os.preadv

    def fail(descriptor, *rest):
        if descriptor == stale:
            raise OSError(116, "Stale file handle")
        return original(descriptor, *rest)

    # Held, so that its number is not given to the one that is opened in its place.
    held = reader_module._open_shard(reader._shards[0].path, reader._shards[0].identity)
    monkeypatch.setattr(os, "preadv", fail)
    np.testing.assert_array_equal(window(reader, 0, range(3, 6)), U_CNT[:, 0, 3:6])
    assert held.descriptor == stale


def test_an_index_that_can_be_read_a_moment_later_is_not_lost(own, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    original, left = Path.read_bytes, [2]

    def fail(self):
        if self.suffix == ".idx" and left[0]:
            left[0] -= 1
            raise OSError(116, "Stale file handle")
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert open_reader(own, strict=False).broken_shards == {}


def test_no_file_left_to_open_is_no_damage(own, monkeypatch):
    def fail(*_):
        raise OSError(24, "Too many open files")

    reader = open_reader(own)
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(DataError, match=r"can't be opened \(Too many open files\); raise the limit") as error:
        window(reader, 0, range(1))
    assert not isinstance(error.value, DamagedItem)


# Batches


def test_batch(tmp_path):
    times_nt = 1e9 + np.cumsum(np.random.default_rng(3).uniform(1e-3, 2e-3, (NUM, NUM_FRAMES)), 1)
    parameters = {"nu": np.linspace(0.1, 1, NUM), "rho": np.full(NUM, np.nan)}
    write(tmp_path, parameters=parameters, times_nt=times_nt)
    reader = open_reader(tmp_path)
    assert (reader.num_trajectories, reader.num_frames, reader.shard_sizes) == (NUM, NUM_FRAMES, (2, 2, 2, 2, 2, 1))
    batch = reader.read([3, 0, 10], [1, 0, 3], 5, stride=2)
    assert batch.family == "made_up"
    for row, (trajectory, first) in enumerate(((3, 1), (0, 0), (10, 3))):
        expected = U_CNT[:, trajectory, first : first + 10 : 2].swapaxes(0, 1)
        np.testing.assert_array_equal(batch.u_btcx[row].numpy(), expected)
        steps = np.diff(times_nt[trajectory, first : first + 10 : 2])
        np.testing.assert_array_equal(batch.dt_bt[row].numpy(), steps.astype(np.float32))
    assert batch.dt_bt.dtype == batch.parameters_bp.dtype == torch.float32
    np.testing.assert_array_equal(batch.parameters_bp[:, 0].numpy(), parameters["nu"][[3, 0, 10]].astype(np.float32))
    assert batch.parameters_bp[:, 1].isnan().all()
    assert batch.keys == ("made_up-train-00001-000001", "made_up-train-00000-000000", "made_up-train-00005-000000")
    assert batch.mask_btcx is None
    assert reader.describe(3)[0] == batch.keys[0]


def test_a_batch_of_no_windows_has_the_axes_of_any_other(folder):
    batch = open_reader(folder).read([], [], 3)
    assert batch.u_btcx.shape == (0, 3, 2, *GRID)
    assert batch.parameters_bp.shape == (0, 0)
    assert batch.dt_bt.shape == (0, 2)


def test_masked_values_become_a_mask_and_the_mean(tmp_path):
    u_cnt = values(2)
    absent = np.random.default_rng(1).random(u_cnt.shape) < 0.3
    absent[1] = False
    u_cnt[absent] = np.nan
    write_shards(tmp_path, {"a": u_cnt[0], "b": u_cnt[1]}, masked=True)
    reader = open_reader(tmp_path)
    stored = window(reader, 4, range(2, 6))
    assert np.array_equal(np.isnan(stored), absent[:, 4, 2:6])
    batch = reader.read([4, 9], [2, 0], 4)
    expected = np.stack([absent[:, 4, 2:6], absent[:, 9, 0:4]]).swapaxes(1, 2)
    assert batch.mask_btcx.dtype == torch.bool
    assert np.array_equal(~batch.mask_btcx.numpy(), expected)
    mean = np.float32(reader.data.statistics["u"]["mean"][0])
    assert (batch.u_btcx.numpy()[expected] == mean).all()
    np.testing.assert_array_equal(batch.u_btcx.numpy()[0][~expected[0]], stored.swapaxes(0, 1)[~expected[0]])


def test_a_steady_family_gives_its_fields_and_then_the_solution(tmp_path):
    u_cnt = values(2, frames=2)
    u_cnt[1, :, 0] = 0
    times_nt = np.full((NUM, 2), np.nan)
    fields = {"k": u_cnt[0, :, :1], "u": u_cnt[1]}
    write_shards(tmp_path, fields, static=("k",), times_nt=times_nt, steady=True, dt=None)
    batch = open_reader(tmp_path).read([7, 2], [0, 0], 3)
    assert batch.dt_bt.shape == (2, 2)
    assert batch.dt_bt.isnan().all()
    for row, trajectory in enumerate((7, 2)):
        assert not batch.u_btcx[row, :2, 1].any()
        np.testing.assert_array_equal(batch.u_btcx[row, 2, 1].numpy(), u_cnt[1, trajectory, 1])
        for frame in range(3):
            np.testing.assert_array_equal(batch.u_btcx[row, frame, 0].numpy(), u_cnt[0, trajectory, 0])


def test_points_and_their_positions(tmp_path):
    u_cnt = values(3, grid=(37,))
    write_shards(
        tmp_path,
        {"x": u_cnt[0, :, :1], "y": u_cnt[1, :, :1], "u": u_cnt[2]},
        static=("x", "y"),
        geometry="points",
        coordinates=["x", "y"],
        extents=[[-5.0, 5.0]] * 2,
        boundaries=[["open", "open"]] * 2,
    )
    batch = open_reader(tmp_path).read([1], [4], 2)
    assert batch.u_btcx.shape == (1, 2, 3, 37)
    np.testing.assert_array_equal(batch.u_btcx[0, :, 2].numpy(), u_cnt[2, 1, 4:6])
    np.testing.assert_array_equal(batch.u_btcx[0, 1, 0].numpy(), u_cnt[0, 1, 0])


@pytest.mark.parametrize(
    ("trajectory", "frames"),
    [(11, range(1)), (-1, range(1)), (0, range(-1, 1)), (0, range(11, 13)), (0, (0, 12)), (0, (-1, 0)), (0, ())],
)
def test_what_is_not_there_is_refused(folder, trajectory, frames):
    with pytest.raises(DataError, match=r"asked of .*(with 12|which has 11)$"):
        window(open_reader(folder), trajectory, frames)


# Damage


@pytest.mark.parametrize("frame", range(NUM_FRAMES))
def test_one_flipped_bit_is_found_where_it_is(own, frame):
    flip(own, SHARDS[2], field=1, frame=frame, position=int(np.random.default_rng(frame).integers(4 * 16 * 12)))
    reader = open_reader(own)
    windows = [range(first, first + 4) for first in range(NUM_FRAMES - 3)] + [range(0, 12, 3), (0, 0, 1), (7, 5)]
    for frames in windows:
        if frame in frames:
            with pytest.raises(DamagedItem, match=rf"frame {frame}: field b has checksum [0-9a-f]+, expec") as caught:
                window(reader, 4, frames)
            error = caught.value
            found = (error.family, error.shard, error.key, error.trajectory, error.frame)
            assert found == ("made_up", SHARDS[2], f"{SHARDS[2][:-4]}-000000", 4, frame)
            assert str(error).startswith(f"{SHARDS[2]}: trajectory {SHARDS[2][:-4]}-000000, frame {frame}: field b")
        else:
            window(reader, 4, frames)  # frames beside it are whole
    window(reader, 3, range(NUM_FRAMES))


def test_the_first_damaged_frame_of_a_window_is_named_whatever_is_met_first(own):
    flip(own, SHARDS[0], field=0, frame=6)
    flip(own, SHARDS[0], field=1, frame=4)
    flip(own, SHARDS[0], field=1, frame=6)
    reader = open_reader(own)
    for frames, named in (
        (range(2, 8), "frame 4: field b"),
        (range(5, 8), "frame 6: field a"),
        (range(0, 12, 6), "frame 6: field a"),
        ((6, 4), "frame 6: field a"),
    ):
        with pytest.raises(DamagedItem, match=named):
            window(reader, 0, frames)


def test_a_damaged_static_field_is_frame_0(tmp_path):
    u_cnt = values(2)
    write_shards(tmp_path, {"a": u_cnt[0], "k": u_cnt[1, :, :1]}, static=("k",))
    flip(tmp_path, SHARDS[1], field=1, frame=0)
    reader = open_reader(tmp_path)
    for frames in (range(3, 6), (7,), range(0, 8, 2)):
        with pytest.raises(DamagedItem, match=r"frame 0: field k has checksum") as error:
            window(reader, 2, frames)
        assert error.value.frame == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("frames", [range(4, 8), range(1, 12, 4), (5,)])
def test_values_that_no_family_may_hold_are_damage(tmp_path, bad, masked, frames, dtype):
    u_cnt = values(2, dtype=dtype)
    u_cnt[1, 3, 5, 2, 7] = bad
    write_shards(tmp_path, {"a": u_cnt[0], "b": u_cnt[1]}, masked=masked)
    reader = open_reader(tmp_path)
    window(reader, 3, range(5))
    if masked and np.isnan(bad):
        assert np.isnan(window(reader, 3, frames)).sum() == 1
        return
    for _ in range(2):  # not only at the first look
        with pytest.raises(DamagedItem, match=r"frame 5: field b holds (infinite values|values that are not finite);"):
            window(reader, 3, frames)
    window(reader, 3, range(6, 12))


def test_large_values_are_no_damage(tmp_path):
    u_cnt = np.full_like(U_CNT, 2e38)
    write_shards(tmp_path, {"a": u_cnt[0], "b": -u_cnt[1]})
    assert (window(open_reader(tmp_path), 0, range(4))[1] == np.float32(-2e38)).all()


def test_truncated_shard(own):
    index = read_index(own / f"{SHARDS[1]}.idx")
    end = int(index.offsets_nc[1, 0]) + 7 * index.header.frame_bytes + 5
    reader = open_reader(own)
    os.truncate(own / SHARDS[1], end)  # while it is being read
    with pytest.raises(DamagedItem, match=rf"frame 4: field b can't be read: the file ends at byte {end}"):
        window(reader, 3, range(4, 9))
    window(reader, 2, range(12))


@pytest.mark.parametrize("size", [0, 500, 51_199, 51_201])
def test_a_shard_of_another_size_is_no_shard(own, size):
    os.truncate(own / SHARDS[1], size)
    with pytest.raises(DataError, match=rf"00001\.tar: {size:,} bytes, .*manifest\.json says 51,200; copy it again"):
        open_reader(own)


def test_a_read_error_is_damage(folder, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(DamagedItem, match=r"frame 3: field a can't be read: .*Input/output error") as error:
        window(open_reader(folder), 0, range(3, 5))
    assert error.value.frame == 3


def test_a_read_that_comes_in_parts_is_no_damage(folder, monkeypatch):
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, place: whole(file, [buffers[0][:100]], place))
    np.testing.assert_array_equal(window(open_reader(folder), 6, range(2, 5)), U_CNT[:, 6, 2:5])


@pytest.mark.parametrize("frame", [7, None])
def test_damage_travels_between_processes(frame):
    error = DamagedItem("flow", "a.tar", "k", 31, frame, "gone")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (DamagedItem, str(error), vars(error))


# Shards that can't be read at all


def test_missing_shards_are_all_named(own):
    (own / SHARDS[1]).unlink()
    (own / f"{SHARDS[3]}.idx").unlink()
    with pytest.raises(DataError) as error:
        open_reader(own)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert f"{SHARDS[1]}: no such shard, though" in lines[0]
    assert lines[0].endswith("lists it; run tools/shard.py again")
    assert f"{SHARDS[3]}.idx: the shard's index can't be read" in lines[1]


def test_without_them_the_rest_can_be_read(own):
    (own / SHARDS[1]).unlink()
    (own / f"{SHARDS[3]}.idx").write_bytes(b"no index")
    reader = open_reader(own, strict=False)
    assert reader.num_trajectories == NUM
    assert set(reader.broken_shards) == {SHARDS[1], SHARDS[3]}
    for trajectory in range(NUM):
        if trajectory in (2, 3, 6, 7):
            file = SHARDS[trajectory // 2]
            for read in (
                lambda number=trajectory: window(reader, number, range(2)),
                lambda number=trajectory: reader.describe(number),
            ):
                with pytest.raises(DamagedItem) as caught:
                    read()
                error = caught.value
                assert (error.shard, error.key, error.trajectory, error.frame) == (file, "", trajectory, None)
                assert str(own / file) in str(error)
        else:
            np.testing.assert_array_equal(window(reader, trajectory, range(2)), U_CNT[:, trajectory, :2])


def test_a_shard_that_goes_missing_later(own):
    reader = open_reader(own)
    (own / SHARDS[2]).unlink()
    window(reader, 0, range(1))
    with pytest.raises(DamagedItem, match=r"00002\.tar: the shard can't be opened \(No such file") as error:
        window(reader, 5, range(1))
    assert (error.value.frame, error.value.trajectory) == (None, 5)


def test_index_of_another_shard(own):
    (own / f"{SHARDS[1]}.idx").write_bytes((own / f"{SHARDS[0]}.idx").read_bytes())
    with pytest.raises(DataError, match=r"00001\.tar\.idx: not the index that .*manifest\.json lists \(SHA-256"):
        open_reader(own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "other"}, "family 'other', .* says 'made_up'"),
        ({"split": "valid"}, "split 'valid', .* says 'train'"),
        ({"shard": "made_up-train-00003.tar"}, "shard 'made_up-train-00003.tar', .* says 'made_up-train-00001.tar'"),
        ({"fields": ("a", "c")}, r"fields \('a', 'c'\), .* says \('a', 'b'\)"),
        ({"static": ("b",)}, r"static fields \('b',\), .* says \(\)"),
        ({"grid": (12, 16)}, r"grid \(12, 16\), .* says \(16, 12\)"),
    ],
)
def test_index_that_disagrees_with_the_manifest(own, change, message):
    rewrite_index(own, 1, lambda index: replace(index, header=replace(index.header, **change)))
    with pytest.raises(DataError, match=rf"00001\.tar\.idx: {message}; run tools/shard\.py again$"):
        open_reader(own)


@pytest.mark.parametrize(("key", "value"), [("num_frames", {"train": 11}), ("parameters", ["nu"])])
def test_manifest_that_disagrees_with_its_indices(own, key, value):
    edit_manifest(own, lambda entry: entry.update({key: value}))
    with pytest.raises(DataError, match=r"00000\.tar\.idx: (frames 12|parameters \(\)), .* says (11|\('nu',\));"):
        open_reader(own)


def test_fewer_trajectories_than_the_manifest_says(own):
    edit_manifest(own, lambda entry: entry["splits"]["train"][5].update(trajectories=2))
    with pytest.raises(DataError, match=r"00005\.tar\.idx: trajectories 1, .* says 2;"):
        open_reader(own)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_times_that_can_not_be(own, bad):
    def change(index):
        times_nt = index.times_nt.copy()
        times_nt[1, 3] = bad
        return replace(index, times_nt=times_nt)

    rewrite_index(own, 4, change)
    with pytest.raises(DataError, match=r"00004\.tar\.idx: the times .* are not finite and increasing"):
        open_reader(own)


def test_sizes_that_no_file_has(own):
    def change(index):
        offsets_nc = np.full_like(index.offsets_nc, 2**61 - 10**6)
        return replace(index, header=replace(index.header, shard_bytes=2**61), offsets_nc=offsets_nc)

    rewrite_index(own, 1, change)
    edit_manifest(own, lambda entry: entry["splits"]["train"][1].update(bytes=2**61))
    reader = open_reader(own, strict=False)
    assert re.search(r"00001\.tar: 51,200 bytes, .* says 2,305,843", reader.broken_shards[SHARDS[1]])
    with pytest.raises(DamagedItem):
        reader.read([3], [0], 4)


def test_a_pipe_is_no_shard(own):
    (own / SHARDS[1]).unlink()
    os.mkfifo(own / SHARDS[1])
    with pytest.raises(DataError, match=r"00001\.tar: not a file"):
        open_reader(own)


def test_absent_family_and_split(folder):
    manifest = load_manifest(folder)
    with pytest.raises(DataError, match=r"no family 'heat'; it has made_up"):
        ShardReader(manifest, "heat", "train")
    with pytest.raises(DataError, match=r"made_up has no 'ood' split; it has train"):
        ShardReader(manifest, "made_up", "ood")
