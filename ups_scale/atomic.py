"""Files that are either wholly there or not at all: written aside, flushed to disk, renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def write_aside(path: Path) -> Iterator[BinaryIO]:
    """A file open for writing that becomes `path` when the block ends well, and vanishes otherwise."""
    aside = path.with_name(path.name + ".tmp")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, replacing what was there only once all of it is on disk."""
    with write_aside(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` of indented JSON; NaN and infinity, which are not JSON, raise `ValueError`."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def sync_folder(path: Path) -> None:
    """Flushes a folder's own entries (new names, renames) to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
