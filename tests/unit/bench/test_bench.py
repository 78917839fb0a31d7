"""`tools/bench.py`: figures that say no more than was measured, and peers that are said to be absent."""

import importlib.util
import json
import time

import numpy as np
import pytest

from ups_scale.bench import ranks
from ups_scale.bench.data import COMPARED, Settings, measure
from ups_scale.bench.rounds import Figure, figure, ratio, take_turns
from ups_scale.bench.table import WHAT, render

SMALL = Settings(trajectories=20, grid=16, batch=4, batches=2, rounds=2, sharding_mib=1)
PEERS = {"the_well": "the_well", "streaming": "mosaicml-streaming"}


@pytest.mark.parametrize(
    ("low", "median", "high", "text"),
    [
        (0.48, 0.5234, 0.57, "0.52"),
        (0.4, 0.5234, 0.8, "0.5"),
        (14.1, 15.26, 15.4, "15"),
        (15.21, 15.26, 15.28, "15.26"),
        (900, 1234, 1500, "1200"),
        (0.0102, 0.01234, 0.013, "0.012"),
        (2.0, 2.0, 2.0, "2.000"),
        (0.0, 0.0, 0.0, "0"),
    ],
)
def test_a_figure_shows_no_digit_that_its_spread_leaves_open(low, median, high, text):
    assert str(Figure(median, low, high)) == text


def test_methods_take_turns_each_after_a_round_of_its_own():
    calls = []

    def method(name, seconds, count):
        def work():
            calls.append(name)
            time.sleep(seconds)
            return count

        return work

    rates = take_turns({"slow": method("slow", 0.03, 3), "fast": method("fast", 0.01, 3)}, rounds=3)
    assert calls == ["slow", "slow", "fast", "fast"] * 3
    found = ratio(rates, "fast", "slow")
    assert 1.5 < found.median < 4
    assert found.low <= found.median <= found.high


def test_a_ratio_is_of_the_same_round():
    rates = {"ours": [2.0, 20.0, 200.0], "other": [1.0, 10.0, 100.0]}  # a machine that gets less busy
    assert ratio(rates, "ours", "other") == Figure(2, 2, 2)


def test_quartiles():
    assert figure([1, 2, 3, 4, 100]) == Figure(3, 2, 4)


def sleeper(seconds):
    """A method that leaves the processor to others: two of it do twice as much."""

    def work():
        time.sleep(seconds)
        return 1

    return work


def broken(_):
    raise RuntimeError("no such thing")


def test_two_processes_that_do_not_get_in_each_others_way_do_twice_as_much(monkeypatch):
    monkeypatch.setattr(ranks, "SECONDS", 0.1)
    assert ranks.together(sleeper, (0.01,), rounds=2).median == pytest.approx(2, rel=0.3)


def test_a_process_that_dies_is_an_error(monkeypatch):
    with pytest.raises(EOFError):
        ranks.together(broken, (0,), rounds=1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "SECONDS", 0.05)
        measured = measure(SMALL, folder)
    assert not list(folder.iterdir())  # nothing is left
    return measured


def test_json(measured):
    content = json.loads(json.dumps(measured.as_json(), allow_nan=False))
    present = {name for name, package in PEERS.items() if importlib.util.find_spec(package.split("-")[-1])}
    assert set(content["ratios"]) == (set(COMPARED) - set(PEERS)) | present | {"two_ranks", "two_memcpy"}
    assert all(value > 0 for value in content["ratios"].values())
    assert set(content["absent"]) == set(PEERS) - present
    assert min(content["plan_us"], content["resume_s"], content["sharding_mb_per_s"]) > 0
    assert content["environment"]["packages"]["torch"]
    assert content["settings"]["window"] == 8


def test_absent_peers_are_said_to_be(measured):
    text = render(measured)
    for name, reason in measured.absent.items():
        assert f"not installed (pip install {PEERS[name]})" in reason
        line = next(line for line in text.splitlines() if line.split()[:2] == [name, "-"])
        assert line.endswith(reason)


def test_the_table_says_what_each_ratio_is_of(measured):
    text = render(measured)
    assert set(WHAT) == {*COMPARED, "two_ranks", "two_memcpy"}
    for name in measured.ratios:
        assert WHAT[name] in text
    assert "Python 3" in text
    assert f"{SMALL.rounds} rounds" in text


def test_planning_and_resuming_are_quick(measured):
    """Limits of the figures that do not depend on how busy the machine is; the others are for `tools/bench.py`."""
    assert measured.plan_us.low < 50
    assert measured.resume_s.low < 1
    assert np.isfinite(measured.sharding_mb_per_s.median)
