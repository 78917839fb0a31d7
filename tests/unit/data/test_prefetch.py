"""Shards at a URL: the same samples as from a folder, downloaded before they are needed, whatever fails meanwhile."""

import random
import shutil
import threading
import time
from collections import Counter

import numpy as np
import pytest
from shard_server import impatience, s3_server, shard_server
from small_shards import write_shards

from ups_scale.bench.s3 import URL
from ups_scale.data import prefetch as prefetch_module
from ups_scale.data import remote
from ups_scale.data.loader import stream
from ups_scale.data.manifest import load_manifest
from ups_scale.data.plan import FamilyStream, Plan, PlanState
from ups_scale.data.prefetch import Prefetch, unmet_room
from ups_scale.data.quarantine import Quarantine
from ups_scale.data.reader import DamagedItem, ShardReader
from ups_scale.data.remote import Unreachable
from ups_scale.data.scan import scan
from ups_scale.data.store import RemoteStore
from ups_scale.data.validate import inspect
from ups_scale.errors import DataError

GIB = 2**30
NUM, PER_SHARD, FRAMES, GROUP = 24, 2, 10, 3
SHARDS = NUM // PER_SHARD
HORIZON, CONTEXT, BATCH = 2, 2, 4
EPOCH = NUM // BATCH  # steps


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    with impatience(monkeypatch, 0.5):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote") / "shards"
    u_nt = np.random.default_rng(0).standard_normal((NUM, FRAMES, 16, 16)).astype(np.float32)
    write_shards(folder, {"a": u_nt, "b": u_nt + 1}, per_shard=PER_SHARD)
    return folder


@pytest.fixture
def server(folder):
    with shard_server(folder) as server:
        yield server


@pytest.fixture
def shard_bytes(folder):
    return max(path.stat().st_size for path in folder.glob("*.tar"))


class Opened:
    """A data set with its plan, and its streams."""

    def __init__(self, place, cache=None, shards=100.0, max_share=0.0, strict=True):
        size = 50_000  # of a shard, and a little
        self.manifest = load_manifest(place, cache, shards * size / GIB)
        self.reader = ShardReader(self.manifest, "made_up", "train", strict=strict)
        self.readers = {"made_up": self.reader}
        self.max_share = max_share
        of_family = FamilyStream(self.reader.shard_sizes, self.reader.num_frames, 1)
        self.plan = Plan(
            {"made_up": of_family},
            seed=3,
            exponent=0.7,
            draws_per_step=1,
            batch_tokens=BATCH * HORIZON,
            context_frames=CONTEXT,
            shuffle_shards=GROUP,
        )

    def stream(self, *, steps=2 * EPOCH, rank=0, world_size=1, threads=2, prefetch=3, ahead=True, state=None):
        self.quarantine = Quarantine(self.readers, self.max_share)
        self.ahead = Prefetch(self.plan, self.readers) if ahead and self.reader.remote else None
        return stream(
            self.plan,
            self.readers,
            self.quarantine,
            state or self.plan.start(),
            stop_step=steps,
            horizon_at=lambda step: HORIZON,
            context_frames=CONTEXT,
            rank=rank,
            world_size=world_size,
            parts=1,
            threads=threads,
            prefetch=prefetch,
            ahead=self.ahead,
        )


def samples(micros):
    return [(micro.step, micro.batch.keys, micro.batch.u_btcx.numpy().tobytes()) for micro in micros]


def places(micros):
    return [(item.shard, item.trajectory, item.frame) for micro in micros for item in micro.quarantined]


@pytest.fixture(scope="module")
def expected(folder):
    return samples(Opened(folder).stream(threads=0))


def test_visits_are_the_shards_of_the_windows_in_the_order_of_need():
    sizes = (3, 1, 5, 2, 4, 1, 6)
    plan = Plan(
        {"waves": FamilyStream(sizes, 12, 1)},
        seed=1,
        exponent=1,
        draws_per_step=1,
        batch_tokens=1,
        context_frames=1,
        shuffle_shards=3,
    )
    of_trajectory = np.repeat(np.arange(len(sizes)), sizes)
    for start in (0, 5, 21, 22, 40):
        visits, draws, state = plan.visits("waves", start), {}, PlanState(0, {"waves": start})
        end = (start // 22 + 3) * 22  # whole epochs
        while state.positions["waves"] < end:
            (draw,), state = plan.draws(state, 1)
            trajectory, _ = plan.window(draw, 0)
            draws[draw.first] = int(of_trajectory[trajectory])
        wanted = {}
        for position, shard in draws.items():
            first, _ = wanted.get((position // 22, shard), (position, position))
            wanted[position // 22, shard] = first, position
        found = [next(visits) for _ in wanted]
        assert [(v.first // 22, v.shard, v.first, v.last) for v in found] == [
            (epoch, shard, first, last) for (epoch, shard), (first, last) in wanted.items()
        ]


def flaky(name, number):
    """Two of three first answers fail, each in its own way."""
    return random.Random(f"{name} {number}").choice([None, 500, "torn"]) if number < 3 else None


@pytest.mark.parametrize(("threads", "ahead"), [(0, True), (2, True), (2, False), (4, True)])
@pytest.mark.parametrize("shards", [100.0, GROUP + 1.2])
def test_samples_over_http_with_failures_are_those_of_the_folder(server, tmp_path, expected, threads, ahead, shards):
    server.fault = flaky
    opened = Opened(server.url, tmp_path / "cache", shards)
    assert samples(opened.stream(threads=threads, ahead=ahead)) == expected
    assert any(flaky(name, number) for name in server.requests for number in range(3))


@pytest.mark.parametrize("world_size", [1, 2])
def test_samples_from_s3_with_failing_requests_are_those_of_the_folder(folder, s3, tmp_path, world_size):
    local = Opened(folder)
    for rank in range(world_size):
        s3.failed = 0
        opened = Opened(URL, tmp_path / f"cache-{rank}", GROUP + 2)
        found = samples(opened.stream(rank=rank, world_size=world_size))
        assert found == samples(local.stream(rank=rank, world_size=world_size))
        assert s3.failed


@pytest.fixture(scope="module")
def s3(folder):
    with s3_server(folder) as server:
        server.failing_share = 0.05
        yield server


def test_s3_refuses_and_misses_with_clear_errors(s3, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"s3://nowhere/manifest.json: the server has no such file"):
        load_manifest("s3://nowhere")

    def refuse(path, **settings):
        raise PermissionError("Access Denied")

    files, _ = remote._file_system("s3://shards")
    monkeypatch.setattr(files, "cat_file", refuse)
    with pytest.raises(Unreachable, match=r"s3://shards/manifest.json: the server denies access \(Access Denied\)"):
        load_manifest("s3://shards")


def test_ranks_that_share_a_cache_download_a_shard_once(server, tmp_path, folder):
    opened = [Opened(server.url, tmp_path / "cache") for _ in range(2)]
    found: dict[int, list] = {}

    def run(rank):
        found[rank] = samples(opened[rank].stream(rank=rank, world_size=2))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    local = Opened(folder)
    assert found == {rank: samples(local.stream(rank=rank, world_size=2)) for rank in range(2)}
    assert {count for name, count in server.requests.items() if name != "manifest.json"} == {1}


def test_ranks_with_a_tight_cache_do_not_wait_for_each_other_for_ever(server, tmp_path, expected):
    """Each holds shards open that take up the other's room."""
    opened = [Opened(server.url, tmp_path / "cache", GROUP + 1.2) for _ in range(3)]
    found: dict[int, list] = {}

    def run(number):
        found[number] = samples(opened[number].stream())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(3), expected)


def shards_in_order(opened, epochs=1):
    visits = opened.plan.visits("made_up", 0)
    files = [entry.file for entry in opened.reader.data.shards["train"]]
    return [files[next(visits).shard] for _ in range(epochs * SHARDS)]


def test_shards_are_downloaded_in_the_order_of_need(server, tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch_module, "THREADS", 1)
    opened = Opened(server.url, tmp_path / "cache")
    micros = opened.stream(steps=EPOCH, threads=0)
    next(micros)
    until = time.monotonic() + 20
    while sum(name.endswith(".tar") for name in server.order) < SHARDS:  # ahead, without anybody asking for a sample
        assert time.monotonic() < until
        time.sleep(0.01)
    assert [name for name in server.order if name.endswith(".tar")] == shards_in_order(opened)
    micros.close()


def test_without_it_a_shard_is_downloaded_when_it_is_needed(server, tmp_path):
    opened = Opened(server.url, tmp_path / "cache")
    next(opened.stream(threads=0, ahead=False))
    assert 1 <= sum(name.endswith(".tar") for name in server.order) <= GROUP


def test_it_keeps_within_its_share_and_throws_out_nothing_that_is_open(server, tmp_path, shard_bytes):
    opened = Opened(server.url, tmp_path / "cache", 2 * GROUP + 1)
    store = opened.manifest.store
    assert isinstance(store, RemoteStore)
    largest = 0
    for micro in opened.stream(steps=2 * EPOCH, threads=0):
        largest = max(largest, sum(p.stat().st_size for p in store.folder.iterdir() if p.is_file()))
        assert opened.ahead._bytes <= prefetch_module.SHARE * store.max_bytes
        assert micro.batch is not None
        time.sleep(0.01)
    assert largest <= store.max_bytes
    assert largest > 1.5 * GROUP * shard_bytes  # the next group came while one was read
    found = Counter(name for name in server.order if name.endswith(".tar"))
    assert all(count <= 2 for count in found.values())  # once an epoch, at most


def test_shards_are_let_go_of_after_their_last_window(server, tmp_path):
    opened = Opened(server.url, tmp_path / "cache")
    visits = opened.plan.visits("made_up", 0)
    last = {opened.reader.remote[v.shard].sha256: v.last for v in (next(visits) for _ in range(SHARDS))}
    for micro in opened.stream(steps=EPOCH, threads=0):
        expected = {sha256 for sha256, position in last.items() if position >= micro.step * BATCH}
        until = time.monotonic() + 10
        while set(opened.reader.cache._pins) & set(last) != expected:  # all that are to come have come
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_small_data_set_is_not_followed_for_ever(server, tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch_module, "STEPS", 5)
    opened = Opened(server.url, tmp_path / "cache")
    draws, seen = opened.plan.draws, []

    def follow(state, horizon):
        seen.append(state.step)
        return draws(state, horizon)

    monkeypatch.setattr(opened.plan, "draws", follow)
    micros = opened.stream(steps=10**6, threads=0)
    for _ in range(4):
        next(micros)
    time.sleep(0.2)
    assert max(seen) <= 4 + 5 + 1
    micros.close()


def running():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("prefetch", "reader"))]


@pytest.mark.parametrize("threads", [0, 2])
def test_closing_ends_it(server, tmp_path, threads):
    micros = Opened(server.url, tmp_path / "cache", GROUP + 2).stream(steps=10**6, threads=threads)
    next(micros)
    assert running()
    micros.close()
    assert running() == []


def test_closing_does_not_wait_for_a_server_that_is_silent(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "SILENCE_S", 2.5)
    remote._of_protocol.cache_clear()
    opened = Opened(server.url, tmp_path / "cache")
    order = shards_in_order(opened)
    server.fault = lambda name, number: "silence" if name in order[GROUP:] else None
    micros = opened.stream(steps=10**6, threads=0)
    next(micros)
    while len(set(server.order) & set(order[GROUP:])) < prefetch_module.THREADS:
        time.sleep(0.01)
    start = time.monotonic()
    micros.close()
    assert time.monotonic() - start < 2


def test_readers_that_wait_for_a_failing_server_end_with_the_stream(server, tmp_path, monkeypatch):
    opened = Opened(server.url, tmp_path / "cache")
    order = shards_in_order(opened)
    micros = opened.stream(steps=10**6, prefetch=20)
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 60.0)
    server.fault = lambda name, number: 500 if name in order[GROUP:] else None
    next(micros)
    time.sleep(0.3)
    start = time.monotonic()
    micros.close()
    assert time.monotonic() - start < 5
    assert not [name for name in running() if name.startswith("reader")]


@pytest.mark.parametrize("threads", [0, 3])
def test_a_refusal_comes_where_the_shard_is_needed_and_is_no_damage(server, tmp_path, expected, threads):
    opened = Opened(server.url, tmp_path / "cache")
    victim = shards_in_order(opened)[GROUP + 1]
    server.fault = lambda name, number: 403 if name == victim else None
    met: list = []
    with pytest.raises(Unreachable, match=rf"{victim}: the server denies access \(HTTP 403\)"):
        met.extend(samples([micro])[0] for micro in opened.stream(threads=threads, prefetch=20))
    place = next(n for n, (_, keys, _) in enumerate(expected) if any(key.startswith(victim[:-4]) for key in keys))
    assert met == expected[:place]
    assert opened.quarantine.counts() == {}
    assert running() == []
    server.fault = lambda name, number: None
    state = opened.plan.start()
    for step in range(place):
        _, state = opened.plan.draws(state, HORIZON)
        assert state.step == step + 1
    again = Opened(server.url, tmp_path / "cache").stream(threads=threads, state=state)
    assert samples(again) == expected[place:]  # a resumed run goes on as one that was never interrupted


@pytest.mark.parametrize("fault", ["short", "flipped", 404])
def test_a_shard_that_is_lost_is_replaced_as_one_of_a_folder(server, folder, tmp_path, fault):
    torn = shutil.copytree(folder, tmp_path / "torn")
    victim = "made_up-train-00004.tar"
    (torn / victim).write_bytes((torn / victim).read_bytes()[:-512])
    local = Opened(torn, max_share=1.0, strict=False)
    expected = list(local.stream(threads=0))
    server.fault = lambda name, number: fault if name == victim else None
    for threads in (0, 2):
        opened = Opened(server.url, tmp_path / f"cache-{threads}", max_share=1.0, strict=False)
        found = list(opened.stream(threads=threads))
        assert samples(found) == samples(expected)
        assert places(found) == places(expected)
        assert {shard for shard, _, frame in places(found) if frame is None} == {victim}
    with pytest.raises(DamagedItem, match=rf"{victim}: {server.url}/{victim}: "):
        opened.reader.read([9], [0], 3)


@pytest.mark.parametrize(("strict", "fault"), [(True, 404), (True, "flipped"), (False, 404)])
def test_an_index_that_is_lost(server, tmp_path, strict, fault):
    server.fault = lambda name, number: fault if name == "made_up-train-00004.tar.idx" else None
    if strict:
        with pytest.raises(DataError, match=rf"{server.url}/made_up-train-00004.tar.idx: (the server has|its SHA)"):
            Opened(server.url, tmp_path / "cache")
    else:
        opened = Opened(server.url, tmp_path / "cache", strict=False)
        assert list(opened.reader.broken_shards) == ["made_up-train-00004.tar"]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("strict", [True, False])
def test_indices_that_are_refused_stop_the_run(server, tmp_path, monkeypatch, strict, together):
    if not together:  # as if one had been thrown out of the cache since
        monkeypatch.setattr(RemoteStore, "fetch_indices", lambda store, entries: None)
    server.fault = lambda name, number: 403 if name.endswith(".idx") else None
    with pytest.raises(Unreachable, match=r"\.tar\.idx: the server denies access \(HTTP 403\)"):
        Opened(server.url, tmp_path / "cache", strict=strict)


def test_a_copy_that_rots_is_downloaded_anew(server, tmp_path):
    opened = Opened(server.url, tmp_path / "cache")
    before = opened.reader.read([0], [0], FRAMES).u_btcx
    shard = opened.reader.remote[0]
    (tmp_path / "cache" / shard.sha256).write_bytes(b"x" * shard.bytes)
    assert opened.reader.read([0], [0], FRAMES).u_btcx.equal(before)
    assert server.requests["made_up-train-00000.tar"] == 2


def test_a_manifest_cannot_lead_out_of_the_cache(server, folder, tmp_path):
    server.folder = shutil.copytree(folder, tmp_path / "shards")
    path = server.folder / "manifest.json"
    manifest = load_manifest(folder)
    sha256 = manifest.families["made_up"].shards["train"][0].sha256
    path.write_text(path.read_text().replace(sha256, "../../somewhere"))
    with pytest.raises(DataError, match=r"00000.tar: the manifest lists '../../somewhere', which is no SHA-256"):
        Opened(server.url, tmp_path / "cache")


@pytest.mark.parametrize(
    ("shuffle_shards", "gib", "needed"), [(3, 1e-4, "0.000191"), (3, 1.91e-4, None), (12, 1.91e-4, "0.00062")]
)
def test_a_cache_that_is_too_small_is_refused_with_what_it_needs(
    server, folder, shard_bytes, shuffle_shards, gib, needed
):
    found = unmet_room(load_manifest(server.url, None, gib), shuffle_shards)
    assert unmet_room(load_manifest(folder), shuffle_shards) is None
    if needed is None:
        assert found is None
        return
    assert float(needed) * GIB >= (min(shuffle_shards, SHARDS) + 1) * shard_bytes > float(needed) * 0.99 * GIB
    assert found == (
        f"data.cache_gib: found {gib:g}; at least {needed} is needed for the shards that are open at a time: "
        f"data.shuffle_shards {shuffle_shards} of each of 1 families and one more, up to "
        f"{shard_bytes / 2**20:.3g} MiB each; raise it, or lower data.shuffle_shards"
    )


def test_a_data_set_at_a_url_is_validated(server, tmp_path, shard_folder):
    server.folder = shard_folder
    local, manifest = load_manifest(shard_folder), load_manifest(server.url, tmp_path / "cache")
    assert inspect(manifest) == inspect(local)
    assert scan(manifest, threads=3) == scan(local)
    assert not inspect(manifest).problems
    assert not scan(manifest).problems
    lost, torn, gone = (f"advection_1d-train-0000{number}.tar" for number in (0, 1, 2))
    faults = {lost: "flipped", torn: "short", gone: 404}
    server.fault = lambda name, number: faults.get(name)
    fresh = load_manifest(server.url, tmp_path / "fresh")
    assert [str(problem).partition(",")[0] for problem in inspect(fresh).problems] == [
        f"{torn}: {(shard_folder / torn).stat().st_size // 2} bytes",
        f"{gone}: no such shard",
    ]
    found = scan(fresh)
    assert {problem.where for problem in found.problems} == {lost, torn}
    assert found.damaged == {("advection_1d", "train"): 12}
    server.fault = lambda name, number: 403 if name.endswith(".tar") else None
    with pytest.raises(Unreachable):
        inspect(fresh)
