"""The paired bootstrap: right against theory, trajectories paired by key, what diverged counted as the worst."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from judged import FAMILIES, diverge, evaluation

from ups_scale.errors import DataError
from ups_scale.evaluate.bootstrap import compare, horizon_change


def trajectories(**settings):
    return evaluation(**settings)[1]


def test_the_same_figures_gain_nothing_with_certainty():
    gain = compare(trajectories(), trajectories(name="again")).overall()
    assert (gain.improvement, gain.sigma, gain.low, gain.high) == (0.0, 0.0, 0.0, 0.0)


def test_a_constant_factor_is_found_without_noise_however_hard_trajectories_differ():
    found = compare(trajectories(factor=0.9), trajectories())
    gain = found.overall()
    assert gain.improvement == pytest.approx(0.1)
    assert gain.sigma < 1e-12
    assert found.family("burgers_1d", 4).improvement == pytest.approx(0.1)


def test_over_families_it_is_the_geometric_mean_of_ratios():
    factors = dict(zip(FAMILIES, (0.5, 1.0, 2.0, 0.8), strict=True))
    gain = compare(trajectories(factor=factors), trajectories()).overall(4)
    assert 1 - gain.improvement == pytest.approx((0.5 * 1.0 * 2.0 * 0.8) ** 0.25)


def test_sigma_is_the_standard_error_that_theory_gives():
    found = compare(trajectories(noise=0.1, num=200), trajectories(num=200), resamples=4000)
    ours, theirs = trajectories(noise=0.1, num=200), trajectories(num=200)
    family = "burgers_1d"
    a, b = (np.array(of["families"][family]["nrmse"]["model"]["4"]) for of in (ours, theirs))
    expected = (a / a.mean() - b / b.mean()).std(ddof=1) / math.sqrt(200)  # delta method for log(mean a / mean b)
    ratio = a.mean() / b.mean()
    assert found.family(family, 4).sigma == pytest.approx(expected * ratio, rel=0.1)


def test_sigma_is_not_too_small_for_few_trajectories():
    """Averaged over many sets of four, its square is the variance of the gains that these sets show."""
    found = [
        compare(*(trajectories(name=name, seed=seed, noise=0.05, num=4, families=FAMILIES[:1]) for name in "ab"), 200)
        for seed in range(300)
    ]
    gains = [of.overall(4) for of in found]
    spread = np.var([gain.improvement for gain in gains])
    assert np.mean([gain.sigma**2 for gain in gains]) == pytest.approx(spread, rel=0.3)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    hits = 0
    for seed in range(100):
        gain = compare(*(trajectories(name=name, seed=seed, noise=0.1) for name in "ab"), 500, confidence=0.9).overall()
        hits += gain.low <= 0 <= gain.high
    assert 80 <= hits <= 98


def test_seeds_repeat_and_the_order_of_trajectories_is_nothing():
    ours, theirs = trajectories(noise=0.1), trajectories(name="other", noise=0.1)
    shuffled = copy.deepcopy(theirs)
    for table in shuffled["families"].values():
        table["keys"].reverse()
        for steps in table["nrmse"].values():
            for values in steps.values():
                values.reverse()
    assert compare(ours, theirs).overall() == compare(ours, theirs).overall()
    assert compare(ours, shuffled).overall() == compare(ours, theirs).overall()
    assert compare(ours, theirs, seed=1).overall().sigma != compare(ours, theirs).overall().sigma


@pytest.mark.parametrize("who", ["candidate", "champion"])
def test_a_diverged_trajectory_counts_as_the_worst_and_is_said(who):
    made = {"candidate": evaluation(name="a"), "champion": evaluation()}
    diverge(made[who], "burgers_1d")
    found = compare(made["candidate"][1], made["champion"][1])
    gain = found.family("burgers_1d", 16)
    assert (gain.improvement < 0) == (who == "candidate")
    assert found.diverged["burgers_1d"] == ((1, 0) if who == "candidate" else (0, 1))
    assert found.family("burgers_1d", 4).improvement == 0
    assert math.isfinite(gain.sigma)


def test_a_truth_of_zero_is_left_out_and_is_no_divergence():
    made = [trajectories(factor=0.9), trajectories()]
    for of in made:
        for values in of["families"]["burgers_1d"]["nrmse"].values():
            values["16"][3] = None
    found = compare(*made)
    assert found.diverged["burgers_1d"] == (0, 0)
    assert found.family("burgers_1d", 16).improvement == pytest.approx(0.1)


def test_one_trajectory_does_not_tell_its_noise():
    found = compare(trajectories(num=1, factor=0.5), trajectories(num=1))
    assert found.overall().sigma == math.inf
    assert found.single == FAMILIES


def test_a_family_with_one_step_stands_with_its_own_and_a_stated_step_with_the_last_before_it():
    made = [trajectories(factor=0.9), trajectories()]
    for of in made:
        for predictor, values in of["families"]["burgers_1d"]["nrmse"].items():
            of["families"]["burgers_1d"]["nrmse"][predictor] = {"1": values["1"]}
    found = compare(*made)
    assert found.shared_step() == 1
    assert found.overall(16).improvement == pytest.approx(0.1)
    assert found.step_of("burgers_1d", 16) == 1
    assert found.step_of("advection_1d", 10) == 4


def test_another_suite_family_or_trajectory_is_refused_with_the_remedy():
    ours, theirs = trajectories(), trajectories()
    with pytest.raises(DataError, match=r"suite_hash .* same suite on the same data: evaluate the older one again"):
        compare(ours, theirs | {"suite_hash": "other"})
    fewer = copy.deepcopy(theirs)
    del fewer["families"]["burgers_1d"]
    with pytest.raises(DataError, match="only one of candidate and champion has burgers_1d"):
        compare(ours, fewer)
    renamed = copy.deepcopy(theirs)
    renamed["families"]["burgers_1d"]["keys"][0] = "elsewhere"
    with pytest.raises(DataError, match=r"burgers_1d: 2 trajectories .*\(burgers_1d-000, elsewhere\)"):
        compare(ours, renamed)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda of: of.update(format=2), "not of format 1"),
        (lambda of: of.update(families={}), "it holds no families"),
        (lambda of: of["families"]["burgers_1d"].pop("keys"), "burgers_1d is malformed"),
        (lambda of: of["families"]["burgers_1d"]["keys"].pop(), "one figure per trajectory"),
        (lambda of: of["families"]["burgers_1d"]["nrmse"]["model"]["4"].pop(), "one figure per trajectory"),
    ],
)
def test_what_is_no_trajectories_json_is_refused(damage, message):
    broken = trajectories()
    damage(broken)
    with pytest.raises(DataError, match=rf"the champion's trajectories.json: .*{message}.*evaluate it again"):
        compare(trajectories(), broken)


def test_horizons_are_paired():
    ours, theirs = trajectories(factor=0.5), trajectories()
    theirs["families"]["burgers_1d"]["horizon"]["model"][0] = None
    a, b, error = horizon_change(ours, theirs)["burgers_1d"]
    values = [of["families"]["burgers_1d"]["horizon"]["model"] for of in (ours, theirs)]
    assert a == pytest.approx(np.mean(values[0]))
    assert b == pytest.approx(np.sum(values[1][1:]) / 24)
    assert error > 0
