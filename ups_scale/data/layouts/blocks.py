"""Slabs of trajectories and frames, read in blocks that suit how an array lies in its file.

A chunk that holds many trajectories would be unpacked again for each of them; so would be swept, for each, an array
whose trajectories are its fastest axis (MATLAB's `u (n, x, y, t)`). Instead blocks of trajectories and frames are read
at once, and those read last are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ups_scale.data.layouts.containers import Container, Slab, num_values
from ups_scale.data.layouts.kept import Kept

# What all kept blocks of a reader may take together.
KEPT_BYTES = 128 * 1024**2


Axes = Sequence[str | int | None]
# Blocks of arrays that several fields share have so many bytes at least: small reads are slow.
SHARED_BYTES = 8 * 1024**2


# An array whose chunks are unpacked more often than this is worth a note.
OFTEN = 8


def unpacking_notes(container: Container, axes: Mapping[str, Axes], num_fields: int) -> tuple[str, ...]:
    """Notes on arrays, each with its axes as in `Blocks`, whose chunks hold more trajectories or frames than can be
    kept unpacked: they are unpacked again and again."""
    notes = []
    for name, letters in axes.items():
        times = Blocks(container, name, letters, KEPT_BYTES // num_fields).times_unpacked
        if times > OFTEN:
            array = container.array(name)
            better = "x".join(
                "1" if letter in ("n", "t") else str(size) for letter, size in zip(letters, array.shape, strict=True)
            )
            notes.append(
                f"the chunks of {name}, {'x'.join(map(str, array.chunks))}, are unpacked about {times} times each, "
                f"which is slow; in chunks of {better} it would be once"
                + (f" (h5repack -l {name}:CHUNK={better})" if container.kind == "HDF5" else "")
            )
    return tuple(notes)


class ArrayBlocks:
    """Reads several arrays of an open container, each in its own blocks.

    Args:
        num_fields: how many are read in turns; they share what is kept.
    """

    def __init__(self, container: Container, num_fields: int) -> None:
        def blocks(name: str, axes: tuple[str | int | None, ...], shared: bool) -> Blocks:
            return Blocks(container, name, axes, KEPT_BYTES // num_fields, shared)

        self._container = container
        self._blocks = lru_cache(maxsize=num_fields)(blocks)

    def read(
        self, name: str, axes: tuple[str | int | None, ...], trajectory: int, frames: range, component: tuple[int, ...]
    ) -> np.ndarray:
        """Part of the array `name`, floating point: its axis "t", if it has one, and its axes None.

        Args:
            axes: of the array, as in `Blocks`, without those of components.
            component: index into its last axes; other fields have the others.
        """
        last = self._container.array(name).chunks[len(axes) :]
        if component and set(last) == {1}:  # each component has chunks of its own
            axes, component = (*axes, *component), ()
        blocks = self._blocks(name, (*axes, *(None for _ in component)), bool(component))
        place: Any = (..., *component)
        values = blocks.read(trajectory, frames)[place]
        return values if values.dtype.kind == "f" else values.astype(np.float64)


class Blocks:
    """Reads one array of an open container.

    Args:
        axes: for each axis of the array "n" (trajectory), "t" (time), a position that is always taken, or None.
        max_bytes: the most that its kept blocks may take together.
        shared: the same will be asked for again at once, by other fields that the array holds.
    """

    def __init__(self, container: Container, name: str, axes: Axes, max_bytes: int, shared: bool = False) -> None:
        self._container = container
        self._name = name
        self._axes = axes
        array = container.array(name)
        self._sizes = {letter: array.shape[number] for number, letter in enumerate(axes) if letter in ("n", "t")}
        self._steps = {letter: array.chunks[number] for number, letter in enumerate(axes) if letter in ("n", "t")}
        one = array.dtype.itemsize * num_values(
            [size for size, letter in zip(array.shape, axes, strict=True) if letter is None]
        )
        # Frames of one trajectory are asked for in a row, so that all blocks of a few trajectories are needed together.
        if "n" in self._steps:
            room = max_bytes // (one * self._sizes.get("t", 1))
            self._steps["n"] = max(1, min(self._steps["n"], room))
        if "t" in self._steps and shared:
            chunk = self._steps["t"]
            self._steps["t"] = chunk * -(-SHARED_BYTES // (one * self._steps.get("n", 1) * chunk))
        if "t" in self._steps:
            room = max_bytes // (one * self._steps.get("n", 1))
            self._steps["t"] = max(1, min(self._steps["t"], room))
        chunks = {letter: array.chunks[number] for number, letter in enumerate(axes) if letter in ("n", "t")}
        self.times_unpacked = math.prod(-(-chunks[letter] // self._steps[letter]) for letter in chunks)
        self._kept = Kept(max_bytes)
        self._entry_bytes = one
        self._shared = shared

    def read(self, trajectory: int, frames: range) -> np.ndarray:
        """The array without its axis n and without those whose position is always taken; its axis t has `frames`."""
        if (
            not self._shared
            and self._steps.get("n", 1) == 1
            and len(frames) * frames.step >= 2 * self._steps.get("t", 1) - 1
        ):
            # It asks for one block or for so many that little is read twice.
            return self._container.read(
                self._name, self._slab(trajectory, slice(frames.start, frames.stop, frames.step))
            )
        if "t" not in self._sizes:
            return self._of_block(trajectory, 0)[self._inside(trajectory, slice(None))]
        step = self._steps["t"]
        parts = []
        for block in range(frames[0] // step, frames[-1] // step + 1):
            asked = [frame - block * step for frame in frames if frame // step == block]
            if asked:
                inside = self._inside(trajectory, slice(asked[0], asked[-1] + 1, frames.step))
                parts.append(self._of_block(trajectory, block)[inside])
        axis = [letter for letter in self._axes if letter in ("t", None)].index("t")
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)

    def _of_block(self, trajectory: int, block: int) -> np.ndarray:
        """The block of frames number `block` with this trajectory; it has the axes n and t."""
        key = trajectory // self._steps.get("n", 1), block
        n, t = (self._span(letter, number) for letter, number in zip("nt", key, strict=True))
        num_bytes = self._entry_bytes * (n.stop - n.start) * (t.stop - t.start)
        return self._kept.get(key, num_bytes, lambda: self._container.read(self._name, self._slab(n, t)))

    def _span(self, letter: str, number: int) -> slice:
        step = self._steps.get(letter, 1)
        return slice(number * step, min((number + 1) * step, self._sizes.get(letter, 1)))

    def _slab(self, n: int | slice, t: slice) -> Slab:
        taken: dict[str | int | None, int | slice] = {"n": n, "t": t, None: slice(None)}
        return tuple(taken[letter] if letter in taken else int(str(letter)) for letter in self._axes)

    def _inside(self, trajectory: int, frames: slice) -> Slab:
        taken: dict[str | int | None, int | slice] = {
            "n": trajectory % self._steps.get("n", 1),
            "t": frames,
            None: slice(None),
        }
        return tuple(taken[letter] for letter in self._axes if letter in taken)
