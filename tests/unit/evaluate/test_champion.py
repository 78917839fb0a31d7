"""Who is promoted: what is better beyond noise everywhere it counts, over many seeds; fail-safes; the verdict."""

from __future__ import annotations

import json

import pytest
from judged import FAMILIES, diverge, evaluation

from ups_scale.errors import DataError
from ups_scale.evaluate import reasons
from ups_scale.evaluate.champion import judge
from ups_scale.evaluate.gates import Bars
from ups_scale.evaluate.verdict import changes
from ups_scale.recipe import validate

SEEDS = range(20)
NOISE = 0.03
"""Relative noise of a trajectory's nRMSE, of either model by itself."""


def against(candidate, champion=None, bars=None, **others):
    champion = champion or evaluation(noise=NOISE)
    return judge(*candidate, *champion, bars or Bars(), **others)


def promotions(factor, noise=NOISE, change=lambda made: None):
    count = 0
    for seed in SEEDS:
        made = evaluation("candidate", seed, factor, noise)
        change(made)
        count += against(made, evaluation("champion", seed, noise=noise)).promoted
    return count


def failed(judgement):
    return {gate["name"] for gate in judgement.gates if not gate["passed"]}


def test_an_identical_one_is_never_promoted():
    for seed in SEEDS:
        champion = evaluation("champion", seed, noise=NOISE)
        found = against(champion, champion)
        assert (found.promoted, found.improvement, found.sigma) == (False, 0.0, 0.0)


def test_the_same_model_once_more_is_never_promoted_even_without_a_margin():
    champions = [evaluation("champion", seed) for seed in SEEDS]
    copies = [evaluation("candidate", seed) for seed in SEEDS]
    bars = Bars(margin=0.0)
    assert not any(against(*pair, bars).promoted for pair in zip(copies, champions, strict=True))


def test_an_equally_good_one_with_its_own_noise_is_never_promoted():
    assert promotions(1.0) == 0


def test_five_percent_better_everywhere_is_promoted():
    assert promotions(0.95) >= 19


def test_one_percent_better_is_below_the_margin():
    assert promotions(0.99, noise=0.02) == 0
    assert promotions(0.99) <= 2  # the margin is asked of what was found, so a wrong 2 % is promoted at times


def test_better_on_average_but_worse_than_persistence_on_one_family_is_never_promoted():
    factor = dict.fromkeys(FAMILIES, 0.5) | {"burgers_1d": 6.0}
    assert promotions(factor) == 0
    found = against(evaluation("candidate", 0, factor), evaluation())
    assert found.improvement == pytest.approx(1 - (0.5**3 * 6) ** 0.25)  # 7 % better in the mean
    assert "persistence" in failed(found)


def test_a_diverged_one_is_never_promoted():
    assert promotions(0.8, change=lambda made: diverge(made, "burgers_1d")) == 0


def test_a_gain_within_one_standard_error_is_not_enough():
    found = [
        against(evaluation("b", seed, 0.93, 0.3, num=4), evaluation("champion", seed, noise=0.3, num=4))
        for seed in SEEDS
    ]
    within = [of for of in found if 0.02 <= of.improvement <= of.sigma]
    assert len(within) > 2
    assert not any(of.promoted for of in within)
    assert all("more than 1 standard errors are asked for" in of.reasons[0] for of in within)


def test_one_trajectory_is_not_enough():
    found = against(evaluation("b", factor=0.5, num=1), evaluation(num=1))
    assert not found.promoted
    assert "has one trajectory: its noise is not known" in found.reasons[0]
    assert json.dumps(found.as_dict(), allow_nan=False)


def test_other_ensembles_are_no_ece_gate_and_said():
    made = evaluation("b", factor=0.9, ece=0.5)
    made[0]["noise"] = 0.01
    found = against(made, evaluation())
    assert found.promoted
    assert any(reason.startswith("ece is not judged: ensembles of ") for reason in found.reasons)


def test_the_first_champion_needs_the_trivial_predictors_only():
    first = judge(*evaluation(ece=0.9), None, None, Bars())
    assert (first.promoted, first.against, first.improvement) == (True, None, None)
    assert first.reasons == ("the first champion of this task",)
    worse = judge(*evaluation(factor=9.0), None, None, Bars())
    assert not worse.promoted
    assert worse.reasons[0].startswith("persistence failed in 12 places, worst: ")


@pytest.mark.parametrize(
    ("figure", "value", "names"),
    [
        ("conservation_gap", 2.5e-3, {"conservation_gap", "physics_conservation_gap"}),
        ("conservation_gap", 1.2e-3, {"physics_conservation_gap"}),
        ("bc_violation", 0.032, {"bc_violation", "physics_bc_violation"}),
        ("ece", 0.13, {"ece", "ece_promotion"}),
        ("ece", 0.11, {"ece_promotion"}),
    ],
)
def test_each_gate_stops_a_promotion(figure, value, names):
    assert against(evaluation("b", factor=0.8), evaluation()).promoted
    found = against(evaluation("b", factor=0.8, **{figure: value}), evaluation())
    assert not found.promoted
    assert failed(found) == names


def test_gates_of_both_and_the_record_are_plain_json():
    found = against(evaluation("b", factor=0.9, noise=NOISE))
    for gate in found.gates:
        assert {"name", "family", "horizon", "value", "limit", "champion", "passed"} == gate.keys()
    (gain,) = [gate for gate in found.gates if gate["name"] == "champion_nrmse"]
    assert gain["value"] / gain["champion"] == pytest.approx(1 - found.improvement)
    assert gain["limit"] / gain["champion"] == pytest.approx(0.98)
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (record["against"], record["horizon"]) == ("champion", 16)
    assert record["families"]["burgers_1d"]["nrmse@4"]["improvement"] == pytest.approx(0.1, abs=0.05)


def test_conservation_is_tried_once_with_guards_for_both():
    flows = ("compressible_flow_2d", *FAMILIES[1:])
    made = evaluation("b", factor=0.9, families=flows, conservation_gap=4e-3, divergence=0.1)
    made[0]["families"]["compressible_flow_2d"]["fields"] = {"density": {}}
    first = against(made, evaluation(families=flows, divergence=0.1))
    assert first.second_try == {"guards": ["conservation", "helmholtz", "positivity"]}
    (failsafe,) = first.failsafes
    assert failsafe.champion_too
    guards = first.second_try["guards"]
    again, champion_again = (
        evaluation("b", factor=0.9, families=flows, conservation_gap=1e-6, divergence=1e-6),
        evaluation(families=flows, conservation_gap=1e-6, divergence=1e-6),
    )
    again[0]["guards"] = guards
    alone = against(again, evaluation(families=flows, divergence=0.1), after=first)
    assert (alone.promoted, failed(alone), alone.failsafes) == (False, {"guards"}, ())
    champion_again[0]["guards"] = guards
    second = against(again, champion_again, after=first)
    assert second.promoted
    (tried,) = second.tried
    assert tried["reason"] == "conservation_gap, physics_conservation_gap failed: project after each step"
    assert tried["what"] == "guards conservation, helmholtz, positivity"
    assert tried["result"] == "13 of 13 failed gates pass now, 0 others fail; promoted"


def test_a_second_try_that_fails_is_the_last():
    first = against(evaluation("b", factor=0.9, ece=0.2, spread_skill=0.5), evaluation())
    assert first.second_try == {"noise_scale": {name: pytest.approx(2.0) for name in FAMILIES}}
    second = against(evaluation("b", factor=0.9, ece=0.15, spread_skill=0.8), evaluation(), after=first)
    assert not second.promoted
    assert second.failsafes == ()
    assert second.tried[0]["result"].endswith("not promoted")


def test_a_candidate_without_the_champions_guards_is_asked_for_them():
    champion = evaluation()
    champion[0]["guards"] = ["conservation"]
    found = against(evaluation("b", factor=0.9), champion)
    assert not found.promoted
    assert found.second_try == {"guards": ["conservation"]}


def test_a_slow_one_gets_advice_only():
    made = evaluation("b", factor=0.9)
    for of in made[0]["efficiency"].values():
        of["wall_clock_s"] *= 2
    found = against(made, evaluation())
    assert (found.promoted, found.second_try) == (False, {})
    assert "model.window_size" in found.failsafes[0].why
    assert found.verdict[2].startswith("next: too slow: a larger window")


RECIPE = {"run": {"name": "a"}, "optimizer": {"lr": 1e-3}, "model": {"depth": 4}, "schedule": {"steps": 100}}


def test_the_verdict_says_what_changed_why_and_what_next():
    one = RECIPE | {"run": {"name": "b"}, "optimizer": {"lr": 2e-3}}
    found = against(
        evaluation("b", factor={name: 0.8 if name != "burgers_1d" else 0.9 for name in FAMILIES}),
        evaluation(),
        recipe=one,
        champion_recipe=RECIPE,
    )
    changed, why, following = found.verdict
    assert changed == "changed against champion: optimizer.lr: 0.001 -> 0.002"
    assert why.startswith("why it helped: champion_nrmse passed: gain +18 % (sigma ")
    assert "asked for 2 %); nRMSE lower: reaction_diffusion_2d@" in why
    assert "-20 %" in why
    assert following.startswith("next: a hypothesis for the weakest place, ")
    several = against(evaluation("b"), evaluation(), recipe=one | {"model": {"depth": 8}}, champion_recipe=RECIPE)
    assert "several things at once" in several.verdict[0]


def test_seed_names_and_defaults_that_an_older_recipe_lacks_are_no_change():
    newer = validate.fill_defaults(RECIPE)
    assert changes(RECIPE, newer) == []
    newer = newer | {"run": {"name": "b", "seed": 7}, "description": "once more"}
    assert changes(RECIPE, newer) == []
    newer["optimizer"] = newer["optimizer"] | {"betas": [0.5, 0.5]}
    (line,) = changes(RECIPE, newer)
    assert line.startswith("optimizer.betas: [")
    assert line.endswith("-> [0.5, 0.5]")
    assert "(not there)" not in line


def test_the_gate_that_decided_is_named_first():
    found = against(evaluation("b", factor=1.14, noise=NOISE))
    assert found.verdict[1].startswith("why it is not promoted: champion_nrmse failed: gain -1")
    assert ", asked for 2 %); " in found.verdict[1]
    slow = evaluation("b", factor=0.8)
    for of in slow[0]["efficiency"].values():
        of["wall_clock_s"] *= 2
    told = against(slow, evaluation()).verdict[1]
    assert told.startswith("why it is not promoted: failed: wall_clock; champion_nrmse passed: gain +20 % (sigma ")


def test_what_is_worse_beyond_noise_is_to_be_reverted_and_the_worst_family_named():
    found = against(evaluation("b", factor=dict.fromkeys(FAMILIES, 1.1) | {"burgers_1d": 1.4}), evaluation())
    assert found.verdict[2] == (
        "next: worse than the champion beyond noise: revert the change, or a new hypothesis about burgers_1d, which "
        "got worst"
    )


def test_slow_and_badly_calibrated_rank_behind_accuracy():
    made = evaluation("b", factor=1.0, ece=0.5, spread_skill=3.0)
    for of in made[0]["efficiency"].values():
        of["wall_clock_s"] *= 2
    assert against(made, evaluation()).verdict[2].startswith("next: no gain beyond noise and margin: ")
    better = evaluation("b", factor=0.8, ece=0.5, spread_skill=3.0)
    better[0]["efficiency"] = made[0]["efficiency"]
    assert against(better, evaluation()).verdict[2].startswith("next: too slow: ")


def test_a_first_champion_is_told_its_weakest_family_however_it_is_calibrated():
    made = evaluation(factor=dict.fromkeys(FAMILIES, 1.0) | {"burgers_1d": 1.5}, spread_skill=3.0)
    following = judge(*made, None, None, Bars()).verdict[2]
    assert following.startswith("next: a hypothesis for the weakest place, burgers_1d at step ")


def test_numbers_are_written_for_people():
    assert [reasons.percent(x, "+") for x in (1.1, -0.1437, 0.0046, 1234.0)] == [
        "+110 %",
        "-14 %",
        "+0.46 %",
        "+120000 %",
    ]
    assert reasons.percent(0.02) == "2 %"
    assert reasons.margin(-0.14, 0.046, 0.02) == "gain -14 % (sigma 4.6 %, asked for 2 %)"
    assert reasons.margin(0.1, None, 0.02) == "gain +10 % (sigma not known, asked for 2 %)"
    told = reasons.options({"guards": ["conservation", "helmholtz"], "noise_scale": {"burgers_1d": 1.23456}})
    assert told == "guards conservation, helmholtz; noise_scale burgers_1d x 1.23"
    assert reasons.options({"guards": []}) == "guards none"
    found = against(evaluation("b", factor=0.8, shock_iou=0.5), evaluation(shock_iou=0.9))
    assert any(line.startswith("physics_shock_iou (1 - IoU) failed: all at step 16: 0.5, ") for line in found.reasons)
    assert "physics worse: shock_iou (1 - IoU) x 5" in found.verdict[1]


@pytest.mark.parametrize(
    ("made", "others", "symptom"),
    [
        ({"factor": 5.0}, {}, "no better than the trivial predictors at the first step"),
        ({"factor": 1.1}, {"won_small": True}, "good on the small suite, bad on the full one"),
        ({"factor": 0.9, "bc_violation": 0.1}, {}, "nRMSE improves, physics gaps grow"),
        ({"factor": 0.9, "ece": 0.2}, {}, "over- or under-confident"),
        ({"factor": 1.0}, {}, "no gain beyond noise and margin"),
    ],
)
def test_the_playbook_answers_the_symptom(made, others, symptom):
    assert against(evaluation("b", **made), evaluation(), **others).verdict[2].startswith(f"next: {symptom}: ")


def test_the_playbook_knows_what_is_unstable_only_late():
    made = evaluation("b", factor=0.9)
    diverge(made, "navier_stokes_2d")
    found = against(made, evaluation())
    assert found.verdict[2].startswith("next: unstable only on long rollouts: more noise")
    assert (
        "navier_stokes_2d: 1 of the candidate's trajectories diverged; they count as the worst of both" in found.reasons
    )


def test_what_does_not_compare_is_refused_with_the_remedy():
    with pytest.raises(DataError, match=r"suite_hash .* evaluate the older one again"):
        against(evaluation("b", seed=1), evaluation())
    with pytest.raises(DataError, match=r"trajectories is 12, the champion's 24.*--no-champion"):
        against(evaluation("b", num=12), evaluation())
    broken = evaluation()
    broken[0]["families"] = {}
    with pytest.raises(DataError, match=r"the champion's report\.json holds no families"):
        against(evaluation("b"), broken)
    mixed = evaluation()
    del mixed[0]["families"]["burgers_1d"]
    with pytest.raises(DataError, match=r"don't belong together \(burgers_1d"):
        against(evaluation("b"), mixed)
