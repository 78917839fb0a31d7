"""Turns people's files into a folder of shards: inputs -> entries -> tars with byte indices -> `manifest.json`.

    inputs     what every input holds (`layouts`)
    entries    which of them go together; `shard_plan` cuts those into shards
    workers    processes that run `shard_writer` on one shard each

Shards are written aside, flushed and renamed, their index after them, the manifest last of all. A second run keeps the
shards that come from the same content with the same settings and whose bytes are still those that were written. Memory
holds a slab of frames per worker, whatever the size of the inputs.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from ups_scale.atomic import sync_folder, write_text
from ups_scale.data import manifest
from ups_scale.data.entries import Entry, Part, cut, make_entries
from ups_scale.data.fingerprint import file_states
from ups_scale.data.index import DTYPES, read_index
from ups_scale.data.inputs import SLOW_BYTES_PER_S, check_unchanged, digests, in_threads, inspect_all
from ups_scale.data.layouts.blocks import KEPT_BYTES
from ups_scale.data.manifest_content import LeftOut, manifest_content, time_steps
from ups_scale.data.progress import Progress, say
from ups_scale.data.shard_plan import Shard, cut_into_shards
from ups_scale.data.shard_writer import SLAB_BYTES, Damaged, index_path, is_whole, write_shard
from ups_scale.data.source import SPLITS, Source, deal_together
from ups_scale.data.workers import WorkerDied, run
from ups_scale.errors import DataError, remedy

MEMORY_BYTES = 1408 * 2**20
# A process with a slab, and the blocks that it keeps; so there are four at most, as many as most disks are good for.
WORKER_BYTES = 160 * 2**20 + KEPT_BYTES
INSPECTORS = 4
DAMAGED_LISTED = 5
LISTED = 20
"""How many of the trajectories that are left out a message names."""


def convert(
    inputs: Sequence[Path],
    out: Path,
    *,
    layout: str = "auto",
    layouts: Mapping[str, str] | None = None,
    family: str | None = None,
    parameters: Mapping[str, float] | None = None,
    split: str = "source",
    dtype: str = "float32",
    shard_mib: float = 64.0,
    workers: int | None = None,
    licence: str | None = None,
    leave_out_bad: bool = False,
    by_parameters: bool = False,
    show_progress: bool = True,
    isolated: bool = False,
) -> manifest.Manifest:
    """Writes the shards and manifest of `inputs` (files, or folders of them) into `out` and returns the manifest.

    Args:
        layout, family, parameters, split: as in `layouts.inspect`; they hold for all inputs.
        layouts: those of single inputs, where they aren't `layout`; by path, file name, or folder.
        dtype: of the stored values, "float32" or "float16".
        shard_mib: size of a shard in MiB, about.
        workers: processes that write; with 1 it is this one. None for one per core, and no more than keep memory
            below 1.5 GiB: four, fewer where frames are large.
        licence: for inputs that state none themselves.
        leave_out_bad: go on without the trajectories that hold values that are not finite.
        by_parameters: an entry per value of the parameters that are constant within an input.
        show_progress: on standard error.
        isolated: read inputs in other processes only, also with one worker: the libraries for it may crash on them.

    Raises:
        DataError: an input is missing, damaged or does not fit the layout, a value is not finite, another run is
            writing to `out`, or it can't be written to. Shards that are already whole stay, to be kept by the next
            run; there is no manifest until all are.
    """
    if dtype not in DTYPES:
        raise DataError(f"dtype {dtype!r}; known are {' and '.join(DTYPES)}")
    sources = inspect_all(
        inputs,
        layout,
        layouts or {},
        family,
        parameters or {},
        split,
        min(workers or os.cpu_count() or 1, INSPECTORS) if isolated else 0,
    )
    workers = workers or num_workers(sources, os.cpu_count() or 1)
    with _locked(out):
        states = {source.path: file_states(source.path) for source in sources}
        found = digests(sources, workers, show_progress)
        sources = deal_together(sources, found)
        frame_bytes = np.dtype(dtype).itemsize
        parts = [Part(source, found[source.path], *cut(source, shard_mib * 2**20, frame_bytes)) for source in sources]
        entries = make_entries(parts, by_parameters)
        _say_undealt(entries)
        steps = {entry.name: time_steps(entry) for entry in entries}
        shards = [shard for entry in entries for shard in cut_into_shards(entry, out, dtype, shard_mib * 2**20)]
        _say_dropped(entries)
        left_out = _write_missing(shards, out, workers, show_progress, isolated)
        check_unchanged(states)
        mapped = any(source.layout == "mapping" for source in sources)
        _settle(left_out, dtype, leave_out_bad, out, mapped)
        with _writing(out):
            content = manifest_content(
                entries,
                steps,
                [(shard.entry, shard.split, shard.path) for shard in shards if shard.path.is_file()],
                licence,
                left_out,
            )
            _write_manifest(out / "manifest.json", content)
    _note_strays(out, {shard.path.name for shard in shards})
    return manifest.load_manifest(out)


def num_workers(sources: Sequence[Source], num_cores: int) -> int:
    """How many processes to write with, so that all together stay within `MEMORY_BYTES` of memory."""
    frame_bytes = max((4 * math.prod(source.grid) for source in sources), default=0)
    # A slab comes as the file has it, is converted, checked, and its last frame kept: measured, rounded up.
    chunk_bytes = max((source.chunk_bytes for source in sources), default=0)
    each = WORKER_BYTES + 7 * max(0, frame_bytes - SLAB_BYTES) + 2 * max(0, chunk_bytes - SLAB_BYTES)
    return max(1, min(num_cores, MEMORY_BYTES // each))


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """A block that writes to `out`: what the system says against it becomes a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{out}: can't be written ({error}); {remedy(error, 'choose another --out')}. Shards that are whole are "
            "kept by the next run"
        ) from error


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Makes the folder `out` and keeps other runs from writing there; a new folder that stays empty is removed."""
    new = not out.exists()
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise DataError(
                    f"{out}: another run of tools/shard.py is writing there; wait for it, or choose another --out"
                ) from None
            say(f"note: {out} can't be locked ({error.strerror}); let no other run write there")
        try:
            yield
        finally:
            if new and [path.name for path in out.iterdir()] == [".lock"]:
                (out / ".lock").unlink()
                out.rmdir()


def _say_undealt(entries: Sequence[Entry]) -> None:
    for entry in entries:
        dealt = [part for part in entry.parts if part.source.dealt is not None]
        missing = [
            split
            for number, split in enumerate(SPLITS)
            if split not in entry.num_frames and any(part.source.dealt.shares[number] > 0 for part in dealt)  # type: ignore[union-attr]
        ]
        if dealt and missing:
            num = sum(part.source.num_trajectories for part in dealt)
            say(
                f"note: {entry.name}: {num} {'trajectories are' if num > 1 else 'trajectory is'} too few to be dealt "
                f"out in these shares: there is no {', no '.join(missing)} split; --split time cuts each in time"
            )


def _say_dropped(entries: Sequence[Entry]) -> None:
    for entry in entries:
        for split, num_frames in entry.num_frames.items():
            dropped = [(part, part.dropped[split]) for part in entry.parts if split in part.dropped]
            if dropped:
                part, frames = dropped[0]
                say(
                    f"note: {entry.name}, {split}: trajectories are cut into pieces of {num_frames} frames; the last "
                    f"{frames} frames of each in {part.source.path.name} fill no piece and are left out"
                    + (f" (and likewise in {len(dropped) - 1} more files)" if len(dropped) > 1 else "")
                )


def _write_missing(
    shards: Sequence[Shard], out: Path, workers: int, show_progress: bool, isolated: bool
) -> list[LeftOut]:
    """Writes the shards that are not there yet; returns what all of them leave out, in their order."""
    left_out: dict[Path, Sequence[tuple[int, str, int]]] = {}
    # What is compressed is unpacked before anything of it is done.
    sizes = [size for path in {shard.part.source.path for shard in shards} for _, size, _ in file_states(path)]
    extra_s = max(sizes, default=0) / SLOW_BYTES_PER_S
    there = [shard for shard in shards if shard.path.is_file()]
    total = sum(shard.path.stat().st_size for shard in there)
    with Progress("checking what is there", total, show_progress) as progress:
        states = in_threads(lambda shard: _is_kept(shard, progress.advance), there, workers)
    kept = {shard.path for shard, state in zip(there, states, strict=True) if state is True}
    _say_damaged([(shard.path, state) for shard, state in zip(there, states, strict=True) if isinstance(state, str)])
    waiting = [shard for shard in shards if shard.path not in kept]
    for shard in shards:
        if shard.path in kept:
            left_out[shard.path] = read_index(index_path(shard.path)).header.left_out
    if kept:
        say(f"{len(kept)} of {len(shards)} shards are already there")
    with _writing(out):
        _clean(out)  # of a run that was killed
        if waiting:
            # From here on the old manifest would describe shards that are no more.
            (out / "manifest.json").unlink(missing_ok=True)
        try:
            with (
                Progress("sharding", sum(shard.stored_bytes for shard in waiting), show_progress) as progress,
                closing(
                    run(write_shard, (shard.job() for shard in waiting), workers, progress.advance, isolated, extra_s)
                ) as written,
            ):
                for job, left in written:
                    left_out[job.path] = left
        except WorkerDied as death:
            raise _died(death) from None
        finally:
            _clean(out)
        sync_folder(out)
    return [LeftOut(shard.entry, shard.part.source.path, *bad) for shard in shards for bad in left_out[shard.path]]


def _is_kept(shard: Shard, advance: Callable[[int], None]) -> bool | str:
    """Whether a shard that is there can stay; what is wrong with it, if it is damaged."""
    size = shard.path.stat().st_size
    try:
        return is_whole(shard.path, shard.job().fingerprint)
    except Damaged as damage:
        return str(damage)
    finally:
        advance(size)


def _say_damaged(damaged: Sequence[tuple[Path, str]]) -> None:
    for path, what in damaged[:DAMAGED_LISTED]:
        say(f"{path}: damaged ({what}); it is written anew")
    if len(damaged) > DAMAGED_LISTED:
        say(f"and {len(damaged) - DAMAGED_LISTED} more shards that are damaged are written anew")


def _clean(out: Path) -> None:
    """Removes what a writer that was killed left half-written."""
    for left in (*out.glob("*.tar.tmp"), *out.glob("*.tar.idx.tmp"), *out.glob("manifest.json.tmp")):
        left.unlink(missing_ok=True)


def _died(death: WorkerDied) -> DataError:
    job = death.job
    trajectories = f"trajectories {job.pieces[0, 0]} to {job.pieces[-1, 0]}"
    return DataError(
        f"{job.source}: the worker process that was at its {trajectories} was {death.how}. Either memory ran out (run "
        "again with fewer --workers), or the file crashes the library that reads it (get it again, or leave it out). "
        "The shards that are written are kept"
    )


def _settle(left_out: Sequence[LeftOut], dtype: str, leave_out_bad: bool, out: Path, mapped: bool) -> None:
    """Says which trajectories are left out, as an error unless the user has agreed to it."""
    if not left_out:
        return
    # Of a long trajectory that is cut into pieces each may be bad; the first one's place is told.
    first: dict[tuple[Path, int], LeftOut] = {}
    for bad in left_out:
        first.setdefault((bad.source, bad.trajectory), bad)
    lines = [
        f"  {bad.source}: trajectory {bad.trajectory}, field {bad.field}, frame {bad.frame}"
        for bad in list(first.values())[:LISTED]
    ]
    if len(first) > LISTED:
        lines.append(f"  and {len(first) - LISTED} more")
    listed = "\n".join(lines)
    counted = f"{len(first)} {'trajectories hold' if len(first) > 1 else 'trajectory holds'} NaN or infinity"
    if len(left_out) > len(first):
        counted += f", in {len(left_out)} of the pieces that they are cut into,"
    if leave_out_bad:
        what = "these pieces" if len(left_out) > len(first) else "these trajectories"
        say(f"warning: {counted} (in {dtype}); {what} are left out:\n{listed}")
        return
    (out / "manifest.json").unlink(missing_ok=True)
    larger = ", store --dtype float32 if float16 is too narrow," if dtype == "float16" else ""
    mask = 'write "mask": "nan" in the mapping' if mapped else "say so by a mask in a mapping file"
    raise DataError(
        f"{counted} (in {dtype}):\n{listed}\nRun again with --leave-out-bad to go on without them (the shards are "
        f"written and kept){larger} or, if those are points without a value, {mask}"
    )


def _write_manifest(path: Path, content: dict) -> None:
    """Writes it, unless what is there says the same."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _note_strays(out: Path, expected: set[str]) -> None:
    stray = sorted({path.name for path in out.glob("*.tar")} - expected)
    if stray:
        say(
            f"note: {out} also holds {len(stray)} shards that these inputs did not give and the manifest does not "
            f"list, such as {stray[0]}: delete them if they are of an earlier run"
        )
