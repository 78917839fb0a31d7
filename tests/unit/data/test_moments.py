"""Statistics in one pass, against numpy on all values at once."""

import json

import numpy as np
import pytest

from ups_scale.data.moments import FieldMoments, finish, from_json, to_json


def of(slabs, masked=False):
    moments = FieldMoments()
    for slab in slabs:
        moments.add(slab, masked)
    return moments


@pytest.mark.parametrize("shape", [(1, 5), (7, 3), (50, 2000), (3, 70_000), (11, 90, 80), (4, 33, 33, 33)])
@pytest.mark.parametrize("masked", [False, True])
def test_slabs_of_any_size_give_the_moments_of_all_values(shape, masked):
    rng = np.random.default_rng(0)
    u = (300 + rng.standard_normal(shape)).astype(np.float32)
    if masked:
        u[rng.random(shape) < 0.5] = np.nan
    exact = u.astype(np.float64)
    for step in (1, 3, len(u)):
        moments = of([u[i : i + step] for i in range(0, len(u), step)], masked)
        for found, values in ((moments.u, exact), (moments.delta, np.diff(exact, axis=0))):
            values = values[~np.isnan(values)]
            assert found.count == values.size
            if values.size:
                np.testing.assert_allclose(found.mean, values.mean(), rtol=1e-12, atol=1e-15)
                np.testing.assert_allclose(found.variance, values.var(), rtol=1e-9)


def test_no_change_from_one_trajectory_to_the_next():
    parts = [of([np.full((3, 4), level, np.float32)]) for level in (0, 100)]
    total = FieldMoments()
    for part in parts:
        total.merge(part)
    assert (total.u.count, total.u.mean, total.u.variance) == (24, 50.0, 2500.0)
    assert (total.delta.count, total.delta.variance) == (16, 0.0)


def test_merging_with_nothing_changes_nothing():
    moments = of([np.arange(6, dtype=np.float32).reshape(2, 3)])
    before = to_json([moments])
    moments.merge(FieldMoments())
    assert to_json([moments]) == before
    nothing = FieldMoments()
    nothing.merge(FieldMoments())
    assert finish([nothing])["u"] == {"mean": [0.0], "std": [0.0], "rms": [0.0]}


def test_json_keeps_every_digit():
    fields = [of([np.random.default_rng(seed).random((5, 9)).astype(np.float32)]) for seed in range(2)]
    assert to_json(from_json(json.loads(json.dumps(to_json(fields))))) == to_json(fields)
