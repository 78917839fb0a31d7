"""Descriptions of generated data sets (`recipes/data/`): read, checked, cut into files, and made."""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ups_scale.data.workers import WorkerDied, run
from ups_scale.errors import DataError, RecipeError
from ups_scale.recipe import validate
from ups_scale.recipe.load import chain, merge
from ups_scale.recipe.validate import Problem
from ups_scale.solvers.files import Part, Written, file_name, is_generated, is_there, write_part
from ups_scale.solvers.generate import SPLITS, Request, check_request, resolve

PART_BYTES = 128 * 2**20
"""Size of a file, about: what a run that is stopped loses per process."""
FORMAT = 1
PART = re.compile(r"(.+?)(-\d{4,})?\.(h5|hdf5)")


@dataclass(frozen=True)
class Set:
    """Trajectories of one family: how many of each split."""

    label: str
    request: Request
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Dataset:
    """A data set to be made; `out` is the folder for its shards."""

    out: Path
    sets: tuple[Set, ...]


@functools.cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a description, as shipped with the package."""
    return json.loads(importlib.resources.files("ups_scale.solvers").joinpath("dataset.schema.json").read_text("utf-8"))


def load_dataset(path: Path, changes: Mapping[str, Any] | None = None) -> Dataset:
    """The description in the file `path`, with `changes` merged over it.

    Raises:
        DataError: with all problems, each by its key, what was found and what is allowed.
    """
    try:
        documents = [document for _, document in chain(path, "description of a data set")]
    except RecipeError as error:
        raise DataError(str(error)) from None
    return build(str(path), [*documents, changes or {}])


def build(source: str, documents: Sequence[Mapping[str, Any]]) -> Dataset:
    """The data set that these descriptions, merged in order, make; `source` names it in errors.

    Raises:
        DataError: with all problems.
    """
    merged: dict[str, Any] = {}
    problems: list[Problem] = []
    for document in documents:
        merge(merged, {key: value for key, value in document.items() if key not in ("$schema", "extends")})
    problems += validate.check({"format": FORMAT, **merged} if source.startswith("--") else merged, schema())
    sets: list[Set] = []
    if not problems:
        filled = validate.fill_defaults(merged, schema())
        of_set = schema()["properties"]["sets"]["additionalProperties"]
        unknown = sorted(set(filled["only"] or ()) - set(filled["sets"]))
        if unknown:
            problems.append(
                Problem("only", f"no set is called {', '.join(unknown)}; there are {', '.join(filled['sets'])}")
            )
        if not filled["sets"]:
            problems.append(Problem("sets", "found none; name at least one"))
        for label, entry in filled["sets"].items():
            if filled["only"] is None or label in filled["only"]:
                try:
                    entry = validate.fill_defaults(entry, of_set)
                    sets.append(_set(label, entry, filled["seed"], filled["share"]))
                except DataError as error:
                    problems.append(Problem(f"sets.{label}", str(error)))
    try:
        validate.raise_problems(source, problems)
    except RecipeError as error:
        raise DataError(str(error)) from None
    return Dataset(Path(filled["out"]), tuple(sets))


def _set(label: str, entry: Mapping[str, Any], seed: int, share: float) -> Set:
    name = entry["family"] or label
    ranges = {
        quantity: (float(value), float(value)) if isinstance(value, int | float) else (float(value[0]), float(value[1]))
        for quantity, value in entry["parameters"].items()
    }
    dimensions = len(resolve(Request(name), SPLITS[0])[1].grid)
    request = Request(
        name,
        num_frames=entry["frames"],
        grid=None if entry["grid"] is None else (entry["grid"],) * dimensions,
        boundary=entry["boundary"],
        ranges=ranges,
        points=entry["points"],
        stride=entry["stride"],
        seed=seed,
    )
    counts = split_counts(entry["trajectories"], entry["splits"], share)
    for kind, count in entry["ood"].items():
        if count:
            counts[f"ood_{kind}"] = max(1, round(count * share))
    for split in counts:
        resolve(request, split)
    return Set(label, request, counts)


def split_counts(num_trajectories: int, fractions: Mapping[str, float], share: float = 1.0) -> dict[str, int]:
    """Trajectories per split: each at least 1, rounded, and the first split named takes the rest; of these a `share`.

    Raises:
        DataError: unknown names, fractions outside (0, 1] or not adding up to 1, or too few trajectories.
    """
    unknown = [name for name in fractions if name not in SPLITS]
    if unknown or not fractions:
        raise DataError(f"splits: unknown split {', '.join(unknown) or '(none given)'}; known: {', '.join(SPLITS)}")
    if any(not 0 < value <= 1 for value in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        stated = ",".join(f"{name}={value:g}" for name, value in fractions.items())
        raise DataError(
            f"splits {stated}: fractions must be above 0 and add up to 1, as in train=0.8,valid=0.1,test=0.1"
        )
    first, *others = fractions
    counts = {name: max(1, round(num_trajectories * fractions[name])) for name in others}
    rest = num_trajectories - sum(counts.values())
    if rest < 1:
        raise DataError(
            f"trajectories {num_trajectories}: too few for {len(fractions)} splits with at least one each; "
            f"ask for more, or for fewer splits ({first} alone)"
        )
    return {name: max(1, round(count * share)) for name, count in {first: rest, **counts}.items()}


def parts_of(dataset: Dataset, folder: Path) -> list[Part]:
    """The files that make up a data set, in order."""
    return [part for one in dataset.sets for part in _parts(one, folder)]


def _parts(one: Set, folder: Path) -> Iterator[Part]:
    for split, count in one.counts.items():
        each = max(1, PART_BYTES // Part(one.label, folder, one.request, split, 0, 1).num_bytes)
        starts = range(0, count, each)
        for number, first in enumerate(starts):
            name = file_name(one.label, one.request, split, number if len(starts) > 1 else None)
            yield Part(one.label, folder / name, one.request, split, first, min(each, count - first))


def check_space(parts: Sequence[Part], folder: Path, shards: Path | None) -> None:
    """Raises a `DataError` if the disk of `folder` can't hold the files that are missing and, where they are to be made
    beside them, the `shards`."""
    needed = sum(part.num_bytes for part in parts if not is_there(part))
    if shards is not None:
        there = sum(path.stat().st_size for path in shards.glob("*.tar"))
        needed += max(0, sum(part.num_bytes for part in parts) - there)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: {_size(needed)} are needed, {_size(free)} are free; free some space, choose another --out, or "
            "make a smaller set"
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def make_parts(
    parts: Sequence[Part],
    *,
    device: str = "cpu",
    workers: int = 1,
    say: Callable[[str], None] = print,
    advance: Callable[[int], None] = lambda num_bytes: None,
) -> Iterator[Written]:
    """Makes files, or keeps those that are there, in `workers` processes of one thread; yields them as they are done.

    Args:
        say: is told about files kept or made again.
        advance: is called with the bytes of the arrays that are done or kept.

    Raises:
        DataError: as `write_part`; or a process was killed. What is whole stays.
    """
    for part in parts:
        check_request(part.count, part.request.seed, device)
    try:
        for _, written in run(partial(_make, device), parts, workers, advance):
            if written.kept:
                say(f"{written.part.path}: already there with the same settings, kept")
            elif written.differed:
                say(f"{written.part.path}: {written.differed}; made again")
            yield written
    except WorkerDied as death:
        raise DataError(
            f"{death.job.path}: the process that was making it was {death.how}, perhaps for want of memory; run the "
            "same command again, with fewer --workers. The files that are whole are kept"
        ) from None


def _make(device: str, part: Part, advance: Callable[[int], None]) -> Written:
    torch.set_num_threads(1)  # batches are small: a second thread costs more than it gives
    each = part.num_bytes // part.count
    return write_part(part, device=device, advance=lambda count: advance(count * each))


def remove_strays(parts: Sequence[Part], folder: Path) -> list[Path]:
    """Removes the files that an earlier run made of the same sets and splits, cut otherwise: they would be sharded
    beside what takes their place."""
    wanted = {part.path.name for part in parts}
    made = {f"{part.label}_{part.split}" for part in parts}
    strays = []
    for path in sorted(folder.iterdir()):
        name = PART.fullmatch(path.name)
        if name and name[1] in made and path.name not in wanted and is_generated(path):
            path.unlink()
            strays.append(path)
    return strays


def check_foreign(parts: Sequence[Part]) -> None:
    """Raises a `DataError` that names files which are in the way of parts, and which the generator did not make."""
    foreign = [str(part.path) for part in parts if part.path.exists() and not is_generated(part.path)]
    if foreign:
        raise DataError(
            f"{', '.join(foreign[:5])}{' ...' if foreign[5:] else ''}: there already, and not made by this generator; "
            "move them, or choose another --out"
        )


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
