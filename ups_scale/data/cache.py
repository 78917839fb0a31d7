"""A bounded folder of local copies of remote files, shared by all processes of a node.

    <folder>/<SHA-256>          a whole, verified copy; its time of modification is that of its last use
    <folder>/<SHA-256>.*.tmp    being downloaded; left over where nobody holds its lock
    <folder>/locks/<xyz>        one download of a file per node

A copy is named by what it holds, so that neither equal names in different folders nor new content under an old name can
be taken for each other. Whoever reads a copy holds a shared lock on it (`PinnedFile`), which ends with the process; only
copies that nobody holds make room, those unused for longest first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ups_scale.atomic import sync_folder
from ups_scale.errors import DataError, remedy

ATTEMPTS = 8
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 20.0
HASH_BYTES = 2**22


class PinnedFile:
    """A copy, open for reading, that stays until nobody holds this object any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


@dataclass(frozen=True)
class Remote:
    """A file elsewhere: `download(target)` writes it to a local path; `name` is for messages."""

    name: str
    bytes: int
    sha256: str
    download: Callable[[Path], None]


class Cache:
    """See the module's text. Safe to use from many threads and processes.

    Raises:
        DataError: the folder can't be made or written to, or belongs to another user.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        try:
            (folder / "locks").mkdir(parents=True, exist_ok=True)
            owner = folder.stat().st_uid
            if owner != os.getuid():
                raise DataError(
                    f"{folder}: belongs to user {owner}, this process runs as {os.getuid()}; what another user can "
                    "write can't be trusted: set data.cache_dir to a folder of your own"
                )
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise DataError(
                f"{folder}: can't be used as cache ({error.strerror}); {remedy(error, 'set data.cache_dir')}"
            ) from None

    def open(self, remote: Remote) -> PinnedFile:
        """The copy, downloaded if it isn't there.

        Raises:
            DataError: see `fetch`.
        """
        path = self.folder / remote.sha256
        while True:
            # Not by a name: a failed download's traceback may keep this frame for a while, and so what it names.
            with suppress(FileNotFoundError):
                return self._held(path)
            self.fetch(remote)

    @staticmethod
    def _held(path: Path) -> PinnedFile:
        file = PinnedFile(path)
        if os.fstat(file.descriptor).st_nlink == 0:  # removed between opening and locking it
            raise FileNotFoundError(path)
        os.utime(file.descriptor)
        return file

    def fetch(self, remote: Remote) -> None:
        """Downloads a file, unless its copy is there; waits where another process does.

        Raises:
            DataError: no room, refused, or still failing or damaged after `ATTEMPTS` attempts.
        """
        path = self.folder / remote.sha256
        with self._locked(remote.sha256[:3]):
            if path.exists():
                return
            with self._reserve(remote) as aside:
                self._download(remote, aside)
                os.replace(aside, path)
                sync_folder(self.folder)

    def _download(self, remote: Remote, aside: Path) -> None:
        problems = []
        for attempt in range(ATTEMPTS):
            if attempt:
                # Many readers that failed together don't come back together.
                time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1))
            try:
                remote.download(aside)
            except DataError:
                raise
            except OSError as error:
                problems.append(str(error) or type(error).__name__)
                continue
            with aside.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                found = hashlib.file_digest(file, "sha256").hexdigest()
                if (size, found) == (remote.bytes, remote.sha256):
                    os.fsync(file.fileno())
                    return
            problems.append(
                f"{size:,} bytes came, {remote.bytes:,} were to" if size != remote.bytes else "its SHA-256 differs"
            )
        told = "; ".join(dict.fromkeys(problems))
        raise DataError(f"{remote.name}: not to be had in {ATTEMPTS} attempts ({told})")

    @contextmanager
    def _reserve(self, remote: Remote) -> Iterator[Path]:
        """A file of the right size to download into, which is room that nobody else takes."""
        with self._locked("room"):
            self._make_room(remote)
            descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=f"{remote.sha256}.", suffix=".tmp")
            aside = Path(name)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if remote.bytes:
                    os.posix_fallocate(descriptor, 0, remote.bytes)
            except OSError as error:
                aside.unlink()
                os.close(descriptor)
                raise DataError(
                    f"{self.folder}: no room for {remote.name}, {remote.bytes:,} bytes ({error.strerror}); free some "
                    "space, or set data.cache_dir to another disk"
                ) from None
        try:
            yield aside
        finally:
            aside.unlink(missing_ok=True)
            os.close(descriptor)

    def _make_room(self, remote: Remote) -> None:
        """Removes copies that nobody holds until `remote` fits. Called under the room's lock."""
        entries = []
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    entries.append((entry.name.endswith(".tmp"), status.st_mtime_ns, entry.path, status.st_size))
        held = sum(size for _, _, _, size in entries)
        # What is left of downloads that were killed goes first.
        for aside, _, path, size in sorted(entries, key=lambda entry: (not entry[0], entry[1])):
            if not aside and held + remote.bytes <= self.max_bytes:
                return
            if _remove_unless_held(Path(path)):
                held -= size
        if held + remote.bytes > self.max_bytes:
            raise DataError(
                f"{self.folder}: {remote.name}, {remote.bytes:,} bytes, does not fit into the cache's "
                f"{self.max_bytes:,} beside the {held:,} that are being read; raise data.cache_gib, or lower "
                "data.shuffle_shards"
            )

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        descriptor = os.open(self.folder / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _remove_unless_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
