"""Mapping files: every problem at once, and the same frames from every container and order of axes."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import jsonschema
import numpy as np
import pytest
from container_files import WRITERS, write_hdf5

import ups_scale
from ups_scale.data.layouts.blocks import Blocks
from ups_scale.data.layouts.containers import Array, Container, Slab, open_container
from ups_scale.data.layouts.mapping import inspect_mapping, load_mapping
from ups_scale.data.layouts.mapping_file import schema
from ups_scale.data.source import Source
from ups_scale.errors import DataError
from ups_scale.physics.families import BOUNDARY_KINDS

RNG = np.random.default_rng(0)
N, T, X, Y = 5, 4, 8, 6
U = RNG.standard_normal((N, T, X, Y)).astype(np.float32)
AXES = {
    "x": np.linspace(0.5, 7.5, X),
    "y": np.linspace(-1, 1, Y),
    "t": np.array([0.0, 1.0, 1.5, 4.0]),
    "nu": np.linspace(1, 2, N),
}
PLAIN: dict[str, Any] = {
    "format": 1,
    "family": "smoke",
    "fields": [{"name": "u", "unit": "1", "array": "u", "axes": ["n", "t", "x", "y"]}],
    "time": {"array": "t"},
    "space": {"x": {"array": "x", "points": "centres"}, "y": {"array": "y", "points": "nodes"}},
    "boundaries": {"x": ["periodic", "periodic"], "y": ["wall", "open"]},
    "parameters": {"nu": {"array": "nu"}},
}
FIELD = PLAIN["fields"][0]
MAPPINGS = sorted((Path(ups_scale.__file__).parents[1] / "recipes" / "mappings").glob("*.json"))


def write_mapping(folder: Path, document: Mapping[str, Any]) -> Path:
    (folder / "mapping.json").write_text(json.dumps(document))
    return folder / "mapping.json"


def inspect(folder: Path, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], **options: Any) -> Source:
    path = write_hdf5(folder, arrays)
    return inspect_mapping(path, write_mapping(folder, document), **options)


def refusal(folder: Path, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> str:
    with pytest.raises(DataError) as raised:
        inspect(folder, document, arrays or {"u": U, **AXES})
    return str(raised.value)


def frames_of(source: Source, field: int = 0) -> np.ndarray:
    """(N, T, *grid); static fields have T = 1."""
    num = 1 if source.fields[field].static else source.num_frames
    with source.contents.open() as read:
        return np.stack([read(field, row, range(num)) for row in range(source.num_trajectories)])


class Counted:
    """A container that counts what is read of it."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.slabs: list[Slab] = []

    def array(self, name: str) -> Array:
        return self.container.array(name)

    def read(self, name: str, slab: Slab) -> np.ndarray:
        self.slabs.append(slab)
        return self.container.read(name, slab)


# The document


def keys(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, child in node.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from keys(child, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if isinstance(node.get(inner), Mapping):
            yield from keys(node[inner], f"{path}[]")


def test_the_schema_is_valid_closed_and_describes_every_key() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert [path for path, node in keys(schema()) if not node.get("description")] == []
    objects = [(path, node) for path, node in (("", schema()), *keys(schema())) if "object" in str(node.get("type"))]
    assert [path for path, node in objects if "additionalProperties" not in node] == []
    kinds = schema()["properties"]["boundaries"]["properties"]["x"]["items"]["enum"]
    assert tuple(kinds) == BOUNDARY_KINDS


@pytest.mark.parametrize("path", MAPPINGS, ids=lambda path: path.stem)
def test_shipped_mappings_are_valid_and_point_editors_at_the_schema(path: Path) -> None:
    document = load_mapping(path)
    assert (path.parent / document["$schema"]).resolve() == Path(ups_scale.__file__).parent / (
        "data/layouts/mapping.schema.json"
    )
    assert document["description"]
    assert document["source"]
    assert document["licence"]


def test_the_mapping_in_the_docs_is_valid_and_its_keys_are_all_explained(tmp_path: Path) -> None:
    page = (Path(ups_scale.__file__).parents[1] / "docs" / "mappings.md").read_text("utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert load_mapping(write_mapping(tmp_path, json.loads(example)))["mask"] == "fill"
    table = page[page.index("| key | meaning |") : page.index("## Rules")]
    assert [name for name in schema()["properties"] if name != "$schema" and f"`{name}`" not in table] == []


def test_mappings_are_shipped() -> None:
    assert {"burgers_shock", "allen_cahn", "kdv", "cylinder_wake", "ostia"} <= {path.stem for path in MAPPINGS}


def test_all_problems_are_listed_at_once_by_path_value_and_nearest_key(tmp_path: Path) -> None:
    document = {
        "format": 2,
        "familly": "smoke",
        "fields": [
            {"name": "u", "unit": "1", "array": "u", "axes": ["n", "tt"], "fil": 1},
            {"name": "2u", "unit": "1", "array": "u", "axes": ["x"]},
        ],
        "space": {"x": {"array": "x", "points": "node"}},
        "boundaries": {"x": ["periodic", "wal"]},
        "parameters": {"n u": {"value": 1}},
        "mask": "Nan",
    }
    with pytest.raises(DataError) as raised:
        load_mapping(write_mapping(tmp_path, document))
    lines = str(raised.value).splitlines()
    assert lines[0].endswith("mapping.json: 10 problems")
    assert {line.strip() for line in lines[1:]} == {
        'familly: unknown key; did you mean "family"?',
        "family: missing; write 1 to 64 letters, digits and _, starting with a letter",
        "format: found 2, but this version of ups_scale reads format 1; update ups_scale",
        'fields[0].fil: unknown key; did you mean "fill"?',
        'fields[0].axes[1]: found "tt"; allowed: one of "n", "t", "x", "y", "z", "p", "c", "d"; did you mean "t"?',
        'fields[1].name: found "2u"; allowed: 1 to 64 letters, digits and _, starting with a letter',
        'space.x.points: found "node"; allowed: one of "centres", "nodes", "left"; did you mean "nodes"?',
        'boundaries.x[1]: found "wal"; allowed: one of "periodic", "dirichlet", "neumann", "robin", "wall", "open"; '
        'did you mean "wall"?',
        'mask: found "Nan"; allowed: one of "nan", "fill", null; did you mean "nan"?',
        "parameters.n u: not a name for this; allowed: 1 to 64 letters, digits and _, starting with a letter",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1, column 2: malformed JSON"),
        ("[]", "a mapping is a JSON object"),
        ('{"format": 1, "format": 1}', 'keys stated more than once in one object: "format"'),
        ('{"format": NaN}', "NaN is not JSON"),
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mapping.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load_mapping(tmp_path / "mapping.json")
    with pytest.raises(DataError, match="no such file; check the path"):
        load_mapping(tmp_path / "other.json")


POINTS: dict[str, Any] = {
    "geometry": "points",
    "coordinates": ["x"],
    "space": {"x": {"extents": [0, 1]}},
    "boundaries": {"x": ["wall", "wall"]},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": None}, "time: missing, but fields have t; write"),
        ({"time": {"array": "t", "dt": 1}}, "time: found both of array and dt; write one"),
        ({"time": {"unit_s": 1}}, "time: found neither of array and dt; write one"),
        ({"mask": "fill"}, 'mask: found "fill", but no field has a fill'),
        ({"fields": [{**FIELD, "fill": 1}]}, r"fields[0].fill: has no effect with mask null"),
        ({"fields": [{**FIELD, "fill": 1e999}]}, r"fields[0].fill: found inf; write a number"),
        ({"fields": [FIELD, {**FIELD, "static": True}]}, "fields[1].axes: a static field has no t; take a frame of it"),
        (
            {"fields": [FIELD, {**FIELD, "name": "v", "axes": ["n", "x", "y"]}]},
            "fields[1].axes: no t, but fields[0] has; is it the same for all frames: static?",
        ),
        (
            {"fields": [{**FIELD, "axes": ["t", "x", "y"]}, {**FIELD, "name": "v", "index": {"t": 0}, "static": True}]},
            "fields[0].axes: no n, but fields[1] has; is it the same for all trajectories: static?",
        ),
        ({"fields": [FIELD, FIELD]}, 'fields[1].name: "u" is the name of fields[0] too'),
        ({"fields": [{**FIELD, "axes": ["n", "t", "x"]}]}, "without y; only static fields may"),
        (
            {"fields": [{**FIELD, "axes": ["n", "t", "x", "y", "c"]}]},
            'fields[0].index.c: missing; which position of c? write {"c": 0}',
        ),
        ({"fields": [{**FIELD, "axes": ["n", "t", "x", "y", "z"]}]}, "z is no axis of the domain (space has x, y)"),
        ({"fields": [{**FIELD, "index": {"z": 0}}]}, "fields[0].index.z: axes has no z"),
        ({"fields": [{**FIELD, "axes": ["x", "y"], "static": True}]}, "fields: all are static"),
        (
            {"space": {"x": {"extents": [1, 0]}, "y": {"array": "y"}}},
            "space.x.extents: found [1.0, 0.0]; the low end comes first",
        ),
        (
            {"space": {"x": {"extents": [0, 1], "points": "left"}, "y": {"array": "y"}}},
            "space.x.points: says what an array's points are",
        ),
        ({"boundaries": {"x": ["wall", "wall"]}}, "boundaries.y: missing"),
        ({"boundaries": {"x": ["wall", "periodic"], "y": ["wall", "wall"]}}, "periodic on both sides or on none"),
        ({"space": {"x": {"array": "x", "points": "nodes"}, "y": {"array": "y"}}}, "points at both ends has one twice"),
        (
            {"space": {"x": {"array": "x"}, "y": {"array": "y", "points": "left"}}},
            "only a periodic axis ends a step beyond",
        ),
        ({"parameters": {"nu": {}}}, "parameters.nu: found {}; write either value or array"),
        ({"split": {"by": "source"}}, 'split.ranges: belongs to "by": "source", and that needs it'),
        (
            {"split": {"by": "source", "ranges": {"train": [0, 3], "test": [2, None]}}},
            "split.ranges.test: overlaps with train",
        ),
        ({"split": {"by": "source", "ranges": {"train": [3, 3]}}}, "split.ranges.train: found [3, 3]"),
        ({"split": {"by": "seed", "shares": [0, 0, 0]}}, "split.shares: all are 0"),
        ({"steady": True}, "fields[0].axes: a steady family has no time"),
        ({"geometry": "points"}, "coordinates: found none; name the static fields"),
        ({"coordinates": ["x"]}, "coordinates: only point sets have them"),
        (POINTS, "coordinates: no static field is called x; add it to fields"),
        ({**POINTS, "space": {"x": {"array": "x"}}}, "space.x: the points of a point set are a field"),
    ],
)
def test_keys_that_contradict_each_other(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    text = json.dumps({**PLAIN, **change}).replace("Infinity", "1e999")
    (tmp_path / "mapping.json").write_text(text)
    with pytest.raises(DataError) as raised:
        load_mapping(tmp_path / "mapping.json")
    assert message in str(raised.value)


# Frames


@pytest.mark.parametrize("kind", WRITERS)
def test_every_container_gives_the_same_source(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path, {"u": U, **AXES})
    source = inspect_mapping(path, write_mapping(tmp_path, PLAIN))
    assert (source.path, source.layout, source.family) == (path, "mapping", "smoke")
    assert (source.grid, source.extents) == ((X, Y), ((0.0, 8.0), (-1.0, 1.0)))
    assert source.boundaries == (("periodic", "periodic"), ("wall", "open"))
    np.testing.assert_array_equal(source.times_nt, np.broadcast_to(AXES["t"], (N, T)))
    np.testing.assert_array_equal(source.parameters_np, AXES["nu"][:, None])
    assert not source.masked
    np.testing.assert_array_equal(frames_of(pickle.loads(pickle.dumps(source))), U)
    with source.contents.open() as read:
        np.testing.assert_array_equal(read(0, 3, range(1, 4, 2)), U[3, 1:4:2])


@pytest.mark.parametrize("order", ["ntxy", "yxtn", "tnyx", "xnyt"])
def test_any_order_of_axes_gives_the_same_frames(order: str, tmp_path: Path) -> None:
    stored = U.transpose(["ntxy".index(letter) for letter in order])
    source = inspect(tmp_path, {**PLAIN, "fields": [{**FIELD, "axes": list(order)}]}, {"u": stored, **AXES})
    np.testing.assert_array_equal(frames_of(source), U)


def test_components_and_absent_axes(tmp_path: Path) -> None:
    """A vector (t, c, x, y) without trajectories; a height of y alone; a static frame of something else."""
    fields = [
        {"name": "velocity_y", "unit": "m/s", "array": "v", "axes": ["t", "c", "x", "y"], "index": {"c": 1}},
        {"name": "height", "unit": "m", "array": "h", "axes": ["y"], "static": True},
        {
            "name": "start",
            "unit": "1",
            "array": "v",
            "axes": ["t", "c", "x", "y"],
            "index": {"c": 0, "t": 2},
            "static": True,
        },
    ]
    v = np.moveaxis(U[:3], 0, 1)
    source = inspect(tmp_path, {**PLAIN, "fields": fields, "parameters": {}}, {"v": v, "h": AXES["y"] ** 2, **AXES})
    assert (source.num_trajectories, source.num_frames) == (1, T)
    np.testing.assert_array_equal(frames_of(source, 0), U[1:2])
    np.testing.assert_array_equal(frames_of(source, 1)[0, 0], np.tile(AXES["y"] ** 2, (X, 1)))
    np.testing.assert_array_equal(frames_of(source, 2)[0, 0], U[0, 2])


def test_a_steady_family_has_what_is_given_and_then_the_solution(tmp_path: Path) -> None:
    fields = [
        {"name": "permeability", "unit": "1", "array": "k", "axes": ["n", "x", "y"], "static": True},
        {"name": "u", "unit": "1", "array": "s", "axes": ["n", "t", "x", "y"], "index": {"t": 0}},
    ]
    document = {**PLAIN, "family": "darcy_2d", "fields": fields, "steady": True, "parameters": {"beta": {"value": 1}}}
    del document["time"]
    source = inspect(tmp_path, document, {"k": U[:, 1], "s": U[:, :1], **AXES})
    assert source.steady
    assert source.times_nt.shape == (N, 2)
    assert np.isnan(source.times_nt).all()
    np.testing.assert_array_equal(frames_of(source, 0)[:, 0], U[:, 1])
    np.testing.assert_array_equal(frames_of(source, 1), np.stack([np.zeros_like(U[:, 0]), U[:, 0]], axis=1))


def test_points_carry_their_positions_and_lie_in_the_domain(tmp_path: Path) -> None:
    fields = [
        {"name": "u", "unit": "1", "array": "u", "axes": ["t", "p"]},
        {"name": "x", "unit": "m", "array": "x", "axes": ["p"], "static": True},
    ]
    document = {**PLAIN, **POINTS, "fields": fields, "parameters": {}, "space": {"x": {"extents": [0, 8]}}}
    arrays = {"u": U[0, :, :, 0], "x": np.sort(RNG.uniform(0, 8, X)), "t": AXES["t"]}
    source = inspect(tmp_path, document, arrays)
    assert (source.geometry, source.coordinates, source.grid, source.extents) == ("points", ("x",), (X,), ((0.0, 8.0),))
    np.testing.assert_array_equal(frames_of(source, 1)[0, 0], arrays["x"])
    text = refusal(tmp_path, {**document, "space": {"x": {"extents": [0, 0.5]}}}, arrays)
    assert "space.x.extents: found [0, 0.5], but x runs from" in text


@pytest.mark.parametrize("max_bytes", [1, 1000, 5000, 2**30])
@pytest.mark.parametrize("chunks", [(1, 1, X, Y), (2, 3, X, 2), (N, 1, 3, Y), (1, T, 1, 1), (N, T, X, Y), None])
@pytest.mark.parametrize("order", ["ntxy", "xytn", "tnxy"])
def test_blocks_of_any_size_hold_the_same_numbers(max_bytes, chunks, order, tmp_path: Path) -> None:
    turn = ["ntxy".index(letter) for letter in order]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("u", data=U.transpose(turn), chunks=chunks and tuple(chunks[axis] for axis in turn))
    with open_container(tmp_path / "a.h5") as container:
        blocks = Blocks(container, "u", [letter if letter in "nt" else None for letter in order], max_bytes)
        for row in (0, 1, 4, 2):
            for frames in (range(T), range(1, 3), range(0, T, 3), range(3, 4)):
                values = blocks.read(row, frames)
                expected = U[row, frames.start : frames.stop : frames.step]
                np.testing.assert_array_equal(values, expected if order != "xytn" else expected.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("chunks", "num_slabs"), [((1, 1, X, Y), 5 * 2), ((5, 1, X, Y), 4), ((2, 2, X, Y), 3 * 2), ((5, 4, X, Y), 1)]
)
def test_a_chunk_is_read_once_for_all_its_trajectories(chunks, num_slabs: int, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("u", data=U, chunks=chunks)
    with open_container(tmp_path / "a.h5") as container:
        counted = Counted(container)
        blocks = Blocks(counted, "u", ["n", "t", None, None], 2**30)
        for row in range(N):
            for frames in (range(2), range(2, 4)):
                blocks.read(row, frames)
        assert len(counted.slabs) == num_slabs
        for max_bytes in (U[:3].nbytes, U[0].nbytes, 1):
            counted.slabs.clear()
            Blocks(counted, "u", ["n", "t", None, None], max_bytes).read(1, range(2))
            assert all(U[slab].nbytes <= max(max_bytes, U[0, :2].nbytes) for slab in counted.slabs)


# Space


@pytest.mark.parametrize(
    ("points", "x", "sides", "extents"),
    [
        ("nodes", np.linspace(-1, 1, X), "wall", (-1, 1)),
        ("left", np.linspace(-1, 1, X, endpoint=False), "periodic", (-1, 1)),
        ("centres", np.linspace(-0.875, 0.875, X), "periodic", (-1, 1)),
        (None, np.linspace(-0.875, 0.875, X), "wall", (-1, 1)),
    ],
)
@pytest.mark.parametrize("shape", [(X,), (X, 1), (1, X)])
def test_extents_by_the_rule_for_the_points(points, x, sides, extents, shape, tmp_path: Path) -> None:
    axis = {"array": "x"} | ({"points": points} if points else {})
    document = {**PLAIN, "space": {"x": axis, "y": {"extents": [0, 3]}}}
    document["boundaries"] = {"x": [sides, sides], "y": ["wall", "wall"]}
    arrays = {"u": U, **AXES, "x": x.reshape(shape)}
    assert inspect(tmp_path, document, arrays).extents == (pytest.approx(extents), (0.0, 3.0))
    document["space"]["x"] = axis | {"extents": [-1, 1]}
    assert inspect(tmp_path, document, arrays).extents == ((-1.0, 1.0), (0.0, 3.0))


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (
            {"extents": [0, 1]},
            "found [0, 1], but the points run from 0.5 to 7.5 in steps of 1; a domain holds its points",
        ),
        ({"extents": [-9, 9]}, "ends at most a step beyond them"),
        ({"extents": [0.5, 7.5]}, "a periodic axis of 8 such points is 8 long"),
        ({"extents": [0.5, 8.5], "points": "centres"}, "as centres they fill [0, 8]; correct either, or leave one out"),
    ],
)
def test_extents_that_do_not_go_with_the_points(axis: dict[str, Any], message: str, tmp_path: Path) -> None:
    document = {**PLAIN, "space": {"x": {"array": "x"} | axis, "y": {"array": "y"}}}
    text = refusal(tmp_path, document)
    assert "space.x.extents: " in text
    assert message in text


def test_an_axis_from_high_to_low_is_turned_round(tmp_path: Path) -> None:
    source = inspect(tmp_path, PLAIN, {"u": U[..., ::-1], **AXES, "y": AXES["y"][::-1]})
    assert source.extents == ((0.0, 8.0), (-1.0, 1.0))
    np.testing.assert_array_equal(frames_of(source), U)


def test_uneven_axes_are_refused_with_their_first_bad_step(tmp_path: Path) -> None:
    x = AXES["x"].copy()
    x[4:] += 0.25
    text = refusal(tmp_path, PLAIN, {"u": U, **AXES, "x": x})
    assert "space.x.array: the points of x are not even: step 3, from 3.5 to 4.75, is 1.25, others 1." in text


def test_sizes_that_disagree_are_shown_with_both_shapes_and_the_order_that_fits(tmp_path: Path) -> None:
    text = refusal(tmp_path, {**PLAIN, "fields": [{**FIELD, "axes": ["n", "t", "y", "x"]}]})
    assert "fields[0].axes: [n, t, y, x]: y has 8 in u (5, 4, 8, 6), but 6 by space.y.array is y (6,)" in text
    assert "its sizes would fit [n, t, x, y]" in text
    other = {**FIELD, "name": "v", "array": "v"}
    text = refusal(tmp_path, {**PLAIN, "fields": [FIELD, other]}, {"u": U, "v": U[:2], **AXES})
    assert "n has 2 in v (2, 4, 8, 6), but 5 by fields[0].array is u (5, 4, 8, 6)" in text


def test_all_that_does_not_fit_the_file_is_listed_at_once(tmp_path: Path) -> None:
    document = {**PLAIN, "fields": [{**FIELD, "array": "w"}], "time": {"array": "time"}}
    text = refusal(tmp_path, document, {"u": U, **AXES, "x": AXES["x"] ** 2})
    assert "3 problems" in text
    for part in ("no array 'w'", "no array 'time'", "space.x.array: the points of x are not even: step 0"):
        assert part in text
    text = refusal(tmp_path, {**PLAIN, "fields": [{**FIELD, "axes": ["t", "x", "y"]}]})
    assert "[t, x, y] are 3 axes, but the array u (5, 4, 8, 6) has 4" in text
    text = refusal(tmp_path, {**PLAIN, "fields": [{**FIELD, "axes": ["c", "t", "x", "y"], "index": {"c": 5}}]})
    assert "fields[0].index.c: position 5, but c of u (5, 4, 8, 6) has 5: 0 to 4" in text


# Time


def test_times_by_step_by_trajectory_and_in_hours(tmp_path: Path) -> None:
    source = inspect(tmp_path, {**PLAIN, "time": {"dt": 0.5, "start": 2}}, {"u": U, **AXES})
    np.testing.assert_array_equal(source.times_nt, np.broadcast_to([2, 2.5, 3, 3.5], (N, T)))
    own = AXES["t"] + np.arange(N)[:, None]
    for axes, stored in ((["n", "t"], own), (["t", "n"], own.T)):
        document = {**PLAIN, "time": {"array": "t", "axes": axes, "unit_s": 3600}}
        np.testing.assert_array_equal(inspect(tmp_path, document, {"u": U, **AXES, "t": stored}).times_nt, own * 3600)


@pytest.mark.parametrize(
    ("times", "message"),
    [([0, 1, 1, 2], "times must increase"), ([0, 1, np.nan, 2], "is nan at frame 2"), ([3, 2, 1, 0], "must increase")],
)
def test_times_must_be_finite_and_increase(times: list[float], message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, PLAIN, {"u": U, **AXES, "t": np.array(times, np.float64)})


def test_without_t_there_is_one_frame(tmp_path: Path) -> None:
    document = {key: value for key, value in PLAIN.items() if key != "time"}
    source = inspect(tmp_path, {**document, "fields": [{**FIELD, "index": {"t": 0}}]}, {"u": U, **AXES})
    assert source.times_nt.tolist() == [[0.0]] * N
    np.testing.assert_array_equal(frames_of(source), U[:, :1])


# Values


def write_filled(path: Path, values: np.ndarray, **attributes: Any) -> Path:
    with h5py.File(path / "a.nc", "w") as file:
        file["u"] = values
        file["u"].attrs.update(attributes)
        for name, points in AXES.items():
            file[name] = points
    return path / "a.nc"


HOLED = np.where(U > 1.5, np.float32(1e20), U)


@pytest.mark.parametrize("declared", [{}, {"_FillValue": np.float32(1e20)}, {"missing_value": np.float32([1e20])}])
def test_fill_values_become_nan(declared: dict[str, Any], tmp_path: Path) -> None:
    document = {**PLAIN, "mask": "fill", "fields": [{**FIELD, "fill": 1e20}]}
    source = inspect_mapping(write_filled(tmp_path, HOLED, **declared), write_mapping(tmp_path, document))
    assert source.masked
    np.testing.assert_array_equal(frames_of(source), np.where(U > 1.5, np.nan, U))


def test_nan_is_carried(tmp_path: Path) -> None:
    holed = np.where(U > 1.5, np.nan, U)
    source = inspect(tmp_path, {**PLAIN, "mask": "nan"}, {"u": holed, **AXES})
    assert source.masked
    np.testing.assert_array_equal(frames_of(source), holed)
    assert not inspect(tmp_path, PLAIN, {"u": holed, **AXES}).masked


def test_a_fill_that_the_file_declares_and_the_mapping_forgets_is_never_taken_for_a_value(tmp_path: Path) -> None:
    path = write_filled(tmp_path, HOLED, _FillValue=np.float32(1e20))
    source = inspect_mapping(path, write_mapping(tmp_path, PLAIN))
    with pytest.raises(DataError, match=r'u declares 1e\+20 to be no value .* Write "mask": "fill"'):
        frames_of(source)
    harmless = write_filled(tmp_path, U, _FillValue=np.float32(1e20))
    np.testing.assert_array_equal(frames_of(inspect_mapping(harmless, write_mapping(tmp_path, PLAIN))), U)
    stated = {**PLAIN, "fields": [{**FIELD, "fill": None}]}
    path = write_filled(tmp_path, HOLED, _FillValue=np.float32(1e20))
    np.testing.assert_array_equal(frames_of(inspect_mapping(path, write_mapping(tmp_path, stated))), HOLED)


def test_another_fill_than_the_file_declares_is_refused(tmp_path: Path) -> None:
    document = {**PLAIN, "mask": "fill", "fields": [{**FIELD, "fill": -999}]}
    path = write_filled(tmp_path, HOLED, _FillValue=np.float32(1e20))
    with pytest.raises(
        DataError, match=r"fields\[0\].fill: found -999.0, but the array .* declares 1.0000000200408773e\+20"
    ):
        inspect_mapping(path, write_mapping(tmp_path, document))


def test_packed_numbers_are_unpacked_as_the_mapping_says(tmp_path: Path) -> None:
    packed = RNG.integers(-100, 100, U.shape).astype(np.int16)
    path = write_filled(tmp_path, packed, scale_factor=0.01, add_offset=273.0, _FillValue=np.int16(-5))
    with pytest.raises(DataError, match=r'fields\[0\].scale: the array u .* is packed.* write "scale": 0.01'):
        inspect_mapping(path, write_mapping(tmp_path, PLAIN))
    document = {**PLAIN, "mask": "fill", "fields": [{**FIELD, "scale": 0.01, "offset": 273, "fill": -5}]}
    expected = np.where(packed == -5, np.nan, packed * 0.01 + 273)
    np.testing.assert_allclose(
        frames_of(inspect_mapping(path, write_mapping(tmp_path, document))), expected, rtol=1e-12
    )


def test_parts_that_were_never_written_are_refused_unless_they_are_masked(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path, AXES)
    with h5py.File(path, "r+") as file:
        file.create_dataset("u", U.shape, "f4", chunks=(1, T, X, Y), fillvalue=-9.0)[:3] = U[:3]
    with pytest.raises(DataError, match="only 3 of 5 chunks were ever written"):
        inspect_mapping(path, write_mapping(tmp_path, PLAIN))
    document = {**PLAIN, "mask": "fill", "fields": [{**FIELD, "fill": -9}]}
    frames = frames_of(inspect_mapping(path, write_mapping(tmp_path, document)))
    assert np.isnan(frames[3:]).all()
    np.testing.assert_array_equal(frames[:3], U[:3])


# Parameters, splits, names


def test_parameters_from_values_arrays_and_the_caller(tmp_path: Path) -> None:
    document = {
        **PLAIN,
        "parameters": {"nu": {"array": "nu"}, "k": {"value": 2}, "m": {"value": None}, "s": {"array": "one"}},
    }
    arrays = {"u": U, **AXES, "one": np.array([[7.0]])}
    source = inspect(tmp_path, document, arrays)
    assert source.parameters == ("nu", "k", "m", "s")
    expected = np.stack([AXES["nu"], np.full(N, 2.0), np.full(N, np.nan), np.full(N, 7.0)], axis=1)
    np.testing.assert_array_equal(source.parameters_np, expected)
    given = inspect(tmp_path, document, arrays, parameters={"m": 3.0, "k": 1.0}).parameters_np
    np.testing.assert_array_equal(given[:, [1, 2]], np.broadcast_to([1.0, 3.0], (N, 2)))
    with pytest.raises(DataError, match=r"--parameter nu: .* takes it from the array nu, a value for each"):
        inspect(tmp_path, document, arrays, parameters={"nu": 1.0})
    with pytest.raises(DataError, match=r"--parameter q: .* names the parameters nu, k, m, s; add it there"):
        inspect(tmp_path, document, arrays, parameters={"q": 1.0})
    text = refusal(tmp_path, {**PLAIN, "parameters": {"nu": {"array": "x"}}})
    assert "parameters.nu.array: x (8,) has 8 numbers for 5 trajectories" in text


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (None, {"train": 4, "test": 1}),
        ({"by": "seed", "seed": 3, "shares": [3, 1, 1]}, {"train": 3, "valid": 1, "test": 1}),
        ({"by": "time", "shares": [2, 1, 1]}, {"train": 5, "valid": 5, "test": 5}),
        ({"by": "source", "ranges": {"train": [0, 2], "ood_late": [2, None]}}, {"train": 2, "ood_late": 3}),
    ],
)
def test_splits(split: dict[str, Any] | None, expected: dict[str, int], tmp_path: Path) -> None:
    source = inspect(tmp_path, {**PLAIN, "split": split}, {"u": U, **AXES})
    assert {name: len(pieces) for name, pieces in source.splits.items()} == expected
    cells = [(row, t) for part in source.splits.values() for row, start, stop in part for t in range(start, stop)]
    assert sorted(cells) == [(row, t) for row in range(N) for t in range(T)]


def test_one_trajectory_is_split_in_time(tmp_path: Path) -> None:
    document = {**PLAIN, "parameters": {}, "fields": [{**FIELD, "axes": ["t", "x", "y"]}], "time": {"dt": 1}}
    source = inspect(tmp_path, document, {"u": RNG.standard_normal((20, X, Y)), **AXES})
    assert {name: pieces.tolist() for name, pieces in source.splits.items()} == {
        "train": [[0, 0, 16]],
        "valid": [[0, 16, 18]],
        "test": [[0, 18, 20]],
    }


def test_ranges_beyond_the_trajectories_are_refused(tmp_path: Path) -> None:
    text = refusal(tmp_path, {**PLAIN, "split": {"by": "source", "ranges": {"train": [0, 9]}}})
    assert "split.ranges.train: found [0, 9], but there are 5 trajectories" in text


def test_a_family_of_the_registry_must_be_what_the_registry_says(tmp_path: Path) -> None:
    assert "family burgers_1d is 1D and not steady in the registry; the mapping states one that is 2D" in refusal(
        tmp_path, {**PLAIN, "family": "burgers_1d"}
    )
    assert "family darcy_2d is 2D and steady in the registry" in refusal(tmp_path, {**PLAIN, "family": "darcy_2d"})
    assert "family shallow_water_2d has the fields height (1)" in refusal(
        tmp_path, {**PLAIN, "family": "shallow_water_2d"}
    )
    renamed = inspect(tmp_path, PLAIN, {"u": U, **AXES}, family="other_smoke")
    assert renamed.family == "other_smoke"
    with pytest.raises(DataError, match="--family a-b: use letters"):
        inspect(tmp_path, PLAIN, {"u": U, **AXES}, family="a-b")


def test_a_frame_that_does_not_fit_in_memory_is_refused(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path, AXES)
    with h5py.File(path, "r+") as file:
        file.create_dataset("u", (2, 2**15, 2**15), "f8", chunks=(1, 2**10, 2**10), fillvalue=-9.0)
    fields = [{**FIELD, "axes": ["t", "x", "y"], "fill": -9}]
    document = {**PLAIN, "fields": fields, "mask": "fill", "time": {"dt": 1}, "parameters": {}}
    document["space"] = {"x": {"extents": [0, 1]}, "y": {"extents": [0, 1]}}
    with pytest.raises(DataError, match=r"8.0 GiB; at most 2 are"):
        inspect_mapping(path, write_mapping(tmp_path, document))
