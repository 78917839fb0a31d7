"""A mapping file: its schema, and what must hold between its keys. `mapping.py` compares it with a file."""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ups_scale.data.source import NAME
from ups_scale.errors import DataError, RecipeError
from ups_scale.recipe import validate
from ups_scale.recipe.load import read_object
from ups_scale.recipe.validate import Problem, show

SPACE = ("x", "y", "z")


@functools.cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a mapping, as shipped with the package."""
    return json.loads(
        importlib.resources.files("ups_scale.data.layouts").joinpath("mapping.schema.json").read_text("utf-8")
    )


def load_mapping(path: Path) -> dict[str, Any]:
    """The mapping in the file `path`, checked, with the schema's defaults filled in.

    A field's `fill`, `valid` and `offset` and an axis' `points` have no default: whether they are stated makes a
    difference.

    Raises:
        DataError: with all problems, each by its path in the file ("fields[0].axes[1]"), what was found and what is
            allowed.
    """
    try:
        document = read_object(path, "mapping")
        problems = validate.check(document, schema())
        broken = {problem.path.partition(".")[0].partition("[")[0] for problem in problems}
        filled = validate.fill_defaults(document, schema())
        problems += [problem for problem in _rules(filled, broken) if problem.path not in {p.path for p in problems}]
        validate.raise_problems(str(path), problems)
    except RecipeError as error:
        raise DataError(str(error)) from None
    return filled


def free_axes(field: Mapping[str, Any]) -> tuple[str, ...]:
    """The axes that a field keeps: those of its array without the ones that `index` takes a position of."""
    return tuple(letter for letter in field["axes"] if letter not in field["index"])


def domain_axes(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Letters of the domain's axes in the order of `Source.extents`: x, y, z; a point set's as it lists them."""
    if document["geometry"] == "points":
        return tuple(document["coordinates"])
    return tuple(letter for letter in SPACE if letter in document["space"])


def _rules(document: Mapping[str, Any], broken: set[str]) -> Iterator[Problem]:
    """What the schema can't say. `broken` are top-level keys that it found problems in: they are not looked at."""
    yield from _not_finite(document, "")
    if not broken & {"geometry", "coordinates", "fields", "space"}:
        yield from _geometry(document)
    if not broken & {"fields", "steady", "time"}:
        yield from _time(document)
    if not broken & {"fields", "mask"}:
        yield from _mask(document)
    if not broken & {"space", "boundaries", "geometry", "coordinates"}:
        yield from _sides(document)
    if "parameters" not in broken:
        for name, entry in document["parameters"].items():
            if len(entry) != 1:
                yield Problem(f"parameters.{name}", f"found {show(entry)}; write either value or array")
    if not broken & {"split", "steady"}:
        yield from _split(document["split"], document["steady"])
    if "fields" not in broken:
        names = [field["name"] for field in document["fields"]]
        for number, name in enumerate(names):
            if name in names[:number]:
                text = f'"{name}" is the name of fields[{names.index(name)}] too; give each its own'
                yield Problem(f"fields[{number}].name", text)


def _not_finite(value: Any, path: str) -> Iterator[Problem]:
    """JSON has no infinity, but 1e999 is read as one."""
    if isinstance(value, float) and not math.isfinite(value):
        yield Problem(path, f"found {value}; write a number that float64 holds")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _not_finite(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _not_finite(item, f"{path}[{number}]")


def _geometry(document: Mapping[str, Any]) -> Iterator[Problem]:
    points = document["geometry"] == "points"
    domain = domain_axes(document)
    if points and not domain:
        yield Problem("coordinates", "found none; name the static fields that hold the points' positions: x, y, z")
        return
    if not points and document["coordinates"]:
        yield Problem("coordinates", 'only point sets have them; leave it out, or write "geometry": "points"')
    statics = [field["name"] for field in document["fields"] if field["static"]]
    for name in document["coordinates"] if points else ():
        if name not in statics:
            yield Problem("coordinates", f"no static field is called {name}; add it to fields")
    lattice = {"p"} if points else set(domain)
    for number, field in enumerate(document["fields"]):
        path = f"fields[{number}]"
        for letter in field["index"]:
            if letter not in field["axes"]:
                yield Problem(f"{path}.index.{letter}", f"axes has no {letter}; it is {show(field['axes'])}")
        kept = free_axes(field)
        for letter in kept:
            if letter in ("c", "d"):
                yield Problem(f"{path}.index.{letter}", f'missing; which position of {letter}? write {{"{letter}": 0}}')
            elif letter not in ("n", "t") and letter not in lattice:
                where = "a point set has p" if points else f"space has {', '.join(domain)}"
                yield Problem(
                    f"{path}.axes", f"{letter} is no axis of the domain ({where}); take a position of it with index"
                )
        absent = lattice - set(kept)
        if absent and not field["static"]:
            listed = ", ".join(sorted(absent))
            yield Problem(
                f"{path}.axes", f"found {show(field['axes'])}, without {listed}; only static fields may be so"
            )


def _time(document: Mapping[str, Any]) -> Iterator[Problem]:
    time, steady = document["time"], document["steady"]
    moving = False
    for number, field in enumerate(document["fields"]):
        path = f"fields[{number}].axes"
        if "t" not in free_axes(field):
            continue
        moving = True
        if steady:
            yield Problem(path, 'a steady family has no time; leave t out with index {"t": ...}, or steady')
        elif field["static"]:
            yield Problem(path, 'a static field has no t; take a frame of it with "index": {"t": 0}, or leave static')
    for letter, what in (("n", "trajectories"), ("t", "frames")):
        with_it = [letter in free_axes(field) for field in document["fields"]]
        for number, field in enumerate(document["fields"]):
            if any(with_it) and not with_it[number] and not field["static"]:
                text = f"no {letter}, but fields[{with_it.index(True)}] has; is it the same for all {what}: static?"
                yield Problem(f"fields[{number}].axes", text)
    if all(field["static"] for field in document["fields"]):
        yield Problem("fields", "all are static; what is to be predicted?")
    if steady and not any(field["static"] for field in document["fields"]):
        yield Problem("fields", "a steady family needs a static field: what the solution is for")
    if time is None:
        if moving and not steady:
            yield Problem("time", 'missing, but fields have t; write {"array": NAME, "unit_s": 1} or {"dt": SECONDS}')
    elif steady:
        yield Problem("time", "a steady family has none; leave it out")
    elif ("array" in time) == ("dt" in time):
        yield Problem("time", f"found {'both' if 'dt' in time else 'neither'} of array and dt; write one of them")


def _mask(document: Mapping[str, Any]) -> Iterator[Problem]:
    filled = [field.get("fill") is not None for field in document["fields"]]
    if document["mask"] == "fill" and not any(filled):
        yield Problem("mask", 'found "fill", but no field has a fill; write the number, or mask "nan"')
    for number, has_fill in enumerate(filled):
        if has_fill and document["mask"] != "fill":
            yield Problem(f"fields[{number}].fill", f'has no effect with mask {show(document["mask"])}; use "fill"')
    for number, field in enumerate(document["fields"]):
        path, valid = f"fields[{number}].valid", field.get("valid")
        if valid is not None and valid[0] > valid[1]:
            yield Problem(path, f"found {show(valid)}; the low end comes first")
        if valid is not None and document["mask"] is None:
            yield Problem(path, 'numbers outside become points without a value, which need a mask; write "mask": "nan"')


def _sides(document: Mapping[str, Any]) -> Iterator[Problem]:
    domain = domain_axes(document)
    points = document["geometry"] == "points"
    if not domain:
        return
    for section in ("space", "boundaries"):
        for letter in (*domain, *(letter for letter in document[section] if letter not in domain)):
            if letter not in document[section]:
                yield Problem(f"{section}.{letter}", "missing")
            elif letter not in domain:
                axes = f"coordinates are {', '.join(domain)}" if points else f"space has {', '.join(domain)}"
                yield Problem(f"{section}.{letter}", f"{letter} is no axis of the domain ({axes}); leave it out")
    for letter in domain:
        axis, sides = document["space"].get(letter, {}), document["boundaries"].get(letter, ())
        path = f"space.{letter}"
        if "points" in axis and "array" not in axis:
            yield Problem(f"{path}.points", "says what an array's points are; name the array")
        if points and axis and set(axis) != {"extents"}:
            yield Problem(path, 'the points of a point set are a field; write {"extents": [LOW, HIGH]} of the domain')
        low, high = axis.get("extents", (0, 1))
        if low >= high:
            yield Problem(f"{path}.extents", f"found {show([low, high])}; the low end comes first")
        if sides and ("periodic" in sides) and sides[0] != sides[1]:
            yield Problem(f"boundaries.{letter}", f"found {show(sides)}; an axis is periodic on both sides or on none")
        periodic = "periodic" in sides
        if axis.get("points") == "left" and not periodic:
            yield Problem(f"{path}.points", 'only a periodic axis ends a step beyond its last point; use "nodes"')
        if axis.get("points") == "nodes" and periodic:
            yield Problem(
                f"{path}.points",
                "a periodic axis with points at both ends has one twice; leave the last out of the file, or write "
                '"left" if it is not there',
            )


def _split(split: Mapping[str, Any] | None, steady: bool) -> Iterator[Problem]:
    if split is None:
        return
    if steady and split["by"] == "time":
        yield Problem("split.by", 'a steady family has no time; use "seed"')
    if (split["by"] == "source") != bool(split["ranges"]):
        yield Problem("split.ranges", 'belongs to "by": "source", and that needs it')
    if sum(split["shares"]) <= 0:
        yield Problem("split.shares", "all are 0")
    taken: list[tuple[float, float, str]] = []
    for name, (start, end) in split["ranges"].items():
        stop = math.inf if end is None else end
        if start is None or start >= stop:
            yield Problem(f"split.ranges.{name}", f"found {show([start, end])}; write [FIRST, END] with FIRST < END")
            continue
        for other_start, other_stop, other in taken:
            if start < other_stop and other_start < stop:
                yield Problem(f"split.ranges.{name}", f"overlaps with {other}; a trajectory belongs to one split")
        taken.append((start, stop, name))


def check_given(path: Path, document: Mapping[str, Any], family: str | None, parameters: Mapping[str, float]) -> None:
    """Raises a `DataError` if --family or --parameter don't go with a mapping."""
    if family is not None and not NAME.fullmatch(family):
        raise DataError(f"--family {family}: use letters, digits and _, starting with a letter")
    unknown = [name for name in parameters if name not in document["parameters"]]
    if unknown:
        known = ", ".join(document["parameters"]) or "none"
        raise DataError(
            f"--parameter {unknown[0]}: {path} names the parameters {known}; add it there: "
            f'"parameters": {{"{unknown[0]}": {{"value": null}}}}'
        )
    for name in parameters:
        if "array" in document["parameters"][name]:
            array = document["parameters"][name]["array"]
            raise DataError(
                f"--parameter {name}: {path} takes it from the array {array}, a value for each trajectory; leave "
                f'--parameter out, or write "{name}": {{"value": null}} there'
            )
