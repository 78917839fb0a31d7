"""The interval of an ensemble's coverage: a bootstrap over trajectories."""

import numpy as np
import pytest

from ups_scale.evaluate.ensembles import interval
from ups_scale.metrics.calibration import LEVELS


def counts(trajectories, spread, seed=0):
    """Coverage near its level, that differs between trajectories by a standard deviation of `spread`."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(50, 200, trajectories)
    coverage = np.array(LEVELS) + spread * rng.standard_normal((trajectories, 1))
    return [(number * of, int(number)) for number, of in zip(numbers, coverage, strict=True)]


def test_the_interval_is_as_wide_as_the_mean_over_trajectories_is_uncertain():
    found = interval(counts(100, 0.2), 0)["interval"]
    # A weighted mean of 100 values, nearly alike in weight, has a standard error of about 0.02.
    for low, high in zip(found["low"], found["high"], strict=True):
        assert high - low == pytest.approx(2 * 1.96 * 0.02, rel=0.3)
    assert found["ece_low"] < found["ece_high"] < 0.1
    exact = interval(counts(100, 0.0), 0)["interval"]
    assert exact["low"] == pytest.approx(LEVELS)
    assert exact["high"] == pytest.approx(LEVELS)
    assert exact["ece_high"] == pytest.approx(0, abs=1e-12)


def test_values_count_by_how_many_they_are():
    covered = np.ones(len(LEVELS))
    found = interval([(999 * covered, 999), (0 * covered, 1), (999 * covered, 999)], 0)["interval"]
    assert max(found["high"]) == 1
    assert min(found["low"]) in (0, pytest.approx(0.999))


def test_it_depends_on_the_seed_alone_and_one_trajectory_has_none():
    given = counts(8, 0.1)
    assert interval(given, 3) == interval(given, 3) != interval(given, 4)
    assert interval(given[:1], 0) == {}


def test_what_is_not_finite_has_no_interval():
    given = counts(4, 0.1)
    given[2] = (np.full(len(LEVELS), np.nan), 100)
    assert np.isnan(interval(given, 0)["interval"]["ece_high"])
