"""The stream of micro-batches of one rank: the plan's windows, read ahead by threads, with exact state.

    plan.draws(state, horizon) -> chunk(draw, rank) -> ShardReader.read_window -> FieldBatch -> (batch, state after it)

Threads, not processes: between processes the copies cost more than the reading (docs/data.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ups_scale.data.batch import FieldBatch
from ups_scale.data.plan import Chunk, Plan, PlanState, chunk
from ups_scale.data.reader import DamagedItem, ShardReader, empty_windows
from ups_scale.errors import DataError

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
) -> Generator[MicroBatch, None, None]:
    """Yields this rank's micro-batches from `state` until before step `stop_step`, in the plan's order.

    `parts` is the number of microsteps per draw; `threads` read up to `prefetch` micro-batches ahead (0: read when
    asked). The order and the content depend on neither.

    Raises:
        DataError: a window and `MAX_ATTEMPTS` - 1 replacements of it are all damaged.
        RecipeError: a draw has fewer windows than ranks x parts.
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
                        plan, readers[item.draw.family], item, context_frames, step, microstep, after
                    )
            now = after

    if threads == 0:
        for task in tasks():
            yield task()
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="reader") as pool:
        ahead: deque[Future[MicroBatch]] = deque()
        try:
            for task in tasks():
                ahead.append(pool.submit(task))
                if len(ahead) > prefetch:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _read(
    plan: Plan, reader: ShardReader, item: Chunk, context_frames: int, step: int, microstep: int, after: PlanState
) -> MicroBatch:
    draw, spec = item.draw, reader.data.spec
    num_frames = context_frames + draw.horizon
    u_bctx = empty_windows(len(item.numbers), len(spec.fields), num_frames, spec.grid)
    trajectories, damaged = [], []
    for row, number in enumerate(item.numbers):
        for attempt in range(MAX_ATTEMPTS):
            trajectory, first_frame = plan.window(draw, number, attempt)
            try:
                reader.read_window(trajectory, first_frame, u_bctx[row])
            except DamagedItem as error:
                damaged.append(error)
                continue
            trajectories.append(trajectory)
            break
        else:
            listed = "\n  ".join(str(error) for error in damaged[-MAX_ATTEMPTS:])
            raise DataError(
                f"family {draw.family}: {MAX_ATTEMPTS} reads in a row found damage; run tools/shard.py again, which "
                f"rewrites the damaged shards:\n  {listed}"
            )
    batch = reader.batch(trajectories, u_bctx)
    return MicroBatch(batch, item.weight, draw.horizon, step, microstep, after, tuple(damaged))
