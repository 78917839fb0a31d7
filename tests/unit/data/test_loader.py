"""The stream of one rank: the plan's windows, whatever the threads, exactly resumed, damage replaced."""

import hashlib
import threading
from collections import Counter

import pytest

from ups_scale.data.index import read_index
from ups_scale.data.loader import MAX_ATTEMPTS, stream
from ups_scale.data.manifest import load_manifest
from ups_scale.data.plan import FamilyStream, Plan, PlanState, chunk
from ups_scale.data.reader import ShardReader
from ups_scale.errors import DataError, RecipeError

FAMILIES = ("advection_1d", "navier_stokes_2d", "reaction_diffusion_2d")
CONTEXT = 2


def open_all(folder, families=FAMILIES):
    manifest = load_manifest(folder)
    readers = {name: ShardReader(manifest, name, "train") for name in families}
    streams = {name: FamilyStream(reader.shard_sizes, reader.data.num_frames, 8) for name, reader in readers.items()}
    plan = Plan(
        streams, seed=5, exponent=0.7, draws_per_step=2, batch_tokens=512, context_frames=CONTEXT, shuffle_shards=2
    )
    return plan, readers


def horizon_at(step):
    return 2 if step < 3 else 4


def open_stream(opened, state=None, **changes):
    plan, readers = opened
    settings = {"stop_step": 6, "rank": 0, "world_size": 1, "parts": 2, "threads": 2, "prefetch": 3, **changes}
    return stream(plan, readers, state or plan.start(), horizon_at=horizon_at, context_frames=CONTEXT, **settings)


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
    plan, readers = opened = open_all(shard_folder)
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
                    trajectory, first = plan.window(draw, window)
                    assert micro.batch.keys[row] == readers[draw.family].describe(trajectory)[0]
                    u_ctx = sources[draw.family, "train"].u_nctx[trajectory]
                    found = micro.batch.u_btcx[row].transpose(0, 1).contiguous().numpy()
                    assert found.tobytes() == u_ctx[:, first : first + CONTEXT + horizon_at(step)].tobytes()
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
    plan, readers = opened = open_all(own_shards, ("advection_1d",))
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
    assert f"family advection_1d: {MAX_ATTEMPTS} reads in a row found damage; run tools/shard.py" in str(error.value)
    assert str(error.value).count("advection_1d-train-0000") >= MAX_ATTEMPTS
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
