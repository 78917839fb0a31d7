"""What a run finds damaged before it begins, and the trajectories that its ranks share."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_reader import FakeReader

from ups_scale import distributed
from ups_scale.data.quarantine import Quarantine
from ups_scale.data.reader import DamagedItem
from ups_scale.distributed import Ranks
from ups_scale.errors import DataError
from ups_scale.train.feed import isolate, read_sound

ALONE = Ranks(0, 1, 0, torch.device("cpu"), None)


class Reader(FakeReader):
    """Reads whole batches too."""

    def read(self, indices, first_frames, num_frames):
        frames = [range(first, first + num_frames) for first in first_frames]
        u_bctx = np.empty((len(indices), 1, num_frames, 1), np.float32)
        for row, (trajectory, window) in enumerate(zip(indices, frames, strict=True)):
            self.read_window(trajectory, window, u_bctx[row])
        return self.batch(indices, frames, u_bctx)


@pytest.fixture
def on_ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Calls a function once per rank, each in a thread, with what ranks tell each other sent between those; gives the
    results, or what was raised, in rank order."""

    def run(work: Callable[[Ranks], Any], world_size: int = 2) -> list[Any]:
        barrier = threading.Barrier(world_size, timeout=20)
        told: list[Any] = [None] * world_size

        def gather(ranks: Ranks, value: Any) -> list[Any]:
            told[ranks.rank] = pickle.dumps(value)
            barrier.wait()
            values = [pickle.loads(raw) for raw in told]
            barrier.wait()
            return values

        def attempt(rank: int) -> Any:
            try:
                return work(Ranks(rank, world_size, rank, torch.device("cpu"), None))
            except DataError as error:
                return error

        monkeypatch.setattr(distributed, "gather", gather)
        monkeypatch.setattr(distributed, "broadcast", lambda ranks, value: gather(ranks, value)[0])
        with ThreadPoolExecutor(world_size) as pool:
            return list(pool.map(attempt, range(world_size)))

    return run


def checkpoint(folder: Path, **state: Any) -> Path:
    (folder / "state.json").write_text(json.dumps({"step": 3, **state}))
    return folder


def test_a_checkpoint_that_states_no_damage_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = checkpoint(tmp_path)
    quarantine = isolate({"waves": FakeReader(broken=(1,))}, 1.0, source, ALONE)
    assert quarantine.counts() == {"waves": 6}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("quarantined, other trajectories take its place: waves-train-00001.tar: ")


def test_what_a_checkpoint_knew_and_what_any_rank_lacks_is_known_to_all(
    tmp_path: Path, on_ranks: Callable[..., list[Any]], capsys: pytest.CaptureFixture
) -> None:
    before = Quarantine({"waves": FakeReader()}, 1.0)
    before.account(DamagedItem("waves", "waves-train-00000.tar", f"key-{n}", n, 2, "field u is torn") for n in (1, 4))
    source = checkpoint(tmp_path, quarantined=before.state())

    def start(ranks: Ranks, max_share: float = 1.0) -> Quarantine:
        reader = FakeReader(damaged={(4, 2)}, broken=(2,) if ranks.rank == 1 else ())
        return isolate({"waves": reader}, max_share, source, ranks)

    first, second = on_ranks(start)
    assert first.state() == second.state()
    assert [(entry["trajectory"], entry["frame"]) for entry in first.state()] == [(4, 2), (12, None)]
    said = capsys.readouterr().out
    assert said.count("waves-train-00002.tar") > 0
    assert said.count("1 damaged items known from ") == 1
    refused = on_ranks(lambda ranks: start(ranks, 6 / 18))
    assert all(isinstance(error, DataError) and "7 of 18" in str(error) for error in refused)


def test_without_a_checkpoint_nothing_is_known(on_ranks: Callable[..., list[Any]]) -> None:
    for quarantine in on_ranks(lambda ranks: isolate({"waves": FakeReader()}, 0.0, None, ranks)):
        assert quarantine.counts() == {}


@pytest.mark.parametrize(
    ("count", "shares"),
    [(5, [(2, 5, 9), (4, 6)]), (4, [(2, 5), (4, 6)]), (1, [(2,), ()]), (100, [(2, 5, 9, 11), (4, 6, 10)])],
)
def test_ranks_share_the_first_sound_trajectories_and_pass_damaged_ones_over(
    on_ranks: Callable[..., list[Any]], count: int, shares: list[tuple[int, ...]]
) -> None:
    """Damage that no rank knows of yet, that one of them knows of, that all of them do; and beyond what is read."""
    damaged = {(0, 0), (3, 3), (7, 1), (8, 2), (4, 4), (9, 11)}

    def read(ranks: Ranks) -> tuple[Any, int, Quarantine]:
        reader = Reader(shard_sizes=(6, 6), damaged=damaged)
        quarantine = Quarantine({"waves": reader}, 1.0)
        known = [DamagedItem("waves", "waves-train-00000.tar", "key-1", 1, 2, "known to all")]
        known.append(DamagedItem("waves", "waves-train-00001.tar", "key-9", 9, 11, "known, and not read"))
        if ranks.rank == 1:
            known.append(DamagedItem("waves", "waves-train-00001.tar", "key-8", 8, 2, "known to one"))
        quarantine.account(known)
        quarantine.merge(distributed.gather(ranks, quarantine.take_new()))
        return (*read_sound(reader, quarantine, ranks, count, 4), quarantine)

    found = on_ranks(read)
    for (batch, num, _), own in zip(found, shares, strict=True):
        assert num == len(own)
        read_from = own or (2,)  # a rank without any has one to go on with
        assert batch.keys == tuple(f"key-{n}" for n in read_from)
        assert batch.u_btcx[:, :, 0, 0].tolist() == [[1000 * n + frame for frame in range(4)] for n in read_from]
    states = [quarantine.state() for *_, quarantine in found]
    assert states[0] == states[1]
    met = {entry["trajectory"] for entry in states[0]}
    assert met == ({0, 1, 3, 7, 8, 9} if count > 4 else {0, 1, 3, 8, 9} if count == 4 else {0, 1, 8, 9})


def test_a_family_without_a_sound_trajectory_is_refused_on_all_ranks(on_ranks: Callable[..., list[Any]]) -> None:
    def read(ranks: Ranks) -> Any:
        reader = Reader(shard_sizes=(3,), damaged={(n, 0) for n in range(3)})
        return read_sound(reader, Quarantine({"waves": reader}, 1.0), ranks, 2, 4)

    for error in on_ranks(read):
        assert isinstance(error, DataError)
        assert str(error) == "family waves: all trajectories of split train are damaged"
