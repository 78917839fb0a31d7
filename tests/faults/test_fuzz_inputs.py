"""Damaged and hostile inputs: a typed error, or what the file holds; never a crash, a hang, an executed pickle or
another exception.

Where a format has a checksum (npz, compressed MATLAB v5, HDF5 with fletcher32, Zarr with crc32c) damage is an error, or
every value is read as it was. Where it has none, a flipped bit of the payload gives another number that is as good as
the first (docs/data.md): that very number must be read, and all others as they were. Where what describes the payload
is damaged and has no checksum, the arrays must have the shape that the file states.

Files are inspected and read in worker processes (`reading_worker.py`), as the HDF5 library may crash or hang: those on
which it does are given to the sharder, which must survive and name them.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import select
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
import scipy.io
from fuzz_cases import MAPPING, Case, Input, Place, arrays, damage, flip
from fuzz_zarr import (
    changed,
    chunks_of,
    damaged_chunk,
    damaged_metadata,
    flipped_plain_chunk,
    hostile_metadata,
    linked,
    missing_chunks,
    names_out_of_the_store,
    zarr_inputs,
)
from reading_worker import digest_of
from synthetic import waves, write_arrays, write_groups

from ups_scale.data import workers as workers_module
from ups_scale.data.inputs import inspect_all
from ups_scale.data.shards import convert
from ups_scale.errors import DataError

WORKER = Path(__file__).with_name("reading_worker.py")
CASES = 1100
LIMIT_S = 10
ISOLATED_LIMIT_S = 3.0
PER_WORKER = 150


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.marker, "unpickled")


@dataclass
class Worker:
    """A process that inspects inputs, started anew when it has died or done its share."""

    process: subprocess.Popen[bytes] | None = None
    done: int = 0

    def ask(self, **request: Any) -> dict[str, str]:
        """The worker's verdict; "crash" or "hang" where it gives none."""
        if self.process is None or self.done >= PER_WORKER:
            self.stop()
            self.process, self.done = start(), 0
        process = self.process
        assert process.stdin
        assert process.stdout
        self.done += 1
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], LIMIT_S)
        line = process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        verdict = {"verdict": "hang", "text": f"no answer in {LIMIT_S} s"}
        if ready:
            verdict = {"verdict": "crash", "text": f"exit code {process.wait()}"}
        self.stop()
        return verdict

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def start() -> subprocess.Popen[bytes]:
    """A worker that has imported what it needs: `LIMIT_S` is for inputs alone, whatever the machine."""
    process = subprocess.Popen([sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


# Sound inputs


def write_mapped_hdf5(
    path: Path, checked: tuple[str, ...] = ("u",), packed: str | None = "gzip", **settings: Any
) -> None:
    with h5py.File(path, "w", **settings) as file:
        for name, values in arrays().items():
            chunks = tuple(-(-size // 2) for size in values.shape)
            dataset = file.create_dataset(
                name, data=values, fletcher32=name in checked, chunks=chunks, compression=packed
            )
            dataset.attrs["units"] = "1"


def write_netcdf3(path: Path) -> None:
    with scipy.io.netcdf_file(path, "w") as file:
        for axis, size in (("n", 4), ("t", 5), ("x", 8)):
            file.createDimension(axis, size)
        for name, values in arrays().items():
            variable = file.createVariable(name, values.dtype, ("n", "t", "x") if name == "u" else (name,))
            variable[:] = values


def write_matlab73(path: Path) -> None:
    """As MATLAB does: a block of text before the file, and axes in the reverse order."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays().items():
            file[name] = np.atleast_2d(values).T
            file[name].attrs["MATLAB_class"] = np.bytes_("single" if values.dtype == np.float32 else "double")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 .".ljust(124) + b"\x00\x02IM")


def write_well(path: Path) -> None:
    """The Well's layout: a scalar and a vector field on a line that is periodic."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"dataset_name": "waves", "grid_type": "cartesian", "n_spatial_dims": 1, "n_trajectories": 4})
        file.attrs.update({"simulation_parameters": ["speed"], "speed": 2.0})
        file.create_group("dimensions").attrs["spatial_dims"] = ["x"]
        file["dimensions/time"], file["dimensions/x"] = arrays()["t"], arrays()["x"]
        for name, fields in (("scalars", []), ("t0_fields", ["u"]), ("t1_fields", ["w"]), ("t2_fields", [])):
            file.create_group(name).attrs["field_names"] = fields or np.array([], "S1")
        file["t0_fields/u"] = arrays()["u"]
        file["t1_fields/w"] = arrays()["u"][..., None]
        file["boundary_conditions/x_periodic/mask"] = np.isin(np.arange(8), (0, 7))
        sides = {"bc_type": "PERIODIC", "associated_dims": ["x"], "associated_fields": np.array([], "S1")}
        file["boundary_conditions/x_periodic"].attrs.update(sides)
        for name in ("dimensions/time", "dimensions/x", "t0_fields/u", "t1_fields/w", "boundary_conditions/x_periodic"):
            varying = name.endswith(("u", "w"))
            file[name].attrs.update({"sample_varying": varying, "time_varying": varying, "dim_varying": [True]})


def write_inputs(folder: Path) -> list[Input]:
    """One of every kind of container and layout."""
    pdebench = {"family": "advection_1d", "split": "train"}
    write_arrays(folder / "arrays.hdf5", ("tensor",), waves(4, 1, 5, (8,), 1), {"beta": np.ones(4)}, pdebench)
    write_groups(
        folder / "groups.h5",
        waves(3, 2, 4, (4, 4), 2),
        {"Du": np.ones(3), "Dv": np.ones(3), "k": np.ones(3)},
        {"family": "reaction_diffusion_2d", "boundary": "neumann", "split": "train"},
    )
    write_mapped_hdf5(folder / "mapped.h5")
    write_mapped_hdf5(folder / "latest.h5", ("u", "t", "x"), libver="latest")
    write_mapped_hdf5(folder / "fletcher.h5", ("u", "t", "x"), None)
    np.savez(folder / "plain.npz", **arrays())
    np.savez_compressed(folder / "packed.npz", **arrays())
    np.savez(folder / "long.npz", **arrays(512))  # zipfile takes small members whole, and so compares their checksum
    matlab = {name: np.atleast_2d(values) if values.ndim < 2 else values for name, values in arrays().items()}
    scipy.io.savemat(folder / "plain.mat", matlab)
    scipy.io.savemat(folder / "packed.mat", matlab, do_compression=True)
    with h5py.File(folder / "contiguous.h5", "w") as file:
        file.update(arrays())
    write_netcdf3(folder / "classic.nc")
    write_matlab73(folder / "matlab73.mat")
    write_well(folder / "well.hdf5")
    inputs = []
    for path in sorted(folder.iterdir()):
        if path.name in ("arrays.hdf5", "groups.h5", "well.hdf5"):
            inputs.append(Input(path.name, path.read_bytes()))
            continue
        inputs.append(Input(path.name, path.read_bytes(), "map.json", mapping=MAPPING))
    return inputs + zarr_inputs(folder)


# Damage of bytes


def damaged_hdf5(rng: random.Random, place: Place) -> Case:
    """In HDF5's latest format the metadata has checksums too."""
    source = rng.choice(place.of(".h5", ".hdf5", "73.mat"))
    return Case(source, damage(rng, source.raw, 4096), must="detect" if source.name == "latest.h5" else "hold")


def damaged_checked_chunk(rng: random.Random, place: Place) -> Case:
    """Bytes of a chunk that has fletcher32."""
    source = rng.choice(place.of("mapped.h5", "latest.h5", "fletcher.h5"))
    with h5py.File(io.BytesIO(source.raw)) as file:
        dataset = file["u" if source.name == "mapped.h5" else rng.choice("uuutx")]
        chunk = dataset.id.get_chunk_info(rng.randrange(dataset.id.get_num_chunks()))
    start, stop = chunk.byte_offset, chunk.byte_offset + chunk.size
    content = source.raw[:start] + flip(rng, source.raw[start:stop]) + source.raw[stop:]
    return Case(source, content, must="refuse", says=source.name)


def damaged_plain_matlab(rng: random.Random, place: Place) -> Case:
    (source,) = place.of("plain.mat")
    return Case(source, damage(rng, source.raw, 300))


def damaged_packed_matlab(rng: random.Random, place: Place) -> Case:
    """zlib's checksum is of all of a variable."""
    (source,) = place.of("packed.mat")
    return Case(source, damage(rng, source.raw, 300), must="detect")


def damaged_npz(rng: random.Random, place: Place) -> Case:
    """Members have a checksum of all that they hold."""
    source = rng.choice(place.of(".npz"))
    raw = source.raw
    if rng.random() < 0.5:  # the table stands at the end
        raw = damage(rng, raw[::-1], 300)[::-1]
        return Case(source, raw, must="detect")
    return Case(source, damage(rng, raw, 300), must="detect")


def damaged_netcdf3(rng: random.Random, place: Place) -> Case:
    source = rng.choice(place.of(".nc"))
    return Case(source, damage(rng, source.raw, 200))


def flipped_payload(rng: random.Random, place: Place) -> Case:
    """Of formats without a checksum: what the file says now is read, and all else as it was."""
    source = rng.choice(place.of("plain.mat", ".nc", "73.mat", "contiguous.h5"))
    dtype = ">f4" if source.name.endswith(".nc") else "<f4"
    order: Literal["C", "F"] = "F" if source.name.endswith(".mat") else "C"
    values = arrays()["u"]
    stored = values.astype(dtype).tobytes(order)
    start = source.raw.index(stored)
    found = flip(rng, stored)
    content = source.raw[:start] + found + source.raw[start + len(stored) :]
    values = np.frombuffer(found, dtype).reshape(values.shape, order=order)
    return Case(source, content, must="read", values=values)


# HDF5 that is well formed and means harm


def hostile_hdf5(rng: random.Random, place: Place) -> Case:
    source = rng.choice([entry for entry in place.of(".h5", ".hdf5", "73.mat") if entry.name != "groups.h5"])
    names = {"arrays.hdf5": ("tensor", "t-coordinate"), "well.hdf5": ("t0_fields/u", "dimensions/time", "t1_fields")}
    name = rng.choice(names.get(source.name, ("u", "u", "t", "x")))
    values = np.zeros((4, 5, 8), np.float32)
    compound = np.dtype([("a", "<f4"), ("b", "<f4")])

    def soft_loop(file: h5py.File) -> None:
        file[name] = h5py.SoftLink("/other")
        file["other"] = h5py.SoftLink(f"/{name}")

    def group_loop(file: h5py.File) -> None:
        file.create_group(name)[name] = file["/"]

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(values.shape, "<f4")
        layout[...] = h5py.VirtualSource("/etc/passwd", "secret", values.shape)
        file.create_virtual_dataset(name, layout)

    def references(file: h5py.File) -> None:
        file.create_dataset(name, (4, 5, 8), h5py.ref_dtype)[...] = file.ref

    def unknown_filter(file: h5py.File) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 5, 8))
        plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
        h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4, 5, 8)), plist)

    def late(shape: tuple[int, ...], chunks: tuple[int, ...] | None = None, kind: str = "<f4") -> Any:
        def make(file: h5py.File) -> None:
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE if chunks is None else h5py.h5d.ALLOC_TIME_INCR)
            if chunks:
                plist.set_chunk(chunks)
            kind_id = h5py.h5t.py_create(np.dtype(kind))
            h5py.h5d.create(file.id, name.encode(), kind_id, h5py.h5s.create_simple(shape), plist)

        return make

    def typed(dtype: Any, shape: tuple[int, ...] = (4, 5, 8)) -> Any:
        return lambda file: file.create_dataset(name, shape, dtype)

    makers: tuple[Callable[[h5py.File], object], ...] = (
        lambda file: file.__setitem__(name, h5py.SoftLink("/nowhere")),
        lambda file: file.__setitem__(name, h5py.ExternalLink("/etc/passwd", "/")),
        lambda file: file.__setitem__(name, h5py.ExternalLink(source.name, f"/{name}")),
        *(soft_loop, group_loop, virtual, references, unknown_filter),
        lambda file: file.create_dataset(name, (4, 5, 8), "<f4", external=[("/etc/passwd", 0, 640)]),
        lambda file: file.create_dataset(name, (4, 5, 8), "<f4", external=[("../marker", 0, h5py.h5f.UNLIMITED)]),
        *(late((2**40, 5, 8)), late((4, 2**40, 8)), late((4, 5, 2**40)), late((2**20, 2**20, 2**20))),
        *(late((2**59,)), late((4, 5, 8)), late((4, 5, 8), (4, 5, 8)), late((2**31, 5, 8), (2**20, 5, 8))),
        *(late((4, 5, 2**29), (4, 5, 2**24)), late((1,) * 32)),
        *map(
            typed, (h5py.string_dtype(), "S8", compound, "<c8", "?", "<f2", ">f8", "<i8", "V8", h5py.vlen_dtype("<f4"))
        ),
        *map(typed, (h5py.enum_dtype({"a": 1}), np.dtype(("<f4", (3,))), h5py.opaque_dtype(np.dtype("M8[s]")))),
        *(typed("<f4", shape) for shape in ((), (0, 5, 8), (4, 0, 8), (4, 5), (5,), (4, 5, 8, 2), (1, 1, 1))),
        lambda file: file.create_dataset(name, dtype="<f4", shape=None, data=h5py.Empty("<f4")),
        lambda file: file.create_group(name),
        lambda file: file.__setitem__(name, np.dtype("<f4")),
        lambda file: file.__setitem__(name, np.full((4, 5, 8), np.nan)),
        lambda file: file.__setitem__(name, np.full(5 if name == "t" else 8, np.inf)),
    )
    make = rng.choice(makers)

    def write(path: Path) -> None:
        path.write_bytes(source.raw)
        with h5py.File(path, "a") as file:
            del file[name]
            make(file)

    return Case(source, write)


def hostile_attributes(rng: random.Random, place: Place) -> Case:
    source = rng.choice(place.of(".h5", ".hdf5"))
    name = rng.choice(("family", "split", "boundary", "config", "dataset_name", "grid_type", "units", "_FillValue"))
    value = rng.choice(
        (
            *(
                "",
                "x" * 60_000,
                "../x",
                "\n",
                "!!python/object/apply:os.system ['touch x']",
                "a: " + "[" * 3000,
                7,
                np.nan,
            ),
            *("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", b"\xff\xfe", np.zeros(5), h5py.Empty("<f4")),
        )
    )

    def write(path: Path) -> None:
        path.write_bytes(source.raw)
        with h5py.File(path, "a") as file:
            places: list[Any] = [file]
            file.visititems(lambda _, item: places.append(item))
            rng.choice(places).attrs[name] = value
            if rng.random() < 0.5:
                file.attrs[name] = value

    return Case(source, write)


# The other containers


def npy(header: bytes, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + header + body


def hostile_npz(rng: random.Random, place: Place) -> Case:
    """Pickles, bombs, headers that lie, and members that are called what they are not."""
    source = rng.choice(place.of(".npz"))
    bomb = pickle.dumps(Bomb(place.marker))
    one = "{'descr': %s, 'fortran_order': %s, 'shape': %s, }\n"
    body = waves(4, 1, 5, (8,), 0)[:, 0].tobytes()
    member = rng.choice(
        (
            npy((one % ("'|O'", False, "(4, 5, 8)")).encode(), bomb),
            npy((one % ("'|O'", False, "()")).encode(), bomb),
            bomb,
            npy((one % ("'<f4'", False, "(1099511627776, 5, 8)")).encode(), body),
            npy((one % ("'<f4'", False, "(4, 5, -8)")).encode(), body),
            npy((one % ("'<f4'", False, "(True, 5, 8)")).encode(), body),
            npy((one % ("'<f4'", False, "[4, 5, 8]")).encode(), body),
            npy((one % ("'<f4'", True, "(4, 5, 8)")).encode(), body),
            npy((one % ("'<f4'", 7, "(4, 5, 8)")).encode(), body),
            npy((one % ("'<f4'", False, "(4, 5, 8)")).encode(), body[:-4]),
            npy((one % ("'<f4'", False, "(4, 5, 8)")).encode(), body + b"more"),
            npy((one % ("'<c8'", False, "(4, 5, 4)")).encode(), body),
            npy((one % ("'<U2'", False, "(4, 5, 4)")).encode(), body),
            npy((one % ("[('a', '<f4')]", False, "(4, 5, 8)")).encode(), body),
            npy((one % ("'<f4'", False, "(4, 5, 8)")).encode(), body, b"\x02\x00"),
            npy((one % ("'<f4'", False, "(4, 5, 8)")).encode(), body, b"\x03\x00"),
            npy(b"(" * 300),
            npy(b"-" * 9000 + b"1"),
            npy(b"__import__('os').system('true')"),
            npy(b"{" * 60_000),
            b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
            b"",
        )
    )
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    extras = rng.sample(("../../marker", "/tmp/marker.npy", "u", "v.npy", "__init__.py"), rng.choice((0, 0, 2)))

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", kind) as file:
            for name, values in arrays().items():
                buffer = io.BytesIO()
                np.save(buffer, values)
                file.writestr(f"{name}.npy", member if name == "u" else buffer.getvalue())
            for extra in extras:
                file.writestr(extra, bomb)

    return Case(source, write)


def zip_bomb(rng: random.Random, place: Place) -> Case:
    """A few KiB that unpack to MiB, and say that they are GiB; or whose table says so too."""
    source = rng.choice(place.of(".npz"))
    mapping = {**MAPPING, "space": {"x": {"extents": [0, 1]}}}
    big = rng.choice((2**27, 2**24))

    def write(path: Path) -> None:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 5, %d), }\n" % big
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            with file.open("u.npy", "w", force_zip64=True) as member:
                member.write(npy(header))
                for _ in range(8):
                    member.write(bytes(2**20))
            for name in ("t", "x"):
                buffer = io.BytesIO()
                np.save(buffer, arrays()[name])
                file.writestr(f"{name}.npy", buffer.getvalue())
        raw = path.read_bytes()
        if rng.random() < 0.5:
            size = (2**23 + len(npy(header))).to_bytes(4, "little")
            path.write_bytes(raw.replace(size, (80 * big + len(npy(header)) & 2**32 - 1).to_bytes(4, "little")))

    return Case(source, write, json.dumps(mapping).encode())


def mapping_file(rng: random.Random, place: Place) -> Case:
    """A mapping with values of other kinds, keys gone, or no JSON at all."""
    source = rng.choice([entry for entry in place.inputs if entry.mapping])
    content = json.loads(json.dumps(source.mapping))
    absurd: list[Any] = [None, True, 0, -1, 2**70, 1.5, "", "x", "../../etc/passwd", "/", "u/../u", "t", [], {}]
    absurd += [["n", "t"], [[]]]
    node: Any = content
    while True:
        place_in = rng.choice(list(node) if isinstance(node, dict) else list(range(len(node))))
        below = node[place_in]
        if isinstance(below, (dict, list)) and below and rng.random() < 0.85:
            node = below
            continue
        if rng.random() < 0.2:
            del node[place_in]
        else:
            node[place_in] = rng.choice(absurd)
        break
    text = json.dumps(content).encode()
    if rng.random() < 0.25:
        text = rng.choice(
            (b"", b"[" * 90_000, b"\xff\xfe{", b"null", b'{"a":' * 9000, text[:-9], text * 2, b"1" * 9000)
        )
    return Case(source, source.content, text)


def wrong_layout(rng: random.Random, place: Place) -> Case:
    source = rng.choice(place.inputs)
    layouts = ("auto", "pdebench", "the_well", "nonsense", "map.json", "nowhere.json", "")
    mapping = json.dumps(MAPPING).encode()
    return Case(source, source.content, mapping, rng.choice(layouts))


def not_a_file(rng: random.Random, place: Place) -> Case:
    source = rng.choice(place.inputs)

    def loop(path: Path) -> None:
        path.symlink_to(path.name)

    def zarr_like(path: Path) -> None:
        path.mkdir()
        (path / rng.choice((".zgroup", "zarr.json", ".zarray"))).write_bytes(
            rng.choice((b"", b"{}", b"null", b'{"zarr_format": 3, "node_type": "group"}', b'{"zarr_format": 2}'))
        )

    makers = (
        *(Path.mkdir, os.mkfifo, loop, zarr_like, lambda path: path.symlink_to("nowhere")),
        *(lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("/dev/full"), Path.touch),
    )
    return Case(source, rng.choice(makers))


def another_container(rng: random.Random, place: Place) -> Case:
    """An input under the name and mapping of another, or two in one file."""
    a, b = rng.sample([entry for entry in place.inputs if entry.raw], 2)
    return Case(a, rng.choice((b.raw, a.raw + b.raw, b.raw[:128] + a.raw, b.raw[:8] + a.raw[8:])))


KIND: dict[Callable[[random.Random, Place], Case], int] = {
    damaged_hdf5: 16,
    damaged_checked_chunk: 5,
    damaged_plain_matlab: 4,
    damaged_packed_matlab: 6,
    damaged_npz: 8,
    damaged_netcdf3: 4,
    flipped_payload: 4,
    hostile_hdf5: 12,
    hostile_attributes: 5,
    hostile_npz: 6,
    zip_bomb: 1,
    damaged_chunk: 8,
    flipped_plain_chunk: 3,
    missing_chunks: 4,
    damaged_metadata: 6,
    hostile_metadata: 6,
    names_out_of_the_store: 2,
    mapping_file: 5,
    wrong_layout: 2,
    not_a_file: 3,
    another_container: 2,
}
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "sound").mkdir()
    return Place(folder, folder / "marker", write_inputs(folder / "sound"))


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.stop()


def write_case(folder: Path, case: Case) -> tuple[Path, str]:
    """Writes a case into an empty folder: its path, and how it is inspected."""
    folder.mkdir()
    path = folder / case.source.name
    if callable(case.content):
        case.content(path)
    else:
        path.write_bytes(case.content)
    mapping = case.mapping if case.mapping is not None else json.dumps(case.source.mapping).encode()
    (folder / "map.json").write_bytes(mapping)
    layout = case.source.layout if case.layout is None else case.layout
    return path, str(folder / layout) if layout.endswith(".json") else layout


def ask(worker: Worker, folder: Path, case: Case) -> dict[str, str]:
    """Writes a case into an empty folder and has it read."""
    path, layout = write_case(folder, case)
    return worker.ask(path=str(path), layout=layout, family=case.source.family)


def judge(case: Case, answer: dict[str, str], sound: dict[str, str]) -> str:
    """What an answer is: "refused", "exact", "as stated" (the values that were put there), "undetectable" (others than
    the sound input's, or not comparable with it), "broken library", or what is wrong."""
    verdict, text = answer["verdict"], answer.get("text", "")
    if verdict == "refused":
        if case.must == "read":
            return f"wrong: refused: {text}"
        if case.must == "refuse" and case.says not in text:
            return f"wrong: refused, but without {case.says!r}: {text}"
        return "refused"
    if verdict in ("crash", "hang") and isinstance(case.content, bytes) and HDF5_MAGIC in case.content:
        return "broken library"
    if verdict != "read":
        return f"wrong: {verdict}: {text}"
    parts = ("structure", "axes", "values")
    expected = dict(sound)
    if case.values is not None:
        expected["values"] = digest_of(case.values)
    differing = [part for part in parts if answer[part] != expected[part]]
    if case.must == "refuse":
        return f"wrong: read, with other {differing or 'nothing'}"
    if case.must in ("detect", "read") and differing:
        return f"wrong: read with other {', '.join(differing)}"
    if case.must == "read" and case.says not in answer["notes"]:
        return f"wrong: notes {answer['notes']!r} without {case.says!r}"
    if differing:
        return "undetectable"
    return "exact" if case.values is None else "as stated"


@pytest.fixture(scope="module")
def sound(place: Place) -> dict[str, dict[str, str]]:
    """What the sound inputs are read as."""
    worker = Worker()
    try:
        return {
            entry.name: ask(worker, place.folder / f"of {entry.name}", Case(entry, entry.content))
            for entry in place.inputs
        }
    finally:
        worker.stop()


def test_the_sound_inputs_are_read(place: Place, sound: dict[str, dict[str, str]]) -> None:
    for entry in place.inputs:
        assert sound[entry.name]["verdict"] == "read", (entry.name, sound[entry.name]["text"])
    mapped = [sound[entry.name] for entry in place.inputs if entry.mapping and entry.name != "long.npz"]
    assert len(mapped) == 19
    assert {answer["values"] for answer in mapped} == {digest_of(arrays()["u"])}
    assert not any(answer["notes"] for answer in mapped)
    assert len({(answer["structure"], answer["axes"]) for answer in mapped}) == 1


def zeroed_chunks(raw: bytes) -> bytes:
    """The tree that finds a dataset's chunks is zeros, as after a copy that was cut short: libhdf5 crashes."""
    at = raw.index(b"TREE\x01") + 8
    return raw[:at] + bytes(64) + raw[at + 64 :]


def endless_heap(raw: bytes) -> bytes:
    """An object of no size in the heap of strings: libhdf5 goes round in circles."""
    heap = raw.index(b"GCOL")
    at = heap + 16
    while raw[at : at + 2] != b"\0\0":
        at += 16 + -(-int.from_bytes(raw[at + 8 : at + 16], "little") // 8) * 8
    return raw[: at + 8] + bytes(8) + raw[at + 16 :]


def zeroed_times(raw: bytes) -> bytes:
    """The same of the times, which are read when the file is looked into."""
    start = raw.index(b"TREE\x01", raw.index(b"TREE\x01") + 1)
    return raw[:start] + zeroed_chunks(raw[start:])


@pytest.mark.parametrize(
    ("name", "break_it", "how"),
    [
        ("fletcher.h5", zeroed_times, "the process that looked into it was killed by SIGSEGV"),
        ("arrays.hdf5", endless_heap, "the process that looked into it was ended, having made no progress for 3 s"),
    ],
)
def test_looking_into_what_breaks_the_library_is_an_error(
    place: Place,
    worker: Worker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    break_it: Callable[[bytes], bytes],
    how: str,
) -> None:
    monkeypatch.setattr(workers_module, "LIMIT_S", ISOLATED_LIMIT_S)
    (entry,) = place.of(name)
    path, layout = write_case(tmp_path / "case", Case(entry, break_it(entry.raw)))
    with pytest.raises(DataError, match=rf"{path}: {how}: the library that reads such files can't take this one"):
        inspect_all([path], layout, {}, None, {}, "seed:0", processes=1)


@pytest.mark.parametrize(
    ("name", "break_it", "workers", "how"),
    [
        ("mapped.h5", zeroed_chunks, 1, "worker process that was at its .* was killed by SIGSEGV"),
        ("mapped.h5", zeroed_chunks, 2, "worker process that was at its .* was killed by SIGSEGV"),
        ("arrays.hdf5", endless_heap, 1, "process that looked into it was ended, having made no progress for 3 s"),
    ],
)
def test_what_breaks_the_library_is_an_error_like_others(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    break_it: Callable[[bytes], bytes],
    workers: int,
    how: str,
) -> None:
    monkeypatch.setattr(workers_module, "LIMIT_S", 3.0)
    (entry,) = place.of(name)
    path, mapping = tmp_path / name, tmp_path / "map.json"
    path.write_bytes(break_it(entry.raw))
    mapping.write_text(json.dumps(entry.mapping))
    settings: dict[str, Any] = {"layout": str(mapping) if entry.mapping else "auto", "split": "seed:0"}
    with pytest.raises(DataError, match=rf"{name}: the {how}"):
        convert([path], tmp_path / "out", workers=workers, isolated=True, show_progress=False, **settings)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("target", ["outside", "/etc/passwd", "pipe", "nowhere", "itself"])
@pytest.mark.parametrize("part", ["chunk", "zarr.json", "u"])
def test_a_zarr_store_ends_at_its_folder(place: Place, worker: Worker, tmp_path: Path, part: str, target: str) -> None:
    """No link is followed and no pipe is waited for."""
    for name in ("crc3.zarr", "zstd3.zarr"):
        source = next(entry for entry in place.inputs if entry.name == name)
        member = {"chunk": chunks_of(source)[0], "zarr.json": "u/zarr.json", "u": "u"}[part]
        answer = ask(worker, tmp_path / name, Case(source, linked(source, member, target)))
        assert answer["verdict"] == "refused", answer
        assert name in answer["text"]


def test_an_empty_shard_is_an_error(place: Place, worker: Worker, tmp_path: Path) -> None:
    """As a copy leaves it that ran out of disk."""
    (source,) = place.of("shardedcrc3.zarr")
    (shard,) = chunks_of(source)
    answer = ask(worker, tmp_path / "empty", Case(source, changed(source, **{shard: b""})))
    assert answer["verdict"] == "refused", answer


def isolated(path: Path, layout: str, family: str | None) -> None:
    """As the sharder looks into an input and reads it: in processes of their own."""
    inspect_all([path], layout, {}, family, {}, "seed:0", processes=1)
    convert(
        [path],
        path.parent / "out",
        layout=layout,
        family=family,
        split="seed:0",
        workers=1,
        isolated=True,
        show_progress=False,
    )


def run_part(place: Place, sound: dict[str, dict[str, str]], part: int, parts: int) -> tuple[Counter[str], list[str]]:
    """Verdicts, and what went wrong, of every `parts`-th case."""
    worker, failures = Worker(), []
    verdicts: Counter[str] = Counter()
    kinds = [kind for kind, weight in KIND.items() for _ in range(weight)]
    try:
        for number in range(part, CASES, parts):
            seed = 5000 + number
            kind = kinds[number // parts % len(kinds)]
            case = kind(random.Random(seed), place)
            folder = place.folder / f"case{number}"
            path, layout = write_case(folder, case)
            answer = worker.ask(path=str(path), layout=layout, family=case.source.family)
            verdict = judge(case, answer, sound[case.source.name])
            if place.marker.exists():
                place.marker.unlink()
                verdict = "wrong: a pickle was executed, or a file written outside"
            if verdict == "broken library":
                try:
                    isolated(path, layout, case.source.family)
                    verdict = f"wrong: {answer['verdict']} of a plain process, and read by the sharder"
                except DataError as error:
                    named = str(path) in str(error)
                    verdict = "isolated" if named else f"wrong: an error that does not name the file: {error}"
                except Exception as error:
                    verdict = f"wrong: {type(error).__name__} in the sharder: {error}"
            verdicts[verdict.partition(":")[0]] += 1
            verdicts[f"{kind.__name__}: {verdict.partition(':')[0]}"] += 1
            if verdict.startswith("wrong"):
                failures.append(f"{kind.__name__}, seed {seed}, {case.source.name}: {verdict}")
    finally:
        worker.stop()
    return verdicts, failures


def test_fuzz(place: Place, sound: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "LIMIT_S", ISOLATED_LIMIT_S)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda part: run_part(place, sound, part, 2), range(2)))
    verdicts: Counter[str] = sum((verdicts for verdicts, _ in results), Counter())
    failures = [text for _, texts in results for text in texts]
    print("\n".join(f"{num:5} {verdict}" for verdict, num in sorted(verdicts.items())))
    assert not failures, f"{len(failures)} of {CASES} cases:\n" + "\n".join(failures)
    # Neither is everything refused nor all of it taken, and most of what no checksum covers is seen all the same.
    assert min(verdicts[verdict] for verdict in ("refused", "exact", "as stated")) > 50
    for kind in (damaged_netcdf3, damaged_plain_matlab, damaged_metadata, damaged_hdf5):
        assert verdicts[f"{kind.__name__}: undetectable"] < verdicts[f"{kind.__name__}: refused"]
