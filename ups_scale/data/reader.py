"""Reads windows of frames out of shards by byte index: only the frames asked for, each checked against its checksum."""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from stat import S_ISREG

import numpy as np
import torch

from ups_scale.data.batch import FieldBatch
from ups_scale.data.buffers import empty_windows
from ups_scale.data.cache import OPEN_SHARDS, Cache, PinnedFile
from ups_scale.data.frames import DamagedFrame, OpenShard, ShardFrames
from ups_scale.data.index import ShardIndex, parse_index
from ups_scale.data.manifest import Manifest, ShardEntry
from ups_scale.data.patience import SHORTAGES, patiently
from ups_scale.data.remote import LostFile, RemoteFile, Unreachable
from ups_scale.data.store import RemoteStore
from ups_scale.errors import DataError

# How often, and after which pauses in s, a read that the system fails is tried again, with a file opened anew.
_PAUSES_S = (0.05, 0.5)


@lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(path: str, identity: tuple[int, ...]) -> OpenShard:
    """The open file at `path`; `identity` tells a file from one that had its name before.

    Threads share open files, as preadv keeps no position. One that is dropped here while a thread reads from it is
    closed when that thread lets go of it.
    """
    return patiently(lambda: OpenShard(path))


class DamagedItem(DataError):
    """A frame that can't be had as it was written, or a whole shard.

    Attributes:
        family, shard: where; `shard` is the name of its file.
        key: name of the trajectory; empty if the whole shard can't be read.
        trajectory: its number over all shards of the split.
        frame: number of the frame, 0 of a static field; None if the whole shard can't be read.
        static: it is of a static field, which every window of the trajectory has.
        reason: what was found.
    """

    def __init__(
        self, family: str, shard: str, key: str, trajectory: int, frame: int | None, reason: str, static: bool = False
    ) -> None:
        place = f"{shard}: " if frame is None else f"{shard}: trajectory {key}, frame {frame}: "
        super().__init__(f"{place}{reason}; tools/shard.py, run again as before, writes it anew")
        self.family, self.shard, self.key = family, shard, key
        self.trajectory, self.frame, self.reason, self.static = trajectory, frame, reason, static

    def __reduce__(self) -> tuple[type[DamagedItem], tuple[str, str, str, int, int | None, str, bool]]:
        # An exception is pickled by its message alone; ranks send theirs to each other.
        return DamagedItem, (self.family, self.shard, self.key, self.trajectory, self.frame, self.reason, self.static)


class ShardReader:
    """Random access to the trajectories of one family and split. Safe to call from several threads.

    Attributes:
        data, family, split: what is read.
        shard_sizes: number of trajectories per shard.
        num_frames: of every trajectory.
        broken_shards: what is wrong with each shard that can't be read at all, by its file; empty if `strict`.
        remote: the files of the shards if they lie elsewhere, else empty; then what is read is their copies in `cache`.

    With `strict=False` such shards are no error until one of their trajectories is asked for: a `DamagedItem`, whose
    frame is None.

    Raises:
        DataError: no such family or split; or, if `strict`, shards or their indices are missing, damaged or disagree
            with the manifest: the message lists them all. `Unreachable`, `strict` or not: the server can't be asked.
    """

    def __init__(self, manifest: Manifest, family: str, split: str, *, strict: bool = True) -> None:
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
        self.num_frames = self.data.num_frames[split]
        self.shard_sizes = tuple(entry.trajectories for entry in entries)
        self.broken_shards: dict[str, str] = {}
        self._files = [entry.file for entry in entries]
        self._first = [0, *accumulate(self.shard_sizes)]
        self._shards: list[ShardFrames | None] = []
        store = manifest.store
        self.remote: tuple[RemoteFile, ...] = ()
        self.cache: Cache | None = None
        if isinstance(store, RemoteStore):
            self.remote, self.cache = tuple(map(store.shard, entries)), store.cache
            store.fetch_indices(entries)
        for entry in entries:
            path = store.place(entry.file)
            try:
                identity = _identity(Path(path), entry, manifest) if self.cache is None else ()
                index = self._index(entry, manifest)
                self._shards.append(ShardFrames(path, identity, index, self.data.spec.masked))
            except Unreachable:
                raise
            except DataError as error:
                self._shards.append(None)
                self.broken_shards[entry.file] = str(error)
        if strict and self.broken_shards:
            raise DataError("\n".join(self.broken_shards.values()))

    @property
    def num_trajectories(self) -> int:
        return self._first[-1]

    def locate(self, trajectory: int) -> tuple[int, int]:
        """(shard, row in the shard) of a trajectory counted over all shards of the split."""
        if not 0 <= trajectory < self._first[-1]:
            raise DataError(
                f"trajectory {trajectory} asked of family {self.family}, split {self.split}, which has "
                f"{self.num_trajectories}"
            )
        shard = bisect_right(self._first, trajectory) - 1
        return shard, trajectory - self._first[shard]

    def read_window(self, trajectory: int, frames: Sequence[int], out_ctx: np.ndarray) -> None:
        """Reads these frames of a trajectory into `out_ctx`, (C, T, *grid) float32, as they are stored: NaN where a
        masked family has no value. The one frame of a static field stands at all T places.

        `frames` are T numbers in any order; consecutive ones, a range of step 1, are read at once.

        Raises:
            DamagedItem: a frame's bytes do not match its checksum or can't be read, or its values are not finite (in a
                masked family: infinite); the first such frame of the window. Or the whole shard can't be read.
            DataError: no such trajectory or frames; or a server does not give the shard, or the cache can't keep it.
        """
        number, row = self.locate(trajectory)
        shard = self._shards[number]
        spec = self.data.spec
        assert out_ctx.shape == (len(spec.fields), len(frames), *spec.grid)
        assert out_ctx.dtype == np.float32
        assert out_ctx.flags.c_contiguous
        if not frames or min(frames) < 0 or max(frames) >= self.num_frames:
            raise DataError(
                f"{self._files[number]}: frames {_text(frames)} asked of a trajectory with {self.num_frames}"
            )
        if shard is None:
            raise self._whole(number, trajectory, self.broken_shards[self._files[number]])
        for pause in (*_PAUSES_S, None):
            try:
                shard.read(self._open(number, shard), row, frames, out_ctx)
                return
            except LostFile as error:
                raise self._whole(number, trajectory, str(error)) from None
            except OSError as error:
                if error.errno in SHORTAGES:
                    raise DataError(
                        f"{shard.path}: can't be opened ({error.strerror}); raise the limit on open files (ulimit -n) "
                        "or free memory"
                    ) from None
                raise self._whole(number, trajectory, f"the shard can't be opened ({error.strerror})") from None
            except DamagedFrame as error:
                if self.cache is not None and pause is not None and not self.cache.is_sound(self.remote[number]):
                    continue
                if error.by_system and pause is not None:
                    _open_shard.cache_clear()  # the open file may be stale
                    time.sleep(pause)
                    continue
                name, key = self._files[number], shard.keys[row]
                raise DamagedItem(self.family, name, key, trajectory, error.frame, error.reason, error.static) from None

    def describe(self, trajectory: int) -> tuple[str, np.ndarray]:
        """(key, parameters (P,) float64) of a trajectory; raises a `DamagedItem` if its index can't be read."""
        shard, row = self._described(trajectory)
        return shard.keys[row], shard.index.parameters_np[row]

    def read(self, indices: Sequence[int], first_frames: Sequence[int], num_frames: int, stride: int = 1) -> FieldBatch:
        """A batch of windows of `num_frames` frames `stride` apart, one per (trajectory, first frame); in a steady
        family, whatever the first frame, of the given fields `num_frames` - 1 times and the solution.

        Raises:
            DamagedItem, DataError: see `read_window`.
        """
        spec = self.data.spec
        for trajectory in indices:
            self._described(trajectory)  # before memory is asked for, of a size that a damaged shard may state
        frames: list[Sequence[int]] = [
            (0,) * (num_frames - 1) + (1,) if spec.steady else range(first, first + stride * num_frames, stride)
            for first in first_frames
        ]
        u_bctx = empty_windows(len(indices), len(spec.fields), num_frames, spec.grid)
        for row, (trajectory, window) in enumerate(zip(indices, frames, strict=True)):
            self.read_window(trajectory, window, u_bctx[row])
        return self.batch(indices, frames, u_bctx)

    def times_between(self, indices: Sequence[int], num_frames: int) -> torch.Tensor:
        """(B, num_frames - 1) float32: the time from each of a trajectory's first frames to the next in s; NaN if the
        family is steady. No frame is read.

        Raises:
            DamagedItem, DataError: a trajectory's index can't be read.
        """
        times_bt = np.empty((len(indices), num_frames))
        for place, trajectory in enumerate(indices):
            shard, row = self._described(trajectory)
            times_bt[place] = np.nan if self.data.spec.steady else shard.index.times_nt[row, :num_frames]
        return torch.from_numpy(np.diff(times_bt).astype(np.float32))

    def batch(self, indices: Sequence[int], frames: Sequence[Sequence[int]], u_bctx: np.ndarray) -> FieldBatch:
        """The `FieldBatch` of windows already read: `frames` of each trajectory, in `u_bctx` (B, C, T, *grid) float32.

        The batch shares `u_bctx`. In a masked family, what has no value is filled in there.
        """
        spec = self.data.spec
        keys, parameters_bp = [], np.empty((len(indices), len(spec.parameters)), np.float32)
        times_bt = np.empty((len(indices), u_bctx.shape[2]))
        for place, (trajectory, window) in enumerate(zip(indices, frames, strict=True)):
            shard, row = self._described(trajectory)
            keys.append(shard.keys[row])
            parameters_bp[place] = shard.index.parameters_np[row]
            times_bt[place] = shard.index.times_nt[row, window]
        dt_bt = np.diff(times_bt).astype(np.float32)  # taken in float64: times may be large
        u_btcx = torch.from_numpy(u_bctx).transpose(1, 2)
        mask_btcx = None
        if spec.masked:
            mask_bctx = np.isfinite(u_bctx)
            for field, mean in enumerate(self.data.statistics["u"]["mean"]):
                np.copyto(u_bctx[:, field], np.float32(mean), where=~mask_bctx[:, field])
            mask_btcx = torch.from_numpy(mask_bctx).transpose(1, 2)
        return FieldBatch(
            family=self.family,
            u_btcx=u_btcx,
            parameters_bp=torch.from_numpy(parameters_bp),
            dt_bt=torch.from_numpy(dt_bt),
            keys=tuple(keys),
            mask_btcx=mask_btcx,
        )

    def _described(self, trajectory: int) -> tuple[ShardFrames, int]:
        number, row = self.locate(trajectory)
        shard = self._shards[number]
        if shard is None:
            raise self._whole(number, trajectory, self.broken_shards[self._files[number]])
        return shard, row

    def _whole(self, number: int, trajectory: int, reason: str) -> DamagedItem:
        return DamagedItem(self.family, self._files[number], "", trajectory, None, reason)

    def _open(self, number: int, shard: ShardFrames) -> OpenShard | PinnedFile:
        if self.cache is None:
            return _open_shard(shard.path, shard.identity)
        return self.cache.open(self.remote[number])

    def _index(self, entry: ShardEntry, manifest: Manifest) -> ShardIndex:
        """The index of a shard, if it is what the manifest lists."""
        again = "run tools/shard.py again"
        path, spec = manifest.store.place(f"{entry.file}.idx"), self.data.spec
        raw = manifest.store.read_index(entry)
        index = parse_index(raw, path)
        if hashlib.sha256(raw).hexdigest() != entry.index_sha256:
            raise DataError(f"{path}: not the index that {manifest.path} lists (SHA-256 differs); {again}")
        header = index.header
        for what, found, expected in (
            ("shard", header.shard, entry.file),
            ("bytes", header.shard_bytes, entry.bytes),
            ("family", header.family, self.family),
            ("split", header.split, self.split),
            ("fields", header.fields, spec.fields),
            ("static fields", header.static, spec.static),
            ("parameters", header.parameters, spec.parameters),
            ("grid", header.grid, spec.grid),
            ("frames", header.num_frames, self.num_frames),
            ("trajectories", header.num_trajectories, entry.trajectories),
        ):
            if found != expected:
                raise DataError(f"{path}: {what} {found!r}, {manifest.path} says {expected!r}; {again}")
        times_nt = index.times_nt
        if spec.steady and not np.isnan(times_nt).all():
            raise DataError(f"{path}: states times, though {manifest.path} says the family is steady; {again}")
        if not spec.steady and not (np.isfinite(times_nt).all() and (np.diff(times_nt) > 0).all()):
            raise DataError(f"{path}: the times of a trajectory's frames are not finite and increasing; {again}")
        return index


def _identity(shard: Path, entry: ShardEntry, manifest: Manifest) -> tuple[int, ...]:
    """What tells the file from another of its name, if it is there and of the size that the manifest lists."""
    again = "run tools/shard.py again"
    try:
        status = patiently(shard.stat)
    except FileNotFoundError:
        raise DataError(f"{shard}: no such shard, though {manifest.path} lists it; {again}") from None
    except OSError as error:
        raise DataError(f"{shard}: the shard can't be read ({error.strerror}); {again}") from None
    if not S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise DataError(f"{shard}: not a file, though {manifest.path} lists it as a shard; {again}")
    if status.st_size != entry.bytes:
        raise DataError(
            f"{shard}: {status.st_size:,} bytes, {manifest.path} says {entry.bytes:,}; copy it again, or {again}"
        )
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _text(frames: Sequence[int]) -> str:
    """Frame numbers for a message."""
    return f"{frames[0]} to {frames[-1]}" if isinstance(frames, range) and frames else str(list(frames))
