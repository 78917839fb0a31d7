"""An S3-compatible server on this machine (moto's), which fails a share of the requests if told to.

python -m ups_scale.bench.s3 FOLDER [--failing-share 0.05]    serves its files as s3://shards, prints the endpoint
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

URL = "s3://shards"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


class S3Server:
    """Serves the files of `folder` at `URL`, for clients with `environment`.

    `failing_share` of the requests to read are answered by HTTP 500, spread evenly; `asked` and `failed` count them.
    Every answer comes `latency_s` late.

    Raises:
        ImportError: moto is not installed.
    """

    def __init__(self, folder: Path, failing_share: float = 0.0, latency_s: float = 0.0) -> None:
        import boto3
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *args: object) -> None:
                pass

        self.failing_share, self.asked, self.failed, self.latency_s = failing_share, 0, 0, 0.0
        self._answer: Callable[..., Any] = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._application, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}"}
        client = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        )
        bucket = URL.partition("://")[2]
        client.create_bucket(Bucket=bucket)
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            client.put_object(Bucket=bucket, Key=path.name, Body=path.read_bytes())
        self.latency_s = latency_s

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        time.sleep(self.latency_s)
        if environ["REQUEST_METHOD"] in ("GET", "HEAD") and self._fails():
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        return self._answer(environ, start_response)

    def _fails(self) -> bool:
        with self._lock:
            self.asked += 1
            fails = int(self.asked * self.failing_share) > int((self.asked - 1) * self.failing_share)
            self.failed += fails
            return fails


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ups_scale.bench.s3", description="An S3 server on this machine.")
    parser.add_argument("folder", type=Path, help="whose files it serves")
    parser.add_argument("--failing-share", type=float, default=0.0, help="of the requests that fail (default 0)")
    parser.add_argument("--latency-s", type=float, default=0.0, help="seconds that an answer takes (default 0)")
    arguments = parser.parse_args()
    server = S3Server(arguments.folder, arguments.failing_share, arguments.latency_s)
    for key, value in server.environment.items():
        print(f"export {key}={value}")
    print(f"# {URL} holds {arguments.folder}; it ends with its input (Ctrl-D), or with Ctrl-C", flush=True)
    with suppress(KeyboardInterrupt):
        sys.stdin.read()
    os._exit(0)  # threads that serve a client wait for it


if __name__ == "__main__":
    main()
