"""Files at URLs: asked for patiently, refused at once, and every failure said."""

import importlib
import sys
import threading
import time

import pytest
from shard_server import impatience, shard_server

from ups_scale.data import remote
from ups_scale.data.manifest import load_manifest
from ups_scale.data.remote import ATTEMPTS, LostFile, MissingFile, Patience, Unreachable, persistently
from ups_scale.data.store import RemoteStore, default_cache_dir, remote_manifest
from ups_scale.errors import DataError

BODY = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    with impatience(monkeypatch, 0.2):
        yield


@pytest.fixture
def server(tmp_path):
    (tmp_path / "file").write_bytes(BODY)
    with shard_server(tmp_path) as server:
        yield server


def first(num, fault):
    return lambda name, number: fault if number < num else None


@pytest.mark.parametrize("fault", [500, 502, 503, 429, 408, "silence", "torn"])
def test_a_failure_that_passes_is_tried_again(server, tmp_path, fault):
    server.fault = first(2, fault)
    assert remote.read(f"{server.url}/file") == BODY
    assert server.requests["file"] == 3
    server.requests.clear()
    remote.persistently("it", lambda: remote.download(f"{server.url}/file", tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == BODY
    assert server.requests["file"] == 3


@pytest.mark.parametrize(("fault", "told"), [(500, "HTTP 500"), ("silence", "imeout"), ("torn", "ClientPayloadError")])
def test_one_that_does_not_pass_is_said_with_its_attempts(server, fault, told):
    server.fault = first(10**9, fault)
    with pytest.raises(Unreachable, match=rf"file: not to be had in {ATTEMPTS} attempts \(.*{told}.*\); look at the"):
        remote.read(f"{server.url}/file")
    assert server.requests["file"] == ATTEMPTS


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (403, r"the server denies access \(HTTP 403\); check the URL and your credentials"),
        (401, r"the server wants credentials \(HTTP 401\)"),
        (400, r"the server refuses \(HTTP 400\)"),
    ],
)
def test_a_refusal_is_final(server, status, told):
    server.fault = first(10**9, status)
    with pytest.raises(Unreachable, match=f"{server.url}/file: {told}"):
        remote.read(f"{server.url}/file")
    assert server.requests["file"] == 1


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_is_not_there_is_not_waited_for(server, status):
    server.fault = first(10**9, status)
    with pytest.raises(MissingFile, match=f"{server.url}/file: the server has no such file"):
        remote.read(f"{server.url}/file")
    assert server.requests["file"] == 1


def test_a_server_that_is_not_there(server):
    server.close()
    with pytest.raises(Unreachable, match=rf"not to be had in {ATTEMPTS} attempts \(.*Connect call failed"):
        remote.read(f"{server.url}/file")


def test_sizes(server):
    assert remote.size(f"{server.url}/file") == len(BODY)
    with pytest.raises(LostFile):
        remote.size(f"{server.url}/nothing")
    server.fault = first(10**9, 403)
    with pytest.raises(Unreachable, match="denies access"):
        remote.size(f"{server.url}/file")
    server.fault = first(10**9, 500)
    with pytest.raises(Unreachable, match="HTTP 500"):
        remote.size(f"{server.url}/file")


def test_who_waits_long_is_told_why_but_not_too_often(capsys, monkeypatch):
    monkeypatch.setattr(remote, "_last_told", -1e9)

    def fail():
        raise OSError("the cable is out")

    for quiet, lines in ((1e9, 0), (0.0, ATTEMPTS - 1)):
        monkeypatch.setattr(remote, "QUIET_S", quiet)
        with pytest.raises(Unreachable):
            persistently("s3://it", fail)
        told = capsys.readouterr().err.splitlines()
        assert len(told) == lines
    assert told[0] == f"s3://it: the cable is out; attempt 1 of {ATTEMPTS}, trying again"


def test_pauses_grow_and_differ(monkeypatch):
    pauses, drawn = [], iter([0.5, 1.0] * ATTEMPTS)
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr(remote.random, "uniform", lambda low, high: next(drawn))
    ended = threading.Event()
    monkeypatch.setattr(ended, "wait", lambda seconds: pauses.append(seconds))

    def fail():
        raise OSError("no")

    with pytest.raises(Unreachable):
        persistently("it", fail, ended)
    assert pauses == pytest.approx([0.1, 0.4, 0.4, 1.6, 1.6, 6.4, 6.4])


def test_what_has_begun_gives_up_and_what_begins_later_does_not(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 60.0)
    patience, calls = Patience(), []

    def fail_once():
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no")
        return "there"

    ended = patience.begin()
    threading.Timer(0.05, patience.end).start()
    start = time.monotonic()
    with pytest.raises(Unreachable, match="it: given up"):
        persistently("it", fail_once, ended)
    assert time.monotonic() - start < 5
    assert persistently("it", fail_once, patience.begin()) == "there"


@pytest.mark.parametrize(
    ("package", "url"), [("fsspec", "https://host/data"), ("s3fs", "s3://bucket/data"), ("aiohttp", "http://host/data")]
)
def test_a_package_that_is_not_there_is_named(monkeypatch, package, url):
    monkeypatch.setitem(sys.modules, package, None)
    if package == "s3fs":
        known = importlib.import_module("fsspec.registry")._registry
        monkeypatch.delitem(known, "s3", raising=False)
    with pytest.raises(DataError, match=rf"{url}/manifest.json: can't be read .*pip install 'ups_scale\[remote\]'"):
        load_manifest(url)


def test_a_protocol_that_nobody_knows():
    with pytest.raises(DataError, match=r"gopher://x/manifest.json: can't be read \(Protocol not known: gopher\)"):
        load_manifest("gopher://x")


@pytest.mark.parametrize(
    ("url", "manifest", "folder"),
    [
        ("s3://b", "s3://b/manifest.json", "s3://b"),
        ("s3://b/d/", "s3://b/d/manifest.json", "s3://b/d"),
        ("https://h:8/d/mine.json", "https://h:8/d/mine.json", "https://h:8/d"),
        ("file:///d/manifest.json", "file:///d/manifest.json", "file:///d"),
    ],
)
def test_a_url_means_the_manifest_or_its_folder(url, manifest, folder):
    assert remote_manifest(url) == (manifest, folder)


@pytest.mark.parametrize("url", ["https://h/manifest.json?signature=x", "simplecache::s3://b/d", "https://h/d#x"])
def test_a_url_beside_which_no_file_can_be_named_is_refused(url):
    with pytest.raises(DataError, match=r"can't be named from such a URL; give one that ends in manifest\.json"):
        load_manifest(url)


def test_the_usual_place_of_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "ups_scale"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == tmp_path / "home/.cache/ups_scale"


def test_a_manifest_that_is_no_json_is_said_to_be(server, tmp_path):
    (tmp_path / "manifest.json").write_text("<html>log in</html>")
    with pytest.raises(DataError, match=rf"{server.url}/manifest.json: not a readable JSON file"):
        load_manifest(server.url)


def test_reading_a_manifest_makes_no_cache(server, shard_folder, tmp_path):
    server.folder = shard_folder
    manifest = load_manifest(server.url, tmp_path / "cache", 1.0)
    assert manifest == load_manifest(f"{server.url}/manifest.json")
    assert manifest.digest == load_manifest(shard_folder).digest
    assert (manifest.path, manifest.name) == (f"{server.url}/manifest.json", "manifest.json")
    assert isinstance(manifest.store, RemoteStore)
    assert not (tmp_path / "cache").exists()
