"""Files at URLs that fsspec understands (s3://, gs://, https://, ...): small ones read whole, large ones downloaded.

Errors that may pass are `OSError`, to be tried again by the caller; those that won't are `DataError`.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ups_scale.errors import DataError

T = TypeVar("T")
SILENCE_S = 30.0
"""A server that sends nothing for so long is given up, and asked again."""
_REFUSED = {401: "wants credentials", 403: "denies access", 404: "has no such file", 410: "has no such file any more"}


def is_url(text: str) -> bool:
    return "://" in text


def read(url: str) -> bytes:
    """A whole file."""
    return _asked(url, lambda files, path: files.cat_file(path))


def download(url: str, target: Path) -> None:
    """Writes a file to `target`."""
    _asked(url, lambda files, path: files.get_file(path, str(target)))


def _asked(url: str, work: Callable[[Any, str], T]) -> T:
    files, path = _file_system(url)
    try:
        return work(files, path)
    except FileNotFoundError:
        raise DataError(f"{url}: the server has no such file; check the URL, or make the shards again") from None
    except PermissionError as error:
        raise DataError(f"{url}: the server denies access ({error}); check your credentials and the URL") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{url}: the cache's disk is full; free some space, or set data.cache_dir") from None
        raise
    except Exception as error:
        # Every protocol's library has exceptions of its own; aiohttp's carry the answer's status.
        status = getattr(error, "status", None)
        if status in _REFUSED:
            raise DataError(f"{url}: the server {_REFUSED[status]} (HTTP {status}); check the URL and your credentials"
                            ) from None  # fmt: skip
        if not isinstance(error, (asyncio.TimeoutError, *_library_errors())):
            raise
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}" if status is None else f"HTTP {status}") from error


def _library_errors() -> tuple[type[Exception], ...]:
    """Exceptions of the libraries that are loaded: none is needed for the others."""
    import sys

    names = (
        ("aiohttp", "ClientError"),
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
    )
    return tuple(getattr(sys.modules[module], name) for module, name in names if module in sys.modules)


@lru_cache(maxsize=64)
def _of_protocol(protocol: str) -> Any:
    import fsspec

    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        options = {"client_kwargs": {"timeout": limits}}
    elif protocol in ("s3", "s3a"):
        options = {"config_kwargs": {"connect_timeout": SILENCE_S, "read_timeout": SILENCE_S}}
    return fsspec.filesystem(protocol, **options)


def _file_system(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    try:
        files = _of_protocol(protocol)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url}: can't be read ({error}); install what it names, or give a folder") from None
    return files, files._strip_protocol(url)
