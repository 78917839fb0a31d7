"""How far a long command is, in bytes: a bar on a terminal, a line every ten seconds elsewhere, or nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

LINE_EVERY_S = 10.0


def say(text: str) -> None:
    """Prints beside the output, which may be JSON that a program reads."""
    print(text, file=sys.stderr)


class Progress:
    """Counts bytes up to `total` and shows them on standard error.

    Args:
        doing: what is being done, such as "sharding".
        shown: False for nothing at all.
        clock: seconds, for tests.
    """

    def __init__(self, doing: str, total: int, shown: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._doing, self._total, self._clock = doing, total, clock
        self._lines = shown and not sys.stderr.isatty()
        self._bar = tqdm(
            desc=doing, total=total, unit="B", unit_scale=True, disable=not shown or self._lines, dynamic_ncols=True
        )
        self._lock = threading.Lock()  # files are hashed in threads
        self._done = 0
        self._begin = self._next_line = clock()
        self._next_line += LINE_EVERY_S

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, num_bytes: int) -> None:
        with self._lock:
            self._advance(num_bytes)

    def _advance(self, num_bytes: int) -> None:
        self._done += num_bytes
        self._bar.update(num_bytes)
        if self._lines and self._clock() >= self._next_line:
            self._next_line = self._clock() + LINE_EVERY_S
            rate = self._done / (self._clock() - self._begin)
            left = (self._total - self._done) / rate if rate else float("inf")
            print(
                f"{self._doing}: {self._done / 2**30:.2f} of {self._total / 2**30:.2f} GiB, {rate / 1e6:.0f} MB/s, "
                f"{left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
