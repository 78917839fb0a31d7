"""The stream of micro-batches of one rank: the plan's windows, read ahead by threads, with exact state.

    plan.draws(state, horizon) -> chunk(draw, rank) -> plan.window -> ShardReader.read_window -> FieldBatch
         |                                                  ^--- damaged: the next ---'
         '-> Prefetch: shards that lie elsewhere -> Cache

Threads, not processes: between processes the copies cost more than the reading (docs/data.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass

import numpy as np

from ups_scale.data.batch import FieldBatch
from ups_scale.data.buffers import empty_windows
from ups_scale.data.plan import Chunk, Draw, Plan, PlanState, chunk
from ups_scale.data.prefetch import Prefetch
from ups_scale.data.quarantine import Quarantine
from ups_scale.data.reader import DamagedItem, ShardReader
from ups_scale.errors import DataError

# Reads in a row that find damage, after which a window is given up if more is known to be damaged than may be: waiting
# for the next log line would be to read on from a storage that fails.
MAX_ATTEMPTS = 8


@dataclass(frozen=True)
class MicroBatch:
    """One rank's part of one microstep. `state` is the plan's state after the optimizer step it belongs to;
    `quarantined` are the damaged items met while reading it, each replaced by another of its family."""

    batch: FieldBatch
    weight: float
    horizon: int
    step: int
    microstep: int
    state: PlanState
    quarantined: tuple[DamagedItem, ...]


def stream(
    plan: Plan,
    readers: Mapping[str, ShardReader],
    quarantine: Quarantine,
    state: PlanState,
    *,
    stop_step: int,
    horizon_at: Callable[[int], int],
    context_frames: int,
    rank: int,
    world_size: int,
    parts: int,
    threads: int,
    prefetch: int,
    ahead: Prefetch | None = None,
) -> Generator[MicroBatch, None, None]:
    """Yields this rank's micro-batches from `state` until before step `stop_step`, in the plan's order.

    `parts` is the number of microsteps per draw; `threads` read up to `prefetch` micro-batches ahead (0: read when
    asked). The order and the content depend on neither, nor on what `quarantine` knows. It learns of all damage that is
    found, and is to account for it where the micro-batch is used. Shards that lie elsewhere are downloaded by `ahead`,
    which ends with the stream, before they are needed; without it, when they are.

    Raises:
        DataError: `MAX_ATTEMPTS` reads in a row found damage, and more than the quarantine's share of the family is
            known to be damaged, or all of it is; or a server does not give a shard. At the micro-batch that it
            concerns, after those before it.
    """

    def tasks() -> Iterator[Callable[[], MicroBatch]]:
        now = state
        while now.step < stop_step:
            draws, after = plan.draws(now, horizon_at(now.step))
            for number, draw in enumerate(draws):
                for part in range(parts):
                    item = chunk(draw, rank, world_size, part, parts)
                    microstep = number * parts + part
                    yield lambda item=item, step=now.step, microstep=microstep, after=after: _read(  # type: ignore[misc]
                        plan, readers[item.draw.family], quarantine, item, context_frames, step, microstep, after
                    )
            now = after

    downloading = ahead.running(state, stop_step, horizon_at) if ahead else nullcontext()
    with downloading, closing(_in_order(tasks(), threads, prefetch, ahead)) as micros:
        reached = state
        for micro in micros:
            if ahead and micro.step >= reached.step:
                ahead.reached(reached)
            reached = micro.state
            yield micro


def _in_order(
    tasks: Iterator[Callable[[], MicroBatch]], threads: int, prefetch: int, ahead: Prefetch | None
) -> Generator[MicroBatch, None, None]:
    """The results of `tasks` in their order."""
    if threads == 0:
        for task in tasks:
            yield task()
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="reader") as pool:
        coming: deque[Future[MicroBatch]] = deque()
        try:
            for task in tasks:
                coming.append(pool.submit(task))
                if len(coming) > prefetch:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
            if ahead:
                ahead.close()  # before the threads are waited for: they may be waiting for a server


def _read(
    plan: Plan,
    reader: ShardReader,
    quarantine: Quarantine,
    item: Chunk,
    context_frames: int,
    step: int,
    microstep: int,
    after: PlanState,
) -> MicroBatch:
    draw, spec = item.draw, reader.data.spec
    u_bctx = empty_windows(len(item.numbers), len(spec.fields), context_frames + draw.horizon, spec.grid)
    trajectories, windows, damaged = [], [], []
    for number, out_ctx in zip(item.numbers, u_bctx, strict=True):
        trajectory, frames, met = _read_whole(plan, reader, quarantine, draw, number, out_ctx)
        trajectories.append(trajectory)
        windows.append(frames)
        damaged += met
    batch = reader.batch(trajectories, windows, u_bctx)
    return MicroBatch(batch, item.weight, draw.horizon, step, microstep, after, tuple(damaged))


def _read_whole(
    plan: Plan, reader: ShardReader, quarantine: Quarantine, draw: Draw, number: int, out_ctx: np.ndarray
) -> tuple[int, Sequence[int], list[DamagedItem]]:
    """Reads the first of a window and its replacements that is whole into `out_ctx`; returns its trajectory, its
    frames, and what is wrong with those before it."""
    damaged: list[DamagedItem] = []
    reads = 0
    for attempt in range(plan.num_trajectories(draw.family) + MAX_ATTEMPTS):
        trajectory, frames = plan.window(draw, number, attempt)
        known = quarantine.find(draw.family, trajectory, frames)
        if known is not None:
            damaged.append(known)
            continue
        try:
            reader.read_window(trajectory, frames, out_ctx)
        except DamagedItem as error:
            damaged.append(quarantine.learn(error))
            reads += 1
            if reads >= MAX_ATTEMPTS and quarantine.exceeded(draw.family):
                break
            continue
        return trajectory, frames, damaged
    listed = "\n  ".join(dict.fromkeys(str(error) for error in damaged[-MAX_ATTEMPTS:]))
    raise DataError(
        f"family {draw.family}: {len(damaged)} windows in a row are damaged, {reads} of them found just now; run "
        f"tools/shard.py again, which rewrites the damaged shards, and resume:\n  {listed}"
    )
