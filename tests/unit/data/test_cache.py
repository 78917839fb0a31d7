"""The cache of remote files: bounded, shared, verified, and never somebody else's."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from shard_server import impatience, shard_server

from ups_scale.data import cache as cache_module
from ups_scale.data import remote
from ups_scale.data.cache import Cache, NoRoom
from ups_scale.data.remote import LostFile, RemoteFile, Unreachable
from ups_scale.errors import DataError

SIZE = 10_000
BODIES = {f"file-{number}": bytes([number]) * SIZE for number in range(6)}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    with impatience(monkeypatch, 0.3):
        yield


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for name, body in BODIES.items():
        (folder / name).write_bytes(body)
    with shard_server(folder) as server:
        yield server


@pytest.fixture
def file(server):
    def file(number, **changes):
        name = f"file-{number}"
        known = {"sha256": hashlib.sha256(BODIES[name]).hexdigest(), "bytes": SIZE}
        return RemoteFile(f"{server.url}/{name}", **{**known, **changes})

    return file


def content(pinned):
    return os.pread(pinned.descriptor, 2 * SIZE, 0)


def held(cache):
    """Numbers of the files whose copies are there."""
    names = {hashlib.sha256(body).hexdigest(): int(name[-1]) for name, body in BODIES.items()}
    return {names[path.name] for path in cache.folder.iterdir() if path.is_file()}


def test_a_file_is_downloaded_once_and_named_by_its_content(server, file, tmp_path):
    cache = Cache(tmp_path / "cache", 10 * SIZE)
    for _ in range(2):
        assert content(cache.open(file(1))) == BODIES["file-1"]
    cache.release(file(1).sha256)
    assert content(cache.open(file(1))) == BODIES["file-1"]
    assert content(Cache(tmp_path / "cache", 10 * SIZE).open(file(1))) == BODIES["file-1"]
    elsewhere = RemoteFile("http://127.0.0.1:9/other/name", file(1).sha256, SIZE)
    assert content(cache.open(elsewhere)) == BODIES["file-1"]
    assert server.requests == {"file-1": 1}
    assert sorted(path.name for path in cache.folder.iterdir()) == sorted([file(1).sha256, "locks"])
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_what_was_unused_for_longest_makes_room(file, tmp_path):
    cache = Cache(tmp_path / "cache", 3 * SIZE + 100)
    for number in (0, 1, 2):
        cache.open(file(number))
        cache.release(file(number).sha256)
    cache.open(file(0))
    cache.release(file(0).sha256)
    cache.open(file(3))
    assert held(cache) == {0, 2, 3}
    cache.release(file(3).sha256)
    os.utime(cache.folder / file(3).sha256, (1, 1))
    cache.open(file(4))
    assert held(cache) == {0, 2, 4}


def test_the_use_that_counts_is_the_last_not_the_first(file, tmp_path):
    cache = Cache(tmp_path / "cache", 2 * SIZE)
    cache.open(file(0))
    cache.open(file(1))
    cache.release(file(1).sha256)
    cache.release(file(0).sha256)
    cache.open(file(2))
    assert held(cache) == {0, 2}


def test_a_process_that_ended_has_used_what_it_opened(file, tmp_path):
    cache, ended = Cache(tmp_path / "cache", 2 * SIZE), Cache(tmp_path / "cache", 2 * SIZE)
    for number in (0, 1):
        cache.open(file(number))
        cache.release(file(number).sha256)
    ended.open(file(0))
    del ended  # without letting go of anything
    cache.open(file(2))
    assert held(cache) == {0, 2}


def test_a_copy_that_is_removed_while_it_is_opened_is_downloaded_again(server, file, tmp_path, monkeypatch):
    cache, lock, removed = Cache(tmp_path / "cache", 2 * SIZE), cache_module.fcntl.flock, []

    def remove_first(descriptor, what):
        if what == cache_module.fcntl.LOCK_SH and not removed:
            removed.append((cache.folder / file(1).sha256).unlink())
        return lock(descriptor, what)

    monkeypatch.setattr(cache_module.fcntl, "flock", remove_first)
    assert content(cache.open(file(1))) == BODIES["file-1"]
    assert held(cache) == {1}
    assert server.requests["file-1"] == 2


def test_what_is_being_read_stays(file, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "ROOM_S", 0.1)
    cache = Cache(tmp_path / "cache", 3 * SIZE)
    pinned = [cache.open(file(number)) for number in (0, 1, 2)]
    assert issubclass(NoRoom, Unreachable)  # stops a run, and puts nothing into quarantine
    with pytest.raises(NoRoom, match=r"file-3, 10,000 bytes, does not fit into the cache's 30,000 beside what is bein"):
        cache.open(file(3))
    assert held(cache) == {0, 1, 2}
    del pinned[0]
    assert content(cache.open(file(3))) == BODIES["file-3"]
    assert held(cache) == {1, 2, 3}
    assert [content(pin) for pin in pinned] == [BODIES["file-1"], BODIES["file-2"]]


def test_a_download_that_may_wait_takes_nothing_of_what_is_open(file, tmp_path):
    cache = Cache(tmp_path / "cache", 2 * SIZE)
    for number in (0, 1):
        cache.open(file(number))  # open, though no thread reads from it at the moment
    with pytest.raises(NoRoom):
        cache.open(file(2), patient=False)
    assert held(cache) == {0, 1}
    cache.open(file(2))
    assert held(cache) == {1, 2}


def test_another_process_lets_go_of_what_it_does_not_read(file, tmp_path):
    """Two caches of one folder are to each other as those of two processes."""
    ours, theirs = (Cache(tmp_path / "cache", 2 * SIZE) for _ in range(2))
    theirs.open(file(0))
    reading = theirs.open(file(1))
    done = []
    thread = threading.Thread(target=lambda: done.append(content(ours.open(file(2)))))
    thread.start()
    time.sleep(0.1)
    assert not done
    theirs.heed()
    thread.join(10)
    assert done == [BODIES["file-2"]]
    assert held(ours) == {1, 2}
    assert content(reading) == BODIES["file-1"]


def test_few_files_stay_open(file, tmp_path):
    cache = Cache(tmp_path / "cache", 10 * SIZE, max_open=2)
    cache.open(file(0))
    before = len(os.listdir("/proc/self/fd"))
    for number in (1, 2, 3, 4):
        cache.open(file(number))
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_a_file_larger_than_the_cache_is_refused_at_once(file, tmp_path):
    start = time.monotonic()
    with pytest.raises(NoRoom, match=r"does not fit into the cache's 5,000 .*; raise data.cache_gib"):
        Cache(tmp_path / "cache", SIZE // 2).open(file(0))
    assert time.monotonic() - start < 5


def test_files_that_are_not_the_caches_are_left_alone(file, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    for name in ("notes.txt", "thesis.tmp", "a" * 64 + ".bak"):
        (tmp_path / "cache" / name).write_bytes(bytes(20 * SIZE))
    cache = Cache(tmp_path / "cache", SIZE)
    for number in (0, 1):
        cache.open(file(number))
    assert {path.name for path in cache.folder.iterdir()} >= {"notes.txt", "thesis.tmp", "a" * 64 + ".bak"}


@pytest.mark.parametrize("fault", [500, "silence", "torn", "short", "flipped"])
def test_a_failure_that_passes_leaves_no_trace(server, file, tmp_path, fault):
    server.fault = lambda name, number: fault if number < 2 else None
    cache = Cache(tmp_path / "cache", 3 * SIZE)
    assert content(cache.open(file(1))) == BODIES["file-1"]
    assert server.requests["file-1"] == 3
    assert held(cache) == {1}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("short", "5,000 bytes came, the manifest lists 10,000, 3 times the same; copy the file there again"),
        ("flipped", r"its SHA-256 is [0-9a-f]{12}\.\.\., the manifest lists [0-9a-f]{12}\.\.\., 3 times the same"),
    ],
)
def test_what_always_comes_wrong_is_damage_and_is_not_asked_for_again(server, file, tmp_path, fault, told):
    server.fault = lambda name, number: fault
    cache = Cache(tmp_path / "cache", 3 * SIZE)
    for _ in range(2):
        with pytest.raises(LostFile, match=f"file-1: {told}"):
            cache.open(file(1))
    assert server.requests["file-1"] == 3
    assert held(cache) == set()


def test_a_refusal_is_no_damage(server, file, tmp_path):
    server.fault = lambda name, number: 403 if number < 1 else None
    cache = Cache(tmp_path / "cache", 3 * SIZE)
    with pytest.raises(Unreachable, match=r"file-1: the server denies access \(HTTP 403\)"):
        cache.open(file(1))
    assert content(cache.open(file(1))) == BODIES["file-1"]  # asked again: it may have been given


def test_a_file_of_unknown_size(file, tmp_path):
    assert content(Cache(tmp_path / "cache", 3 * SIZE).open(file(1, bytes=None))) == BODIES["file-1"]


def test_a_copy_that_has_rotted_is_downloaded_anew(server, file, tmp_path):
    cache = Cache(tmp_path / "cache", 3 * SIZE)
    cache.open(file(1))
    assert cache.is_sound(file(1))
    (cache.folder / file(1).sha256).write_bytes(b"x" * SIZE)
    assert not cache.is_sound(file(1))
    assert content(cache.open(file(1))) == BODIES["file-1"]
    assert server.requests["file-1"] == 2


def test_threads_download_a_file_once(server, file, tmp_path):
    server.seconds = 0.1
    cache, found = Cache(tmp_path / "cache", 10 * SIZE), []
    threads = [threading.Thread(target=lambda: found.append(content(cache.open(file(1))))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [BODIES["file-1"]] * 6
    assert server.requests["file-1"] == 1


PROCESS = """
import sys
from pathlib import Path
from ups_scale.data.cache import Cache
from ups_scale.data.remote import RemoteFile
folder, size, *files = sys.argv[1:]
cache = Cache(Path(folder), int(size))
for url, sha256 in zip(files[::2], files[1::2]):
    cache.open(RemoteFile(url, sha256, 10_000))
    cache.release(sha256)
print("done")
"""


def process(cache, *files):
    line = [sys.executable, "-c", PROCESS, str(cache.folder), str(cache.max_bytes)]
    for file in files:
        line += [file.url, file.sha256]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_download_a_file_once_and_keep_within_the_bound(server, file, tmp_path):
    server.seconds = 0.05
    roomy, tight = Cache(tmp_path / "roomy", 10 * SIZE), Cache(tmp_path / "tight", 3 * SIZE)
    of_both = [(cache, process(cache, *map(file, range(6)))) for cache in (roomy, roomy, tight, tight)]
    largest = 0
    while any(running.poll() is None for _, running in of_both):
        sizes = []
        for path in tight.folder.iterdir():
            try:
                sizes.append(path.stat().st_size if path.is_file() else 0)
            except FileNotFoundError:
                continue
        largest = max(largest, sum(sizes))
        time.sleep(0.005)
    for _, running in of_both:
        out, problems = running.communicate(timeout=60)
        assert out == "done\n", problems
    assert held(roomy) == set(range(6))
    assert 0 < largest <= 3 * SIZE
    assert all(count <= 3 for count in server.requests.values())  # once for the roomy, once per process for the tight


def test_what_a_killed_download_leaves_is_removed_and_a_living_one_is_not(server, file, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "ROOM_S", 0.1)
    server.fault = lambda name, number: "silence" if name == "file-0" else None
    cache = Cache(tmp_path / "cache", 2 * SIZE)
    running = process(cache, file(0))
    until = time.monotonic() + 30
    while not list(cache.folder.glob("*.tmp")):
        assert time.monotonic() < until
        time.sleep(0.01)
    cache.open(file(1))
    with pytest.raises(NoRoom):  # the other's room is taken before its first byte has come
        cache.fetch(file(2), patient=False)
    assert list(cache.folder.glob("*.tmp"))
    running.send_signal(signal.SIGKILL)
    running.communicate()
    cache.open(file(2))
    assert not list(cache.folder.glob("*.tmp"))
    assert held(cache) == {1, 2}


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    Cache(folder, SIZE)
    if os.getuid() == 0:
        os.chown(folder, 12345, -1)
        owner, own = 12345, 0
    else:
        owner, own = os.getuid(), 12345
        monkeypatch.setattr(os, "getuid", lambda: own)
    told = f"belongs to user {owner}, and this process runs as user {own}; what another user can write can't be trusted"
    with pytest.raises(DataError, match=rf"cache: {told}: set data\.cache_dir to a folder of your own"):
        Cache(folder, SIZE)


def test_a_folder_that_all_may_write_to_is_refused(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(DataError, match=r"may be written to by others; .*set data\.cache_dir"):
        Cache(tmp_path / "cache", SIZE)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/cache: can't be used as cache \(Not a directory\)"):
        Cache(tmp_path / "file/cache", SIZE)


def test_a_folder_without_locks_is_refused(tmp_path, monkeypatch):
    def refuse(descriptor, what):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cache_module.fcntl, "flock", refuse)
    with pytest.raises(DataError, match=r"can't be used as cache \(No locks available\); set data\.cache_dir"):
        Cache(tmp_path / "cache", SIZE)


class FullDisk:
    def get_file(self, path, target):
        with open(target, "wb") as file:
            file.write(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_and_not_tried_again(file, tmp_path, monkeypatch):
    cache = Cache(tmp_path / "cache", 3 * SIZE)
    monkeypatch.setattr(remote, "_file_system", lambda url: (FullDisk(), url))
    with pytest.raises(Unreachable, match=r"file-1: the cache's disk is full; free some space, or set data\.cache_dir"):
        cache.open(file(1))
    assert not list(cache.folder.glob("*.tmp"))


def test_a_cache_that_has_become_unwritable_is_said_to_be(file, tmp_path, monkeypatch):
    cache = Cache(tmp_path / "cache", 3 * SIZE)

    def refuse(*args):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(Unreachable, match=r"cache: can't keep http.*file-1 \(Read-only file system\)"):
        cache.open(file(1))


def test_waiting_ends_when_it_is_told_to(server, file, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 60.0)
    server.fault = lambda name, number: 500
    cache = Cache(tmp_path / "cache", 3 * SIZE)
    threading.Timer(0.2, cache.abandon).start()
    with pytest.raises(Unreachable, match="file-1: given up"):
        cache.open(file(1))


def test_who_waits_for_anothers_download_lets_go_of_what_it_is_waiting_for(file, tmp_path, monkeypatch):
    """Two processes want the same file; the one that waits for the other's download holds what that needs room of."""
    monkeypatch.setattr(cache_module, "ROOM_S", 5.0)
    ours, theirs = (Cache(tmp_path / "cache", 2 * SIZE) for _ in range(2))
    for number in (0, 1):
        ours.open(file(number))  # pinned, and not read by any thread
    ours._next_look = time.monotonic() + 0.3  # it has just looked whether anybody wants room
    opened = []
    threads = [
        threading.Thread(target=lambda cache=cache: opened.append(cache.open(file(2)))) for cache in (theirs, ours)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(4.0)
    assert [content(pinned) for pinned in opened] == [BODIES["file-2"]] * 2


def test_who_waits_for_anothers_download_ends_when_told_to(file, tmp_path):
    cache = Cache(tmp_path / "cache", 2 * SIZE)
    failed = []

    def attempt():
        try:
            cache.fetch(file(0))
        except Unreachable as error:
            failed.append(str(error))

    with cache._locked(file(0).sha256[:3]):
        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        time.sleep(0.1)
        cache.abandon()
        thread.join(2.0)
    assert failed == [f"{tmp_path / 'cache'}: given up waiting, as what it was for has ended"]
