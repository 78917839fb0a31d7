"""Reads windows of frames out of shards by byte index: only the frames asked for, each checked against its checksum."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
import xxhash

from ups_scale.data.batch import FieldBatch
from ups_scale.data.index import ShardIndex, parse_index, read_raw
from ups_scale.data.manifest import Manifest, ShardEntry
from ups_scale.errors import DataError

# Files a reader keeps open. Data sets have more shards than a process may have open files (often 1024).
OPEN_SHARDS = 64


class DamagedItem(DataError):
    """A frame whose bytes are not those that were written: `shard`, `key` and `reason` say which and why."""

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(f"{shard}: trajectory {key}: {reason}; tools/shard.py, run again as before, writes it anew")
        self.shard, self.key, self.reason = shard, key, reason

    def __reduce__(self) -> tuple[type[DamagedItem], tuple[str, str, str]]:
        # An exception is pickled by its message alone; ranks send theirs to each other.
        return DamagedItem, (self.shard, self.key, self.reason)


class _OpenShard:
    """A file descriptor that is closed when nobody holds this object any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"{path}: the shard can't be opened ({error.strerror}); run tools/shard.py again") from None

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def empty_windows(num: int, num_fields: int, num_frames: int, grid: Sequence[int]) -> np.ndarray:
    """(B, C, T, *grid) float32, not initialised; in pinned memory where there is a GPU to copy to."""
    shape = (num, num_fields, num_frames, *grid)
    return torch.empty(shape, dtype=torch.float32, pin_memory=torch.cuda.is_available()).numpy()


class ShardReader:
    """Random access to the trajectories of one family and split. Safe to call from several threads.

    Raises:
        DataError: the split has no shards, or an index is missing, damaged or disagrees with the manifest.
    """

    def __init__(self, manifest: Manifest, family: str, split: str) -> None:
        if family not in manifest.families:
            raise DataError(f"{manifest.path}: no family {family!r}; it has {', '.join(sorted(manifest.families))}")
        self.data = manifest.families[family]
        self.family, self.split = family, split
        entries = self.data.shards.get(split, ())
        if not entries:
            raise DataError(
                f"{manifest.path}: family {family} has no {split!r} split; it has "
                f"{', '.join(self.data.splits) or 'none'}"
            )
        self._indices: list[ShardIndex] = []
        for entry in entries:
            shard = manifest.path.parent / entry.file
            path = shard.with_name(shard.name + ".idx")
            if not shard.is_file():
                raise DataError(f"{shard}: no such shard, though {manifest.path} lists it; run tools/shard.py again")
            self._indices.append(_index(path, entry, manifest))
            header, spec = self._indices[-1].header, self.data.spec
            if (header.fields, header.parameters, header.grid, header.num_frames, header.num_trajectories) != (
                *(spec.fields, spec.parameters, spec.grid, self.data.num_frames, entry.trajectories),
            ):
                raise DataError(
                    f"{path}: fields, parameters, grid, frames or number of trajectories differ from {manifest.path}; "
                    "run tools/shard.py again"
                )
        self._files = [entry.file for entry in entries]
        self._paths = [manifest.path.parent / file for file in self._files]
        self.shard_sizes = tuple(index.header.num_trajectories for index in self._indices)
        self._first = [0, *accumulate(self.shard_sizes)]
        # Threads share open files, as preadv keeps no position. One that is dropped here while a thread reads from it
        # is closed when that thread lets go of it.
        self._open = lru_cache(maxsize=OPEN_SHARDS)(_OpenShard)

    @property
    def num_trajectories(self) -> int:
        return self._first[-1]

    def locate(self, trajectory: int) -> tuple[int, int]:
        """(shard, row in the shard) of a trajectory counted over all shards of the split."""
        if not 0 <= trajectory < self.num_trajectories:
            raise DataError(
                f"trajectory {trajectory} asked of family {self.family}, split {self.split}, which has "
                f"{self.num_trajectories}"
            )
        shard = bisect_right(self._first, trajectory) - 1
        return shard, trajectory - self._first[shard]

    def read_window(self, trajectory: int, first_frame: int, out_ctx: np.ndarray) -> None:
        """Reads frames first_frame .. first_frame + T - 1 of a trajectory into `out_ctx`, (C, T, *grid) float32.

        Raises:
            DamagedItem: a frame's bytes do not match its checksum, or can't be read, or the shard ends early.
            DataError: no such trajectory or frames, or the shard can't be opened.
        """
        shard, row = self.locate(trajectory)
        index = self._indices[shard]
        header, frame_bytes = index.header, index.header.frame_bytes
        num_frames = out_ctx.shape[1]
        assert out_ctx.shape == (len(header.fields), num_frames, *header.grid)
        assert out_ctx.dtype == np.float32
        if first_frame < 0 or num_frames < 1 or first_frame + num_frames > header.num_frames:
            raise DataError(
                f"{self._files[shard]}: frames {first_frame} to {first_frame + num_frames - 1} asked of a trajectory "
                f"with {header.num_frames}"
            )
        file = self._open(self._paths[shard])
        for field, name in enumerate(header.fields):
            target = memoryview(out_ctx[field]).cast("B")
            offset = int(index.offsets_nc[row, field]) + first_frame * frame_bytes
            try:
                _read_at(file.descriptor, offset, target)
            except (EOFError, OSError) as error:
                reason = f"field {name}, frames {first_frame} to {first_frame + num_frames - 1} can't be read: {error}"
                raise DamagedItem(self._files[shard], header.keys[row], reason) from None
            expected = index.checksums_nct[row, field, first_frame : first_frame + num_frames].tolist()
            for frame in range(num_frames):
                found = xxhash.xxh3_64_intdigest(target[frame * frame_bytes : (frame + 1) * frame_bytes])
                if found != expected[frame]:
                    reason = f"checksum {found:016x}, expected {expected[frame]:016x}"
                    place = f"field {name}, frame {first_frame + frame}"
                    raise DamagedItem(self._files[shard], header.keys[row], f"{place}: {reason}")

    def describe(self, trajectory: int) -> tuple[str, np.ndarray]:
        """(key, parameters (P,) float64) of a trajectory."""
        shard, row = self.locate(trajectory)
        return self._indices[shard].header.keys[row], self._indices[shard].parameters_np[row]

    def read(self, indices: Sequence[int], first_frames: Sequence[int], num_frames: int) -> FieldBatch:
        """A batch of windows of `num_frames` frames, one per (trajectory, first frame).

        Raises:
            DamagedItem: see `read_window`.
        """
        spec = self.data.spec
        u_bctx = empty_windows(len(indices), len(spec.fields), num_frames, spec.grid)
        for row, (trajectory, first_frame) in enumerate(zip(indices, first_frames, strict=True)):
            self.read_window(trajectory, first_frame, u_bctx[row])
        return self.batch(indices, u_bctx)

    def batch(self, indices: Sequence[int], u_bctx: np.ndarray) -> FieldBatch:
        """The `FieldBatch` of windows already read, `u_bctx` (B, C, T, *grid) float32 (shared, not copied)."""
        described = [self.describe(trajectory) for trajectory in indices]
        parameters = np.array([values for _, values in described], np.float32)
        parameters = parameters.reshape(len(indices), len(self.data.spec.parameters))
        return FieldBatch(
            family=self.family,
            u_btcx=torch.from_numpy(u_bctx).transpose(1, 2),
            parameters_bp=torch.from_numpy(parameters),
            dt_b=torch.full((len(indices),), self.data.dt, dtype=torch.float32),
            keys=tuple(key for key, _ in described),
        )


def _index(path: Path, entry: ShardEntry, manifest: Manifest) -> ShardIndex:
    """The index at `path`, if it is the one that the manifest lists."""
    raw = read_raw(path)
    index = parse_index(raw, path)
    if hashlib.sha256(raw).hexdigest() != entry.index_sha256:
        raise DataError(f"{path}: not the index that {manifest.path} lists (SHA-256 differs); run tools/shard.py again")
    return index


def _read_at(descriptor: int, offset: int, target: memoryview) -> None:
    """Fills `target` from `offset` on."""
    read = 0
    while read < len(target):
        count = os.preadv(descriptor, [target[read:]], offset + read)
        if count == 0:
            raise EOFError(f"the file ends at byte {offset + read}")
        read += count
