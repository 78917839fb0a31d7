"""Zarr stores, sound ones and damaged and hostile ones."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from fuzz_cases import MAPPING, Case, Input, Place, arrays, damage, flip, write_members
from zarr.codecs import Crc32cCodec, GzipCodec, ZstdCodec

CHUNKS = (2, 3, 4)
# Name of a store -> format, and settings of its arrays.
STORES: dict[str, tuple[int, dict[str, Any]]] = {
    "blosc2.zarr": (2, {}),
    "plain2.zarr": (2, {"compressors": None}),
    "unfilled2.zarr": (2, {"compressors": None, "fill_value": None}),
    "zstd3.zarr": (3, {"compressors": ZstdCodec()}),
    "gzip3.zarr": (3, {"compressors": GzipCodec()}),
    "plain3.zarr": (3, {"compressors": None}),
    "crc3.zarr": (3, {"compressors": Crc32cCodec()}),
    "packedcrc3.zarr": (3, {"compressors": (ZstdCodec(), Crc32cCodec())}),
    "shardedcrc3.zarr": (3, {"compressors": Crc32cCodec(), "shards": "all"}),
}
CHECKED = ("crc3.zarr",)
PLAIN = ("plain2.zarr", "unfilled2.zarr", "plain3.zarr")


def zarr_inputs(folder: Path) -> list[Input]:
    """A store of every kind."""
    inputs = []
    for name, (zarr_format, settings) in STORES.items():
        group = zarr.open_group(str(folder / name), mode="w", zarr_format=zarr_format)
        for array, values in arrays().items():
            chunks = tuple(-(-size // 2) for size in values.shape)
            sharded = {"shards": tuple(2 * size for size in chunks)} if "shards" in settings else {}
            group.create_array(array, data=values, chunks=chunks, **(settings | sharded))
        files = sorted(path for path in (folder / name).rglob("*") if path.is_file())
        members = {path.relative_to(folder / name).as_posix(): path.read_bytes() for path in files}
        inputs.append(Input(name, b"", "map.json", mapping=MAPPING, members=members))
    return inputs


def chunks_of(source: Input, array: str = "u") -> list[str]:
    """Members that are chunks (or shards) of an array."""
    return [name for name in source.members if name.startswith(f"{array}/") and not is_metadata(name)]


def is_metadata(name: str) -> bool:
    return name.endswith((".json", ".zarray", ".zgroup", ".zattrs"))


def description(source: Input, array: str = "u") -> str:
    """The member that describes an array."""
    return f"{array}/.zarray" if f"{array}/.zarray" in source.members else f"{array}/zarr.json"


def block(name: str) -> tuple[slice, ...]:
    """Where a chunk of `u` lies in it."""
    number = name.removeprefix("u/").removeprefix("c/").replace(".", "/").split("/")
    return tuple(slice(int(at) * size, (int(at) + 1) * size) for at, size in zip(number, CHUNKS, strict=True))


def changed(source: Input, **members: bytes) -> Callable[[Path], None]:
    return lambda path: write_members(path, {**source.members, **members})


def damaged_chunk(rng: random.Random, place: Place) -> Case:
    """A chunk file that is cut or changed."""
    source = rng.choice(place.of(*CHECKED) if rng.random() < 0.5 else place.of(*STORES))
    name = rng.choice(chunks_of(source, rng.choice("uuutx")))
    raw = source.members[name]
    content = b"" if rng.random() < 0.1 else damage(rng, raw, len(raw))
    if rng.random() < 0.3:
        content = raw[: rng.randrange(len(raw))]
    checked = source.name.endswith(CHECKED)
    return Case(source, changed(source, **{name: content}), must="detect" if checked else "hold")


def flipped_plain_chunk(rng: random.Random, place: Place) -> Case:
    """No checksum tells it, so what the chunk says now is read, and all else as it was."""
    source = rng.choice(place.of(*PLAIN))
    name = rng.choice(chunks_of(source))
    content = flip(rng, source.members[name])
    values = arrays()["u"]
    target = values[block(name)]
    target[...] = np.frombuffer(content, "<f4").reshape(CHUNKS)[tuple(map(slice, target.shape))]
    return Case(source, changed(source, **{name: content}), must="read", values=values)


def missing_chunks(rng: random.Random, place: Place) -> Case:
    """Chunks that are not there read as the fill value, which a note says; without one they are an error."""
    source = rng.choice(place.of(*STORES))
    there = chunks_of(source)
    gone = rng.sample(there, min(len(there), rng.choice((1, 1, 2, 8))))
    values = arrays()["u"]
    for name in gone:
        values[block(name) if len(there) > 1 else ...] = 0  # a shard holds all of them
    members = {name: content for name, content in source.members.items() if name not in gone}
    says = f"{len(gone)} of the {len(there)} {'shards' if len(there) == 1 else 'chunks'} of u are not there"
    if source.name == "unfilled2.zarr":
        return Case(
            source, lambda path: write_members(path, members), must="refuse", says=f"{says}, and it has no fill"
        )
    says = f"{says} and read as 0"
    return Case(source, lambda path: write_members(path, members), must="read", values=values, says=says)


def damaged_metadata(rng: random.Random, place: Place) -> Case:
    """The descriptions of the group and its arrays have no checksum; what they say must hold together."""
    source = rng.choice(place.of(*STORES))
    name = rng.choice([name for name in source.members if is_metadata(name)])
    return Case(source, changed(source, **{name: damage(rng, source.members[name], 200)}))


def hostile_metadata(rng: random.Random, place: Place) -> Case:
    """Well-formed JSON that means harm."""
    source = rng.choice(place.of(*STORES))
    name = description(source)
    content = json.loads(source.members[name])
    two = "zarr_format" in content and content["zarr_format"] == 2
    huge = rng.choice(([2**40, 5, 8], [4, 5, 2**40], [2**31, 2**31, 2**31], [2**62], [4, 5, 2**64], [1] * 40))
    negative = rng.choice(([-4, 5, 8], [4, 5, -8], [0, 5, 8], [4, 0, 8], [], [4.5, 5, 8], ["4", 5, 8], None, [4, 5]))
    kinds = ("|O", "<c8", "|S4", "<U4", "<M8[s]", "|V4", "<f16", [["a", "<f4"]], "<f3", 7, None, "|b9", "object")
    kinds_3 = ("string", "complex64", "object", "float128", "r32", "variable_length_bytes", {"name": "x"}, 7, None, "")
    one = rng.choice(("shape", "shape", "dtype", "chunks", "codec", "key", "node"))
    if one == "shape":
        content["shape"] = rng.choice((huge, negative))
    elif one == "dtype":
        content["dtype" if two else "data_type"] = rng.choice(kinds if two else kinds_3)
    elif one == "chunks":
        sizes = rng.choice(
            ([0, 1, 1], [2**40, 3, 4], [-1, 3, 4], [2, 3], [], [2**31, 2**31, 4], ["a"], None, [1, 1, 1])
        )
        if two:
            content["chunks"] = sizes
        else:
            content["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": sizes}}
    elif one == "codec":
        absurd: Any = rng.choice(({"id": "pickle"}, {"id": "../x"}, {"id": "blosc", "cname": "x" * 9000}, 7, {}))
        if two:
            content[rng.choice(("filters", "compressor"))] = rng.choice((absurd, [absurd], [absurd] * 500))
        else:
            names = ("numcodecs.pickle", "vlen-utf8", "../x", "bytes", "numcodecs.blosc", "sharding_indexed")
            content["codecs"] = [{"name": rng.choice(names), "configuration": rng.choice(({}, {"id": "pickle"}, None))}]
    elif one == "key" and two:
        content["dimension_separator"] = rng.choice(("/../", "../", "", "\0", 7, "x" * 5000))
    elif one == "key":
        absurd = rng.choice(("/../", "../../", "", "\0", 7, "x" * 5000))
        content["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": absurd}}
    else:
        content[rng.choice(("zarr_format", "node_type"))] = rng.choice((1, 2, 3, 4, "group", None, [3], 2**70))
    return Case(source, changed(source, **{name: json.dumps(content).encode()}))


def names_out_of_the_store(rng: random.Random, place: Place) -> Case:
    """A mapping, or metadata in one place for all, that names an array outside."""
    source = rng.choice(place.of(*STORES))
    outside = rng.choice(("../outside.zarr/u", "../../outside.zarr/u", "u/../../outside.zarr/u", "/u", "\0", "u/.."))
    mapping = json.loads(json.dumps(MAPPING))
    mapping["fields"][0]["array"] = outside
    members = dict(source.members)
    if rng.random() < 0.5 and description(source).endswith("zarr.json"):
        described = {outside: json.loads(members[description(source)])}
        whole = {"kind": "inline", "must_understand": False, "metadata": described}
        members["zarr.json"] = json.dumps(json.loads(members["zarr.json"]) | {"consolidated_metadata": whole}).encode()
    elif rng.random() < 0.5 and ".zgroup" in members:
        described = {f"{outside}/.zarray": json.loads(members[description(source)])}
        members[".zmetadata"] = json.dumps({"zarr_consolidated_format": 1, "metadata": described}).encode()

    def write(path: Path) -> None:
        write_members(path, members)
        write_members(path.with_name("outside.zarr"), source.members)

    return Case(source, write, json.dumps(mapping).encode(), must="refuse", says="no array")


def linked(source: Input, part: str, target: str) -> Callable[[Path], None]:
    """The store with a member, or all below a folder, that is a link to `target`, or a pipe.

    Args:
        target: "outside" (the same part of another store), "itself", "pipe", or what the link says.
    """

    def write(path: Path) -> None:
        outside = path.with_name("outside.zarr")
        write_members(
            path, {name: raw for name, raw in source.members.items() if not f"{name}/".startswith(f"{part}/")}
        )
        write_members(outside, source.members)
        (path / part).parent.mkdir(parents=True, exist_ok=True)
        if target == "pipe":
            os.mkfifo(path / part)
        else:
            names = {"outside": str(outside / part), "itself": Path(part).name}
            (path / part).symlink_to(names.get(target, target))

    return write
