"""What identifies an input, and what will become of it: the same content gives the same words, wherever it lies."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

BUFFER_BYTES = 2**20


def file_states(path: Path) -> list[tuple[str, int, int]]:
    """Name, size in bytes and time of change in ns of an input's files: one, or all in a folder."""
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in _files(path)]


def content_digest(path: Path, advance: Callable[[int], None]) -> str:
    """xxh3_128 of an input: of a file its bytes, of a folder the names and bytes of all files in it."""
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    for name in _files(path):
        if name != path:
            digest.update(f"{name.relative_to(path).as_posix()}\n{name.stat().st_size}\n".encode())
        with name.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                advance(count)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def identity(*parts: Any) -> str:
    """A digest of values and of the readers of data among them. Paths count by their last name alone."""
    digest = hashlib.sha256()
    _add(digest.update, parts)
    return digest.hexdigest()[:32]


def _add(update: Callable[[bytes], None], value: Any) -> None:
    """Feeds a value's type and content; a container's items one by one between brackets."""
    if isinstance(value, np.ndarray):
        update(f"array {value.dtype.str} {value.shape} ".encode())
        update(value.tobytes())
    elif isinstance(value, Path):
        update(f"path {value.name!r} ".encode())
    elif value is None or isinstance(value, (str, bytes, bool, int, float, complex, slice, range)):
        update(f"{type(value).__name__} {value!r} ".encode())
    elif isinstance(value, Mapping):
        _add_all(update, "mapping", sorted(value.items(), key=repr))
    elif isinstance(value, (set, frozenset)):
        _add_all(update, "set", sorted(value))
    elif isinstance(value, (list, tuple)):
        _add_all(update, "sequence", value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        _add_all(update, type(value).__qualname__, fields)
    elif isinstance(value, type) or callable(value):
        update(f"name {value.__qualname__} ".encode())
    else:
        _add_all(update, type(value).__qualname__, sorted(vars(value).items()))


def _add_all(update: Callable[[bytes], None], kind: str, items: Any) -> None:
    update(f"{kind}[".encode())
    for item in items:
        _add(update, item)
    update(b"] ")
