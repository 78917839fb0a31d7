"""Arrays of formats that can't be read in parts: each is unpacked once into a temporary file, and read from there."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Literal

import numpy as np

from ups_scale.data.layouts.containers import Slab, num_values
from ups_scale.errors import DataError

# Left free on the disk of temporary files, as a part of what is written there.
SPARE = 0.05


class Unpacked:
    """The unpacked arrays of one open container; closing it frees them.

    Args:
        path: the container's, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, IO[bytes]] = {}
        self._open = ExitStack()

    def close(self) -> None:
        self._open.close()

    def read(
        self,
        name: str,
        dtype: np.dtype,
        shape: tuple[int, ...],
        order: Literal["C", "F"],
        slab: Slab,
        unpack: Callable[[IO[bytes]], None],
    ) -> np.ndarray:
        """A slab of the array `name`, whose numbers `unpack` writes to a file where that has not been done.

        Raises:
            DataError: the disk of temporary files has no room for it.
        """
        if name not in self._files:
            num_bytes = num_values(shape) * dtype.itemsize
            if num_bytes * (1 + SPARE) > shutil.disk_usage(tempfile.gettempdir()).free:
                raise self._no_room(name, num_bytes)
            with ExitStack() as stack:
                file = stack.enter_context(tempfile.TemporaryFile())
                try:
                    unpack(file)
                    file.flush()
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise self._no_room(name, num_bytes) from None
                    raise
                self._files[name] = file
                self._open.push(stack.pop_all())
        # Mapped for each slab anew, so that its pages don't count as this process' memory after it.
        mapped = np.memmap(self._files[name], dtype, "r", 0, shape, order)
        return np.array(mapped[slab])

    def _no_room(self, name: str, num_bytes: int) -> DataError:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        return DataError(
            f"{self._path}: {name} takes {num_bytes / 2**30:.1f} GiB when it is unpacked, and {folder} has "
            f"{free / 2**30:.1f} GiB free; free some space, set TMPDIR to another folder, or write the array "
            "uncompressed (np.savez), or as HDF5, Zarr or MATLAB v7.3"
        )
