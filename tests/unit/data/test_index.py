"""The index format: what is written is read back, and whatever else is refused with a `DataError`."""

import dataclasses
import json

import numpy as np
import pytest
import xxhash

from ups_scale.data.index import MAGIC, IndexHeader, ShardIndex, parse_index, read_index
from ups_scale.errors import DataError

HEADER = IndexHeader(
    shard="a-train-00000.tar",
    shard_bytes=10_000,
    shard_sha256="0" * 64,
    family="a",
    split="train",
    fields=("u", "v"),
    static=(),
    parameters=("nu",),
    dtype="float32",
    num_frames=4,
    grid=(3, 5),
    keys=("k0", "k1", "k2"),
    statistics={},
    source="s",
    left_out=((7, "v", 3),),
)
START = len(MAGIC) + 16


def make(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "offsets_nc": rng.integers(0, 5000, (3, 2)).astype(np.uint64),
        "checksums_nct": rng.integers(0, 2**63, (3, 2, 4)).astype(np.uint64),
        "parameters_np": np.array([[0.1], [np.nan], [2.0]]),
        "times_nt": np.arange(12.0).reshape(3, 4),
    }
    arrays |= {name: changes.pop(name) for name in list(changes) if name in arrays}
    return ShardIndex(dataclasses.replace(HEADER, **changes), **arrays)


def sealed(header: bytes, arrays: bytes = b"") -> bytes:
    """A file whose checksum is right, whatever its content."""
    body = header + arrays
    return MAGIC + len(header).to_bytes(8, "little") + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little") + body


def test_round_trip(tmp_path):
    path, index = tmp_path / "a.tar.idx", make()
    path.write_bytes(index.to_bytes())
    found = read_index(path)
    assert found.header == index.header
    for name in ("offsets_nc", "checksums_nct", "parameters_np", "times_nt"):
        np.testing.assert_array_equal(getattr(found, name), getattr(index, name))
    assert found.header.frame_bytes == 60
    assert found.header.num_trajectories == 3


def test_every_truncation_is_refused(tmp_path):
    raw = make().to_bytes()
    for length in range(len(raw)):
        with pytest.raises(DataError, match=r"run tools/shard\.py again"):
            parse_index(raw[:length], tmp_path / "a.idx")
    with pytest.raises(DataError):
        parse_index(raw + b"\0", tmp_path / "a.idx")


def test_every_flipped_byte_is_refused(tmp_path):
    raw = make().to_bytes()
    rng = np.random.default_rng(1)
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= int(rng.integers(1, 256))
        with pytest.raises(DataError):
            parse_index(bytes(damaged), tmp_path / "a.idx")


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", "not an index of format 2"),
        (b"PK\x03\x04" * 20, r"starts with b'PK"),
        (b"ups-index-9\n" + bytes(64), "not an index of format 2"),
        (MAGIC, "header of 0 bytes in a file of 12 bytes"),
        (MAGIC + (2**63).to_bytes(8, "little") + bytes(80), "header of 9223372036854775808 bytes"),
        (MAGIC + bytes(80), "checksum"),
        (sealed(b"\xff\xfe"), "unreadable header"),
        (sealed(b"[]"), "unreadable header"),
        (sealed(b"[" * 100_000), "unreadable header"),
        (sealed(b'{"fields": 3}'), "unreadable header"),
    ],
)
def test_foreign_bytes_are_refused(tmp_path, raw, found):
    with pytest.raises(DataError, match=f"{tmp_path}/a.idx: .*{found}.*damaged: run tools/shard.py again"):
        parse_index(raw, tmp_path / "a.idx")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_frames": -4},
        {"num_frames": 0},
        {"num_frames": True},
        {"num_frames": 4.0},
        {"num_frames": 10**30},
        {"grid": []},
        {"grid": [3, 10**18]},
        {"grid": ["3", 5]},
        {"keys": []},
        {"keys": ["k0", "k1", "k2", "k3"]},
        {"keys": [0, 1, 2]},
        {"fields": ["u", None]},
        {"static": ["w"]},
        {"static": [["u"]]},
        {"left_out": [[1, "u"]]},
        {"left_out": ["u"]},
        {"left_out": None},
        {"dtype": "object"},
        {"dtype": "float64"},
        {"shard_bytes": "10000"},
        {"shard_bytes": 100},
        {"shard_sha256": None},
        {"statistics": []},
        {"surplus": 1},
    ],
)
def test_impossible_headers_with_a_right_checksum_are_refused(tmp_path, changes):
    raw = make().to_bytes()
    length = int.from_bytes(raw[len(MAGIC) : len(MAGIC) + 8], "little")
    content = json.loads(raw[START : START + length]) | changes
    with pytest.raises(DataError, match=r"damaged: run tools/shard\.py again"):
        parse_index(sealed(json.dumps(content).encode(), raw[START + length :]), tmp_path / "a.idx")


@pytest.mark.parametrize("offset", [10_000 - 4 * 60 + 1, 10_000, 2**63, 2**64 - 1])
def test_offsets_past_the_end_of_the_shard_are_refused(tmp_path, offset):
    offsets = np.full((3, 2), 512, np.uint64)
    offsets[2, 1] = 10_000 - 4 * 60  # the last place where four frames fit
    parse_index(make(offsets_nc=offsets).to_bytes(), tmp_path / "a.idx")
    offsets[2, 1] = offset
    with pytest.raises(DataError, match="an offset of v lies past the end of the shard"):
        parse_index(make(offsets_nc=offsets).to_bytes(), tmp_path / "a.idx")


def test_a_static_field_is_one_frame_long(tmp_path):
    offsets = np.full((3, 2), 512, np.uint64)
    offsets[2, 1] = 10_000 - 60  # the last place where one frame fits
    header = {"static": ("v",), "offsets_nc": offsets}
    assert parse_index(make(**header).to_bytes(), tmp_path / "a.idx").header.static == ("v",)
    with pytest.raises(DataError, match="an offset of v lies past"):
        parse_index(make(offsets_nc=offsets).to_bytes(), tmp_path / "a.idx")


def test_fuzz_raises_only_data_errors(tmp_path):
    """Random damage, half of it under a checksum that was made to fit."""
    raw, rng = make().to_bytes(), np.random.default_rng(2)
    for case in range(400):
        damaged = bytearray(raw)
        for _ in range(rng.integers(1, 6)):
            start = int(rng.integers(len(damaged)))
            piece = rng.bytes(int(rng.integers(0, 9)))
            damaged[start : start + int(rng.integers(0, 9))] = piece
        data = bytes(damaged)
        if case % 2 and len(data) > START:
            length = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 8], "little")
            data = sealed(data[START : START + length], data[START + length :])
        try:
            index = parse_index(data, tmp_path / "a.idx")
        except DataError:
            continue
        assert int(index.offsets_nc.max()) + 4 * index.header.frame_bytes <= index.header.shard_bytes


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"a\.idx: the shard's index can't be read \(No such file.*run tools/shard\.py"):
        read_index(tmp_path / "a.idx")
    with pytest.raises(DataError, match="can't be read"):
        read_index(tmp_path)
