"""A reader without files, whose values say which trajectory and frame they are, and whose damage is as told."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from types import SimpleNamespace

import numpy as np
import torch

from ups_scale.data.batch import FieldBatch
from ups_scale.data.loader import MicroBatch
from ups_scale.data.reader import DamagedItem


class FakeReader:
    """What the stream asks of a `ShardReader`.

    Args:
        shard_sizes: trajectories per shard.
        damaged: (trajectory, frame) that reading refuses.
        broken: shards that can't be opened, by number.
        seconds: that reading a window takes, at most.
    """

    def __init__(
        self,
        family: str = "waves",
        shard_sizes: Sequence[int] = (6, 6, 6),
        num_frames: int = 12,
        steady: bool = False,
        damaged: Collection[tuple[int, int]] = (),
        broken: Collection[int] = (),
        seconds: float = 0,
    ) -> None:
        self.family, self.split, self.shard_sizes, self.num_frames = family, "train", tuple(shard_sizes), num_frames
        self.num_trajectories = sum(shard_sizes)
        self.damaged, self.seconds = set(damaged), seconds
        files = [f"{family}-train-{number:05d}.tar" for number in range(len(shard_sizes))]
        self._files = [file for file, size in zip(files, shard_sizes, strict=True) for _ in range(size)]
        self.broken_shards = {files[number]: f"/data/{files[number]}: no such shard" for number in broken}
        entries = [SimpleNamespace(file=f, trajectories=n) for f, n in zip(files, shard_sizes, strict=True)]
        spec = SimpleNamespace(fields=("u",), grid=(1,), steady=steady, parameters=())
        self.data = SimpleNamespace(spec=spec, shards={"train": entries})
        self.reads: list[tuple[int, tuple[int, ...]]] = []

    def read_window(self, trajectory: int, frames: Sequence[int], out_ctx: np.ndarray) -> None:
        time.sleep(self.seconds * (hash((trajectory, *frames)) % 7) / 7)
        self.reads.append((trajectory, tuple(frames)))
        file = self._files[trajectory]
        if file in self.broken_shards:
            raise DamagedItem(self.family, file, "", trajectory, None, self.broken_shards[file])
        for frame in frames:
            if (trajectory, frame) in self.damaged:
                raise DamagedItem(self.family, file, f"key-{trajectory}", trajectory, frame, "field u is torn")
        out_ctx[0, :, 0] = [1000 * trajectory + frame for frame in frames]

    def batch(self, indices: Sequence[int], frames: Sequence[Sequence[int]], u_bctx: np.ndarray) -> FieldBatch:
        batch = len(indices)
        assert [tuple(window) for window in frames] == [tuple(u_tx[:, 0] % 1000) for u_tx in u_bctx[:, 0].astype(int)]
        return FieldBatch(
            self.family,
            torch.from_numpy(u_bctx).transpose(1, 2),
            torch.zeros(batch, 0),
            torch.zeros(batch, u_bctx.shape[2] - 1),
            tuple(f"key-{trajectory}" for trajectory in indices),
        )


def ids(micro: MicroBatch) -> list[tuple[str, int, tuple[int, ...]]]:
    """(family, trajectory, frames) of a micro-batch's windows, out of their values."""
    return [
        (micro.batch.family, codes[0] // 1000, tuple(code % 1000 for code in codes))
        for codes in micro.batch.u_btcx[:, :, 0, 0].int().tolist()
    ]
