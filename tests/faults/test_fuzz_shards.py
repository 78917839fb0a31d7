"""Damaged and hostile shards, indices and manifests: a typed error or exactly the right sample, never anything else.

Every case changes some files of a small data set (`mixed_shards`), reads all windows of the families concerned with
`strict` readers and others, and every byte with `inspect` and `scan`. Seals are checksums: a resealed case has the
right ones all the way up to the manifest, as somebody with bad intentions would make it, so that only the values
themselves can give it away.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import signal
import struct
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import mixed_shards
import numpy as np
import pytest
import xxhash

from ups_scale.data.index import MAGIC, ShardIndex, parse_index
from ups_scale.data.manifest import load_manifest
from ups_scale.data.reader import ShardReader
from ups_scale.data.scan import scan
from ups_scale.data.validate import inspect
from ups_scale.errors import UserError

CASES = 1200
SCAN_EVERY = 1
LIMIT_S = 5
ABSURD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -1.0, 1e308),
    *(float("nan"), float("inf"), "", "x", "../x", "1e999", "\0", [], [[]], {}, {"a": 1}),
    *([None], [-1], [0], [2**62], [2**62, 2**62], ["u"]),
)
SIZES = (0, 1, 2, 5, 10**6, 10**9, 10**13, 2**31, 2**61, 2**62 - 1, 2**62, 2**63, -1)
TRAVERSAL = ("../../marker", "/tmp/marker", "a/../../marker", "./x", "..", "", "con\0x", "\n", "x" * 99, "-rf", "é")
KINDS = b"0\x001234567xgLKSDMVXA"


class Hang(BaseException):
    """A case took too long; no `except Exception` may swallow it."""


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.marker, "unpickled")


@dataclass
class Case:
    """Files to write (None: to delete; a function: to make something else of that path). `caught`: reading every byte
    must find something."""

    files: dict[str, Any]
    caught: bool = True


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Whole:
    """The undamaged data set: its files, and what reading it must give."""

    def __init__(self, folder: Path, marker: Path) -> None:
        mixed_shards.write(folder)
        self.folder, self.marker = folder, marker
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self.tars = [name for name in self.files if name.endswith(".tar")]
        self.families = {family.name: family for family in mixed_shards.families()}
        self.rows = {}  # key -> (split, row)
        for name in self.tars:
            family, split, number = name[:-4].split("-")
            for row in range(mixed_shards.PER_SHARD):
                self.rows[f"{name[:-4]}-{row:06d}"] = family, split, int(number) * mixed_shards.PER_SHARD + row

    def manifest(self) -> dict[str, Any]:
        return json.loads(self.files["manifest.json"])

    def index(self, tar: str) -> ShardIndex:
        return parse_index(self.files[f"{tar}.idx"], Path(tar))

    def members(self, tar: str) -> list[tarfile.TarInfo]:
        with tarfile.open(fileobj=io.BytesIO(self.files[tar])) as file:
            return file.getmembers()

    def resealed(self, tar: str, raw: bytes, index: ShardIndex | bytes | None = None) -> Case:
        """The case of `tar` with the bytes `raw`, with checksums that are right all the way up."""
        if index is None:
            index = self.index(tar)
        if isinstance(index, ShardIndex):
            header = replace(index.header, shard_bytes=len(raw), shard_sha256=sha256(raw).hexdigest())
            index = replace(index, header=header).to_bytes()
        content = self.manifest()
        for entry in content["families"][tar.split("-")[0]]["splits"][tar.split("-")[1]]:
            if entry["file"] == tar:
                entry |= {"bytes": len(raw), "sha256": sha256(raw).hexdigest()}
                entry["index_sha256"] = sha256(index).hexdigest()
        return Case({tar: raw, f"{tar}.idx": index, "manifest.json": json.dumps(content).encode()})

    def expected(self, key: str, frames: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """((T, C, *grid) float32 with NaN where there is no value, (T - 1,) dt)."""
        name, split, row = self.rows[key]
        family = self.families[name]
        u = [
            values[row][[0] * len(frames) if field.static else frames]
            for field, values in zip(family.fields, family.values[split], strict=True)
        ]
        return np.stack(u, axis=1).astype(np.float32), np.diff(family.times[split][row][frames])

    def parameters(self, key: str) -> np.ndarray:
        """(P,) float32."""
        name, split, row = self.rows[key]
        return self.families[name].parameters[split][row].astype(np.float32)


# What is done to the bytes of a file


def damage(rng: random.Random, raw: bytes) -> bytes:
    """Bytes that are not `raw`."""
    changed = bytearray(raw)
    at = rng.randrange(len(raw))
    how = rng.randrange(7)
    if how == 0:
        del changed[at:]
    elif how == 1:
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif how == 2:
        changed[at : at + rng.choice((1, 4, 64, 700))] = rng.randbytes(rng.choice((1, 4, 64, 700)))
    elif how == 3:
        changed[at : at + 512] = bytes(min(512, len(raw) - at))
    elif how == 4:
        del changed[at : at + rng.choice((1, 64, 512))]
    elif how == 5:
        changed[at:at] = rng.randbytes(rng.choice((1, 512)))
    else:
        changed += rng.randbytes(rng.choice((1, 512, 10240)))
    return bytes(changed) if changed != raw else bytes(raw[:-1])


def any_file(rng: random.Random, whole: Whole) -> Case:
    name = rng.choice([name for name in whole.files if name != "manifest.json"])
    return Case({name: damage(rng, whole.files[name])})


def damaged_manifest(rng: random.Random, whole: Whole) -> Case:
    return Case({"manifest.json": damage(rng, whole.files["manifest.json"])}, caught=False)


def several_files(rng: random.Random, whole: Whole) -> Case:
    names = rng.sample([name for name in whole.files if name != "manifest.json"], 4)
    return Case({name: damage(rng, whole.files[name]) for name in names})


def not_a_file(rng: random.Random, whole: Whole) -> Case:
    """A file that is gone, or a folder, a pipe, a loop or a dangling link in its place."""

    def loop(path: Path) -> None:
        path.symlink_to(path.name)

    makers = (Path.mkdir, os.mkfifo, loop, lambda path: path.symlink_to("nowhere"), None)
    return Case({rng.choice(list(whole.files)): rng.choice(makers)})


def swapped(rng: random.Random, whole: Whole) -> Case:
    a, b = rng.sample(whole.tars, 2)
    files = {a: whole.files[b], b: whole.files[a]}
    indices = {f"{a}.idx": whole.files[f"{b}.idx"], f"{b}.idx": whole.files[f"{a}.idx"]}
    return Case(rng.choice((files, indices, files | indices, {f"{a}.idx": whole.files[f"{b}.idx"]})))


# Tars


def tar_header(rng: random.Random, whole: Whole) -> Case:
    """A header whose size, kind, name or link is another, with the header's own checksum right or not."""
    tar = rng.choice(whole.tars)
    member = rng.choice(whole.members(tar))
    raw = bytearray(whole.files[tar])
    header = raw[member.offset : member.offset + 512]
    field = rng.randrange(5)
    if field == 0:
        size = rng.choice((0, 1, 511, member.size - 1, member.size + 1, 8**11 - 1, rng.randrange(8**11)))
        header[124:136] = b"%011o\0" % size
    elif field == 1:  # the base-256 form, for huge and negative numbers
        header[124:136] = rng.choice((b"\x80" + b"\x7f" * 11, b"\xff" * 12, b"\x80" + rng.randbytes(11)))
    elif field == 2:
        header[156] = rng.choice(KINDS)
    elif field == 3:
        name = rng.choice((*TRAVERSAL, rng.choice(whole.members(tar)).name)).encode()
        header[:100] = name.ljust(100, b"\0")
        header[345:500] = rng.choice((bytes(155), b"/".ljust(155, b"\0"), b"../..".ljust(155, b"\0")))
    else:
        header[157:257] = b"../../../../marker".ljust(100, b"\0")
        header[156] = rng.choice(b"12")
    if rng.random() < 0.8:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    raw[member.offset : member.offset + 512] = header
    if raw == whole.files[tar]:
        raw[member.offset + 257] ^= 1
    return whole.resealed(tar, bytes(raw)) if rng.random() < 0.7 else Case({tar: bytes(raw)})


def put_first(whole: Whole, tar: str, extra: bytes) -> Case:
    """`extra`, whole blocks, before all members, and the index moved by as much: training sees no difference."""
    index = whole.index(tar)
    return whole.resealed(tar, extra + whole.files[tar], replace(index, offsets_nc=index.offsets_nc + len(extra)))


def extension(rng: random.Random, whole: Whole) -> Case:
    """Pax and GNU extension headers: other names, sizes, sparse maps, records that claim to be longer than they are."""
    tar = rng.choice(whole.tars)
    records = rng.choice(
        (
            b"20 path=../../marker\n",
            b"28 size=99999999999999999999\n",
            b"12 size=-1\n",
            b"999999999 path=x\n",
            b"0 path=x\n",
            b"x" * 512,
            b"22 GNU.sparse.major=1\n",
            b"18 hdrcharset=UTF\n" * 2,
            b"1" * 5000 + b" a=b\n",
        )
    )
    info = tarfile.TarInfo(rng.choice(TRAVERSAL).replace("\0", "") or "x")
    info.type = rng.choice((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.SOLARIS_XHDTYPE))
    info.size = rng.choice((len(records), len(records), 8**11 - 1))
    block = info.tobuf(tarfile.GNU_FORMAT) + records.ljust(-(-len(records) // 512) * 512, b"\0")
    return put_first(whole, tar, block)


def pickled(rng: random.Random, whole: Whole) -> Case:
    """A member that leaves a mark when it is unpickled, under names that webdataset or numpy would unpickle."""
    tar = rng.choice(whole.tars)
    bomb = pickle.dumps(Bomb(whole.marker))
    if rng.random() < 0.5:
        member = rng.choice(whole.members(tar))
        key, _, field = member.name.partition(".")
        name = rng.choice((f"{key}.pyd", f"{key}.pickle", f"{key}.pth", f"{key}.{field}", "__init__.pyd", f"{key}.npy"))
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
        body = rng.choice((bomb, buffer.getvalue() + bomb))
        info = tarfile.TarInfo(name)
        info.size = len(body)
        return put_first(whole, tar, info.tobuf(tarfile.USTAR_FORMAT) + body.ljust(-(-len(body) // 512) * 512, b"\0"))
    return npy_header(rng, whole, [{"descr": "|O"}])


def npy_header(rng: random.Random, whole: Whole, changes: list[dict[str, Any]] | None = None) -> Case:
    """The header of an array says another dtype, shape or order, or is no literal."""
    tar = rng.choice(whole.tars)
    member = rng.choice([member for member in whole.members(tar) if member.name.endswith(".npy")])
    raw = bytearray(whole.files[tar])
    start = member.offset_data
    length = int.from_bytes(raw[start + 8 : start + 10], "little")
    header = np.lib.format.read_array_header_1_0(io.BytesIO(raw[start + 8 : start + member.size]))
    stated = {"descr": header[2].str, "fortran_order": header[1], "shape": header[0]}
    others = [{"descr": d} for d in ("<f8", ">f4", "<i4", "|O", "<c8", "|V4", "<U1", [("a", "<f4")], "nonsense", 3)]
    others += [{"fortran_order": True}, {"shape": (2**62,)}, {"shape": (-1,)}, {"shape": 7}, {"shape": ()}]
    text = str(stated | rng.choice(changes or others)).encode()
    if changes is None and rng.random() < 0.3:
        text = rng.choice((b"(" * 100, b"-" * 100 + b"1", b"__import__('os')", b"{}", b"\xff" * 60, b"{'descr':" * 9))
    raw[start + 10 : start + 10 + length] = text[: length - 1].ljust(length - 1) + b"\n"
    if rng.random() < 0.2:
        raw[start + 8 : start + 10] = struct.pack("<H", rng.randrange(2**16))
    if raw == whole.files[tar]:
        raw[start] ^= 1
    return whole.resealed(tar, bytes(raw)) if rng.random() < 0.8 else Case({tar: bytes(raw)})


# Indices


def seal(header: bytes, arrays: bytes) -> bytes:
    body = header + arrays
    return MAGIC + struct.pack("<QQ", len(header), xxhash.xxh3_64_intdigest(body)) + body


def index_header(rng: random.Random, whole: Whole) -> Case:
    """An index whose header says absurd things, with the right checksum, and listed in the manifest or not."""
    tar = rng.choice(whole.tars)
    raw = whole.files[f"{tar}.idx"]
    start = len(MAGIC) + 16
    length = int.from_bytes(raw[len(MAGIC) : len(MAGIC) + 8], "little")
    header = json.loads(raw[start : start + length])
    # What only the sharding tool reads again may say anything.
    names = sorted(header.keys() - {"source", "statistics", "left_out"})
    before = json.dumps(header)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(names)
        if rng.random() < 0.2:
            header.pop(name, None)
        elif isinstance(header.get(name), list) and header[name] and rng.random() < 0.5:
            header[name] = [*header[name][:-1], rng.choice(ABSURD)]
        else:
            header[name] = rng.choice(ABSURD)
    text = json.dumps(header).encode()
    if text == before.encode() or rng.random() < 0.1:
        text = rng.choice((b"[" * 50_000, b"{}", b"null", b'{"a":' * 5_000, b"\xff", b"1" * 10_000, b""))
    index = seal(text, raw[start + length :])
    if rng.random() < 0.2:
        index = MAGIC + struct.pack("<Q", rng.choice((0, 1, 2**31, 2**63, 2**64 - 1))) + index[len(MAGIC) + 8 :]
    if rng.random() < 0.5:
        return Case({f"{tar}.idx": index})
    return whole.resealed(tar, whole.files[tar], index)


def index_arrays(rng: random.Random, whole: Whole) -> Case:
    """Offsets, checksums, times or parameters that can't be, with right checksums."""
    tar = rng.choice(whole.tars)
    index = whole.index(tar)
    name = rng.choice(("offsets_nc", "offsets_nc", "checksums_nct", "times_nt"))
    array = getattr(index, name).copy()
    place = tuple(rng.randrange(size) for size in array.shape)
    if name == "times_nt":
        array[place] = rng.choice((np.nan, np.inf, -np.inf, -1e300, array[place] - 1e6))
        if whole.families[tar.split("-")[0]].steady:
            array[place] = rng.choice((0.0, np.inf))
        elif np.isfinite(array).all() and (np.diff(array) > 0).all():  # a first time may be anything
            array[place] = np.nan
    elif name == "offsets_nc":
        size = index.header.shard_bytes
        other = array[tuple(rng.randrange(size) for size in array.shape)]
        array[place] = rng.choice((0, 1, 2**63, 2**64 - 1, size, size - 1, int(other) + 4, int(array[place]) - 1))
    else:
        array[place] = rng.choice((0, 1, 2**64 - 1))
    index = replace(index, **{name: array})
    if rng.random() < 0.3:
        return Case({f"{tar}.idx": index.to_bytes()})
    return whole.resealed(tar, whole.files[tar], index)


def not_finite(rng: random.Random, whole: Whole) -> Case:
    """NaN (where there is no mask) or infinity in a frame, with right checksums."""
    tar = rng.choice(whole.tars)
    index, raw = whole.index(tar), bytearray(whole.files[tar])
    family = whole.families[tar.split("-")[0]]
    row, column = rng.randrange(len(index.header.keys)), rng.randrange(len(family.fields))
    static = family.fields[column].static
    frame = 0 if static else rng.randrange(index.header.num_frames)
    size = index.header.frame_bytes
    start = int(index.offsets_nc[row, column]) + frame * size
    values = np.frombuffer(bytes(raw[start : start + size]), index.header.dtype).copy()
    values[rng.randrange(values.size)] = rng.choice((np.inf, -np.inf) if family.masked else (np.nan, np.inf, -np.inf))
    raw[start : start + size] = values.tobytes()
    checksums = index.checksums_nct.copy()
    checksums[row, column, slice(None) if static else frame] = xxhash.xxh3_64_intdigest(values.tobytes())
    return whole.resealed(tar, bytes(raw), replace(index, checksums_nct=checksums))


def sizes(rng: random.Random, whole: Whole) -> Case:
    """Sizes no file has, in manifest, header and entry alike: grid, frames, bytes of shards, offsets at once."""
    content = whole.manifest()
    name = rng.choice(sorted(content["families"]))
    entry = content["families"][name]
    changed = [what for what in ("grid", "num_frames", "bytes", "offsets") if rng.random() < 0.5] or ["grid"]
    grid, frames, stored, offset = entry["grid"], {}, None, None
    if "grid" in changed:
        grid = [rng.choice(SIZES) if rng.random() < 0.5 else size for size in grid]
    if "num_frames" in changed:
        frames = {split: rng.choice(SIZES) for split in entry["num_frames"]}
    if "bytes" in changed:
        stored = rng.choice(SIZES)
    if "offsets" in changed:
        offset = rng.choice(SIZES) % 2**64
    entry |= {"grid": grid, "num_frames": entry["num_frames"] | frames}
    files: dict[str, Any] = {}
    for split, shards in entry["splits"].items():
        num_frames = frames.get(split, entry["num_frames"][split])
        for shard in shards:
            index = whole.index(shard["file"])
            size = index.header.shard_bytes if stored is None else stored
            header = replace(index.header, grid=tuple(grid), num_frames=num_frames, shard_bytes=size)
            index = replace(index, header=header)
            if offset is not None:
                index = replace(index, offsets_nc=np.full_like(index.offsets_nc, offset))
            if split in frames and 0 <= num_frames <= 5:  # the arrays too are as long as that
                written = index.times_nt.shape[1]
                later = index.times_nt[:, -1:] + 0.1 * np.arange(1, max(1, num_frames - written + 1))
                times = np.concatenate([index.times_nt, later], axis=1)[:, :num_frames]
                checksums = index.checksums_nct[:, :, np.arange(num_frames) % written]
                index = replace(index, checksums_nct=checksums, times_nt=times)
            raw = index.to_bytes()
            files[f"{shard['file']}.idx"] = raw
            shard |= {"bytes": size, "index_sha256": sha256(raw).hexdigest()}
            if stored is not None and 0 <= size <= 10**6:  # and so is the file
                tar = whole.files[shard["file"]][:size].ljust(size, b"\0")
                files[shard["file"]] = tar
                shard["sha256"] = sha256(tar).hexdigest()
    files["manifest.json"] = json.dumps(content).encode()
    same = all(raw == whole.files[file] for file, raw in files.items() if not file.endswith(".json"))
    padded = changed == ["bytes"] and stored == 10**6  # zeros after the end of a tar are no harm
    return Case(files, caught=not (same or padded))


# The manifest


def manifest_value(rng: random.Random, whole: Whole) -> Case:
    """A value of the manifest, at any depth, is another or gone."""
    content = whole.manifest()
    node: Any = content
    while True:
        place = rng.choice(sorted(node) if isinstance(node, dict) else range(len(node)))
        below = node[place]
        if isinstance(below, (dict, list)) and below and rng.random() < 0.9:
            node = below
            continue
        how = rng.random()
        if how < 0.15:
            del node[place]
        elif how < 0.3 and isinstance(below, str):
            node[place] = rng.choice((*TRAVERSAL, "../a.tar", "/etc/passwd.tar", rng.choice(whole.tars)))
        else:
            node[place] = rng.choice(ABSURD)
        return Case({"manifest.json": json.dumps(content).encode()}, caught=False)


def manifest_kind(rng: random.Random, whole: Whole) -> Case:
    """The manifest says another kind of family than the shards hold."""
    content = whole.manifest()
    entry = content["families"][rng.choice(list(content["families"]))]
    name = rng.choice(("steady", "masked", "static", "fields", "grid", "num_frames", "dt", "geometry", "splits"))
    if name in ("steady", "masked"):
        entry[name] = not entry[name]
        if name == "steady" and entry["dt"] is None:
            entry["dt"] = 0.1
    elif name == "static":
        entry["static"] = [] if entry["static"] else entry["fields"][:1]
    elif name in ("fields", "grid"):
        entry[name] = rng.choice((entry[name][::-1], entry[name][:-1], entry[name] * 2, [*entry[name], 1]))
    elif name == "num_frames":
        entry[name] = {split: rng.choice((n - 1, n + 1, n * 2, 1)) for split, n in entry[name].items()}
    elif name == "dt":
        entry["dt"] = rng.choice((1e-300, 1e300, 7, None))
    elif name == "geometry":
        entry |= {"geometry": "points", "coordinates": rng.choice(([], entry["fields"][:1]))}
    else:
        entry["splits"] = {split: entry["splits"][other] for split, other in (("train", "valid"), ("valid", "train"))}
    return Case({"manifest.json": json.dumps(content).encode()}, caught=False)


def manifest_text(rng: random.Random, whole: Whole) -> Case:
    text = whole.files["manifest.json"]
    raw = rng.choice(
        (
            b"",
            b"null",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            text.replace(b'"format": 2', b'"format": 2, "format": 1'),
            text.replace(b"0.1", b"1" * 5000, 1),
            text.replace(b"waves_1d", b"../../x", 1),
            text.replace(b"float", b"\xff", 1)[::-1],
            b"\xef\xbb\xbf" + text,
            text.decode().encode("utf-16"),
        )
    )
    return Case({"manifest.json": raw}, caught=False)


KIND: dict[Callable[[random.Random, Whole], Case], int] = {
    any_file: 10,
    several_files: 2,
    damaged_manifest: 6,
    not_a_file: 3,
    swapped: 2,
    tar_header: 6,
    extension: 3,
    pickled: 3,
    npy_header: 5,
    index_header: 8,
    index_arrays: 6,
    not_finite: 4,
    sizes: 6,
    manifest_value: 9,
    manifest_kind: 4,
    manifest_text: 1,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("fuzz")
    return Whole(folder / "shards", folder / "marker")


def put(whole: Whole, files: dict[str, Any]) -> None:
    for name, content in files.items():
        path = whole.folder / name
        remove(path)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            content(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def read_everything(whole: Whole, names: set[str], read: Counter[str]) -> None:
    """Reads all windows of the families; raises an `AssertionError` if a sample is not what was written."""
    try:
        manifest = load_manifest(whole.folder)
    except UserError:
        read["refused"] += 1
        return
    for name, data in manifest.families.items():
        for split in data.splits if name in names or "manifest.json" in names else ():
            for strict in (True, False):
                try:
                    reader = ShardReader(manifest, name, split, strict=strict)
                except UserError:
                    read["refused"] += 1
                    continue
                num = min(reader.num_trajectories, 6)
                for trajectory in range(num):
                    for window in (
                        (0, 2, 1),
                        (0, min(reader.num_frames, 8), 1),
                        (1, 2, 2),
                        (reader.num_frames - 1, 1, 1),
                    ):
                        read_window(whole, reader, trajectory, window, read)


def read_window(
    whole: Whole, reader: ShardReader, trajectory: int, window: tuple[int, int, int], read: Counter[str]
) -> None:
    first, length, stride = window
    try:
        batch = reader.read([trajectory], [first], length, stride)
    except UserError:
        read["damaged"] += 1
        return
    shard, row = reader.locate(trajectory)
    key = f"{reader.data.shards[reader.split][shard].file[:-4]}-{row:06d}"
    frames = list(range(first, first + length * stride, stride))
    if whole.families[whole.rows[key][0]].steady:
        frames = [0] * (length - 1) + [1]
    u_tcx, dt_t = whole.expected(key, frames)
    found = batch.u_btcx[0].numpy()
    there = ~np.isnan(u_tcx)
    assert found.shape == u_tcx.shape, f"shape {found.shape}, written {u_tcx.shape}"
    assert np.isfinite(found).all(), "not finite"
    assert found[there].tobytes() == u_tcx[there].tobytes(), "other numbers than were written"
    if batch.mask_btcx is None:
        assert there.all(), "no mask though points have no value"
    else:
        assert np.array_equal(batch.mask_btcx[0].numpy(), there), "another mask than was written"
    np.testing.assert_allclose(batch.dt_bt[0].numpy(), dt_t.astype(np.float32), rtol=1e-6)
    assert batch.keys == (key,), "another key than was written"
    assert batch.parameters_bp[0].numpy().tobytes() == whole.parameters(key).tobytes(), (
        "other parameters than were written"
    )
    read["right"] += 1


def check_case(whole: Whole, case: Case, deep: bool, read: Counter[str]) -> None:
    names = {file.split("-")[0] for file in case.files}
    read_everything(whole, names, read)
    if deep:
        try:
            manifest = load_manifest(whole.folder)
        except UserError:
            return
        found = [*inspect(manifest).problems, *scan(manifest).problems]
        assert found or not case.caught, "reading every byte found nothing"
        assert all(str(finding).isprintable() for finding in found), "a finding that can't be printed"
        read["deep"] += 1
    assert not whole.marker.exists(), "a pickle was executed"


def test_the_undamaged_data_set_reads_and_validates(whole: Whole) -> None:
    read: Counter[str] = Counter()
    check_case(whole, Case(dict.fromkeys(whole.tars), caught=False), True, read)
    manifest = load_manifest(whole.folder)
    assert [str(finding) for finding in (*inspect(manifest).problems, *scan(manifest).problems)] == []
    assert read["right"] > 100
    assert not read["refused"]


@pytest.mark.parametrize("part", range(4))
def test_fuzz(whole: Whole, part: int) -> None:
    read: Counter[str] = Counter()
    failures = []
    kinds = [kind for kind, weight in KIND.items() for _ in range(weight)]
    for number in range(part, CASES, 4):
        seed = 1000 + number
        kind = kinds[number // 4 % len(kinds)] if number // 4 < 2 * len(kinds) else random.Random(seed).choice(kinds)
        case = kind(random.Random(seed), whole)
        put(whole, case.files)
        try:
            with limit(LIMIT_S):
                check_case(whole, case, number // 4 % SCAN_EVERY == 0, read)
        except (Exception, Hang) as error:
            failures.append(f"{kind.__name__}, seed {seed}: {type(error).__name__}: {str(error)[:300]}")
        finally:
            for name in case.files:
                remove(whole.folder / name)
            put(whole, {name: whole.files[name] for name in case.files})
            remove(whole.marker)
        read["cases"] += 1
    print(f"part {part}: {dict(read)}")
    assert not failures, f"{len(failures)} of {read['cases']} cases:\n" + "\n".join(failures[:20])
