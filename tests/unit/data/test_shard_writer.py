"""One shard: the tar that webdataset would write, in slabs; masks, float16, static fields, steady problems, points."""

import dataclasses
import errno
import io
import json
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import webdataset
import xxhash
from array_source import Arrays, array_source, convert_sources
from synthetic import waves

from ups_scale.data import shard_writer, workers
from ups_scale.data.entries import Part, cut, make_entries
from ups_scale.data.index import read_index
from ups_scale.data.shard_plan import cut_into_shards
from ups_scale.errors import DataError


def read(folder, split="train"):
    """Samples of a split of the family "mine", as plain webdataset gives them: arrays, and facts under "json"."""
    urls = sorted(map(str, folder.glob(f"mine-{split}-*.tar")))
    return [
        {
            key: json.loads(value) if key == "json" else np.load(io.BytesIO(value), allow_pickle=False)
            for key, value in sample.items()
            if not key.startswith("__")
        }
        for sample in webdataset.WebDataset(urls, shardshuffle=False)
    ]


def moments(values):
    """mean, std and rms of what is not NaN, in float64."""
    values = values[~np.isnan(values)].astype(np.float64)
    return values.mean(), values.std(), np.sqrt((values**2).mean())


def check_statistics(found, column, u, delta):
    for quantity, values in (("u", u), ("delta", delta)):
        stated = [found[quantity][kind][column] for kind in ("mean", "std", "rms")]
        np.testing.assert_allclose(stated, moments(values), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("slab_bytes", [1, 1000, 2**20])
def test_the_bytes_are_those_of_webdatasets_own_writer(monkeypatch, tmp_path, slab_bytes):
    monkeypatch.setattr(shard_writer, "SLAB_BYTES", slab_bytes)
    arrays = {"zeta": waves(4, 1, 9, (5, 7), 0)[:, 0], "alpha": waves(4, 1, 9, (5, 7), 1)[:, 0]}
    arrays["zeta"][2, 8, 4, 6] = np.nan  # the last value of the last member: all before it must be taken back
    source = array_source(tmp_path / "a.npz", arrays, parameters={"nu": [1.0, 2.0, 3.0, np.nan]})
    convert_sources(monkeypatch, [source], tmp_path / "out", leave_out_bad=True)
    expected = io.BytesIO()
    with webdataset.TarWriter(expected, encoder=False, mtime=0) as writer:
        for row in (0, 1, 3):
            members = {}
            for name, values in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, values[row])
                members[f"{name}.npy"] = buffer.getvalue()
            facts = {
                "family": "mine",
                "units": {"zeta": "1", "alpha": "1"},
                "parameters": {} if row == 3 else {"nu": row + 1.0},
                "times": {"first": 0.0, "dt": float(np.median(np.diff(source.times_nt[0])))},
            }
            members["json"] = json.dumps(facts, sort_keys=True).encode()
            writer.write({"__key__": f"mine-train-00000-{row:06d}", **members})
    raw = (tmp_path / "out/mine-train-00000.tar").read_bytes()
    assert raw == expected.getvalue()

    index = read_index(tmp_path / "out/mine-train-00000.tar.idx")
    assert index.header.left_out == ((2, "zeta", 8),)
    assert index.header.keys == tuple(f"mine-train-00000-{row:06d}" for row in (0, 1, 3))
    np.testing.assert_array_equal(index.parameters_np[:, 0], [1, 2, np.nan])
    for place, row in enumerate((0, 1, 3)):
        for column, values in enumerate(arrays.values()):
            start = int(index.offsets_nc[place, column])
            assert raw[start : start + values[row].nbytes] == values[row].tobytes()
            sums = [xxhash.xxh3_64_intdigest(frame.tobytes()) for frame in values[row]]
            assert index.checksums_nct[place, column].tolist() == sums


@pytest.mark.parametrize("slab_bytes", [1, 700, 2**20])
@pytest.mark.parametrize("grid", [(6,), (300, 200)])
def test_masked_values_stay_nan_and_out_of_the_statistics(monkeypatch, tmp_path, slab_bytes, grid):
    monkeypatch.setattr(shard_writer, "SLAB_BYTES", slab_bytes)
    rng = np.random.default_rng(0)
    u = (rng.standard_normal((3, 11, *grid)) + 5).astype(np.float32)
    u[rng.random(u.shape) < 0.3] = np.nan
    u[1, 4] = np.nan  # a whole frame
    source = array_source(tmp_path / "a.npz", {"u": u}, masked=True)
    data = convert_sources(monkeypatch, [source], tmp_path / "out").families["mine"]
    assert data.spec.masked
    np.testing.assert_array_equal(np.stack([sample["u.npy"] for sample in read(tmp_path / "out")]), u)
    check_statistics(data.statistics, 0, u, np.diff(u.astype(np.float64), axis=1))


def test_infinity_is_no_value_that_a_mask_excuses(monkeypatch, tmp_path):
    u = waves(3, 1, 4, (6,), 0)[:, 0]
    u[0, 1, 2], u[1, 3, 4] = np.nan, -np.inf
    source = array_source(tmp_path / "a.npz", {"u": u}, masked=True)
    with pytest.raises(DataError, match=r"trajectory 1, field u, frame 3"):
        convert_sources(monkeypatch, [source], tmp_path / "out")


def test_a_masked_field_without_any_value_has_statistics(monkeypatch, tmp_path):
    arrays = {"u": waves(2, 1, 3, (6,), 0)[:, 0], "v": np.full((2, 3, 6), np.nan, np.float32)}
    source = array_source(tmp_path / "a.npz", arrays, masked=True)
    found = convert_sources(monkeypatch, [source], tmp_path / "out").families["mine"].statistics
    assert {found[quantity][kind][1] for quantity in found for kind in found[quantity]} == {0.0}
    assert found["u"]["rms"][0] > 0


def test_float16(monkeypatch, tmp_path):
    u = waves(3, 1, 4, (6,), 0)[:, 0]
    source = array_source(tmp_path / "a.npz", {"u": u})
    data = convert_sources(monkeypatch, [source], tmp_path / "out", dtype="float16").families["mine"]
    stored = np.stack([sample["u.npy"] for sample in read(tmp_path / "out")])
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, u.astype(np.float16))
    check_statistics(data.statistics, 0, stored, np.diff(stored.astype(np.float64), axis=1))
    header = read_index(tmp_path / "out/mine-train-00000.tar.idx").header
    assert (header.dtype, header.frame_bytes) == ("float16", 12)


@pytest.mark.parametrize(
    ("scale", "shift", "said"),
    [
        (1, 0, None),
        (1, 50, r"mine, field u: float16 rounds it by 0.009\d*, \d% of its change"),
        (1, 500, "refused"),
        (1e-9, 0, "refused"),
        (0, 0, None),
    ],
)
def test_what_float16_takes_is_measured(monkeypatch, tmp_path, capsys, scale, shift, said):
    u = scale * waves(3, 1, 40, (6,), 0)[:, 0] + shift
    source = array_source(tmp_path / "a.npz", {"u": u})
    convert_sources(monkeypatch, [source], tmp_path / "wide", dtype="float32")
    assert "float16" not in capsys.readouterr().err
    if said == "refused":
        with pytest.raises(DataError, match=r"float16 rounds it by .*; use --dtype float32, or move its origin"):
            convert_sources(monkeypatch, [source], tmp_path / "out", dtype="float16")
        return
    convert_sources(monkeypatch, [source], tmp_path / "out", dtype="float16")
    errors = capsys.readouterr().err
    assert re.search(said, errors) if said else "float16" not in errors


def test_of_a_steady_solution_float16_takes_a_part_of_what_varies(monkeypatch, tmp_path):
    u = 300 + 0.5 * waves(4, 1, 1, (8, 6), 0)[:, 0]
    both = np.concatenate([np.zeros_like(u), u], axis=1)
    arrays = {"k": u[:, :1] - 300, "u": both}
    source = array_source(tmp_path / "a.npz", arrays, static=("k",), steady=True)
    with pytest.raises(DataError, match=r"field u: float16 rounds it by .*; use --dtype float32"):
        convert_sources(monkeypatch, [source], tmp_path / "out", dtype="float16")


def test_what_is_too_large_for_float16_is_not_finite(monkeypatch, tmp_path):
    u = waves(3, 1, 4, (6,), 0)[:, 0]
    u[1, 2, 3] = 70_000
    source = array_source(tmp_path / "a.npz", {"u": u})
    expected = r"\(in float16\):\n.*trajectory 1, field u, frame 2\n.*store --dtype float32 if float16 is too narrow"
    with pytest.raises(DataError, match=expected):
        convert_sources(monkeypatch, [source], tmp_path / "out", dtype="float16")
    convert_sources(monkeypatch, [source], tmp_path / "out", dtype="float32")


@pytest.mark.parametrize("dtype", ["float64", ">f4", "float16"])
def test_whatever_floats_a_source_gives(monkeypatch, tmp_path, dtype):
    u = waves(2, 1, 3, (6,), 0)[:, 0].astype(dtype)
    convert_sources(monkeypatch, [array_source(tmp_path / "a.npz", {"u": u})], tmp_path / "out")
    for sample, expected in zip(read(tmp_path / "out"), u, strict=True):
        assert sample["u.npy"].dtype == np.dtype("<f4")
        np.testing.assert_array_equal(sample["u.npy"], expected.astype(np.float32))


def test_a_static_field_is_stored_once(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"force": rng.standard_normal((3, 1, 6)), "u": rng.standard_normal((3, 5, 6))}
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    source = array_source(tmp_path / "a.npz", arrays, static=["force"])
    data = convert_sources(monkeypatch, [source], tmp_path / "out").families["mine"]
    assert data.spec.static == ("force",)
    for sample, force in zip(read(tmp_path / "out"), arrays["force"], strict=True):
        np.testing.assert_array_equal(sample["force.npy"], force)
        assert sample["u.npy"].shape == (5, 6)
    index = read_index(tmp_path / "out/mine-train-00000.tar.idx")
    sums = [[xxhash.xxh3_64_intdigest(force[0].tobytes())] * 5 for force in arrays["force"]]
    np.testing.assert_array_equal(index.checksums_nct[:, 0], np.array(sums, np.uint64))
    check_statistics(data.statistics, 1, arrays["u"], np.diff(arrays["u"].astype(np.float64), axis=1))
    np.testing.assert_allclose(data.statistics["u"]["mean"][0], arrays["force"].mean(dtype=np.float64), rtol=1e-12)
    assert data.statistics["delta"]["rms"][0] == 0


def test_a_static_field_of_pieces_in_time(monkeypatch, tmp_path):
    arrays = {"force": waves(1, 1, 1, (6,), 0)[:, 0], "u": waves(1, 1, 10, (6,), 1)[:, 0]}
    splits = {"train": np.array([[0, 0, 6]]), "valid": np.array([[0, 6, 10]])}
    source = array_source(tmp_path / "a.npz", arrays, static=["force"], splits=splits)
    convert_sources(monkeypatch, [source], tmp_path / "out")
    (sample,) = read(tmp_path / "out", "valid")
    np.testing.assert_array_equal(sample["force.npy"], arrays["force"][0])
    np.testing.assert_array_equal(sample["u.npy"], arrays["u"][0, 6:])


@pytest.mark.parametrize("masked", [False, True])
def test_a_steady_problems_change_is_its_solution(monkeypatch, tmp_path, masked):
    rng = np.random.default_rng(0)
    given, solution = rng.standard_normal((2, 4, 1, 5, 5)).astype(np.float32)
    if masked:
        solution[:, :, 2] = np.nan
    u = np.concatenate([np.zeros_like(solution), solution], axis=1)
    source = array_source(
        tmp_path / "a.npz", {"permeability": given, "u": u}, static=["permeability"], steady=True, masked=masked
    )
    data = convert_sources(monkeypatch, [source], tmp_path / "out").families["mine"]
    assert np.isnan(data.spec.dt)
    assert data.num_frames == {"train": 2}
    check_statistics(data.statistics, 1, solution, solution)
    sample = read(tmp_path / "out")[1]
    np.testing.assert_array_equal(sample["u.npy"], u[1])
    assert "times" not in sample["json"]
    assert np.isnan(read_index(tmp_path / "out/mine-train-00000.tar.idx").times_nt).all()


def test_points(monkeypatch, tmp_path):
    arrays = {
        "x": np.random.default_rng(0).random((3, 1, 9)).astype(np.float32),
        "y": np.random.default_rng(1).random((3, 1, 9)).astype(np.float32),
        "u": waves(3, 1, 4, (9,), 0)[:, 0],
    }
    source = array_source(
        tmp_path / "a.npz",
        arrays,
        static=["x", "y"],
        geometry="points",
        coordinates=("x", "y"),
        extents=((0.0, 1.0), (0.0, 1.0)),
        boundaries=(("wall", "wall"), ("open", "open")),
    )
    spec = convert_sources(monkeypatch, [source], tmp_path / "out").families["mine"].spec
    assert (spec.geometry, spec.coordinates, spec.grid, spec.dimensions) == ("points", ("x", "y"), (9,), 2)
    np.testing.assert_array_equal(read(tmp_path / "out")[2]["y.npy"], arrays["y"][2])


def test_names_too_long_for_tar(monkeypatch, tmp_path):
    source = array_source(tmp_path / "a.npz", {"u" * 90: waves(2, 1, 3, (6,), 0)[:, 0]})
    with pytest.raises(DataError, match=r"a\.npz: the name mine-train-00000-000000\.uuu.*Use shorter names"):
        convert_sources(monkeypatch, [source], tmp_path / "out")


@dataclasses.dataclass(frozen=True)
class Counted(Arrays):
    """Says when it is opened and closed; reads fail as long as the file `failing` is there."""

    failing: Path
    said: list = dataclasses.field(default_factory=list, compare=False)
    held: list = dataclasses.field(default_factory=list, compare=False)

    def open(self):
        self.held.append(self._open())  # so that it is closed by whoever opened it, and not by chance
        return self.held[-1]

    @contextmanager
    def _open(self):
        self.said.append("open")
        with super().open() as read:

            def attempt(*asked):
                if self.failing.exists():
                    raise OSError(errno.EIO, "Input/output error")
                return read(*asked)

            try:
                yield attempt
            finally:
                self.said.append("closed")


@pytest.fixture
def jobs(monkeypatch, tmp_path):
    """Makes two jobs of one input, of a trajectory each, and what is said when it is opened."""
    monkeypatch.setattr(shard_writer, "_input", None)

    def make(name):
        source = array_source(tmp_path / f"{name}.npz", {"u": waves(2, 1, 3, (6,), 0)[:, 0]})
        contents = Counted(source.path, ("u",), tmp_path / "failing")
        source = dataclasses.replace(source, contents=contents)
        (entry,) = make_entries([Part(source, name, *cut(source, 1, 4))], False)
        made = [shard.job() for shard in cut_into_shards(entry, tmp_path, "float32", 1)]
        assert len(made) == 2
        # Each job comes from the parent by itself: the same contents, as another object.
        made = [dataclasses.replace(job, contents=dataclasses.replace(contents)) for job in made]
        return made, contents.said

    yield make
    if shard_writer._input is not None:
        shard_writer._input.open.close()


def write(job):
    return shard_writer.write_shard(job, lambda num_bytes: None)


def test_a_worker_opens_an_input_once_for_all_its_shards(monkeypatch, tmp_path, jobs):
    monkeypatch.setattr(workers, "in_worker", True)
    (first, second), said = jobs("a")
    assert write(first) == write(second) == []
    assert said == ["open"]
    (other, _), said_of_other = jobs("b")
    write(other)
    assert (said, said_of_other) == (["open", "closed"], ["open"]), "one is open at a time"
    write(first)
    assert (said, said_of_other) == (["open", "closed", "open"], ["open", "closed"])


def test_any_other_process_closes_an_input_after_each_shard(monkeypatch, jobs):
    """It may be a person's own script, which lives on; and the file may be written anew meanwhile."""
    monkeypatch.setattr(workers, "in_worker", False)
    (first, second), said = jobs("a")
    write(first)
    assert said == ["open", "closed"]
    write(second)
    assert said == ["open", "closed"] * 2


def test_an_input_that_failed_is_opened_anew(monkeypatch, tmp_path, jobs):
    monkeypatch.setattr(workers, "in_worker", True)
    (first, second), said = jobs("a")
    write(first)
    (tmp_path / "failing").touch()
    with pytest.raises(DataError, match=r"a\.npz: trajectory 1, field u can't be read"):
        write(second)
    assert said == ["open", "closed"]
    assert not second.path.exists()
    (tmp_path / "failing").unlink()
    write(second)
    assert said == ["open", "closed", "open"]
    assert second.path.exists()
