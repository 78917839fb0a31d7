"""The order of training, as a pure function: which windows every optimizer step reads.

An optimizer step is `draws_per_step` independent draws of a family, p ∝ n^exponent over their numbers of trajectories,
where steady families together have a share of their own. A draw takes as many windows of its family as fill its share
of the token budget, from the family's own endless stream: every trajectory once per epoch, in an order that permutes
shards, then trajectories within groups of shards; of each a window at a random time and stride. Neither the number of
ranks nor of reading threads enters; the state is the step and one position per family.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ups_scale.errors import RecipeError

_MASK = 2**64 - 1


def mix(*words: int) -> int:
    """A 64-bit hash of integers (splitmix64 finaliser per word): the plan's only source of randomness."""
    state = 0x9E3779B97F4A7C15
    for word in words:
        state = (state ^ (word & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def permutation(size: int, *words: int) -> np.ndarray:
    """A permutation of `size` integers that depends on `words` alone: the order of their hashes.

    numpy's generators would not do: their streams may change between versions (NEP 19), and a resumed run's order with
    them.
    """
    state = np.arange(size, dtype=np.uint64) ^ np.uint64(mix(*words))
    state += np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return np.argsort(state ^ state >> np.uint64(31), kind="stable")


def windows_per_draw(batch_tokens: int, draws_per_step: int, window_tokens: int) -> int:
    """How many windows of `window_tokens` tokens fill one draw's share of the token budget; at least one."""
    return max(1, batch_tokens // (draws_per_step * window_tokens))


@dataclass(frozen=True)
class FamilyStream:
    """What the plan needs to know of a family: trajectories per shard, frames per trajectory, tokens per frame, and
    whether a trajectory is just what is given (frame 0) and its solution (frame 1)."""

    shard_sizes: tuple[int, ...]
    num_frames: int
    tokens: int
    steady: bool = False

    def horizon(self, asked: int) -> int:
        """Frames to predict where `asked` are the curriculum's."""
        return 1 if self.steady else asked


@dataclass(frozen=True)
class PlanState:
    """Where the stream is: the next optimizer step, and how many windows each family has given so far."""

    step: int
    positions: Mapping[str, int]


@dataclass(frozen=True)
class Draw:
    """`num_windows` windows of `family`, from position `first` of its stream, each with `horizon` frames to predict."""

    family: str
    first: int
    num_windows: int
    horizon: int


@dataclass(frozen=True)
class Visit:
    """The stretch of `family`'s stream in which its shard number `shard` is open: windows from position `first` to
    `last` are of it, beside those of the other shards of its group."""

    family: str
    shard: int
    first: int
    last: int


class Plan:
    """The order of training for a seed; see the module's text. All its methods are pure."""

    def __init__(
        self,
        streams: Mapping[str, FamilyStream],
        *,
        seed: int,
        exponent: float,
        draws_per_step: int,
        batch_tokens: int,
        context_frames: int,
        shuffle_shards: int,
        max_stride: int = 1,
        steady_share: float = 0.25,
    ) -> None:
        self._streams = dict(sorted(streams.items()))
        self._names = list(self._streams)
        # A family's own number, so that adding another family does not reorder this one.
        self._ids = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in self._names}
        self._sizes = {name: sum(stream.shard_sizes) for name, stream in self._streams.items()}
        weights = np.array(list(self._sizes.values()), float) ** exponent
        steady = np.array([stream.steady for stream in self._streams.values()])
        if steady.any() and not steady.all():
            weights[steady] *= steady_share / weights[steady].sum()
            weights[~steady] *= (1 - steady_share) / weights[~steady].sum()
        self._cumulative = np.cumsum(weights / weights.sum())
        self._seed = seed
        self._draws_per_step = draws_per_step
        self._batch_tokens = batch_tokens
        self._context_frames = context_frames
        self._shuffle_shards = shuffle_shards
        self._max_stride = max_stride
        self._order = lru_cache(maxsize=4 * len(self._names))(self._epoch_order)

    def start(self) -> PlanState:
        """The state before the first step."""
        return PlanState(0, dict.fromkeys(self._names, 0))

    def draws(self, state: PlanState, horizon: int) -> tuple[list[Draw], PlanState]:
        """The draws of step `state.step`, where transient families predict `horizon` frames, and the state after it."""
        positions = dict(state.positions)
        draws = []
        for number in range(self._draws_per_step):
            share = mix(self._seed, 1, state.step, number) / 2**64
            name = self._names[min(int(np.searchsorted(self._cumulative, share, side="right")), len(self._names) - 1)]
            stream = self._streams[name]
            frames = stream.horizon(horizon)
            windows = windows_per_draw(self._batch_tokens, self._draws_per_step, stream.tokens * frames)
            draws.append(Draw(name, positions[name], windows, frames))
            positions[name] += windows
        return draws, PlanState(state.step + 1, positions)

    def check_ranks(self, world_size: int, horizons: Sequence[int]) -> None:
        """Raises now what would come up at the step where the horizon has grown too long for this many ranks; see
        `check_windows`."""
        for name, stream in self._streams.items():
            for horizon in sorted({stream.horizon(asked) for asked in horizons}):
                windows = windows_per_draw(self._batch_tokens, self._draws_per_step, stream.tokens * horizon)
                check_windows(name, windows, horizon, world_size)

    def num_trajectories(self, family: str) -> int:
        """Trajectories of a family: as many attempts at a window try all of them."""
        return self._sizes[family]

    def window(self, draw: Draw, number: int, attempt: int = 0) -> tuple[int, Sequence[int]]:
        """(trajectory, its frames) of a draw's window; `attempt` > 0 gives its replacements, should it be damaged.

        The frames are a range at a stride of 1 to `max_stride`, any that fits alike likely; in a steady family what is
        given, as often as there are context frames, and the solution.

        Raises:
            RecipeError: the family's trajectories are shorter than the window.
        """
        stream, family, position = self._streams[draw.family], self._ids[draw.family], draw.first + number
        epoch, place = divmod(position, self._sizes[draw.family])
        order = self._order(draw.family, epoch)
        trajectory = int(order[(place + attempt) % len(order)])
        if stream.steady:
            return trajectory, (0,) * self._context_frames + (1,)
        steps = self._context_frames + draw.horizon - 1
        longest = min(self._max_stride, (stream.num_frames - 1) // steps)
        if longest < 1:
            raise RecipeError(
                f"a window of {self._context_frames} context + {draw.horizon} predicted frames does not fit family "
                f"{draw.family}, whose trajectories have {stream.num_frames}: lower model.context_frames or "
                "curriculum.horizons"
            )
        stride = 1 + mix(self._seed, 5, family, position, attempt) % longest if longest > 1 else 1
        first = mix(self._seed, 2, family, position, attempt) % (stream.num_frames - steps * stride)
        return trajectory, range(first, first + steps * stride + 1, stride)

    def visits(self, family: str, position: int) -> Iterator[Visit]:
        """The shards that a family's stream is read from, from `position` on without end, in the order in which each is
        needed first."""
        stops = np.cumsum(self._streams[family].shard_sizes)
        epoch, place = divmod(position, self._sizes[family])
        while True:
            shards = np.searchsorted(stops, self._order(family, epoch)[place:], side="right")
            first, last = np.full((2, len(stops)), -1)
            numbers = np.arange(len(shards)) + (position := epoch * self._sizes[family] + place)
            last[shards] = numbers
            first[shards[::-1]] = numbers[::-1]
            for shard in np.argsort(first, kind="stable").tolist():
                if first[shard] >= position:
                    yield Visit(family, shard, int(first[shard]), int(last[shard]))
            epoch, place = epoch + 1, 0

    def _epoch_order(self, name: str, epoch: int) -> np.ndarray:
        sizes = self._streams[name].shard_sizes
        first = np.concatenate([[0], np.cumsum(sizes)])
        words = (self._seed, 3, self._ids[name], epoch)
        shards = permutation(len(sizes), *words)
        groups = []
        for start in range(0, len(shards), self._shuffle_shards):
            group = [
                np.arange(first[shard], first[shard + 1]) for shard in shards[start : start + self._shuffle_shards]
            ]
            members = np.concatenate(group)
            groups.append(members[permutation(len(members), *words, start + 1)])
        return np.concatenate(groups)


def check_windows(family: str, windows: int, horizon: int, world_size: int) -> None:
    """Raises a `RecipeError` if a draw of `windows` windows leaves some of the ranks without any."""
    if windows < world_size:
        raise RecipeError(
            f"data.batch_tokens gives a draw of {family} {windows} windows at horizon {horizon}, fewer than the "
            f"{world_size} ranks: raise data.batch_tokens, lower data.draws_per_step or the horizon, or use fewer ranks"
        )


@dataclass(frozen=True)
class Chunk:
    """The windows of one draw that one rank reads in one microstep.

    `weight` makes the mean over chunks of (weight x mean over the chunk's windows) the mean over the draw's windows.
    It is 0 where no window was left for this chunk: it then repeats the first, since all ranks must compute alike.
    """

    draw: Draw
    numbers: tuple[int, ...]
    weight: float


def chunk(draw: Draw, rank: int, world_size: int, part: int, parts: int) -> Chunk:
    """The share of `rank` in microstep `part` of the `parts` that a draw takes."""
    chunks = world_size * parts
    numbers = tuple(range(part * world_size + rank, draw.num_windows, chunks))
    return Chunk(draw, numbers or (0,), len(numbers) * chunks / draw.num_windows)
