"""What is known to be damaged, so that it is neither read again nor forgotten.

    reading finds damage -> learn (this rank, at once) -> account (when trained on) -> merge (over ranks) -> checkpoint

What is known here never changes which windows are trained on: a window that is passed over unread is one that reading
would have found damaged, and its replacement is the same. So the order stays a function of the seed and the damage on
disk, whenever threads and ranks learn of it, and a resumed run goes on like one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from ups_scale.data.buffers import empty_windows
from ups_scale.data.reader import DamagedItem, ShardReader
from ups_scale.errors import DataError

Place = tuple[str, int, int | None]
# In place of a frame's number: the frame of a static field, which every window has.
STATIC = -1
# Trajectories per shard in a message; what there is more of is counted.
LISTED = 5
# Lines of `told`.
TOLD = 10


class Quarantine:
    """The damaged frames and shards of the training data. `learn`, `find` and `exceeded` are safe to call from
    several threads.

    A whole shard is known by its first trajectory, with frame None.

    Args:
        readers: one per family; shards that they could not open are known from the start.
        max_share: of a family's trajectories may be damaged, before `check` refuses to go on.
    """

    def __init__(self, readers: Mapping[str, ShardReader], max_share: float) -> None:
        self._readers = dict(readers)
        self._max_share = max_share
        self._shards = {name: _ranges(reader) for name, reader in self._readers.items()}
        # By family and trajectory: its damaged frames, None among them if its whole shard is, STATIC of a static field.
        self._known: dict[str, dict[int, dict[int | None, DamagedItem]]] = {name: {} for name in self._readers}
        self._accounted: dict[Place, DamagedItem] = {}
        self._new: list[DamagedItem] = []
        for name, reader in self._readers.items():
            for file, reason in reader.broken_shards.items():
                self.account([DamagedItem(name, file, "", self._shards[name][file].start, None, reason)])

    def find(self, family: str, trajectory: int, frames: Sequence[int]) -> DamagedItem | None:
        """What is known to be wrong with these frames of a trajectory, if anything is."""
        known = self._known[family].get(trajectory)
        if known is None:
            return None
        return next((known[frame] for frame in chain((None, STATIC), frames) if frame in known), None)

    def learn(self, item: DamagedItem) -> DamagedItem:
        """Makes an item known; returns it, as it will stand in the account."""
        if item.frame is None:
            trajectories = self._shards[item.family][item.shard]
            item = DamagedItem(item.family, item.shard, "", trajectories.start, None, item.reason)
        else:
            trajectories = range(item.trajectory, item.trajectory + 1)
        for trajectory in trajectories:
            self._known[item.family].setdefault(trajectory, {}).setdefault(_frame(item), item)
        return item

    def account(self, items: Iterable[DamagedItem]) -> None:
        """Enters items of this rank that a window of the training was replaced for.

        What threads have read ahead is not yet among them: the account is the same however far they are.
        """
        self._new += self._enter(items)

    def take_new(self) -> list[DamagedItem]:
        """What this rank has entered since the last call, for `merge`."""
        new, self._new = self._new, []
        return new

    def merge(self, of_ranks: Sequence[Sequence[DamagedItem]]) -> list[DamagedItem]:
        """Enters what `take_new` gave on every rank; returns it with nothing twice."""
        met = {_place(item): item for items in of_ranks for item in items}
        self._enter(met.values())
        return list(met.values())

    def counts(self) -> dict[str, int]:
        """Number of damaged trajectories per family, as accounted for; families without any are left out."""
        trajectories: dict[str, set[int]] = {}
        for item in self._accounted.values():
            trajectories.setdefault(item.family, set()).update(self._trajectories(item))
        return {name: len(found) for name, found in sorted(trajectories.items())}

    def exceeded(self, family: str) -> bool:
        """Whether more of a family is known to be damaged than `max_share`, on this rank and ahead of the account."""
        return len(self._known[family]) / self._readers[family].num_trajectories > self._max_share

    def check(self) -> None:
        """Raises, if more of a family is damaged than `max_share`, a `DataError` that lists the files.

        Every rank calls it, after `merge`: then all have the same account, and raise together.
        """
        problems = []
        for name, count in self.counts().items():
            total, split = self._readers[name].num_trajectories, self._readers[name].split
            if count / total > self._max_share:
                listed = "".join(f"\n  {line}" for line in self._listing(name))
                allowed = math.floor(self._max_share * total + 1e-9)
                problems.append(
                    f"family {name}: {count} of {total} {split} trajectories are damaged ({count / total:.2%}), more "
                    f"than data.max_damaged_share {self._max_share:g} allows ({allowed}):{listed}"
                )
        if problems:
            problems.append(
                "Run tools/shard.py again as before, which writes damaged shards anew (tools/validate.py --deep finds "
                "all there are; if it finds none, the disk failed for a while), and resume; or raise "
                "data.max_damaged_share to train without them"
            )
            error = DataError("\n".join(problems))
            error.on_all_ranks = True
            raise error

    def state(self) -> list[dict[str, Any]]:
        """The account as plain JSON values, for a checkpoint."""
        return [
            {
                "family": item.family,
                "shard": item.shard,
                "key": item.key,
                "trajectory": item.trajectory,
                "frame": item.frame,
                "reason": item.reason,
                "static": item.static,
            }
            for item in self._in_order()
        ]

    def still_damaged(self, state: Sequence[Mapping[str, Any]]) -> list[DamagedItem]:
        """Those items of a checkpoint's state that are damaged to this day: shards may have been written anew since."""
        found = []
        for item in (DamagedItem(**entry) for entry in state):
            reader, frame = self._readers[item.family], item.frame or 0
            if item.trajectory not in self._shards[item.family].get(item.shard, ()) or frame >= reader.num_frames:
                continue  # of another data set
            spec = reader.data.spec
            try:
                reader.read_window(item.trajectory, (frame,), empty_windows(1, len(spec.fields), 1, spec.grid)[0])
            except DamagedItem as now:
                if item.frame is not None or now.frame is None:  # of a whole shard one frame may be left
                    found.append(item)
        return found

    def _enter(self, items: Iterable[DamagedItem]) -> list[DamagedItem]:
        """Makes items known and accounts for them; returns those that were not yet."""
        new = []
        for item in map(self.learn, items):
            if _place(item) not in self._accounted:
                self._accounted[_place(item)] = item
                new.append(item)
        return new

    def _trajectories(self, item: DamagedItem) -> range:
        if item.frame is None:
            return self._shards[item.family][item.shard]
        return range(item.trajectory, item.trajectory + 1)

    def _listing(self, family: str) -> Iterator[str]:
        """A line per shard: its damaged trajectories, each with its frames and what is wrong with the first of them."""
        shards: dict[str, dict[str, list[DamagedItem]]] = {}
        for item in self._in_order():
            if item.family == family:
                shards.setdefault(item.shard, {}).setdefault(item.key, []).append(item)
        for shard, trajectories in shards.items():
            shown = [
                f"{key}, frame {', '.join(str(item.frame) for item in items)}: {items[0].reason}"
                if key
                else items[0].reason
                for key, items in list(trajectories.items())[:LISTED]
            ]
            more = [f"and {len(trajectories) - LISTED} more"] if len(trajectories) > LISTED else []
            yield f"{shard}: " + "; ".join(shown + more)

    def _in_order(self) -> list[DamagedItem]:
        return sorted(
            self._accounted.values(),
            key=lambda item: (item.family, item.trajectory, -1 if item.frame is None else item.frame),
        )


def told(items: Sequence[DamagedItem]) -> Iterator[str]:
    """A line per trajectory or shard that has come into quarantine, `TOLD` of them at most."""
    by_place: dict[tuple[str, str], list[DamagedItem]] = {}
    for item in items:
        by_place.setdefault((item.shard, item.key), []).append(item)
    for of_place in list(by_place.values())[:TOLD]:
        more = f" (and {len(of_place) - 1} more of its frames)" if len(of_place) > 1 else ""
        yield f"quarantined, another trajectory takes its place: {of_place[0]}{more}"
    if len(by_place) > TOLD:
        yield f"quarantined: {len(by_place) - TOLD} more; checkpoints list them, tools/validate.py --deep finds all"


def _place(item: DamagedItem) -> Place:
    return item.family, item.trajectory, _frame(item)


def _frame(item: DamagedItem) -> int | None:
    return STATIC if item.static else item.frame


def _ranges(reader: ShardReader) -> dict[str, range]:
    """The trajectories of each shard of the reader's split, by its file."""
    ranges, first = {}, 0
    for entry in reader.data.shards[reader.split]:
        ranges[entry.file] = range(first, first + entry.trajectories)
        first += entry.trajectories
    return ranges
