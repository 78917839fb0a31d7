"""Blocks of arrays that are kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np


class Kept:
    """The blocks read last, by their place, up to `max_bytes` together and in any case the last one; those read longest
    ago go first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, name: Hashable, num_bytes: int, load: Callable[[], np.ndarray]) -> np.ndarray:
        """The block `name` of `num_bytes`, from `load` where it isn't kept. Others make room before it is loaded."""
        if name not in self._arrays:
            while self._arrays and num_bytes + sum(kept.nbytes for kept in self._arrays.values()) > self.max_bytes:
                self._arrays.popitem(last=False)
            self._arrays[name] = load()
        self._arrays.move_to_end(name)
        return self._arrays[name]
