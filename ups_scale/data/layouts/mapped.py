"""Reads frames of fields whose arrays, axes and fill values a mapping states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ups_scale.data.layouts.blocks import KEPT_BYTES, Blocks
from ups_scale.data.layouts.containers import Container, open_container
from ups_scale.data.layouts.missing import Missing
from ups_scale.data.source import Frames
from ups_scale.errors import DataError


@dataclass(frozen=True)
class MappedField:
    """Where a field lies.

    Attributes:
        array: its array.
        axes: a letter for each axis of the array: n trajectory, t time, x y z space, p point, others with an index.
        index: letter -> position taken.
        missing: which numbers in the array are no values.
        static: has one frame.
        scale, offset: value = scale x number + offset.
    """

    array: str
    axes: tuple[str, ...]
    index: Mapping[str, int]
    missing: Missing
    static: bool = False
    scale: float = 1.0
    offset: float = 0.0

    @property
    def block_axes(self) -> tuple[str | int | None, ...]:
        """Its axes as `Blocks` takes them."""
        return tuple(self.index.get(letter, letter if letter in ("n", "t") else None) for letter in self.axes)


@dataclass(frozen=True)
class MappedContents:
    """How an input is read by a mapping.

    Attributes:
        path: of the input.
        fields: in the source's order.
        axes: letters of the grid's axes, in its order.
        grid: their sizes.
        flipped: letters of axes that decrease in the file.
        steady: frame 0 holds zeros in the fields that aren't static, frame 1 the solution.
    """

    path: Path
    fields: tuple[MappedField, ...]
    axes: tuple[str, ...]
    grid: tuple[int, ...]
    flipped: frozenset[str] = frozenset()
    steady: bool = False

    @contextmanager
    def open(self) -> Iterator[Frames]:
        with open_container(self.path) as container:
            blocks = [self._blocks(container, field) for field in self.fields]
            yield lambda field, trajectory, frames: self._read(blocks[field], self.fields[field], trajectory, frames)

    def _blocks(self, container: Container, field: MappedField) -> Blocks:
        return Blocks(container, field.array, field.block_axes, KEPT_BYTES // len(self.fields))

    def _read(self, blocks: Blocks, field: MappedField, trajectory: int, frames: range) -> np.ndarray:
        """(len(frames), *grid)."""
        if self.steady and not field.static:
            solution = self._slab(blocks, field, trajectory, range(1))
            both = np.concatenate([np.zeros_like(solution), solution])
            return both[frames.start : frames.stop : frames.step]
        return self._slab(blocks, field, trajectory, frames)

    def _slab(self, blocks: Blocks, field: MappedField, trajectory: int, frames: range) -> np.ndarray:
        stored = blocks.read(trajectory, frames)
        left = [letter for letter in field.axes if letter != "n" and letter not in field.index]
        wanted = [letter for letter in ("t", *self.axes) if letter in left]
        values = stored.transpose([left.index(letter) for letter in wanted])
        flips = tuple(slice(None, None, -1 if letter in self.flipped else 1) for letter in wanted)
        values = self._values(field, values[flips], trajectory, frames)
        whole = tuple(slice(None) if letter in left else None for letter in ("t", *self.axes))
        return np.broadcast_to(values[whole], (len(frames), *self.grid))

    def _values(self, field: MappedField, stored: np.ndarray, trajectory: int, frames: range) -> np.ndarray:
        """The numbers as values: floating point, scaled, NaN where there is none."""
        suspect = field.missing.suspect(stored)
        if suspect:
            says, remedy = suspect
            raise DataError(
                f"{self.path}: {field.array} {says} in trajectory {trajectory}, frames {frames.start} to "
                f"{frames.stop - 1}. {remedy}"
            )
        values = stored if stored.dtype.kind == "f" else stored.astype(np.float64)
        if field.scale != 1 or field.offset != 0:
            values = values.astype(np.float64) * field.scale + field.offset
        return field.missing.apply(stored, values)
