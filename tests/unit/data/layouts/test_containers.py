"""Every container gives the same slabs of the same arrays, and a typed error for what it can't or mustn't read."""

from __future__ import annotations

import json
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from container_files import (
    WRITERS,
    write_hdf5,
    write_hdf5_chunked,
    write_matlab5,
    write_matlab5_compressed,
    write_matlab73,
    write_netcdf3,
    write_npz,
    write_npz_compressed,
    write_zarr,
)

from ups_scale.data.layouts import kept, unpacked
from ups_scale.data.layouts.containers import kind_of, open_container
from ups_scale.data.layouts.matlab5 import Matlab5
from ups_scale.errors import DataError

RNG = np.random.default_rng(0)
U = RNG.standard_normal((6, 5, 4))
V = RNG.standard_normal((7, 3)).astype(np.float32)
SLABS = [
    (2, slice(1, 4), slice(None)),
    (slice(0, 6, 2), 0, slice(2, 3)),
    (slice(None), slice(None), 3),
    (5, 4, 3),
]


def read(path: Path, name: str, *slab: int | slice) -> np.ndarray:
    with open_container(path) as container:
        return np.array(container.read(name, slab))


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The arrays u (6, 5, 4) float64 and v (7, 3) float32."""
    return WRITERS[request.param](tmp_path, {"u": U, "v": V})


def test_arrays_are_listed_with_shape_and_dtype(written: Path) -> None:
    with open_container(written) as container:
        found = {array.name: (array.shape, array.dtype) for array in container.arrays()}
        assert str(container.array("u")) == "u (6, 5, 4)"
    assert found == {"u": ((6, 5, 4), np.float64), "v": ((7, 3), np.float32)}


@pytest.mark.parametrize("slab", SLABS, ids=str)
def test_slabs_are_those_of_the_array(written: Path, slab: tuple[int | slice, ...]) -> None:
    with open_container(written) as container:
        container.verify("u")
        values = container.read("u", slab)
    np.testing.assert_array_equal(values, U[slab])
    assert values.dtype == np.float64
    assert values.dtype.isnative


def test_a_name_that_is_not_there_is_answered_by_the_nearest(written: Path) -> None:
    with open_container(written) as container, pytest.raises(DataError, match=r"no array 'uu'; did you mean 'u'\?"):
        container.array("uu")
    with (
        open_container(written) as container,
        pytest.raises(DataError, match=r"no array 'pressure'; it has (u, v|v, u)$"),
    ):
        container.read("pressure", (0,))


def test_formats_are_told_by_content_not_by_name(tmp_path: Path) -> None:
    for writer, kind in ((write_matlab73, "hdf5"), (write_matlab5, "matlab5"), (write_npz, "npz")):
        path = writer(tmp_path, {"u": U})
        assert kind_of(path.rename(tmp_path / "data.bin")) == kind


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "neither HDF5, netCDF, Zarr, MATLAB v5 or v7.3, nor npz"),
        (b"CDF\x05" + bytes(200), "CDF-5, which is not read; convert it: nccopy"),
        (b"\x00\x00\x00\x00" + bytes(200), "MATLAB v4 files: save them again with save -v7"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, head: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(head)
    with pytest.raises(DataError, match=message):
        kind_of(tmp_path / "a")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; check the path"):
        kind_of(tmp_path / "a.nc")
    with pytest.raises(DataError, match="not a Zarr group"):
        kind_of(tmp_path)


# Compressed arrays


def test_an_array_is_unpacked_once_for_many_slabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    inflate = Matlab5._inflate

    def counted(self, element, to):
        loads.append(element.array.name)
        return inflate(self, element, to)

    monkeypatch.setattr(Matlab5, "_inflate", counted)
    with open_container(write_matlab5_compressed(tmp_path, {"u": U, "v": V})) as container:
        for row in range(6):
            container.read("u", (row, slice(None), slice(None)))
            container.read("v", (row, slice(None)))
    assert loads == ["u", "v"]


def test_kept_arrays_make_room_before_another_is_loaded() -> None:
    store = kept.Kept(max_bytes=100)
    seen = []

    def load(name: str, num: int) -> np.ndarray:
        def loader() -> np.ndarray:
            seen.append((name, sorted(store._arrays)))
            return np.zeros(num, np.uint8)

        return store.get(name, num, loader)

    for name, num in (("a", 60), ("b", 40), ("a", 60), ("c", 30), ("big", 500), ("c", 30)):
        load(name, num)
    assert seen == [("a", []), ("b", ["a"]), ("c", ["a"]), ("big", []), ("c", [])]


@pytest.mark.parametrize("writer", [write_matlab5_compressed, write_npz_compressed])
def test_arrays_that_no_disk_holds_unpacked_are_refused_with_the_remedy(writer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(unpacked.shutil, "disk_usage", lambda folder: SimpleNamespace(free=U.nbytes))
    with pytest.raises(DataError, match=r"u takes .* when it is unpacked, and .* free; .* set TMPDIR"):
        read(writer(tmp_path, {"u": U}), "u", 0, 0, 0)


@pytest.mark.parametrize("writer", [write_matlab5, write_npz])
def test_uncompressed_arrays_need_no_room(writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    np.testing.assert_array_equal(read(writer(tmp_path, {"u": U}), "u", 1, 2, slice(None)), U[1, 2])


# What is not an array of real numbers


@pytest.mark.parametrize("writer", [write_hdf5, write_matlab5, write_npz, write_npz_compressed])
def test_complex_arrays_are_refused(writer, tmp_path: Path) -> None:
    path = writer(tmp_path, {"u": U, "z": U + 1j})
    with open_container(path) as container, pytest.raises(DataError, match=r"z is .*complex"):
        container.verify("z")


def test_matlab_structs_cells_texts_and_empty_arrays_are_refused(tmp_path: Path) -> None:
    cell = np.array([np.arange(3), "text"], dtype=object)
    path = write_matlab5(tmp_path, {"u": U, "s": {"a": 1.0}, "c": cell, "t": "hello", "e": np.zeros((0, 0))})
    with open_container(path) as container:
        assert [array.name for array in container.arrays()] == ["u"]
        for name, message in {"s": "a struct", "c": "a cell array", "t": "a text", "e": "empty"}.items():
            with pytest.raises(DataError, match=f"{name} is {message}.*only arrays of real numbers"):
                container.array(name)


def test_matlab73_structs_cells_texts_and_empty_arrays_are_refused(tmp_path: Path) -> None:
    path = write_matlab73(tmp_path, {"u": U})
    with h5py.File(path, "r+") as file:
        file.create_group("s")["a"] = 1.0
        file.create_group("#refs#")["a"] = 1.0
        file["c"] = np.array([file["u"].ref], h5py.ref_dtype)
        file["t"] = np.arange(3, dtype=np.uint16)
        file["t"].attrs["MATLAB_class"] = np.bytes_("char")
        file["e"] = np.zeros(2, np.uint64)
        file["e"].attrs["MATLAB_empty"] = 1
        file["z"] = np.zeros(3, [("real", "f8"), ("imag", "f8")])
    with open_container(path) as container:
        assert [array.name for array in container.arrays()] == ["u", "s/a"]
        reasons = {"s": "a struct", "c": "of type object", "t": "a char array", "e": "empty", "z": "complex"}
        for name, message in reasons.items():
            with pytest.raises(DataError, match=f"{name} is {message}.*only arrays of real numbers"):
                container.array(name)


def test_truth_values_are_numbers(tmp_path: Path) -> None:
    for writer in (write_hdf5, write_matlab5, write_npz):
        np.testing.assert_array_equal(read(writer(tmp_path, {"b": U[0] > 0}), "b", 1, slice(None)), U[0, 1] > 0)


# Hostile files


class Executed:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_pickles_in_npz_are_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", u=U, evil=np.array([Executed()], dtype=object))
    with open_container(tmp_path / "a.npz") as container:
        assert [array.name for array in container.arrays()] == ["u"]
        with pytest.raises(DataError, match="evil holds pickled Python objects, which are never loaded"):
            container.read("evil", (0,))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("dtype", ["<f8", "|O"])
def test_pickles_in_zarr_chunks_are_not_executed(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_zarr(tmp_path, {"u": U})
    described = json.loads((path / "u" / ".zarray").read_text())
    described |= {"dtype": dtype, "compressor": None, "filters": [{"id": "pickle"}]}
    (path / "u" / ".zarray").write_text(json.dumps(described))
    for chunk in (path / "u").glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Executed()))
    with pytest.raises(DataError, match=r"pickle|of type object"), open_container(path) as container:
        container.read("u", (0, 0, 0))
    assert not (tmp_path / "executed").exists()


def test_zarr_codecs_that_are_not_known_are_refused(tmp_path: Path) -> None:
    path = write_zarr(tmp_path, {"u": U})
    described = json.loads((path / "u" / ".zarray").read_text())
    (path / "u" / ".zarray").write_text(json.dumps(described | {"filters": [{"id": "base64"}]}))
    with open_container(path) as container, pytest.raises(DataError, match="codec 'base64', which is not trusted"):
        container.read("u", (0, 0, 0))


def test_members_of_the_same_name_are_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path, {"u": U})
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("u.npy", b"another")
    with pytest.raises(DataError, match=r"two members are called 'u.npy'"), open_container(path):
        pass


def test_a_member_that_states_another_size_than_it_has_is_refused(tmp_path: Path) -> None:
    """A header of a few bytes may claim terabytes."""
    path = write_npz_compressed(tmp_path, {"u": U})
    with zipfile.ZipFile(path) as archive:
        data = archive.read("u.npy")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("u.npy", data.replace(b"(6, 5, 4)", b"(6,5,4e9)".replace(b"e9", b"99")))
    with open_container(path) as container, pytest.raises(DataError, match=r"u states shape \(6, 5, 499\) of float64"):
        container.array("u")


def test_a_stored_member_is_compared_with_its_checksum(tmp_path: Path) -> None:
    path = write_npz(tmp_path, {"u": U})
    data = bytearray(path.read_bytes())
    at = data.index(U.tobytes(order="F")[:64])
    data[at + 100] ^= 1
    path.write_bytes(data)
    with open_container(path) as container, pytest.raises(DataError, match=r"u can't be read \(BadZipFile: Bad CRC-32"):
        container.verify("u")


def test_variables_of_the_same_name_are_refused(tmp_path: Path) -> None:
    path = write_matlab5(tmp_path, {"u": U})
    path.write_bytes(path.read_bytes() + path.read_bytes()[128:])
    with pytest.raises(DataError, match="two variables are called 'u'"), open_container(path):
        pass


def test_hdf5_links_out_of_the_file_are_refused_and_circles_end(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path, {"u": U})
    with h5py.File(path, "r+") as file:
        file["outside"] = h5py.ExternalLink("/etc/passwd", "/")
        file["soft"] = h5py.SoftLink("/soft")
        group = file.create_group("g")
        group["v"] = V
        group["self"] = group
        group["root"] = file["/"]
    with open_container(path) as container:
        assert [array.name for array in container.arrays()] == ["u", "g/v"]
        with pytest.raises(DataError, match="outside is an external link"):
            container.read("outside", (0,))
        with pytest.raises(DataError, match="soft is a soft link"):
            container.read("soft", (0,))


def test_arrays_that_were_never_written_are_refused_unless_they_read_as_the_fill(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("u", (10, 4), "f4", chunks=(1, 4), fillvalue=1e20)
        file["u"][:5] = 1
    with open_container(tmp_path / "a.h5") as container:
        with pytest.raises(DataError, match="only 5 of 10 chunks were ever written"):
            container.verify("u")
        container.verify("u", 1e20)


def test_an_hdf5_filter_that_is_not_here_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4,))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(file.id, b"u", h5py.h5t.IEEE_F64LE, space, plist)
    with (
        open_container(tmp_path / "a.h5") as container,
        pytest.raises(DataError, match="HDF5 filter 32015"),
    ):
        container.array("u")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("pack", [False, True])
def test_matlab5_numbers_of_a_smaller_type_and_of_either_byte_order(order: str, pack: bool, tmp_path: Path) -> None:
    """MATLAB stores doubles that are small integers as bytes; tags of up to 4 bytes hold their data."""

    def element(kind: int, data: bytes) -> bytes:
        if len(data) <= 4:
            return struct.pack(f"{order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")
        return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)

    def variable(name: bytes, shape: tuple[int, int], kind: int, data: bytes) -> bytes:
        content = element(6, struct.pack(f"{order}II", 6, 0)) + element(5, struct.pack(f"{order}ii", *shape))
        whole = struct.pack(f"{order}II", 14, 0)[:4] + struct.pack(
            f"{order}I", len(content + element(1, name)) + len(element(kind, data))
        )
        whole += content + element(1, name) + element(kind, data)
        return struct.pack(f"{order}II", 15, len(zlib.compress(whole))) + zlib.compress(whole) if pack else whole

    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100) + (b"IM" if order == "<" else b"MI")
    body = variable(b"bytes", (2, 3), 2, bytes(range(6))) + variable(
        b"s", (1, 2), 3, struct.pack(f"{order}hh", -1, 300)
    )
    (tmp_path / "a.mat").write_bytes(head + body)
    np.testing.assert_array_equal(read(tmp_path / "a.mat", "bytes", *[slice(None)] * 2), [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(read(tmp_path / "a.mat", "s", 0, slice(None)), [-1.0, 300.0])


# Damage

DAMAGED = [
    *(write_matlab5, write_matlab5_compressed, write_matlab73, write_npz, write_npz_compressed, write_netcdf3),
    *(write_hdf5, write_hdf5_chunked),
]


@pytest.mark.parametrize("writer", DAMAGED)
@pytest.mark.parametrize("damage", ["cut", "flipped", "zeroed"])
def test_damaged_files_give_typed_errors_or_arrays(writer, damage: str, tmp_path: Path) -> None:
    """Formats without checksums can't tell a flipped number; what must not happen is another error, or a hang."""
    whole = writer(tmp_path, {"u": U, "v": V}).read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / "damaged"
    errors: list[str] = []
    for _ in range(60):
        data = bytearray(whole)
        at = int(rng.integers(len(data)))
        if damage == "cut":
            del data[at:]
        elif damage == "flipped":
            for place in rng.integers(len(data), size=3):
                data[int(place)] ^= 1 << int(rng.integers(8))
        else:
            data[at : at + 16] = bytes(len(data[at : at + 16]))
        path.write_bytes(data)
        try:
            with open_container(path) as container:
                for array in container.arrays():
                    container.verify(array.name)
                    values = container.read(array.name, (slice(0, 2),) + (0,) * (len(array.shape) - 1))
                    assert values.shape == (min(2, array.shape[0]),)
        except DataError as error:
            errors.append(str(error))
    assert errors
    assert all(str(path) in error for error in errors)


def test_a_damaged_zarr_chunk_is_named(tmp_path: Path) -> None:
    path = write_zarr(tmp_path, {"u": U})
    chunk = path / "u" / "0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(DataError, match="u can't be read"):
        read(path, "u", 0, 0, 0)


def test_zarr_without_its_package_says_what_to_install(tmp_path: Path) -> None:
    try:
        import zarr  # noqa: F401
    except ImportError:
        (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
        with pytest.raises(DataError, match=r"pip install 'ups_scale\[zarr\]'"), open_container(tmp_path):
            pass
    else:
        pytest.skip("zarr is installed")
