"""The processes of a trial: in a group of their own, ended as a whole, and found again when their sweep was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

GRACE_S = 20.0
"""How long a group may take to end by itself before it is killed."""


class Interrupted(Exception):
    """The sweep was told to stop; its journal is whole."""


def run(
    line: Sequence[str],
    log: Path,
    stop: threading.Event,
    environment: Mapping[str, str],
    started: Callable[[int], None],
) -> int:
    """The exit code of a command that runs in its own process group, its output added to `log`; `started` is told the
    group's number. When `stop` is set the group is ended.

    Raises:
        Interrupted: `stop` was set.
    """
    with log.open("ab") as out:
        out.write(f"$ {' '.join(line)}\n".encode())
        out.flush()
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
    try:
        started(process.pid)
        while process.poll() is None:
            if stop.wait(0.1):
                raise Interrupted
    finally:
        if process.poll() is None:
            end(process.pid)
        process.wait()
    return process.returncode


def end(group: int, grace_s: float = GRACE_S) -> None:
    """Ends a process group: asks first, and kills what is there after `grace_s`."""
    for number, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and _alive(group):
            time.sleep(0.05)


def end_left_behind(group: int, mark: str) -> bool:
    """Ends the group of a trial whose sweep was killed, if there is anything left of it; whether there was.

    Only if one of its commands names `mark`: the number may belong to somebody else by now.
    """
    if not any(mark in _command(pid) for pid in _members(group)):
        return False
    end(group)
    return True


def _alive(group: int) -> bool:
    return bool(_members(group))


def _members(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(of_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
