"""A tar written in one go, with its SHA-256 and the place of every member known while writing.

The bytes are those that `webdataset.TarWriter` writes of the same members. That writer takes a member as one `bytes`,
and a field of one trajectory of 256³ points is gigabytes; here it comes in slabs. What was written since a mark can be
taken back.
"""

from __future__ import annotations

import hashlib
import tarfile
from types import TracebackType
from typing import Any, BinaryIO

TAR_TIME = 0  # a fixed time: the same data gives the same bytes
MAX_NAME = 100
MAX_MEMBER_BYTES = 8 * 2**30 - 1
"""What a member's name and size may be in the POSIX (ustar) format, which every reader knows."""


class TarStream:
    """Writes members to an open, empty file; closing ends the archive and leaves the file open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.position = 0
        self._pending = 0

    def __enter__(self) -> TarStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._pad(tarfile.BLOCKSIZE, at_least=2 * tarfile.BLOCKSIZE)
            self._pad(tarfile.RECORDSIZE)

    @property
    def sha256(self) -> str:
        """Of everything written so far."""
        return self._hash.hexdigest()

    def start_member(self, name: str, size: int) -> None:
        """Begins a member of `size` bytes; exactly that many must be written next."""
        assert self._pending == 0, "the member before is not complete"
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode, info.uname, info.gname = size, TAR_TIME, 0o444, "bigdata", "bigdata"
        self._put(info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        self._pending = size

    def write(self, data: Any) -> None:
        """Writes the member's next bytes, anything with a contiguous buffer."""
        view = memoryview(data).cast("B")
        self._pending -= len(view)
        assert self._pending >= 0, "more bytes than the member's size"
        self._put(view)
        if self._pending == 0:
            self._pad(tarfile.BLOCKSIZE)

    def mark(self) -> tuple[int, Any]:
        """What `take_back` needs to undo everything written after now."""
        assert self._pending == 0
        return self.position, self._hash.copy()

    def take_back(self, mark: tuple[int, Any]) -> None:
        self.position, self._hash = mark[0], mark[1].copy()
        self._pending = 0
        self._file.seek(self.position)
        self._file.truncate()

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.position += len(data)

    def _pad(self, block: int, at_least: int = 0) -> None:
        self._put(bytes(at_least + -(self.position + at_least) % block))
