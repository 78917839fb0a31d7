"""Files at URLs that fsspec understands (s3://, gs://, https://, ...), asked for patiently: read whole, or downloaded.

A failure that may pass is an `OSError` inside, tried again by `persistently`. What is left is of two kinds:
`Unreachable` is the server's, the network's or the cache's, and ends a command, as asking later may help; `LostFile` is
the data's.
"""

from __future__ import annotations

import asyncio
import errno
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ups_scale.errors import DataError

T = TypeVar("T")
SILENCE_S = 30.0
"""A server that sends nothing for so long is given up, and asked again."""
ATTEMPTS = 8
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 20.0
QUIET_S = 3.0
"""Failures are told of from then on, and not more often."""
_GONE = (404, 410)
# Answers of the 4xx kind that may be others a moment later.
_PASSING = (408, 425, 429)
_INSTALL = "pip install 'ups_scale[remote]', or the package that fsspec names"


class Unreachable(DataError):
    """A file can't be had now: a server refuses, or did not give it in `ATTEMPTS` attempts, or the cache can't keep it.
    No fault of the data."""


class LostFile(DataError):
    """What the manifest lists is not what the server has."""


class MissingFile(LostFile):
    """A server has no such file."""


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere and its SHA-256; `bytes` is None where the manifest does not list its size."""

    url: str
    sha256: str
    bytes: int | None = None


def is_url(text: str | Path) -> bool:
    return "://" in str(text)


def read(url: str) -> bytes:
    """The content of a file.

    Raises:
        Unreachable, LostFile: see the module's text.
    """
    return persistently(url, lambda: _asked(url, lambda files, path: files.cat_file(path)))


def size(url: str) -> int | None:
    """The size of a file in bytes; None if the server does not say.

    Raises:
        Unreachable, LostFile: see the module's text.
    """
    return persistently(url, lambda: _asked(url, lambda files, path: files.info(path).get("size")))


def download(url: str, target: Path) -> None:
    """Writes a file to `target`, in one attempt.

    Raises:
        OSError: of the kind that may pass.
        Unreachable, LostFile: it won't; the former also if the disk of `target` is full.
    """
    _asked(url, lambda files, path: files.get_file(path, str(target)))


class Patience:
    """Ends the pauses of those who wait: `end` makes what has begun give up, and not what begins later."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def begin(self) -> threading.Event:
        return self._ended

    def end(self) -> None:
        self._ended.set()
        self._ended = threading.Event()


def persistently(name: str, work: Callable[[], T], ended: threading.Event | None = None) -> T:
    """`work()`, up to `ATTEMPTS` times while it raises an `OSError`, until `ended`; `name` is for messages.

    Raises:
        Unreachable: none of them did.
    """
    ended = ended or threading.Event()
    problems: list[str] = []
    begin = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except OSError as error:
            # Not the error itself: its traceback holds frames, and what they name.
            problems.append(error.strerror or str(error) or type(error).__name__)
        if attempt < ATTEMPTS:
            _tell(time.monotonic() - begin, f"{name}: {problems[-1]}; attempt {attempt} of {ATTEMPTS}, trying again")
            # Many readers that failed together don't come back together.
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
            if ended.wait(pause):
                raise Unreachable(f"{name}: given up, as what it was for has ended")
    told = "; ".join(dict.fromkeys(problems))
    raise Unreachable(
        f"{name}: not to be had in {ATTEMPTS} attempts ({told}); look at the server and the network, then run the same "
        "command again"
    )


_last_told = 0.0


def _tell(waited_s: float, text: str) -> None:
    """Prints why nothing happens, once that is worth a line."""
    global _last_told
    now = time.monotonic()
    if waited_s >= QUIET_S and now - _last_told >= QUIET_S:
        _last_told = now
        print(text, file=sys.stderr, flush=True)


def _asked(url: str, work: Callable[[Any, str], T]) -> T:
    files, path = _file_system(url)
    try:
        return work(files, path)
    except Exception as error:
        cause = error.__cause__
        # Of a size asked for by HTTP, fsspec says that there is no such file whatever the server said.
        of_http = isinstance(error, FileNotFoundError) and isinstance(cause, (OSError, *_http_errors()))
        raise _meaning(url, cause if of_http and isinstance(cause, Exception) else error) from None


def _meaning(url: str, error: Exception) -> Exception:
    """What a file system's error comes to: one that may pass as an `OSError`, one of our own, or itself."""
    # Every protocol's library has exceptions of its own; those of HTTP carry the answer's status.
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in _GONE:
        return MissingFile(f"{url}: the server has no such file; check the URL, or copy the shards there again")
    if isinstance(error, PermissionError):
        return Unreachable(f"{url}: the server denies access ({error}); check the URL and your credentials")
    if isinstance(status, int) and 400 <= status < 500 and status not in _PASSING:
        what = {401: "wants credentials", 403: "denies access"}.get(status, "refuses")
        return Unreachable(f"{url}: the server {what} (HTTP {status}); check the URL and your credentials")
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError"):
        return Unreachable(f"{url}: {error}; check your credentials")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unreachable(f"{url}: the cache's disk is full; free some space, or set data.cache_dir to another disk")
    if isinstance(error, OSError):
        return error
    if isinstance(error, (asyncio.TimeoutError, *_http_errors(), *_s3_errors())):
        return OSError(errno.EIO, f"{type(error).__name__}: {error}" if status is None else f"HTTP {status}")
    return error


def _http_errors() -> tuple[type[Exception], ...]:
    return _of_module("aiohttp", "ClientError")


def _s3_errors() -> tuple[type[Exception], ...]:
    return _of_module("botocore.exceptions", "BotoCoreError", "ClientError", "HTTPClientError")


def _of_module(module: str, *names: str) -> tuple[type[Exception], ...]:
    """Exceptions of a library, if it is loaded: it is not needed for other protocols."""
    return tuple(getattr(sys.modules[module], name) for name in names) if module in sys.modules else ()


@lru_cache(maxsize=64)
def _of_protocol(protocol: str) -> Any:
    import fsspec

    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        options = {"client_kwargs": {"timeout": limits, "trust_env": True}}
    elif protocol in ("s3", "s3a"):
        options = {
            "config_kwargs": {
                "connect_timeout": SILENCE_S,
                "read_timeout": SILENCE_S,
                "retries": {"max_attempts": 0},
            }
        }
    files = fsspec.filesystem(protocol, **options)
    if hasattr(files, "retries"):
        files.retries = 1  # `persistently` does it; retries within retries take hours to end
    return files


def _file_system(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    try:
        files = _of_protocol(protocol)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url}: can't be read ({error}); {_INSTALL}; or give a folder") from None
    return files, files._strip_protocol(url)
