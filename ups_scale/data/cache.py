"""A bounded folder of local copies of remote files, shared by all processes of a node.

    <folder>/<SHA-256>                  a whole, verified copy; its time of modification is that of its last use
    <folder>/<SHA-256>.<bytes>.*.tmp    being downloaded into the room of so many bytes; left over if nobody locks it
    <folder>/locks/<xyz>                one download of a file per node
    <folder>/locks/wanted               somebody has no room for what is needed: let go of what isn't being read

A copy is named by what it holds, so that neither equal names in different folders nor new content under an old name
can be taken for each other. Whoever reads a copy holds a shared lock on it (`PinnedFile`), which ends with the process;
only copies that nobody holds make room, those unused for longest first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import resource
import tempfile
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ups_scale.atomic import sync_folder
from ups_scale.data import remote
from ups_scale.data.patience import SHORTAGES
from ups_scale.data.remote import LostFile, Patience, RemoteFile, Unreachable
from ups_scale.errors import DataError, remedy

# Files that all readers of the process keep open. Data sets have more shards than it may have open files (often 1024).
OPEN_SHARDS = max(16, min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
SAME = 3
"""What comes so often with the same wrong content is what the server has."""
ROOM_S = 60.0
"""So long others are waited for that read what takes up the room."""
LOOK_S = 0.2
GIB = 2**30
_OURS = re.compile(r"[0-9a-f]{64}(\.(\d+)\.\w+\.tmp)?")
"""Names of copies and downloads: nothing else that lies in the folder is counted, or removed."""


class NoRoom(Unreachable):
    """A file does not fit beside what is being read."""


class PinnedFile:
    """A copy, open for reading, that stays until nobody holds this object any more."""

    def __init__(self, path: Path) -> None:
        self.path, self.descriptor = path, -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Cache:
    """See the module's text. Safe to use from many threads and processes.

    What has been opened stays pinned, `max_open` files at most, until `release`, or until its room is needed and no
    thread reads it.

    Raises:
        DataError: the folder can't be made, written to or locked, or belongs to another user.
    """

    def __init__(self, folder: Path, max_bytes: int, max_open: int = OPEN_SHARDS) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._max_open = max_open
        self._pins: OrderedDict[str, PinnedFile] = OrderedDict()
        self._lock = threading.Lock()
        self._lost: dict[str, str] = {}
        self._patience = Patience()
        self._next_look, self._seen = 0.0, time.time_ns()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = folder.stat()
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                found = f"belongs to user {status.st_uid}, and this process runs as user {os.getuid()}"
                raise DataError(
                    f"{folder}: {found if status.st_uid != os.getuid() else 'may be written to by others'}; what "
                    "another user can write can't be trusted: set data.cache_dir to a folder of your own (chmod go-w)"
                )
            (folder / "locks").mkdir(exist_ok=True, mode=0o700)
            with self._locked("room"), tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise DataError(
                f"{folder}: can't be used as cache ({error.strerror}); {remedy(error, 'set data.cache_dir')}"
            ) from None

    def open(self, file: RemoteFile, patient: bool = True) -> PinnedFile:
        """The copy, downloaded if it isn't there.

        Raises:
            DataError, OSError: see `fetch`; the latter where the process may open no more files.
        """
        self.heed()
        with self._lock:
            held = self._pins.get(file.sha256)
            if held is not None:
                self._pins.move_to_end(file.sha256)
                return held
        while True:
            # Not by a name: a failed download's traceback may keep this frame for a while, and so what it names.
            with suppress(FileNotFoundError):
                return self._pinned(file.sha256)
            self.fetch(file, patient)

    def release(self, sha256: str) -> None:
        """Lets go of a copy: it may make room from now on, last of all."""
        with self._lock:
            held = self._pins.pop(sha256, None)
        if held is not None:
            os.utime(held.descriptor)

    def heed(self) -> None:
        """Lets go of what no thread reads, if another process has no room; cheap enough to be called often."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        try:
            wanted = (self.folder / "locks" / "wanted").stat().st_mtime_ns
        except FileNotFoundError:
            return
        if wanted > self._seen:
            self._seen = wanted
            with self._lock:
                self._pins.clear()

    def abandon(self) -> None:
        """Ends the waiting of downloads that have begun, with an `Unreachable`; not of those that begin later."""
        self._patience.end()

    def is_sound(self, file: RemoteFile) -> bool:
        """Whether the copy still holds what it did; one that doesn't is removed, to be downloaded anew."""
        path = self.folder / file.sha256
        try:
            with path.open("rb") as copy:
                if hashlib.file_digest(copy, "sha256").hexdigest() == file.sha256:
                    return True
        except OSError:
            pass
        with self._lock:
            self._pins.pop(file.sha256, None)
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return False

    def fetch(self, file: RemoteFile, patient: bool = True) -> None:
        """Downloads a file, unless its copy is there; waits where another process does.

        Not `patient`: waits for no room, and takes none of what this process reads.

        Raises:
            LostFile: the server does not have it, or has it with other content.
            Unreachable: refused, or still failing after all attempts; or the cache has no room for it (`NoRoom`), or
                its disk is full or fails.
            OSError: the process may open no more files.
        """
        if file.sha256 in self._lost:
            raise LostFile(self._lost[file.sha256])
        path, ended = self.folder / file.sha256, self._patience.begin()
        try:
            with self._locked(file.sha256[:3], ended):
                if path.exists():
                    return
                with self._reserved(file, patient, ended) as aside:
                    self._download(file, aside, ended)
                    os.replace(aside, path)
                    sync_folder(self.folder)
        except LostFile as error:
            self._lost[file.sha256] = str(error)  # another thread would download it as often to learn the same
            raise
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            raise Unreachable(
                f"{self.folder}: can't keep {file.url} ({error.strerror}); {remedy(error, 'set data.cache_dir')}"
            ) from None

    @staticmethod
    def _download(file: RemoteFile, aside: Path, ended: threading.Event) -> None:
        seen: Counter[str] = Counter()

        def attempt() -> None:
            remote.download(file.url, aside)
            with aside.open("rb") as copy:
                size = os.fstat(copy.fileno()).st_size
                found = hashlib.file_digest(copy, "sha256").hexdigest()
                if found == file.sha256:
                    os.fsync(copy.fileno())
                    return
            if file.bytes not in (None, size):
                problem = f"{size:,} bytes came, the manifest lists {file.bytes:,}"
            else:
                problem = f"its SHA-256 is {found[:12]}..., the manifest lists {file.sha256[:12]}..."
            seen[found] += 1
            if seen[found] == SAME:
                raise LostFile(f"{file.url}: {problem}, {SAME} times the same; copy the file there again")
            raise OSError(problem)

        remote.persistently(file.url, attempt, ended)

    @contextmanager
    def _reserved(self, file: RemoteFile, patient: bool, ended: threading.Event) -> Iterator[Path]:
        """A file to download into, whose name takes the room."""
        until = time.monotonic() + ROOM_S
        waits = patient and (file.bytes or 0) <= self.max_bytes
        while (taken := self._take_room(file, patient)) is None:
            if not waits or time.monotonic() > until or ended.wait(LOOK_S / 2):
                raise NoRoom(
                    f"{self.folder}: {file.url}, {file.bytes or 0:,} bytes, does not fit into the cache's "
                    f"{self.max_bytes:,} beside what is being read; raise data.cache_gib, or lower data.shuffle_shards"
                )
        descriptor, aside = taken
        try:
            yield aside
        finally:
            aside.unlink(missing_ok=True)
            os.close(descriptor)

    def _take_room(self, file: RemoteFile, patient: bool) -> tuple[int, Path] | None:
        num_bytes = file.bytes or 0
        with self._locked("room"):
            if not self._make_room(num_bytes, patient):
                if patient:
                    (self.folder / "locks" / "wanted").touch()
                return None
            descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=f"{file.sha256}.{num_bytes}.", suffix=".tmp")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return descriptor, Path(name)

    def _make_room(self, num_bytes: int, patient: bool) -> bool:
        """Removes copies that nobody holds until so many bytes fit; whether they do. Called under the room's lock."""
        entries = []
        for entry in os.scandir(self.folder):
            ours = _OURS.fullmatch(entry.name)
            with suppress(FileNotFoundError):
                if ours:
                    status = entry.stat(follow_symlinks=False)
                    size = max(status.st_size, int(ours[2] or 0))
                    entries.append((ours[1] is None, status.st_mtime_ns, entry.path, size))
        held = sum(size for _, _, _, size in entries)
        # What is left of downloads that were killed goes first.
        for whole, _, path, size in sorted(entries):
            if whole and held + num_bytes <= self.max_bytes:
                break
            if _remove_unless_held(Path(path)):
                held -= size
        while patient and held + num_bytes > self.max_bytes:
            with self._lock:
                if not self._pins:
                    return False
                sha256, pin = self._pins.popitem(last=False)
            size = os.fstat(pin.descriptor).st_size
            del pin
            if _remove_unless_held(self.folder / sha256):
                held -= size
        return held + num_bytes <= self.max_bytes

    def _pinned(self, sha256: str) -> PinnedFile:
        file = PinnedFile(self.folder / sha256)
        if os.fstat(file.descriptor).st_nlink == 0:  # removed between opening and locking it
            raise FileNotFoundError(sha256)
        os.utime(file.descriptor)
        with self._lock:
            file = self._pins.setdefault(sha256, file)
            while len(self._pins) > self._max_open:
                self._pins.popitem(last=False)
        return file

    def _wait_for(self, descriptor: int, ended: threading.Event) -> None:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            self.heed()
            if ended.wait(LOOK_S / 4):
                raise Unreachable(f"{self.folder}: given up waiting, as what it was for has ended")

    @contextmanager
    def _locked(self, name: str, ended: threading.Event | None = None) -> Iterator[None]:
        """Holds a lock of the node. With `ended` it may be waited for long: meanwhile others' want of room is heeded,
        as they may be waiting for this process in turn, and the waiting ends with that event."""
        descriptor = os.open(self.folder / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if ended is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            else:
                self._wait_for(descriptor, ended)
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
