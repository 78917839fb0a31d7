"""The order: pure, the same for any number of ranks, every trajectory once per epoch."""

import json
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ups_scale.data.plan import Draw, FamilyStream, Plan, PlanState, chunk, mix, permutation, windows_per_draw
from ups_scale.errors import RecipeError

CONTEXT = 2
STREAMS = {
    "a": FamilyStream((5, 5, 2), num_frames=12, tokens=8),
    "b": FamilyStream((7,), num_frames=9, tokens=4),
    "c": FamilyStream((3, 1, 4, 4, 2, 6), num_frames=20, tokens=16),
}


def make(streams=STREAMS, **changes):
    settings = {"seed": 3, "exponent": 0.7, "draws_per_step": 4, "batch_tokens": 2048, "shuffle_shards": 2}
    return Plan(streams, context_frames=CONTEXT, **{**settings, **changes})


def run(plan, state, steps, horizon=4):
    """All (family, trajectory, frames) of some steps, a list per draw, and the state after."""
    read = []
    for _ in range(steps):
        draws, state = plan.draws(state, horizon)
        read += [[(draw.family, *plan.window(draw, n)) for n in range(draw.num_windows)] for draw in draws]
    return read, state


def test_pure():
    plan = make()
    first, state = run(plan, plan.start(), 20)
    again, same = run(plan, plan.start(), 20)
    other, _ = run(make(), make().start(), 20)
    assert first == again == other
    assert state == same
    assert run(make(seed=4), plan.start(), 20)[0] != first
    assert plan.start() == PlanState(0, {"a": 0, "b": 0, "c": 0})


def test_the_order_of_the_mapping_does_not_matter():
    assert run(make(dict(reversed(STREAMS.items()))), make().start(), 9)[0] == run(make(), make().start(), 9)[0]


def test_order_is_this_one_for_good():
    """Runs that are resumed with a later version, or another numpy, go on with this order."""
    assert mix(1, 2, 3) == mix(1, 2, 3) != mix(1, 3, 2)
    assert permutation(8, 1, 2).tolist() == [0, 3, 6, 7, 1, 5, 2, 4]
    read, _ = run(make(), make().start(), 1)
    assert [draw[0] for draw in read] == [
        ("c", 2, range(6)),
        ("c", 15, range(9, 15)),
        ("b", 0, range(6)),
        ("c", 12, range(13, 19)),
    ]


def test_strides_are_these_for_good():
    read, _ = run(make(max_stride=5), make().start(), 1)
    assert [draw[0] for draw in read] == [
        ("c", 2, range(6)),
        ("c", 15, range(4, 20, 3)),
        ("b", 0, range(6)),
        ("c", 12, range(3, 14, 2)),
    ]


@given(seed=st.integers(0, 2**63), words=st.lists(st.integers(0, 2**64 - 1), max_size=3), size=st.integers(0, 300))
def test_permutation_holds_every_number_once(seed, words, size):
    assert sorted(permutation(size, seed, *words).tolist()) == list(range(size))


def test_permutations_are_uniform():
    counts = Counter(tuple(permutation(4, 9, n).tolist()) for n in range(24 * 200))
    assert len(counts) == 24
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_squared < 49.7  # 23 degrees of freedom, 0.1 %


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    shuffle_shards=st.integers(1, 9),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 5),
)
def test_every_trajectory_once_per_epoch(sizes, shuffle_shards, seed, epoch):
    total = sum(sizes)
    plan = make({"a": FamilyStream(tuple(sizes), 12, 8)}, seed=seed, shuffle_shards=shuffle_shards)
    draw = Draw("a", epoch * total, total, 4)
    assert sorted(plan.window(draw, n)[0] for n in range(total)) == list(range(total))


def test_epochs_differ_and_neighbours_come_from_few_shards():
    sizes = (10,) * 20
    plan = make({"a": FamilyStream(sizes, 12, 8)}, shuffle_shards=4)
    order = [plan.window(Draw("a", 0, 400, 4), n)[0] for n in range(400)]
    assert order[:200] != order[200:]
    for start in range(0, 200, 40):  # a remote cache of 4 shards serves each group
        assert len({trajectory // 10 for trajectory in order[start : start + 40]}) == 4


@settings(max_examples=60, deadline=None)
@given(horizon=st.integers(1, 7), seed=st.integers(0, 2**32), attempt=st.integers(0, 9), max_stride=st.integers(1, 9))
def test_windows_lie_inside_the_trajectory(horizon, seed, attempt, max_stride):
    plan = make(seed=seed, max_stride=max_stride)
    for name, stream in STREAMS.items():
        for number in range(40):
            trajectory, frames = plan.window(Draw(name, 17, 40, horizon), number, attempt)
            assert 0 <= trajectory < sum(stream.shard_sizes)
            assert len(frames) == CONTEXT + horizon
            assert frames[0] >= 0
            assert frames[-1] < stream.num_frames


def test_first_frames_reach_both_ends():
    firsts = {make().window(Draw("a", 0, 500, 4), n)[1][0] for n in range(500)}
    assert firsts == set(range(12 - CONTEXT - 4 + 1))


def test_a_stride_of_one_gives_the_windows_there_were_before_strides():
    assert run(make(max_stride=1), make().start(), 9)[0] == run(make(), make().start(), 9)[0]
    # Strides do not move what else is drawn.
    strided = run(make(max_stride=3), make().start(), 9)[0]
    assert [[window[:2] for window in draw] for draw in strided] == [
        [window[:2] for window in draw] for draw in run(make(), make().start(), 9)[0]
    ]


def test_strides_are_uniform_up_to_the_longest_that_fits():
    draw = Draw("c", 0, 6000, 4)  # windows of 6 of 20 frames: strides 1 to 3
    for max_stride, expected in ((2, {1, 2}), (3, {1, 2, 3}), (9, {1, 2, 3})):
        plan = make(max_stride=max_stride)
        windows = [plan.window(draw, number)[1] for number in range(6000)]
        counts = Counter(window.step for window in windows)
        assert counts.keys() == expected
        share = 1 / len(expected)
        for count in counts.values():  # four standard deviations
            assert count / 6000 == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 6000))
        for stride in expected:  # every first frame that fits, alike likely
            firsts = Counter(window[0] for window in windows if window.step == stride)
            assert firsts.keys() == set(range(20 - 5 * stride))
            assert max(firsts.values()) < 2 * min(firsts.values())
    assert {window.step for window in (make(max_stride=9).window(Draw("c", 0, 9, 16), n)[1] for n in range(9))} == {1}


def test_a_window_longer_than_the_trajectory():
    with pytest.raises(RecipeError, match=r"2 context \+ 8 predicted frames does not fit family b, .* have 9: lower"):
        make(max_stride=3).window(Draw("b", 0, 1, 8), 0)
    with pytest.raises(RecipeError, match=r"2 context \+ 1 predicted frames does not fit family one, .* have 1: lower"):
        make({"one": FamilyStream((3,), num_frames=1, tokens=8)}).window(Draw("one", 0, 1, 1), 0)


MIXED = {
    "darcy": FamilyStream((30, 30), num_frames=2, tokens=16, steady=True),
    "poisson": FamilyStream((500,), num_frames=2, tokens=8, steady=True),
    "wave": FamilyStream((90,) * 9, num_frames=20, tokens=16),
    "heat": FamilyStream((70,), num_frames=20, tokens=16),
}


@pytest.mark.parametrize(("share", "exponent"), [(0.25, 0.7), (0.5, 0.0), (0.25, 1.0), (0.0, 0.7), (1.0, 0.7)])
def test_steady_families_have_a_share_of_their_own(share, exponent):
    plan = make(MIXED, exponent=exponent, steady_share=share)
    state, counts = plan.start(), Counter()
    for _ in range(2500):
        draws, state = plan.draws(state, 4)
        counts.update(draw.family for draw in draws)
    for kind, names in ((share, ("darcy", "poisson")), (1 - share, ("wave", "heat"))):
        weights = {name: sum(MIXED[name].shard_sizes) ** exponent for name in names}
        for name, weight in weights.items():
            expected = kind * weight / sum(weights.values())
            assert counts[name] / 10_000 == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 10_000))
            assert expected or not counts[name]


def test_where_all_is_steady_or_nothing_is_the_share_has_no_say():
    for names in (("darcy", "poisson"), ("wave", "heat")):
        streams = {name: MIXED[name] for name in names}
        plans = [make(streams, steady_share=share) for share in (0.0, 0.25, 1.0)]
        first, *others = ([draw.family for draw in plan.draws(plan.start(), 2)[0]] for plan in plans)
        assert all(order == first for order in others)


@pytest.mark.parametrize("horizon", [1, 4, 16])
def test_a_steady_draw_costs_as_much_and_predicts_the_solution_from_what_is_given(horizon):
    plan, seen = make(MIXED, max_stride=4), Counter()
    state = plan.start()
    for _ in range(30):
        draws, state = plan.draws(state, horizon)
        for draw in draws:
            steady, tokens = MIXED[draw.family].steady, MIXED[draw.family].tokens
            seen[steady] += 1
            assert draw.horizon == (1 if steady else horizon)
            assert draw.num_windows * draw.horizon * tokens == 2048 // 4
            if steady:
                assert {plan.window(draw, n)[1] for n in range(draw.num_windows)} == {(0, 0, 1)}
    assert seen[True]
    assert seen[False]


def test_ranks_of_a_steady_family_are_counted_at_its_only_horizon():
    plan = make({"darcy": FamilyStream((9,), 2, tokens=64, steady=True), "wave": FamilyStream((9,), 40, tokens=16)})
    plan.check_ranks(8, [1, 4])
    with pytest.raises(RecipeError, match=r"draw of wave 4 windows at horizon 8, fewer than the 8 ranks"):
        plan.check_ranks(8, [1, 4, 8])
    with pytest.raises(RecipeError, match=r"draw of darcy 8 windows at horizon 1, fewer than the 9 ranks"):
        plan.check_ranks(9, [4])


@settings(max_examples=80, deadline=None)
@given(
    num_windows=st.integers(1, 200),
    world_size=st.sampled_from([1, 2, 4, 8]),
    parts=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_chunks_of_all_ranks_are_the_draw(num_windows, world_size, parts, seed):
    draw = Draw("a", 0, num_windows, 4)
    chunks = [chunk(draw, rank, world_size, part, parts) for part in range(parts) for rank in range(world_size)]
    assert all(c.numbers for c in chunks), "all ranks compute, or the others would wait"
    assert Counter(n for c in chunks if c.weight for n in c.numbers) == Counter(range(num_windows))
    sizes = {len(c.numbers) for c in chunks if c.weight}
    assert max(sizes) - min(sizes) <= 1
    losses = np.random.default_rng(seed).normal(size=num_windows)
    mean = np.mean([c.weight * losses[list(c.numbers)].mean() for c in chunks])
    assert mean == pytest.approx(losses.mean(), abs=1e-12)


@pytest.mark.parametrize(("parts", "max_stride"), [(1, 1), (2, 4), (3, 4)])
def test_all_world_sizes_read_the_same_windows(parts, max_stride):
    def read(world_size):
        plan = make(batch_tokens=6144, max_stride=max_stride)
        state, windows = plan.start(), []
        for _ in range(6):
            draws, state = plan.draws(state, 3)
            windows.append(
                Counter(
                    (draw.family, *plan.window(draw, n))
                    for draw in draws
                    for part in range(parts)
                    for rank in range(world_size)
                    for n in chunk(draw, rank, world_size, part, parts).numbers
                )
            )
        return windows

    alone = read(1)
    assert all(sum(step.values()) > 0 for step in alone)
    for world_size in (2, 4, 8):
        assert read(world_size) == alone


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0])
def test_families_are_drawn_by_their_share(exponent):
    streams = {"s": FamilyStream((10,), 12, 8), "m": FamilyStream((50, 50), 12, 8), "l": FamilyStream((1000,), 12, 8)}
    plan = make(streams, exponent=exponent, batch_tokens=32)
    state, counts, total = plan.start(), Counter(), 0
    for _ in range(2500):
        draws, state = plan.draws(state, 1)
        counts.update(draw.family for draw in draws)
        total += len(draws)
    weights = {"s": 10**exponent, "m": 100**exponent, "l": 1000**exponent}
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        # 10,000 draws: four standard deviations, at most 0.02
        assert counts[name] / total == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / total))


def test_draws_of_a_step_are_independent():
    plan, state, same = make(), make().start(), 0
    for _ in range(2000):
        draws, state = plan.draws(state, 1)
        same += draws[0].family == draws[1].family
    weights = np.array([12, 7, 20]) ** 0.7
    expected = ((weights / weights.sum()) ** 2).sum()
    assert same / 2000 == pytest.approx(expected, abs=0.045)


@pytest.mark.parametrize("stop", [1, 7, 13])
def test_going_on_from_a_stored_state(stop):
    plan = make()
    whole, end = run(plan, plan.start(), 20)
    before, state = run(plan, plan.start(), stop)
    after, last = run(make(), PlanState(state.step, dict(state.positions)), 20 - stop)
    assert before + after == whole
    assert last == end


def test_a_longer_horizon_takes_fewer_windows_from_the_exact_step_on():
    plan = make()
    _, state = run(plan, plan.start(), 5, horizon=2)
    draws, after = plan.draws(state, 4)
    for draw in draws:
        assert (draw.horizon, draw.num_windows) == (4, windows_per_draw(2048, 4, STREAMS[draw.family].tokens * 4))
    taken = Counter()
    for draw in draws:
        assert draw.first == state.positions[draw.family] + taken[draw.family]
        taken[draw.family] += draw.num_windows
    assert all(after.positions[name] == state.positions[name] + taken[name] for name in STREAMS)


def test_another_family_does_not_reorder_this_one():
    more = make({**STREAMS, "0": FamilyStream((9, 9), 12, 8), "d": FamilyStream((9,), 12, 8)})
    for name in STREAMS:
        draw = Draw(name, 5, 60, 4)
        assert [make().window(draw, n) for n in range(60)] == [more.window(draw, n) for n in range(60)]


def test_replacements_are_others_of_the_same_epoch():
    plan, draw = make(), Draw("a", 0, 12, 4)
    tried = [plan.window(draw, 3, attempt)[0] for attempt in range(12)]
    assert sorted(tried) == list(range(12))


def test_a_budget_below_one_window_still_takes_one():
    assert windows_per_draw(10, 4, 1000) == 1
    assert windows_per_draw(8000, 4, 1000) == 2


def test_planning_a_window_takes_microseconds():
    streams = {name: FamilyStream((100,) * 200, 100, 64) for name in "abcd"}
    plan = make(streams, batch_tokens=64 * 4 * 1000, max_stride=5)
    state, count, start = plan.start(), 0, time.thread_time()
    for _ in range(20):
        draws, state = plan.draws(state, 4)
        for draw in draws:
            item = chunk(draw, 0, 1, 0, 1)
            for number in item.numbers:
                plan.window(draw, number)
            count += len(item.numbers)
    assert (time.thread_time() - start) / count < 50e-6


def test_the_state_is_a_few_hundred_bytes():
    streams = {f"some_family_{number}_2d": FamilyStream((100,) * 50, 100, 64) for number in range(12)}
    plan = make(streams, batch_tokens=64 * 4 * 1000)
    state = PlanState(10**8, dict.fromkeys(plan.start().positions, 10**12))
    stored = {"step": state.step, "positions": dict(state.positions), "quarantined": []}
    assert len(json.dumps(stored)) < 1024


def test_going_on_at_any_position_takes_less_than_a_second():
    streams = {"large": FamilyStream((1000,) * 1000, 100, 64), "small": FamilyStream((10,), 100, 64)}
    start = time.thread_time()
    plan = make(streams, batch_tokens=64 * 4 * 100, shuffle_shards=16, max_stride=5)
    draws, _ = plan.draws(PlanState(10**7, {"large": 10**9 + 7, "small": 10**9}), 4)
    for draw in draws:
        for number in range(draw.num_windows):
            plan.window(draw, number)
    assert {draw.family for draw in draws} == {"large"}
    assert time.thread_time() - start < 1
