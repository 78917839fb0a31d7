"""Where the files of a data set lie: in a folder, or at a URL behind a cache on the local disk."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ups_scale.data import remote
from ups_scale.data.cache import GIB, Cache
from ups_scale.data.index import read_raw
from ups_scale.data.remote import LostFile, RemoteFile
from ups_scale.errors import DataError

if TYPE_CHECKING:
    from ups_scale.data.manifest import ShardEntry

CACHE_GIB = 64.0
"""Size of the cache where nobody says another; also the recipe's default."""
AT_ONCE = 8
"""Files of indices that are downloaded side by side."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class LocalStore:
    """The files in a folder, read in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, name: str) -> str:
        """A file's path, for messages."""
        return str(self.folder / name)

    def read_index(self, entry: ShardEntry) -> bytes:
        """The bytes of a shard's index, unchecked; a `DataError` if they can't be read."""
        return read_raw(self.folder / f"{entry.file}.idx")

    def size(self, entry: ShardEntry) -> int | None:
        """The size of a shard in bytes, None if there is no such file; an `OSError` if it can't be looked at."""
        path = self.folder / entry.file
        return path.stat().st_size if path.is_file() else None

    @contextmanager
    def open(self, entry: ShardEntry) -> Iterator[BinaryIO]:
        """A shard, open for reading; a `FileNotFoundError` if there is no such file, an `OSError` if it can't be."""
        path = self.folder / entry.file
        if not path.is_file():  # opening a pipe would wait for ever
            raise FileNotFoundError(path)
        with path.open("rb", buffering=0) as file:
            yield file


class RemoteStore:
    """The files beside `url`, each downloaded into a cache when it is first needed and read from there.

    The cache, `folder` of at most `gib` GiB, is made when it is first needed too.
    """

    def __init__(self, url: str, folder: Path, gib: float) -> None:
        self.url, self.folder, self.gib, self.max_bytes = url, folder, gib, int(gib * GIB)
        self._cache: Cache | None = None
        self._lock = threading.Lock()

    @property
    def cache(self) -> Cache:
        with self._lock:
            if self._cache is None:
                self._cache = Cache(self.folder, self.max_bytes)
            return self._cache

    def place(self, name: str) -> str:
        """A file's URL."""
        return f"{self.url}/{name}"

    def shard(self, entry: ShardEntry) -> RemoteFile:
        return self._file(entry.file, entry.sha256, entry.bytes)

    def index(self, entry: ShardEntry) -> RemoteFile:
        return self._file(f"{entry.file}.idx", entry.index_sha256, None)

    def fetch_indices(self, entries: Sequence[ShardEntry]) -> None:
        """Downloads the indices of these shards, several at once; what is lost is told by `read_index`.

        Raises:
            DataError: the server refuses or does not answer, or the cache can't be written to.
        """
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="index") as pool:
            done = [pool.submit(self._fetch_index, entry) for entry in entries]
            try:
                for future in done:
                    future.result()
            except BaseException:
                self.cache.abandon()
                pool.shutdown(cancel_futures=True)
                raise

    def _fetch_index(self, entry: ShardEntry) -> None:
        with suppress(LostFile):
            self.cache.fetch(self.index(entry))

    def read_index(self, entry: ShardEntry) -> bytes:
        """The bytes of a shard's index.

        Raises:
            DataError: a `LostFile` if the server has no such file or another than is listed; see `Cache.fetch`.
        """
        index = self.index(entry)
        pinned = self.cache.open(index)
        raw = os.pread(pinned.descriptor, os.fstat(pinned.descriptor).st_size, 0)
        self.cache.release(index.sha256)
        return raw

    def size(self, entry: ShardEntry) -> int | None:
        """The size of a shard in bytes as the server states it, None if there is no such file."""
        try:
            stated = remote.size(self.place(entry.file))
        except LostFile:
            return None
        return entry.bytes if stated is None else stated  # a server need not say

    @contextmanager
    def open(self, entry: ShardEntry) -> Iterator[BinaryIO]:
        """The copy of a shard, open for reading; raises as `Cache.open`."""
        shard = self.shard(entry)
        pinned = self.cache.open(shard)
        try:
            with pinned.path.open("rb", buffering=0) as file:
                yield file
        finally:
            self.cache.release(shard.sha256)

    def _file(self, name: str, sha256: str, num_bytes: int | None) -> RemoteFile:
        if not _SHA256.fullmatch(sha256):  # it names a file of the cache
            raise DataError(f"{self.place(name)}: the manifest lists {sha256[:80]!r}, which is no SHA-256")
        return RemoteFile(self.place(name), sha256, num_bytes)


Store = LocalStore | RemoteStore


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/ups_scale, or ~/.cache/ups_scale."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "ups_scale"


def remote_manifest(url: str) -> tuple[str, str]:
    """(URL of the manifest, URL of the folder it lies in) that `url` means, either of both.

    Raises:
        DataError: files beside it can't be named.
    """
    protocol, _, rest = url.partition("://")
    if "::" in url or "?" in rest or "#" in rest:
        raise DataError(
            f"{url}: the files beside a manifest can't be named from such a URL; give one that ends in manifest.json, "
            "or that of its folder (a signed URL is of one file only: give credentials in the way of the protocol)"
        )
    rest = rest.rstrip("/")
    if not rest.endswith(".json"):
        rest = f"{rest}/manifest.json"
    return f"{protocol}://{rest}", f"{protocol}://{rest.rpartition('/')[0]}"
