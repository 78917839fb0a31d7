"""What the manifest says about a folder of finished shards: read from their indices and the sources' descriptions."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ups_scale
from ups_scale.data import manifest
from ups_scale.data.entries import Entry, num_differences, split_order
from ups_scale.data.index import read_index
from ups_scale.data.moments import FieldMoments, finish, from_json
from ups_scale.data.progress import say
from ups_scale.data.shard_writer import REGULAR_TOLERANCE, index_path
from ups_scale.errors import DataError

# Parts of the change over a frame that float16 may take, said and refused.
ROUNDING_SAID, ROUNDING_REFUSED = 0.01, 0.1
# Steps in time looked at together.
BLOCK_STEPS = 2**20


@dataclass(frozen=True)
class LeftOut:
    """A trajectory that is in no shard, since it holds a value that is not finite: the first one's place."""

    entry: str
    source: Path
    trajectory: int
    field: str
    frame: int


def manifest_content(
    entries: Sequence[Entry],
    steps: Mapping[str, tuple[float | None, bool]],
    shards: Iterable[tuple[str, str, Path]],
    licence: str | None,
    left_out: Sequence[LeftOut],
) -> dict[str, Any]:
    """The manifest as it is written.

    Args:
        steps: `time_steps` of every entry.
        shards: (entry, split, file) of all that are there, in order.
        licence: of the inputs that state none.

    Raises:
        DataError: a family has no training trajectories left, or float16 takes too much from a field.
    """
    splits: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    trained: dict[str, list[FieldMoments]] = {}
    for name, split, path in shards:
        header = read_index(index_path(path)).header
        index_sha256 = hashlib.sha256(index_path(path).read_bytes()).hexdigest()
        shard = manifest.ShardEntry(
            header.shard, header.num_trajectories, header.shard_bytes, header.shard_sha256, index_sha256
        )
        splits[name][split].append(asdict(shard))
        if split == "train":
            totals = trained.setdefault(name, [FieldMoments() for _ in header.fields])
            for total, part in zip(totals, from_json(header.statistics), strict=True):
                total.merge(part)
    _check_rounding(trained, {entry.name: entry for entry in entries})
    families = {}
    for entry in entries:
        statistics = finish(_statistics(entry, entries, trained, left_out))
        if entry.name in splits:
            families[entry.name] = _entry(entry, splits[entry.name], statistics, steps[entry.name], licence)
    provenance = {
        "tool": "tools/shard.py",
        "version": ups_scale.__version__,
        "sources": [
            {
                "file": part.source.path.name,
                "xxh3_128": part.digest,
                "layout": part.source.layout,
                "entry": entry.name,
                "licence": part.source.licence or licence,
            }
            for entry in entries
            for part in entry.parts
        ],
        "left_out": [{**asdict(bad), "source": bad.source.name} for bad in left_out],
    }
    return {"format": manifest.FORMAT, "families": families, "provenance": provenance}


def _check_rounding(trained: Mapping[str, Sequence[FieldMoments]], entries: Mapping[str, Entry]) -> None:
    """Raises a `DataError`, or says it, if float16 takes a part of what changes over a frame: of a field whose mean is
    large against its variation, and of one so small that it becomes zero."""
    problems = []
    for name, moments in trained.items():
        for field, found in zip(entries[name].source.fields, moments, strict=True):
            if not found.u.count:
                say(f"warning: {name}, field {field.name}: no point of the training split has a value")
            lost = found.rounding.rms
            # Of a static field and a steady solution, and of one that float16 made the same everywhere, what matters is
            # how it varies.
            moves = 0.0 if entries[name].source.steady else found.delta.rms
            varies = moves or math.sqrt(found.u.variance)
            if lost <= ROUNDING_SAID * varies:
                continue
            share = f"{lost / varies:.0%} of its change over a frame ({varies:.3g})" if varies else "all that varies"
            text = f"{name}, field {field.name}: float16 rounds it by {lost:.3g}, {share}"
            if lost > ROUNDING_REFUSED * varies:
                problems.append(f"{text}; use --dtype float32, or move its origin by a mapping's offset")
            else:
                say(f"note: {text}")
    if problems:
        raise DataError("\n".join(problems))


def _statistics(
    entry: Entry, entries: Sequence[Entry], trained: dict[str, list[FieldMoments]], left_out: Sequence[LeftOut]
) -> list[FieldMoments]:
    """The entry's own; of one without training data (a test at another resolution) those of the nearest of its
    family."""
    kin = [e for e in entries if (e.source.family, e.source.fields) == (entry.source.family, entry.source.fields)]
    for other in (entry, *sorted(kin, key=lambda other: (num_differences(entry.source, other.source), other.name))):
        if other.name in trained:
            return trained[other.name]
    if any(bad.entry in {other.name for other in kin} for bad in left_out):
        raise DataError(
            f"{entry.name}: every training trajectory was left out for NaN or infinity; if those are points without a "
            "value, say so by a mask in a mapping file"
        )
    raise DataError(
        f"{entry.name}: no training trajectories with the fields "
        f"{', '.join(field.name for field in entry.source.fields)}, so there are no statistics; give the file of the "
        "train split too"
    )


def _entry(
    entry: Entry,
    splits: dict[str, list[dict[str, Any]]],
    statistics: dict[str, dict[str, list[float]]],
    steps: tuple[float | None, bool],
    licence: str | None,
) -> dict[str, Any]:
    source = entry.source
    dt, regular = steps
    licences = {part.source.licence or licence for part in entry.parts} - {None}
    order = sorted(splits, key=split_order)
    return {
        "fields": [field.name for field in source.fields],
        "units": [field.unit for field in source.fields],
        "static": [field.name for field in source.fields if field.static],
        "parameters": list(source.parameters),
        "grid": list(source.grid),
        "extents": [list(pair) for pair in source.extents],
        "boundaries": [list(pair) for pair in source.boundaries],
        "dt": dt,
        "regular": regular,
        "steady": source.steady,
        "masked": source.masked,
        "geometry": source.geometry,
        "coordinates": list(source.coordinates),
        "num_frames": {split: entry.num_frames[split] for split in order},
        "statistics": statistics,
        "splits": {split: splits[split] for split in order},
        "licences": sorted(str(licence) for licence in licences),
    }


def time_steps(entry: Entry) -> tuple[float | None, bool]:
    """The median over trajectories of their median step in s, None if steady; and whether all steps equal it.

    Raises:
        DataError: times that don't increase.
    """
    if entry.source.steady:
        return None, True
    medians, lowest, highest = [], np.inf, -np.inf
    for part in entry.parts:
        for rows in part.splits.values():
            length = int(rows[0, 2] - rows[0, 1])
            if length == 1:
                continue
            height = max(1, BLOCK_STEPS // length)
            for top in range(0, len(rows), height):
                block = rows[top : top + height]
                times = part.source.times_nt[block[:, :1], block[:, 1:2] + np.arange(length)]
                steps = np.diff(times, axis=1)
                if not (steps > 0).all():
                    row, frame = (int(i[0]) for i in np.nonzero(~(steps > 0)))
                    raise DataError(
                        f"{part.source.path}: trajectory {block[row, 0]}: time goes from {times[row, frame]} s to "
                        f"{times[row, frame + 1]} s after frame {block[row, 1] + frame}; times must increase"
                    )
                medians.append(np.median(steps, axis=1))
                lowest, highest = min(lowest, float(steps.min())), max(highest, float(steps.max()))
    if not medians:
        return 1.0, True  # single frames: there is no step, but there must be a number
    dt = float(np.median(np.concatenate(medians)))
    regular = dt - lowest <= REGULAR_TOLERANCE * dt and highest - dt <= REGULAR_TOLERANCE * dt
    return dt, bool(regular)
