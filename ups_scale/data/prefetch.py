"""Downloads the shards that the plan will need, in the order in which it will, while training reads those before them.

    plan.draws, plan.visits -> the next shard -> room beside those that are open? -> Cache.open -> pinned
    the stream is past a shard's last window -> Cache.release

The stream's order does not depend on it: what it fails to bring, the reader that needs it asks for itself.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from ups_scale.data.cache import GIB, LOOK_S, Cache
from ups_scale.data.manifest import Manifest
from ups_scale.data.plan import Plan, PlanState, Visit
from ups_scale.data.reader import ShardReader
from ups_scale.data.remote import RemoteFile
from ups_scale.data.store import RemoteStore

THREADS = 4
SHARE = 0.9
"""Of the cache, that open shards and those to come may take; the rest is for validation and for replacements."""
STEPS = 2000
"""The plan is followed so far ahead of the stream: small data sets would let it be followed for ever."""
CLOSE_S = 1.0


class Prefetch:
    """Follows `plan` over the readers whose shards lie elsewhere. Used by one stream at a time."""

    def __init__(self, plan: Plan, readers: Mapping[str, ShardReader]) -> None:
        self._plan = plan
        self._files = {name: reader.remote for name, reader in readers.items() if reader.remote}
        caches = {reader.cache for reader in readers.values() if reader.cache is not None}
        assert len(caches) == 1, "readers of one manifest"
        self._cache: Cache = caches.pop()
        self._changed = threading.Condition()
        self._walking = threading.Lock()
        self._closed = True
        self._threads: list[threading.Thread] = []

    @contextmanager
    def running(self, state: PlanState, stop_step: int, horizon_at: Callable[[int], int]) -> Iterator[None]:
        """Within it shards are downloaded, from `state` on; `reached` is to be told where the stream is."""
        self._closed, self._state = False, state
        self._coming = _upcoming(self._plan, self._files, state, stop_step, horizon_at)
        self._open: Counter[RemoteFile] = Counter()  # visits of a shard that have begun and not ended
        self._ends: dict[str, list[tuple[int, int, RemoteFile]]] = {name: [] for name in self._files}
        self._bytes = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"prefetch-{number}", daemon=True) for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self.close()

    def reached(self, state: PlanState) -> None:
        """The stream has read all before `state`: shards whose last window is among that are let go of."""
        with self._changed:
            self._state = state
            for name, ends in self._ends.items():
                while ends and ends[0][0] < state.positions[name]:
                    self._end(heapq.heappop(ends)[2])
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the downloads, and the waiting of readers for theirs. One that hangs is not waited for: its thread ends
        with the server's silence, or with the process."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._cache.abandon()
        until = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for file in self._open:
            self._cache.release(file.sha256)

    def _work(self) -> None:
        while True:
            with self._walking:
                file = self._next()
            if file is None:
                return
            # Whatever a protocol's library raises is told where the shard is needed, if it still can't be had.
            with suppress(Exception):
                self._cache.open(file, patient=False)
            with self._changed:
                over = self._closed or file not in self._open
            if over:  # the stream went past it meanwhile
                self._cache.release(file.sha256)

    def _next(self) -> RemoteFile | None:
        """The next shard to download, when there is room for it; None when the stream has ended."""
        for step, visit in self._coming:
            if step > self._state.step + STEPS:
                with self._changed:
                    self._wait(lambda step=step: step <= self._state.step + STEPS)  # type: ignore[misc]
            if self._closed:
                return None
            if visit is None:
                continue
            file = self._files[visit.family][visit.shard]
            size = file.bytes or 0
            with self._changed:
                self._wait(lambda file=file, size=size: file in self._open or self._fits(size))  # type: ignore[misc]
                if self._closed:
                    return None
                if visit.last < self._state.positions[visit.family]:
                    self._cache.release(file.sha256)  # the reader was faster
                    continue
                self._open[file] += 1
                heapq.heappush(self._ends[visit.family], (visit.last, visit.shard, file))
                if self._open[file] > 1:
                    continue
                self._bytes += size
            return file
        with self._changed:
            self._wait(lambda: False)  # what is open may still be in another process's way
        return None

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Until `ready`, or closed. Looks whether another process needs room meanwhile."""
        while not self._closed and not ready():
            self._changed.wait(LOOK_S)
            self._cache.heed()

    def _fits(self, size: int) -> bool:
        return not self._open or self._bytes + size <= SHARE * self._cache.max_bytes

    def _end(self, file: RemoteFile) -> None:
        self._open[file] -= 1
        if not self._open[file]:
            del self._open[file]
            self._bytes -= file.bytes or 0
            self._cache.release(file.sha256)


def _upcoming(
    plan: Plan,
    files: Mapping[str, tuple[RemoteFile, ...]],
    state: PlanState,
    stop_step: int,
    horizon_at: Callable[[int], int],
) -> Iterator[tuple[int, Visit | None]]:
    """(step, visit) in the order in which shards are needed first; (step, None) before those of every step."""
    visits = {name: plan.visits(name, state.positions[name]) for name in files}
    heads = {name: next(of_family) for name, of_family in visits.items()}
    while state.step < stop_step:
        yield state.step, None
        draws, after = plan.draws(state, horizon_at(state.step))
        for draw in draws:
            while draw.family in heads and heads[draw.family].first < draw.first + draw.num_windows:
                yield state.step, heads[draw.family]
                heads[draw.family] = next(visits[draw.family])
        state = after


def unmet_room(manifest: Manifest, shuffle_shards: int) -> str | None:
    """What is wrong with the size of the cache, if the data set lies elsewhere and its open shards don't fit into it:
    `shuffle_shards` of every family that is trained on, and one more that comes in place of one of them."""
    store = manifest.store
    if not isinstance(store, RemoteStore):
        return None
    sizes = {
        name: sorted((entry.bytes for entry in data.shards.get("train", ())), reverse=True)
        for name, data in manifest.families.items()
    }
    open_bytes = {name: sum(of_family[:shuffle_shards]) for name, of_family in sizes.items() if of_family}
    largest = max((of_family[0] for of_family in sizes.values() if of_family), default=0)
    needed = sum(open_bytes.values()) + largest
    if needed <= store.max_bytes:
        return None
    return (
        f"data.cache_gib: found {store.gib:g}; at least {_up(needed / GIB)} is needed for the shards "
        f"that are open at a time: data.shuffle_shards {shuffle_shards} of each of {len(open_bytes)} families and one "
        f"more, up to {largest / 2**20:.3g} MiB each; raise it, or lower data.shuffle_shards"
    )


def _up(gib: float) -> str:
    """A size with three digits, rounded up."""
    text = f"{gib:.3g}"
    return text if float(text) >= gib else f"{gib * 1.005:.3g}"
