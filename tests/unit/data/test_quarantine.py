"""What is known to be damaged: once each, alike on all ranks, kept in checkpoints, and up to a share."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from fake_reader import FakeReader
from small_shards import write_shards

from ups_scale.data.manifest import load_manifest
from ups_scale.data.quarantine import LISTED, Quarantine, told
from ups_scale.data.reader import DamagedItem, ShardReader
from ups_scale.errors import DataError


def item(trajectory, frame, family="waves", size=6, reason="field u is torn"):
    file = f"{family}-train-{trajectory // size:05d}.tar"
    return DamagedItem(family, file, f"key-{trajectory}", trajectory, frame, reason)


def make(max_share=1.0, **readers):
    return Quarantine(readers or {"waves": FakeReader()}, max_share)


def places(items):
    return [(found.shard, found.trajectory, found.frame) for found in items]


def test_windows_are_found_by_their_frames():
    quarantine = make()
    assert quarantine.find("waves", 4, range(12)) is None
    quarantine.learn(item(4, 7))
    assert quarantine.find("waves", 4, range(12)).frame == 7
    assert quarantine.find("waves", 4, range(1, 12, 2)).frame == 7
    assert quarantine.find("waves", 4, range(0, 12, 2)) is None
    assert quarantine.find("waves", 4, range(7)) is None
    assert quarantine.find("waves", 5, range(12)) is None


def test_a_whole_shard_is_known_by_any_of_its_trajectories():
    quarantine = make()
    found = quarantine.learn(DamagedItem("waves", "waves-train-00001.tar", "", 9, None, "no such shard"))
    assert (found.trajectory, found.frame) == (6, None)
    for trajectory in range(18):
        assert (quarantine.find("waves", trajectory, (3,)) is found) == (6 <= trajectory < 12)


def test_shards_that_could_not_be_opened_are_known_from_the_start_with_all_their_trajectories():
    quarantine = make(waves=FakeReader(broken=(2,)), heat=FakeReader("heat"))
    assert quarantine.counts() == {"waves": 6}
    assert places(quarantine.take_new()) == [("waves-train-00002.tar", 12, None)]
    quarantine.account([item(13, 4), item(0, 4), item(0, 5)])
    assert quarantine.counts() == {"waves": 7}, "trajectory 13 is one of the shard's"


def test_what_is_known_counts_once_it_is_accounted_for():
    """A window that a thread has read ahead has not been trained on yet."""
    quarantine = make()
    quarantine.learn(item(4, 7))
    assert (quarantine.counts(), quarantine.state(), quarantine.take_new()) == ({}, [], [])
    quarantine.account([item(4, 7), item(4, 7), item(4, 8), item(5, 7)])
    assert quarantine.counts() == {"waves": 2}
    assert places(quarantine.take_new()) == [
        ("waves-train-00000.tar", 4, 7),
        ("waves-train-00000.tar", 4, 8),
        ("waves-train-00000.tar", 5, 7),
    ]
    quarantine.account([item(5, 7)])
    assert quarantine.take_new() == []


def test_ranks_learn_from_each_other_and_each_item_is_new_once():
    ranks = [make() for _ in range(3)]
    ranks[0].account([item(4, 7), item(1, 2)])
    ranks[2].account([item(4, 7), item(9, 0)])
    sent = pickle.loads(pickle.dumps([rank.take_new() for rank in ranks]))
    said = [rank.merge(sent) for rank in ranks]
    assert [places(items) for items in said] == [
        [("waves-train-00000.tar", 4, 7), ("waves-train-00000.tar", 1, 2), ("waves-train-00001.tar", 9, 0)]
    ] * 3
    assert [rank.counts() for rank in ranks] == [{"waves": 3}] * 3
    assert [rank.state() for rank in ranks] == [ranks[0].state()] * 3
    for rank in ranks:
        assert rank.find("waves", 9, (0, 1)) is not None
        rank.account([item(9, 0)])
        assert rank.take_new() == []


def test_the_state_comes_back():
    quarantine = make(waves=FakeReader(damaged={(9, 0), (4, 8)}, broken=(2,)))
    quarantine.account([item(9, 0), item(4, 8)])
    state = json.loads(json.dumps(quarantine.state()))
    assert state[0] == {
        "family": "waves",
        "shard": "waves-train-00000.tar",
        "key": "key-4",
        "trajectory": 4,
        "frame": 8,
        "reason": "field u is torn",
        "static": False,
    }
    later = make(waves=FakeReader(damaged={(9, 0), (4, 8)}, broken=(2,)))
    later.merge([later.still_damaged(state)])
    assert later.state() == state
    assert later.counts() == {"waves": 8}
    assert later.find("waves", 9, (0,)) is not None


def test_what_was_written_anew_or_is_of_another_data_set_does_not_come_back():
    quarantine = make(waves=FakeReader(damaged={(9, 0), (4, 8)}, broken=(2,)))
    quarantine.account([item(9, 0), item(4, 8)])
    state = quarantine.state()
    assert places(make(waves=FakeReader(damaged={(4, 8)})).still_damaged(state)) == [("waves-train-00000.tar", 4, 8)]
    other = make(waves=FakeReader(shard_sizes=(2, 9), num_frames=3, damaged={(9, 0)}))
    assert places(other.still_damaged(state)) == [("waves-train-00001.tar", 9, 0)]


def test_a_shard_that_can_be_opened_again_is_read_again():
    """It may have damaged frames, the very first one too: those are met one by one."""
    lost = [
        {"family": "waves", "shard": "waves-train-00002.tar", "key": "", "trajectory": 12, "frame": None, "reason": "-"}
    ]
    assert places(make(waves=FakeReader(broken=(2,))).still_damaged(lost)) == [("waves-train-00002.tar", 12, None)]
    assert make(waves=FakeReader(damaged={(12, 0)})).still_damaged(lost) == []
    first_frame = [lost[0] | {"key": "key-12", "frame": 0}]
    assert places(make(waves=FakeReader(damaged={(12, 0)})).still_damaged(first_frame)) == [
        ("waves-train-00002.tar", 12, 0)
    ]
    assert places(make(waves=FakeReader(broken=(2,))).still_damaged(first_frame)) == [("waves-train-00002.tar", 12, 0)]


def test_damage_of_a_static_field_is_found_whatever_the_frames():
    quarantine = make()
    static = DamagedItem("waves", "waves-train-00000.tar", "key-4", 4, 0, "field k is torn", static=True)
    quarantine.account([static, item(4, 0), item(5, 0)])
    assert quarantine.find("waves", 4, range(5, 8)) is static
    assert quarantine.find("waves", 4, (11,)) is static
    assert quarantine.find("waves", 5, range(5, 8)) is None
    assert quarantine.find("waves", 5, range(3)) is not None
    assert len(quarantine.take_new()) == 3, "a frame 0 of another field is another item"
    assert quarantine.counts() == {"waves": 2}
    sent = pickle.loads(pickle.dumps(static))
    assert (sent.static, sent.frame) == (True, 0)
    (merged,) = make().merge([[sent], [static]])
    assert merged.static


def test_the_state_says_what_is_static_and_one_of_before_it_did_is_read():
    quarantine = make(waves=FakeReader(damaged={(4, 0), (5, 7)}))
    quarantine.account([DamagedItem("waves", "waves-train-00000.tar", "key-4", 4, 0, "torn", True), item(5, 7)])
    state = json.loads(json.dumps(quarantine.state()))
    assert [(entry["trajectory"], entry["frame"], entry["static"]) for entry in state] == [(4, 0, True), (5, 7, False)]
    later = make(waves=FakeReader(damaged={(4, 0), (5, 7)}))
    later.merge([later.still_damaged(state)])
    assert later.state() == state
    assert later.find("waves", 4, (3, 4)) is not None
    assert later.find("waves", 5, (3, 4)) is None
    old = [{key: value for key, value in entry.items() if key != "static"} for entry in state]
    assert [(found.frame, found.static) for found in later.still_damaged(old)] == [(0, False), (7, False)]


def test_up_to_the_share_a_run_goes_on():
    quarantine = make(3 / 18)
    quarantine.account([item(n, frame) for n in (1, 4, 17) for frame in range(12)])
    quarantine.check()
    quarantine.account([item(2, 0)])
    with pytest.raises(DataError, match=r"waves: 4 of 18 train trajectories are damaged \(22\.22%\), more than"):
        quarantine.check()


def test_what_is_read_ahead_shows_early_that_it_is_too_much():
    quarantine = make(6 / 18)
    quarantine.learn(DamagedItem("waves", "waves-train-00001.tar", "", 9, None, "no such shard"))
    assert not quarantine.exceeded("waves")
    quarantine.learn(item(9, 4))
    assert not quarantine.exceeded("waves")
    quarantine.learn(item(13, 4))
    assert quarantine.exceeded("waves")
    quarantine.check()


def test_a_share_is_not_missed_by_rounding():
    quarantine = make(0.29, waves=FakeReader(shard_sizes=(100,)))
    quarantine.account([item(n, 0, size=100) for n in range(29)])
    quarantine.check()
    quarantine.account([item(29, 0, size=100)])
    with pytest.raises(DataError, match=r"30 of 100 .* more than data\.max_damaged_share 0\.29 allows \(29\)"):
        quarantine.check()


def test_a_trajectory_is_told_once_and_ten_of_them():
    lines = list(told([item(0, 3), item(0, 5), item(1, 2)]))
    assert len(lines) == 2
    assert "frame 3" in lines[0]
    assert lines[0].endswith("(and 1 more of its frames)")
    many = list(told([item(n, 0) for n in range(13)]))
    assert len(many) == 11
    assert many[-1].startswith("quarantined: 3 more; checkpoints list them")


def test_above_the_share_the_files_are_listed_with_what_to_do():
    quarantine = make(
        0.01,
        waves=FakeReader(shard_sizes=(6, 6, 8), broken=(1,)),
        heat=FakeReader("heat", (300,)),
        rain=FakeReader("rain"),
    )
    quarantine.account([item(n, 3, reason="field u has checksum 1, expected 2") for n in (0, 2)])
    quarantine.account([item(12 + n, frame) for n in range(LISTED + 1) for frame in (2, 5)])
    quarantine.account([item(7, 1, "heat", 300), item(5, 5, "rain")])
    with pytest.raises(DataError) as caught:
        quarantine.check()
    assert caught.value.on_all_ranks
    torn = "; ".join(f"key-{12 + n}, frame 2, 5: field u is torn" for n in range(LISTED))
    assert str(caught.value).splitlines() == [
        "family rain: 1 of 18 train trajectories are damaged (5.56%), more than data.max_damaged_share 0.01 allows "
        "(0):",
        "  rain-train-00000.tar: key-5, frame 5: field u is torn",
        "family waves: 14 of 20 train trajectories are damaged (70.00%), more than data.max_damaged_share 0.01 allows "
        "(0):",
        "  waves-train-00000.tar: key-0, frame 3: field u has checksum 1, expected 2; key-2, frame 3: field u has "
        "checksum 1, expected 2",
        "  waves-train-00001.tar: /data/waves-train-00001.tar: no such shard",
        f"  waves-train-00002.tar: {torn}; and 1 more",
        "Run tools/shard.py again as before, which writes damaged shards anew (tools/validate.py --deep finds all "
        "there are; if it finds none, the disk failed for a while), and resume; or raise data.max_damaged_share "
        "to train without them",
    ]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Six trajectories of 5 frames in 3 shards."""
    u = np.random.default_rng(0).normal(size=(6, 5, 8)).astype(np.float32)
    u[5, 3, 2] = np.nan
    write_shards(tmp_path, {"u": u})
    return tmp_path


def test_damage_on_disk_is_known_by_file_item_and_reason(shards):
    """A byte that has changed, a value that is not finite, a shard that is gone."""
    victim = shards / "made_up-train-00001.tar"
    (shards / "made_up-train-00000.tar").unlink()
    reader = ShardReader(load_manifest(shards), "made_up", "train", strict=False)
    start = int(reader._shards[1].index.offsets_nc[1, 0])
    raw = bytearray(victim.read_bytes())
    raw[start + 4 * 32 + 5] ^= 1
    victim.write_bytes(raw)
    quarantine, out = Quarantine({"made_up": reader}, 1.0), np.empty((1, 5, 8), np.float32)
    met = []
    for trajectory in range(1, 6):
        try:
            reader.read_window(trajectory, range(5), out)
        except DamagedItem as error:
            met.append(error)
    quarantine.account(met)
    state = quarantine.state()
    assert [(entry["shard"][-9:], entry["trajectory"], entry["frame"]) for entry in state] == [
        ("00000.tar", 0, None),
        ("00001.tar", 3, 4),
        ("00002.tar", 5, 3),
    ]
    assert "no such shard" in state[0]["reason"]
    assert "checksum" in state[1]["reason"]
    assert "not finite" in state[2]["reason"]
    assert quarantine.counts() == {"made_up": 4}
    again = Quarantine({"made_up": ShardReader(load_manifest(shards), "made_up", "train", strict=False)}, 1.0)
    again.merge([again.still_damaged(state)])
    assert again.state() == state


def test_a_damaged_static_field_on_disk(tmp_path):
    """Read with any frames it is one item of its trajectory, and still is after a restart."""
    rng = np.random.default_rng(0)
    fields = {"k": rng.normal(size=(4, 1, 8)).astype(np.float32), "u": rng.normal(size=(4, 5, 8)).astype(np.float32)}
    manifest = write_shards(tmp_path, fields, static=("k",))
    reader = ShardReader(manifest, "made_up", "train", strict=False)
    victim = tmp_path / "made_up-train-00001.tar"
    raw = bytearray(victim.read_bytes())
    raw[int(reader._shards[1].index.offsets_nc[1, 0]) + 5] ^= 1
    victim.write_bytes(raw)
    quarantine = Quarantine({"made_up": reader}, 1.0)
    for frames in (range(2, 4), range(5)):
        with pytest.raises(DamagedItem) as met:
            reader.read_window(3, frames, np.empty((2, len(frames), 8), np.float32))
        quarantine.account([met.value])
    (entry,) = quarantine.state()
    assert (entry["trajectory"], entry["frame"], entry["static"]) == (3, 0, True)
    assert quarantine.find("made_up", 3, (4,)) is not None
    again = Quarantine({"made_up": ShardReader(manifest, "made_up", "train", strict=False)}, 1.0)
    again.merge([again.still_damaged(quarantine.state())])
    assert again.state() == quarantine.state()
