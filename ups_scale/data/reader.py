"""Reads windows of frames out of shards by byte index: only the frames asked for, each checked against its checksum."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import xxhash

from ups_scale.data.batch import FieldBatch
from ups_scale.data.index import ShardIndex, read_index
from ups_scale.data.manifest import Manifest
from ups_scale.errors import DataError


class DamagedItem(DataError):
    """A frame whose bytes are not those that were written: `shard`, `key` and `reason` say which and why."""

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(f"{shard}: trajectory {key}: {reason}")
        self.shard, self.key, self.reason = shard, key, reason


class ShardReader:
    """Random access to the trajectories of one family and split. Safe to call from several threads.

    Raises:
        DataError: the split has no shards, or an index is missing, damaged or disagrees with the manifest.
    """

    def __init__(self, manifest: Manifest, family: str, split: str) -> None:
        if family not in manifest.families:
            raise DataError(
                f"{manifest.path}: no family {family!r}; it has {', '.join(sorted(manifest.families))}"
            )
        self.data = manifest.families[family]
        self.family, self.split = family, split
        self._folder = manifest.path.parent
        entries = self.data.shards.get(split, ())
        if not entries:
            raise DataError(
                f"{manifest.path}: family {family} has no {split!r} split; it has {', '.join(self.data.splits) or 'none'}"
            )
        self._indices: list[ShardIndex] = []
        for entry in entries:
            path = self._folder / (entry.file + ".idx")
            index = read_index(path)
            if hashlib.sha256(path.read_bytes()).hexdigest() != entry.index_sha256:
                raise DataError(f"{path}: not the index that {manifest.path} lists (SHA-256 differs); make the shards again")
            header, spec = index.header, self.data.spec
            if (header.fields, header.grid, header.num_frames) != (spec.fields, spec.grid, self.data.num_frames):
                raise DataError(f"{path}: fields, grid or frames differ from {manifest.path}; make the shards again")
            self._indices.append(index)
        self._files = [entry.file for entry in entries]
        self.shard_sizes = tuple(index.header.num_trajectories for index in self._indices)
        self._first = np.concatenate([[0], np.cumsum(self.shard_sizes)])
        # One open file per shard, from its first read on; preadv keeps no position, so threads share it.
        self._file = cache(self._open)

    @property
    def num_trajectories(self) -> int:
        return int(self._first[-1])

    def _open(self, shard: int) -> io.FileIO:
        path = self._folder / self._files[shard]
        try:
            return io.FileIO(path)
        except OSError as error:
            raise DataError(f"{path}: the shard can't be opened ({error.strerror}); make the shards again") from None

    def locate(self, trajectory: int) -> tuple[int, int]:
        """(shard, row in the shard) of a trajectory counted over all shards of the split."""
        shard = int(np.searchsorted(self._first, trajectory, side="right")) - 1
        return shard, trajectory - int(self._first[shard])

    def read_window(self, trajectory: int, first_frame: int, out_ctx: np.ndarray) -> None:
        """Reads frames first_frame .. first_frame + T - 1 of a trajectory into `out_ctx`, (C, T, *grid) float32.

        Raises:
            DamagedItem: a frame's bytes do not match its checksum, or the shard ends early.
        """
        shard, row = self.locate(trajectory)
        index = self._indices[shard]
        header, frame_bytes = index.header, index.header.frame_bytes
        num_frames = out_ctx.shape[1]
        if first_frame < 0 or first_frame + num_frames > header.num_frames:
            raise DataError(
                f"{self._files[shard]}: frames {first_frame} to {first_frame + num_frames - 1} asked of a trajectory "
                f"with {header.num_frames}"
            )
        descriptor = self._file(shard).fileno()
        for field in range(len(header.fields)):
            target = memoryview(out_ctx[field]).cast("B")
            offset = int(index.offsets_nc[row, field]) + first_frame * frame_bytes
            read = 0
            while read < len(target):
                count = os.preadv(descriptor, [target[read:]], offset + read)
                if count == 0:
                    raise DamagedItem(self._files[shard], header.keys[row], f"the file ends at byte {offset + read}")
                read += count
            expected = index.checksums_nct[row, field, first_frame : first_frame + num_frames]
            for frame in range(num_frames):
                found = xxhash.xxh3_64_intdigest(target[frame * frame_bytes : (frame + 1) * frame_bytes])
                if found != int(expected[frame]):
                    name = header.fields[field]
                    reason = f"field {name}, frame {first_frame + frame}: checksum {found:016x}, expected {int(expected[frame]):016x}"
                    raise DamagedItem(self._files[shard], header.keys[row], reason)

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
        u_bctx = np.empty((len(indices), len(spec.fields), num_frames, *spec.grid), np.float32)
        for row, (trajectory, first_frame) in enumerate(zip(indices, first_frames, strict=True)):
            self.read_window(trajectory, first_frame, u_bctx[row])
        return self.batch(indices, u_bctx)

    def batch(self, indices: Sequence[int], u_bctx: np.ndarray) -> FieldBatch:
        """The `FieldBatch` of windows already read, `u_bctx` (B, C, T, *grid) float32 (shared, not copied)."""
        described = [self.describe(trajectory) for trajectory in indices]
        parameters = np.array([values for _, values in described], np.float32).reshape(len(indices), -1)
        return FieldBatch(
            family=self.family,
            u_btcx=torch.from_numpy(u_bctx).transpose(1, 2),
            parameters_bp=torch.from_numpy(parameters),
            dt_b=torch.full((len(indices),), self.data.dt),
            keys=tuple(key for key, _ in described),
        )
