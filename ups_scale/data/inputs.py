"""The inputs of one run of the sharder: what every one of them holds, and what identifies its content."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ups_scale.data.fingerprint import content_digest, file_states
from ups_scale.data.layouts import input_files, inspect, recognise
from ups_scale.data.progress import Progress, say
from ups_scale.data.shard_writer import reading
from ups_scale.data.source import Source
from ups_scale.data.workers import WorkerDied, run
from ups_scale.errors import DataError

T = TypeVar("T")
R = TypeVar("R")
# How slowly a disk may give a file before whoever reads it is taken to be lost.
SLOW_BYTES_PER_S = 10e6


@dataclass(frozen=True)
class _Look:
    """An input, and how it is to be inspected."""

    path: Path
    layout: str
    family: str | None
    parameters: Mapping[str, float]
    split: str


def inspect_all(
    inputs: Sequence[Path],
    layout: str,
    layouts: Mapping[str, str],
    family: str | None,
    parameters: Mapping[str, float],
    split: str,
    processes: int = 0,
) -> list[Source]:
    """What every input holds; or one error with the problems of all, the same of many files said once. Says as what
    inputs were recognised, and what is worth a note.

    `layouts` are those of single inputs, by their path, their file's name or a folder they lie in; `layout` is of all
    others.

    Inputs are looked into by this many other processes (0: by this one), so that a file that crashes the library that
    reads it, or sends it in circles, is an error like others.
    """
    paths = input_files(inputs, lambda text: say(f"note: {text}"))
    chosen = _chosen(paths, layout, layouts)
    looks = [_Look(path, chosen[path], family, parameters, split) for path in paths]
    try:
        # Some look at every byte of their file, and say nothing meanwhile.
        largest = max((size for path in paths for _, size, _ in file_states(path)), default=0)
        extra_s = largest / SLOW_BYTES_PER_S
        answers = run(_look, looks, processes, lambda num_bytes: None, isolated=processes > 0, extra_s=extra_s)
        found = {look.path: answer for look, answer in answers}
    except WorkerDied as death:
        raise DataError(
            f"{death.job.path}: the process that looked into it was {death.how}: the library that reads such files "
            "can't take this one. It is damaged: get it again, or leave it out"
        ) from None
    sources: list[Source] = []
    problems: dict[str, list[Path]] = defaultdict(list)
    remarks: dict[str, list[Path]] = defaultdict(list)
    for look in looks:
        why, result = found[look.path]
        if why:
            remarks[why.replace(str(look.path), "{path}")].append(look.path)
        if isinstance(result, str):
            problems[result.replace(str(look.path), "{path}")].append(look.path)
        else:
            sources.append(result)
            for note in result.notes:
                remarks[f"note: {{path}}: {note.replace(str(look.path), '{path}')}"].append(look.path)
    for text, files in remarks.items():
        say(_once(text, files))
    if problems:
        raise DataError("\n".join(_once(text, files) for text, files in problems.items()))
    return sources


def _chosen(paths: Sequence[Path], layout: str, layouts: Mapping[str, str]) -> dict[Path, str]:
    """The layout of every input: that which is given for it, else for a folder it lies in; by their paths, or the ends
    of these."""
    given: dict[tuple[str, ...], str] = {}
    for name, one in layouts.items():
        parts = Path(os.path.normpath(name)).parts
        if given.setdefault(parts, one) != one:
            raise DataError(f"--layout {name}={one}: {name} has been given {given[parts]} too; leave one of them out")
    chosen, used = {}, set()
    for path in paths:
        normal = Path(os.path.normpath(path))
        places = [place.parts for place in (normal, *normal.parents)]
        # The longest place first: a file's own layout wins over its folder's.
        fitting = [parts for place in places for parts in given if place[-len(parts) :] == parts]
        used |= set(fitting)
        chosen[path] = given[fitting[0]] if fitting else layout
    unknown = [str(Path(*parts)) for parts in given if parts not in used]
    if unknown:
        listed = ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else "")
        raise DataError(f"--layout {unknown[0]}=...: no input is called {unknown[0]}; there is {listed}")
    return chosen


def _look(look: _Look, advance: Callable[[int], None]) -> tuple[str | None, Source | str]:
    """As what an input was recognised, and what it holds, or what is wrong with it."""
    path, layout, why = look.path, look.layout, None
    try:
        with reading(path, "the file"):
            if layout == "auto":
                recognised = recognise(path, look.family)
                layout, why = recognised.layout, recognised.why
            return why, inspect(path, layout, family=look.family, parameters=look.parameters, split=look.split)
    except DataError as error:
        return why, str(error)


def _once(text: str, paths: Sequence[Path]) -> str:
    message = text.replace("{path}", str(paths[0]))
    if len(paths) == 1:
        return message
    others = ", ".join(path.name for path in paths[1:4]) + (", ..." if len(paths) > 4 else "")
    more = f"{len(paths) - 1} more {'files' if len(paths) > 2 else 'file'}"
    return f"{message} (and the same of {more}: {others})"


def check_unchanged(before: Mapping[Path, list[tuple[str, int, int]]]) -> None:
    """Raises a `DataError` if an input is not what `file_states` found."""
    for path, states in before.items():
        with reading(path, "the file"):
            if file_states(path) != states:
                raise DataError(
                    f"{path}: changed while it was read; run again when whatever writes it is done: the shards that "
                    "no longer fit are then written anew"
                )


def digests(sources: Sequence[Source], workers: int, show_progress: bool) -> dict[Path, str]:
    """Digest of every input; the same trajectories twice would end in two splits."""
    paths = [source.path for source in sources]
    total = sum(size for path in paths for _, size, _ in file_states(path))
    first: dict[str, Path] = {}
    with Progress("hashing the inputs", total, show_progress) as progress:
        found = in_threads(lambda path: _digest(path, progress.advance), paths, workers)
    for path, digest in zip(paths, found, strict=True):
        if digest in first:
            raise DataError(f"{path}: the same content as {first[digest]}; give each file once")
        first[digest] = path
    return dict(zip(paths, found, strict=True))


def _digest(path: Path, advance: Callable[[int], None]) -> str:
    with reading(path, "the file"):
        return content_digest(path, advance)


def in_threads(function: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
    """Hashing and reading leave the interpreter's lock."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(function, items))
