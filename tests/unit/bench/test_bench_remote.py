"""`tools/bench.py remote`: the same samples from everywhere, and figures that say what they are of."""

import json

import pytest

from ups_scale.bench import remote
from ups_scale.bench.remote import WHAT, Settings, measure, render

SMALL = Settings(trajectories=24, grid=16, shard_mib=0.25, shuffle_shards=2, step_s=0.002, cache_share=0.9, rounds=1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "EPOCHS", 1)
        patch.setattr(remote, "LATENCY_S", 0.05)
        measured = measure(SMALL, folder)
    assert not list(folder.iterdir())  # nothing is left
    return measured


def test_json(measured):
    content = json.loads(json.dumps(measured.as_json(), allow_nan=False))
    assert set(content["ratios"]) == set(WHAT)
    assert all(value["median"] > 0 for kind in ("ratios", "windows_per_s") for value in content[kind].values())
    assert content["same_samples"] is True
    first = content["first_micro_batch_s"]
    assert first["s3_on_demand_far"]["median"] > 0.05 > first["folder"]["median"] > 0


def test_the_table_says_what_each_ratio_is_of(measured):
    text = render(measured)
    assert all(what in text for what in WHAT.values())
    assert "the same samples everywhere" in text
