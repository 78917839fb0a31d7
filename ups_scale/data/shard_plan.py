"""Which shards an entry's inputs are cut into."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ups_scale.data import manifest
from ups_scale.data.entries import Entry, Part
from ups_scale.data.fingerprint import identity
from ups_scale.data.shard_writer import Job
from ups_scale.data.source import Source

READERS = 1
"""To be raised when a layout reads other values out of the same input than before: shards are then written anew."""


@dataclass(frozen=True)
class Shard:
    """One shard to be: which pieces, (n, 3) rows of (trajectory, first frame, end of frames), of which input."""

    entry: str
    split: str
    part: Part
    pieces: np.ndarray
    path: Path
    dtype: str

    @property
    def stored_bytes(self) -> int:
        """Of all its values."""
        num_frames = int(self.pieces[0, 2] - self.pieces[0, 1])
        return len(self.pieces) * trajectory_bytes(self.part.source, num_frames, self.dtype)

    def job(self) -> Job:
        """What a worker must know of it."""
        source = self.part.source
        trajectories, first, stop = self.pieces.T
        times_nt = source.times_nt[trajectories[:, None], first[:, None] + np.arange(stop[0] - first[0])]
        parameters_np = source.parameters_np[trajectories]
        content = (
            *(self.part.digest, source.layout, source.contents, self.entry, self.split, source.fields),
            *(source.parameters, source.grid, source.steady, source.masked, self.dtype),
            *(self.pieces, times_nt, parameters_np),
        )
        return Job(
            path=self.path,
            source=source.path,
            contents=source.contents,
            entry=self.entry,
            split=self.split,
            fields=source.fields,
            parameters=source.parameters,
            grid=source.grid,
            steady=source.steady,
            masked=source.masked,
            dtype=self.dtype,
            pieces=self.pieces,
            times_nt=times_nt,
            parameters_np=parameters_np,
            fingerprint=identity(manifest.FORMAT, READERS, *content),
        )


def trajectory_bytes(source: Source, num_frames: int, dtype: str) -> int:
    """Of the values of `num_frames` frames of all fields."""
    frames = sum(1 if field.static else num_frames for field in source.fields)
    return frames * math.prod(source.grid) * np.dtype(dtype).itemsize


def cut_into_shards(entry: Entry, out: Path, dtype: str, shard_bytes: float) -> Iterator[Shard]:
    """The shards of an entry, of about `shard_bytes` each, in the order of splits, inputs and trajectories."""
    for split, num_frames in entry.num_frames.items():
        number = 0
        for part in entry.parts:
            pieces = part.splits.get(split)
            if pieces is None:
                continue
            size = max(1, int(shard_bytes / trajectory_bytes(part.source, num_frames, dtype)))
            for start in range(0, len(pieces), size):
                path = out / f"{entry.name}-{split}-{number:05d}.tar"
                yield Shard(entry.name, split, part, pieces[start : start + size], path, dtype)
                number += 1
