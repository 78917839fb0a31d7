"""The processes of a trial are ended as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ups_scale.sweep import processes

CHILDREN = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "


def members(group: int) -> list[int]:
    return processes._members(group)


def test_a_command_runs_to_its_end_and_its_output_is_kept(tmp_path: Path) -> None:
    log, groups = tmp_path / "log", []
    line = [sys.executable, "-c", "print('hello'); raise SystemExit(3)"]
    assert processes.run(line, log, threading.Event(), os.environ, groups.append) == 3
    assert log.read_text().splitlines()[-1] == "hello"
    assert members(groups[0]) == []


def test_a_stop_ends_the_children_too(tmp_path: Path) -> None:
    stop, groups = threading.Event(), []
    threading.Timer(0.7, stop.set).start()
    line = [sys.executable, "-c", CHILDREN + "time.sleep(60)"]
    start = time.monotonic()
    with pytest.raises(processes.Interrupted):
        processes.run(line, tmp_path / "log", stop, os.environ, groups.append)
    assert time.monotonic() - start < 15
    assert members(groups[0]) == []


def test_what_ignores_the_request_is_killed() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    processes.end(process.pid, grace_s=0.3)
    assert process.wait(timeout=5) == -9


def test_only_the_sweeps_own_group_is_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "--mark"], start_new_session=True)
    try:
        time.sleep(0.2)
        assert not processes.end_left_behind(process.pid, "some/other/sweep/runs")
        assert process.poll() is None
        assert processes.end_left_behind(process.pid, "--mark")
        assert process.wait(timeout=5) != 0
        assert not processes.end_left_behind(process.pid, "--mark"), "nothing is left"
    finally:
        process.kill()
