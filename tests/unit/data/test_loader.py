"""The stream of one rank: the plan's windows, whatever the threads, exactly resumed, damage replaced."""

import hashlib
import itertools
import random
import threading
from collections import Counter

import numpy as np
import pytest
from array_source import array_source, convert_sources
from fake_reader import FakeReader, ids
from hypothesis import given, settings
from hypothesis import strategies as st

from ups_scale.data.index import read_index
from ups_scale.data.loader import MAX_ATTEMPTS, stream
from ups_scale.data.manifest import load_manifest
from ups_scale.data.plan import FamilyStream, Plan, PlanState, chunk
from ups_scale.data.quarantine import Quarantine
from ups_scale.data.reader import DamagedItem, ShardReader
from ups_scale.data.source import split_in_time
from ups_scale.errors import DataError, RecipeError

FAMILIES = ("advection_1d", "navier_stokes_2d", "reaction_diffusion_2d")
CONTEXT = 2


def plan_of(readers, **changes):
    streams = {
        name: FamilyStream(reader.shard_sizes, reader.num_frames, 8, reader.data.spec.steady)
        for name, reader in readers.items()
    }
    settings = {"seed": 5, "exponent": 0.7, "draws_per_step": 2, "batch_tokens": 512, "shuffle_shards": 2, **changes}
    return Plan(streams, context_frames=CONTEXT, **settings)


def open_all(folder, families=FAMILIES):
    manifest = load_manifest(folder)
    readers = {name: ShardReader(manifest, name, "train", strict=False) for name in families}
    return plan_of(readers), readers, Quarantine(readers, 1.0)


def horizon_at(step):
    return 2 if step < 3 else 4


def open_stream(opened, state=None, **changes):
    plan, readers, quarantine = opened
    settings = {"stop_step": 6, "rank": 0, "world_size": 1, "parts": 2, "threads": 2, "prefetch": 3, **changes}
    return stream(
        plan, readers, quarantine, state or plan.start(), horizon_at=horizon_at, context_frames=CONTEXT, **settings
    )


def fingerprint(micro):
    digest = hashlib.sha256(micro.batch.u_btcx.contiguous().numpy().tobytes()).hexdigest()
    return (micro.step, micro.microstep, micro.horizon, micro.weight, micro.batch.family, micro.batch.keys, digest)


def flip_everything(folder, name):
    """Damages every frame of every field of a shard."""
    index = read_index(folder / f"{name}.idx")
    size = index.header.frame_bytes
    raw = bytearray((folder / name).read_bytes())
    for offset in index.offsets_nc.flat:
        for frame in range(index.header.num_frames):
            raw[int(offset) + frame * size + 1] ^= 255
    (folder / name).write_bytes(raw)


@pytest.fixture(scope="module")
def expected(shard_folder):
    return [fingerprint(micro) for micro in open_stream(open_all(shard_folder), threads=0)]


@pytest.mark.parametrize(("threads", "prefetch"), [(0, 4), (1, 0), (1, 3), (4, 0), (4, 1), (4, 50)])
def test_order_and_bytes_depend_neither_on_threads_nor_on_prefetch(shard_folder, expected, threads, prefetch):
    found = [fingerprint(m) for m in open_stream(open_all(shard_folder), threads=threads, prefetch=prefetch)]
    assert found == expected


def test_steps_microsteps_horizons_and_windows_are_the_plans(shard_folder, sources):
    plan, readers, _ = opened = open_all(shard_folder)
    micros, state = open_stream(opened), plan.start()
    for step in range(6):
        draws, state = plan.draws(state, horizon_at(step))
        for number, draw in enumerate(draws):
            for part in range(2):
                micro, item = next(micros), chunk(draw, 0, 1, part, 2)
                assert (micro.step, micro.microstep, micro.horizon) == (step, 2 * number + part, horizon_at(step))
                assert (micro.state, micro.weight, micro.quarantined) == (state, item.weight, ())
                assert micro.batch.u_btcx.shape[:2] == (len(item.numbers), CONTEXT + horizon_at(step))
                for row, window in enumerate(item.numbers):
                    trajectory, frames = plan.window(draw, window)
                    assert micro.batch.keys[row] == readers[draw.family].describe(trajectory)[0]
                    u_ctx = sources[draw.family, "train"].u_nctx[trajectory]
                    found = micro.batch.u_btcx[row].transpose(0, 1).contiguous().numpy()
                    assert len(frames) == CONTEXT + horizon_at(step)
                    assert found.tobytes() == u_ctx[:, frames[0] : frames[-1] + 1].tobytes()
    assert next(micros, None) is None


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_the_state_of_a_micro_batch_resumes_exactly(shard_folder, expected, stop):
    micros = open_stream(open_all(shard_folder))
    done = [next(micros) for _ in range(4 * stop)]
    micros.close()
    state = PlanState(done[-1].state.step, dict(done[-1].state.positions))
    assert state.step == stop
    rest = [fingerprint(micro) for micro in open_stream(open_all(shard_folder), state)]
    assert [fingerprint(micro) for micro in done] + rest == expected


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_windows_and_make_equally_many_steps(shard_folder, world_size):
    def keys(micros):
        counts = Counter()
        for micro in micros:
            counts.update((micro.step, key) for key in micro.batch.keys)
        return counts

    opened = open_all(shard_folder)
    alone = list(open_stream(opened))
    ranks = [list(open_stream(opened, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert {len(micros) for micros in ranks} == {len(alone)}
    for together in zip(*ranks, strict=True):  # no rank waits for one that computes on another family
        assert len({(m.batch.family, m.horizon, m.step, m.microstep) for m in together}) == 1
    assert keys(micro for micros in ranks for micro in micros) == keys(alone)


def test_damage_is_replaced_always_by_the_same_and_reported(own_shards, expected):
    flip_everything(own_shards, "advection_1d-train-00001.tar")
    runs = []
    for threads in (0, 1, 4):
        micros = list(open_stream(open_all(own_shards), threads=threads))
        runs.append([fingerprint(micro) for micro in micros])
        met = [error for micro in micros for error in micro.quarantined]
        assert met
        assert {error.shard for error in met} == {"advection_1d-train-00001.tar"}
        assert not any("train-00001" in k for m in micros if m.batch.family == "advection_1d" for k in m.batch.keys)
        for micro, whole in zip(micros, expected, strict=True):
            assert (fingerprint(micro) == whole) == (not micro.quarantined)  # the rest of the order stays
            assert len(micro.batch.keys) == len(whole[5])
    assert runs[0] == runs[1] == runs[2]


def test_the_replacement_is_the_next_whole_one_of_the_plan(own_shards):
    flip_everything(own_shards, "advection_1d-train-00001.tar")
    plan, readers, _ = opened = open_all(own_shards, ("advection_1d",))
    reader, replaced = readers["advection_1d"], 0
    draw = plan.draws(plan.start(), 2)[0][0]
    micro = next(open_stream(opened, parts=1))
    for row, key in enumerate(micro.batch.keys):
        tried = [reader.describe(plan.window(draw, row, attempt)[0])[0] for attempt in range(MAX_ATTEMPTS)]
        assert key == next(name for name in tried if "train-00001" not in name)
        replaced += key != tried[0]
    assert replaced


def test_when_all_replacements_are_damaged_the_files_are_listed(own_shards):
    for number in range(3):
        flip_everything(own_shards, f"advection_1d-train-0000{number}.tar")
    opened = open_all(own_shards, ("advection_1d",))
    with pytest.raises(DataError) as error:
        list(open_stream(opened))
    assert "family advection_1d: " in str(error.value)
    assert "windows in a row are damaged" in str(error.value)
    assert "run tools/shard.py again, which rewrites the damaged shards, and resume:" in str(error.value)
    assert str(error.value).count("advection_1d-train-0000") >= MAX_ATTEMPTS / 2
    assert reading_threads() == []


def reading_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_closing_ends_the_threads(shard_folder):
    micros = open_stream(open_all(shard_folder), stop_step=10**6, threads=4, prefetch=20)
    next(micros)
    assert reading_threads()
    micros.close()
    assert reading_threads() == []


def test_a_lost_stream_ends_its_threads(shard_folder):
    micros = open_stream(open_all(shard_folder), stop_step=10**6, threads=2)
    next(micros)
    del micros
    assert reading_threads() == []


def test_more_ranks_than_windows_is_refused_before_the_horizon_grows_to_it(shard_folder):
    plan = open_all(shard_folder)[0]
    plan.check_ranks(2, [1, 2])
    with pytest.raises(RecipeError, match=r"windows at horizon 1, fewer than the 64 ranks: raise data\.batch_tokens"):
        plan.check_ranks(64, [1, 2])


def test_nothing_is_left_to_do(shard_folder):
    opened = open_all(shard_folder)
    assert list(open_stream(opened, PlanState(6, opened[0].start().positions))) == []


MIXED = {"waves": {"num_frames": 12}, "heat": {"num_frames": 30}, "darcy": {"num_frames": 2, "steady": True}}


def fakes(max_share=1.0, **changes):
    """Streams of three families of other lengths, one of them steady; `changes` are those of the readers."""
    readers = {name: FakeReader(name, **{**settings, **changes.get(name, {})}) for name, settings in MIXED.items()}
    return plan_of(readers, max_stride=3, batch_tokens=1024), readers, Quarantine(readers, max_share)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_samples_are_the_same_for_any_number_of_ranks_and_threads(threads):
    def steps(world_size, threads):
        found = [Counter() for _ in range(6)]
        for rank in range(world_size):
            opened = fakes(heat={"num_frames": 30, "seconds": 1e-4})
            for micro in open_stream(opened, rank=rank, world_size=world_size, parts=1, threads=threads):
                assert micro.weight
                found[micro.step].update(ids(micro))
        return found

    alone = steps(1, 0)
    assert {len(frames) - CONTEXT for step in alone[3:] for _, _, frames in step} == {1, 4}
    assert {family for step in alone for family, _, _ in step} == set(MIXED)
    assert {frames[1] - frames[0] for step in alone for family, _, frames in step if family == "heat"} == {1, 2, 3}
    for world_size in (1, 2, 4, 8):
        assert steps(world_size, threads) == alone


def test_no_window_crosses_the_border_of_a_trajectory_split_in_time(tmp_path, monkeypatch):
    """One trajectory of 100 frames, whose values are the frames' numbers: the first 80 train, the next 10 validate."""
    u_ntx = np.broadcast_to(np.arange(100, dtype=np.float32)[None, :, None], (1, 100, 8)).copy()
    source = array_source(tmp_path / "long.npz", {"u": u_ntx}, splits=split_in_time(1, 100))
    manifest = convert_sources(monkeypatch, [source], tmp_path / "out", workers=1)
    for split, frames in (("train", range(80)), ("valid", range(80, 90))):
        readers = {"mine": ShardReader(manifest, "mine", split)}
        opened = plan_of(readers, max_stride=5), readers, Quarantine(readers, 0.0)
        windows = [
            u_t.tolist() for micro in open_stream(opened, stop_step=30) for u_t in micro.batch.u_btcx[:, :, 0, 0]
        ]
        assert {frame for window in windows for frame in window} == set(frames)
        for window in windows:
            assert len({after - before for before, after in itertools.pairwise(window)}) == 1


def test_steady_windows_are_given_and_solution_at_any_horizon():
    seen = 0
    for micro in open_stream(fakes()):
        assert micro.horizon == (1 if micro.batch.family == "darcy" else horizon_at(micro.step))
        for family, _, frames in ids(micro):
            seen += family == "darcy"
            assert (frames == (0, 0, 1)) == (family == "darcy")
    assert seen


def spoil(reader, seed, share=0.02):
    rng = random.Random(seed)
    places = [(n, frame) for n in range(reader.num_trajectories) for frame in range(reader.num_frames)]
    reader.damaged |= {place for place in places if rng.random() < share}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), threads=st.sampled_from([0, 3]), stop=st.integers(1, 5))
def test_what_is_known_beforehand_saves_reading_and_changes_no_sample(seed, threads, stop):
    def opened():
        plan, readers, quarantine = fakes(waves={"num_frames": 12, "shard_sizes": (20, 30, 7), "broken": (2,)})
        spoil(readers["waves"], seed)
        return plan, readers, quarantine

    fresh = opened()
    micros = list(open_stream(fresh, threads=0))
    expected = [(ids(micro), len(micro.quarantined)) for micro in micros]
    assert any(micro.quarantined for micro in micros)

    rng = random.Random(seed)
    informed = opened()
    waves = informed[1]["waves"]
    for trajectory, frame in waves.damaged:
        if rng.random() < 0.5:
            informed[2].learn(DamagedItem("waves", waves._files[trajectory], "k", trajectory, frame, "known"))
    state = micros[4 * stop - 1].state
    after = open_stream(informed, state, threads=threads)
    assert [(ids(micro), len(micro.quarantined)) for micro in after] == expected[4 * stop :]
    assert not any(waves._files[trajectory] in waves.broken_shards for trajectory, _ in waves.reads)


def test_windows_that_do_not_touch_a_damaged_frame_are_kept():
    waves = {"num_frames": 12, "damaged": {(n, 0) for n in range(18)}}
    micros = list(open_stream(fakes(waves=waves)))
    windows = [window for micro in micros for window in ids(micro) if window[0] == "waves"]
    assert len({trajectory for _, trajectory, _ in windows}) > 9
    assert all(0 not in frames for _, _, frames in windows)
    assert {item.frame for micro in micros for item in micro.quarantined} == {0}


def test_a_damaged_item_is_read_once():
    waves = {"num_frames": 12, "damaged": {(3, frame) for frame in range(12)}}
    _, readers, _ = opened = fakes(waves=waves)
    micros = list(open_stream(opened, stop_step=60, threads=0))
    met = sum(len(micro.quarantined) for micro in micros)
    found = [frames for trajectory, frames in readers["waves"].reads if trajectory == 3]
    assert met > 3 * len(found) > 0
    assert len({item.frame for micro in micros for item in micro.quarantined}) == len(found)


def test_a_whole_shard_known_to_be_broken_stops_no_run_whatever_its_size():
    """Not even if its trajectories follow each other in the order."""
    readers = {"waves": FakeReader(shard_sizes=(50,) * 4, broken=(1,))}
    opened = plan_of(readers, shuffle_shards=1), readers, Quarantine(readers, 1.0)
    micros = list(open_stream(opened, stop_step=12))
    assert sum(len(micro.quarantined) for micro in micros) > 50
    assert not any(50 <= trajectory < 100 for micro in micros for _, trajectory, _ in ids(micro))


def test_a_shard_lost_while_reading_is_found_by_one_read():
    readers = {"waves": FakeReader(shard_sizes=(50,) * 4)}
    opened = plan_of(readers, shuffle_shards=1), readers, Quarantine(readers, 1.0)
    lost = "waves-train-00001.tar"
    readers["waves"].broken_shards[lost] = "the shard can't be opened (No such file or directory)"
    micros = list(open_stream(opened, stop_step=12, threads=0))
    assert {(item.shard, item.trajectory, item.frame) for m in micros for item in m.quarantined} == {(lost, 50, None)}
    assert sum(50 <= trajectory < 100 for trajectory, _ in readers["waves"].reads) == 1


def test_a_family_of_few_trajectories_is_tried_at_other_times():
    readers = {"waves": FakeReader(shard_sizes=(1,), num_frames=40, damaged={(0, 17)})}
    opened = plan_of(readers), readers, Quarantine(readers, 1.0)
    micros = list(open_stream(opened))
    assert any(micro.quarantined for micro in micros)
    assert not any(17 in frames for micro in micros for _, _, frames in ids(micro))


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_an_error_comes_at_its_own_micro_batch_after_those_before_it(threads):
    """However fast the thread that met it was."""
    expected = list(open_stream(fakes(), threads=0))
    victim = next(place for place in range(9, 24) if ids(expected[place])[0][0] == "waves")
    first = ids(expected[victim])[0]
    _, readers, _ = opened = fakes(heat={"num_frames": 30, "seconds": 2e-3}, darcy={"num_frames": 2, "seconds": 2e-3})
    read = readers["waves"].read_window

    def refuse(trajectory, frames, out_ctx):
        if (trajectory, tuple(frames)) == first[1:]:
            raise DataError("the disk is gone")
        read(trajectory, frames, out_ctx)

    readers["waves"].read_window = refuse
    met, micros = [], open_stream(opened, threads=threads, prefetch=20)
    with pytest.raises(DataError, match="the disk is gone"):
        met.extend(ids(micro) for micro in micros)
    place = next(n for n, micro in enumerate(expected) if first in ids(micro))
    assert met == [ids(micro) for micro in expected[:place]]
    assert reading_threads() == []


@pytest.mark.parametrize("threads", [0, 3])
def test_no_run_stops_at_damage_that_may_be(threads):
    """Half of the shards are torn, so many reads in a row are bound to find damage."""
    torn = {(n, frame) for n in range(30) for frame in range(12)}
    waves = {"num_frames": 12, "shard_sizes": (30, 30), "damaged": torn}
    micros = list(open_stream(fakes(waves=waves, max_share=0.5), threads=threads, stop_step=40))
    assert not any(trajectory < 30 for micro in micros for name, trajectory, _ in ids(micro) if name == "waves")
    readers = {"waves": FakeReader(**waves)}
    opened = plan_of(readers, shuffle_shards=1), readers, Quarantine(readers, 0.5)
    assert any(len(micro.quarantined) > 30 for micro in open_stream(opened, threads=threads, stop_step=3))
    opened = plan_of(readers, shuffle_shards=1), readers, Quarantine(readers, 0.2)
    with pytest.raises(DataError, match=r"family waves: .* windows in a row are damaged, .* of them found just now"):
        list(open_stream(opened, threads=threads, stop_step=40))


def test_damage_that_does_not_end_is_given_up_with_what_was_found():
    waves = {"num_frames": 12, "damaged": {(n, frame) for n in range(18) for frame in range(12)}}
    with pytest.raises(DataError) as error:
        list(open_stream(fakes(waves=waves, max_share=0.3), threads=0))
    assert f"family waves: {MAX_ATTEMPTS} windows in a row are damaged, {MAX_ATTEMPTS} of them found just" in str(
        error.value
    )
    assert str(error.value).count("field u is torn") == MAX_ATTEMPTS
    readers = {"waves": FakeReader(broken=(0, 1, 2))}
    with pytest.raises(DataError, match=r"waves: 26 windows in a row are damaged, 0 of them found just now; run"):
        list(open_stream((plan_of(readers), readers, Quarantine(readers, 1.0)), threads=0))
