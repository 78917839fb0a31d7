"""Reads frames of one shard at their byte offsets and verifies each: its bytes by checksum, its values by a look."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import xxhash

from ups_scale.data.cache import PinnedFile
from ups_scale.data.index import ShardIndex


class DamagedFrame(Exception):
    """`frame` of a trajectory (0 of a `static` field) can't be had as it was written, for `reason`; `by_system`: since
    the system did not read it."""

    def __init__(self, frame: int, reason: str, static: bool, by_system: bool) -> None:
        super().__init__(f"frame {frame}: {reason}")
        self.frame, self.reason, self.static, self.by_system = frame, reason, static, by_system


class OpenShard:
    """A file descriptor that is closed when nobody holds this object any more; an `OSError` if it can't be opened."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class ShardFrames:
    """The frames of one shard, at `path`, by its `index`; `identity` tells the file from another of its name. Safe to
    call from several threads.

    The values of a frame are looked at once: if its checksum holds later, they are what they were then. Looking at them
    every time would cost a fifth of reading them (docs/data.md).
    """

    def __init__(self, path: Path | str, identity: tuple[int, ...], index: ShardIndex, masked: bool) -> None:
        header = index.header
        self.path, self.identity, self.index, self.keys = str(path), identity, index, header.keys
        self._masked = masked
        self._fields = header.fields
        self._static = tuple(name in header.static for name in header.fields)
        self._num_frames, self._frame_bytes = header.num_frames, header.frame_bytes
        self._dtype = np.dtype(header.dtype)
        self._plain = self._dtype == np.float32 and not header.static
        self._offsets: list[list[int]] = index.offsets_nc.tolist()
        self._looked_at = bytearray(header.num_trajectories * header.num_frames)

    def read(self, file: OpenShard | PinnedFile, row: int, frames: Sequence[int], out_ctx: np.ndarray) -> None:
        """Reads these frames of trajectory `row` into `out_ctx`, (C, T, *grid) float32 and contiguous.

        Raises:
            DamagedFrame: the first one in the window's order, whatever was come upon first.
        """
        if self._plain and isinstance(frames, range) and frames.step == 1:
            sound = self._read_run(file.descriptor, row, frames.start, frames.stop, out_ctx)
        else:
            sound = self._read_pieces(file.descriptor, row, frames, out_ctx)
        if not sound:
            self._read_each(file.descriptor, row, frames, out_ctx)

    def _read_run(self, descriptor: int, row: int, first: int, stop: int, out_ctx: np.ndarray) -> bool:
        """Reads consecutive frames, a field at once: the usual way, and the one that must be quick."""
        size = self._frame_bytes
        length, skip, start = (stop - first) * size, first * size, 0
        values, preadv, digest = out_ctx.data.cast("B"), os.preadv, xxhash.xxh3_64_intdigest
        try:
            for offset in self._offsets[row]:
                if preadv(descriptor, (values[start : start + length],), offset + skip) != length:
                    return False
                start += length
        except OSError:
            return False
        expected = self.index.checksums_nct[row, :, first:stop].ravel().tolist()
        if [digest(values[part]) for part in _parts(len(expected), size)] != expected:
            return False
        begin = row * self._num_frames
        if self._looked_at.find(0, begin + first, begin + stop) < 0:
            return True
        return self._look_at(row, range(first, stop), out_ctx)

    def _read_pieces(self, descriptor: int, row: int, frames: Sequence[int], out_ctx: np.ndarray) -> bool:
        """Reads any frames of any shard, runs of consecutive ones at once; widens float16, repeats static fields."""
        size, num = self._frame_bytes, len(frames)
        parts, runs = _parts(num, size), _runs(frames)
        narrow = None if self._dtype == np.float32 else self._narrow(num)
        expected = self.index.checksums_nct[row][:, list(frames)].tolist()
        for field, (offset, static) in enumerate(zip(self._offsets[row], self._static, strict=True)):
            target = out_ctx[field].data.cast("B") if narrow is None else narrow.data.cast("B")
            here = ((0, 0, 1),) if static else runs
            for place, frame, length in here:
                part = slice(place * size, (place + length) * size)
                try:
                    if os.preadv(descriptor, (target[part],), offset + frame * size) != length * size:
                        return False
                except OSError:
                    return False
            read = 1 if static else num
            if [xxhash.xxh3_64_intdigest(target[part]) for part in parts[:read]] != expected[field][:read]:
                return False
            if narrow is not None:
                # By torch: numpy takes six times as long to widen float16.
                wide = torch.from_numpy(out_ctx[field, :read]).view(read, -1)
                wide.copy_(torch.from_numpy(narrow[:read]))
            if static:
                out_ctx[field, 1:] = out_ctx[field, 0]
        return self._look_at(row, frames, out_ctx)

    def _narrow(self, num: int) -> np.ndarray:
        """(F, values of a frame) in the shard's dtype, F >= `num`: this thread's own, used again."""
        values = getattr(_kept, "values", None)
        width = self._frame_bytes // self._dtype.itemsize
        if values is None or values.size < num * width:
            values = _kept.values = np.empty(num * width, self._dtype)
        return values[: num * width].reshape(num, width)

    def _look_at(self, row: int, frames: Sequence[int], out_ctx: np.ndarray) -> bool:
        """Whether the values of these frames, whose checksums hold, are legal."""
        begin = row * self._num_frames
        if all(self._looked_at[begin + frame] for frame in frames):
            return True
        if not self._is_legal(out_ctx):
            return False
        for frame in frames:
            self._looked_at[begin + frame] = 1
        return True

    def _read_each(self, descriptor: int, row: int, frames: Sequence[int], out_ctx: np.ndarray) -> None:
        """Reads frame by frame in the window's order, field by field; raises for the first that is damaged."""
        raw = np.empty(self._frame_bytes, np.uint8)
        values_x = raw.view(self._dtype).reshape(out_ctx.shape[2:])
        for place, frame in enumerate(frames):
            for field, static in enumerate(self._static):
                if place and (static or frame == frames[place - 1]):
                    out_ctx[field, place] = out_ctx[field, place - 1]
                    continue
                stored = 0 if static else frame
                reason, by_system = self._fill(descriptor, row, field, stored, raw)
                if reason is None and not self._is_legal(values_x):
                    reason = "holds infinite values" if self._masked else "holds values that are not finite"
                if reason is not None:
                    raise DamagedFrame(stored, f"field {self._fields[field]} {reason}", static, by_system)
                out_ctx[field, place] = values_x

    def _fill(self, descriptor: int, row: int, field: int, frame: int, raw: np.ndarray) -> tuple[str | None, bool]:
        """Reads one frame of one field into `raw`; returns what is wrong with its bytes, if anything is, and whether it
        is that the system did not give them."""
        try:
            _read_at(descriptor, self._offsets[row][field] + frame * self._frame_bytes, raw.data)
        except (EOFError, OSError) as error:
            return f"can't be read: {error}", isinstance(error, OSError)
        found, expected = xxhash.xxh3_64_intdigest(raw.data), int(self.index.checksums_nct[row, field, frame])
        return (None if found == expected else f"has checksum {found:016x}, expected {expected:016x}"), False

    def _is_legal(self, values: np.ndarray) -> bool:
        """Whether all values are finite; NaN, no value, is legal in a masked family."""
        return not np.isinf(values).any() if self._masked else bool(np.isfinite(values).all())


_kept = threading.local()


def _runs(frames: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """(place in the window, first frame, number) of the runs of consecutive frames."""
    if isinstance(frames, range) and frames.step == 1:
        return ((0, frames.start, len(frames)),)
    return tuple((place, frame, 1) for place, frame in enumerate(frames))


@lru_cache(maxsize=64)
def _parts(num: int, size: int) -> tuple[slice, ...]:
    """Where `num` frames of `size` bytes lie one after another."""
    return tuple(slice(start, start + size) for start in range(0, num * size, size))


def _read_at(descriptor: int, offset: int, target: memoryview) -> None:
    """Fills `target` from `offset` on."""
    read = 0
    while read < len(target):
        count = os.preadv(descriptor, [target[read:]], offset + read)
        if count == 0:
            raise EOFError(f"the file ends at byte {os.fstat(descriptor).st_size}")
        read += count
