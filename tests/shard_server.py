"""Servers on this machine for tests of remote shards: plain HTTP that fails as told, and S3."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ups_scale.bench.s3 import CREDENTIALS, S3Server
from ups_scale.data import cache, remote


class ShardServer:
    """Serves the files of a folder at `url`.

    `fault(name, number)` says how the request of that number for a file is answered: an HTTP status, "silence" (nothing
    comes), "torn" (fewer bytes than the header says), "short" (a part of the file, and the header says so), "flipped"
    (a byte is another), or None: as it should be. `requests` counts the GETs by file, `order` lists them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fault: Callable[[str, int], int | str | None] = lambda name, number: None
        self.requests: Counter[str] = Counter()
        self.order: list[str] = []
        self.seconds = 0.0
        self._lock = threading.Lock()
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else every small body comes 40 ms late

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                outer.answer(self, with_body=False)

            def do_GET(self) -> None:
                outer.answer(self, with_body=True)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        name = request.path.lstrip("/")
        with self._lock:
            number = self.requests[name]
            if with_body:
                self.requests[name] += 1
                self.order.append(name)
        fault = self.fault(name, number)
        time.sleep(self.seconds)
        path = self.folder / name
        if fault == "silence":
            self.closing.wait(30)
            request.close_connection = True
            return
        if isinstance(fault, int) or not path.is_file():
            request.send_error(fault if isinstance(fault, int) else 404)
            return
        body = bytearray(path.read_bytes())
        if fault == "short":
            body = body[: len(body) // 2]
        if fault == "flipped":
            body[len(body) // 2] ^= 255
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if not with_body:
            return
        if fault == "torn":
            body = body[: len(body) // 2]
            request.close_connection = True
        with suppress(OSError):  # the asker may have gone
            request.wfile.write(body)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def shard_server(folder: Path) -> Iterator[ShardServer]:
    server = ShardServer(folder)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """moto's server; within it the environment leads s3:// there."""
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith("AWS_")]:
            patch.delenv(key)
        for key, value in CREDENTIALS.items():
            patch.setenv(key, value)
        server = S3Server(folder)
        patch.setenv("AWS_ENDPOINT_URL", server.environment["AWS_ENDPOINT_URL"])
        forget_s3()
        try:
            yield server
        finally:
            server.close()
            forget_s3()


def forget_s3() -> None:
    """fsspec keeps its clients, which keep the endpoint that they were made with."""
    import s3fs

    remote._of_protocol.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def impatience(monkeypatch, silence_s):
    """Downloads are tried again at once, a server's silence ends after `silence_s`, and processes look often whether
    another wants room."""
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(remote, "SILENCE_S", silence_s)
    monkeypatch.setattr(cache, "LOOK_S", 0.01)
    remote._of_protocol.cache_clear()
    yield
    remote._of_protocol.cache_clear()
