"""Reading from disks that fail for a moment, as network disks do."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PAUSES_S = (0.05, 0.5, 5.0)
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""The machine's want, not the file's damage."""
_FINAL = (*SHORTAGES, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


def patiently(work: Callable[[], T]) -> T:
    """`work()`, again after each of `PAUSES_S` if the system fails it; raises its last `OSError`, and at once one that
    won't pass."""
    for pause in PAUSES_S:
        try:
            return work()
        except OSError as error:
            if error.errno in _FINAL:
                raise
            time.sleep(pause)
    return work()
