"""Memory for windows, used again: fresh pages cost as much to touch as the bytes cost to copy into them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

# Blocks that wait for another use; the one that has waited longest makes room.
MAX_IDLE = 16
# A block serves arrays of this part of its size or more, so that a short horizon does not hold a long one's memory.
LEAST_USE = 0.5

_idle: deque[np.ndarray] = deque(maxlen=MAX_IDLE)


class _Lease:
    """Owns a block for as long as any array, view or tensor over it lives, then leaves it for another use.

    numpy keeps the object it got the memory from as the base of the array and of every view of it, and torch keeps the
    array; so this object dies only when nobody can read the memory any more. `deque` is safe between threads by itself;
    a lock could be taken twice, as the garbage collector may call `__del__` at any point.
    """

    def __init__(self, block: np.ndarray, shape: tuple[int, ...]) -> None:
        self._block = block
        address = block.__array_interface__["data"][0]
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "typestr": "<f4",
            "shape": shape,
            "data": (address, False),
        }

    def __del__(self) -> None:
        _idle.append(self._block)


def empty_windows(num: int, num_fields: int, num_frames: int, grid: Sequence[int]) -> np.ndarray:
    """(B, C, T, *grid) float32, not initialised; in pinned memory where there is a GPU to copy to.

    The memory returns here by itself when the last array, view or tensor over it is dropped. Safe to call from several
    threads.
    """
    shape = (num, num_fields, num_frames, *grid)
    if torch.cuda.is_available():  # torch's own pool knows which copies to the device are still under way
        return torch.empty(shape, dtype=torch.float32, pin_memory=True).numpy()
    num_values = math.prod(shape)
    if num_values == 0:
        return np.empty(shape, np.float32)
    return np.asarray(_Lease(_block(num_values), shape))


def _block(num_values: int) -> np.ndarray:
    """The idle block that was used last and holds at least `num_values` float32, not many more; else a new one.

    The last one used, since the processor's caches still have it.
    """
    for _ in range(len(_idle)):
        try:
            block = _idle.pop()
        except IndexError:  # other threads took the rest
            break
        if LEAST_USE * block.size <= num_values <= block.size:
            return block
        _idle.appendleft(block)
    return np.empty(num_values, np.float32)
