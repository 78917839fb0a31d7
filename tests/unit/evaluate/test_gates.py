"""Gates one by one: which figure against which limit, per family and step, and the floors of rounding."""

from __future__ import annotations

import pytest
from judged import FAMILIES, STEPS, diverge, evaluation

from ups_scale.errors import UserError
from ups_scale.evaluate.gates import (
    Bars,
    ece_gates,
    horizon_gates,
    persistence_gates,
    physics_gates,
    ratio_gates,
    wall_clock_gates,
)


def tables(**settings):
    return evaluation(**settings)[0]["families"]


def failed(gates):
    return {(gate["family"], gate["horizon"]) for gate in gates if not gate["passed"]}


def test_persistence_is_per_family_and_step_and_never_above_one():
    gates = persistence_gates(tables())
    assert [(gate["family"], gate["horizon"]) for gate in gates] == [(f, k) for f in FAMILIES for k in STEPS]
    assert failed(gates) == set()
    assert {gate["limit"] for gate in gates if gate["horizon"] == 16} == {1.0}
    worse = tables(factor={name: 5.0 if name == "burgers_1d" else 0.1 for name in FAMILIES})
    assert failed(persistence_gates(worse)) == {("burgers_1d", k) for k in STEPS}


def test_a_prediction_that_is_not_finite_fails_its_gate():
    made = evaluation()
    diverge(made, "burgers_1d")
    assert failed(persistence_gates(made[0]["families"])) == {("burgers_1d", 16)}


@pytest.mark.parametrize(("value", "passes"), [(1.9e-3, True), (2.0e-3, True), (2.1e-3, False), (None, False)])
def test_a_ratio_is_to_the_champions_own_figure(value, passes):
    old, new = tables(), tables()
    new["burgers_1d"]["model"]["conservation_gap@4"] = value
    gates = ratio_gates("conservation_gap", "conservation_gap", 2.0, new, old)
    assert failed(gates) == (set() if passes else {("burgers_1d", 4)})
    assert {gate["champion"] for gate in gates} == {1e-3}
    del new["burgers_1d"]["model"]["conservation_gap@4"]
    assert failed(ratio_gates("conservation_gap", "conservation_gap", 2.0, new, old)) == {("burgers_1d", 4)}


def test_rounding_noise_fails_nobody_and_more_than_it_does():
    old, new = tables(conservation_gap=1e-7), tables(conservation_gap=3e-7)
    assert failed(ratio_gates("conservation_gap", "conservation_gap", 2.0, new, old)) == set()
    assert failed(physics_gates(Bars(), 16, new, old)) == set()
    grown = tables(conservation_gap=1e-3)
    assert len(failed(ratio_gates("conservation_gap", "conservation_gap", 2.0, grown, old))) == 12
    assert failed(physics_gates(Bars(), 16, grown, old)) == {("all", 16)}


def test_what_the_champion_has_no_figure_of_is_no_gate():
    old = tables()
    for table in old.values():
        table["model"] = {key: value for key, value in table["model"].items() if not key.startswith("ece")}
    assert ratio_gates("ece", "ece", 1.5, tables(), old) == []


def test_physics_is_over_families_and_beyond_their_spread():
    old, new = tables(), tables()
    for name, factor in zip(FAMILIES, (1.5, 0.6, 1.4, 0.9), strict=True):
        new[name]["model"]["bc_violation@16"] *= factor
    assert failed(physics_gates(Bars(), 16, new, old)) == set()
    for name in FAMILIES:
        new[name]["model"]["bc_violation@16"] = 1.2 * old[name]["model"]["bc_violation@16"]
    (gate,) = [gate for gate in physics_gates(Bars(), 16, new, old) if not gate["passed"]]
    assert (gate["name"], gate["family"]) == ("physics_bc_violation", "all")
    assert gate["value"] / gate["champion"] == pytest.approx(1.2)


@pytest.mark.parametrize("number", [3, 4, 16])
@pytest.mark.parametrize("worse", [3, 10, 1000])
@pytest.mark.parametrize("metric", ["conservation_gap", "bc_violation", "divergence", "spectral_error"])
def test_one_family_that_gets_worse_is_no_noise_however_many_there_are(number, worse, metric):
    names = tuple(f"family{i}" for i in range(number))
    old, new = (tables(families=names, **{metric: 0.05}) for _ in range(2))
    new["family1"]["model"][f"{metric}@16"] *= worse
    places = {(gate["name"], gate["family"]) for gate in physics_gates(Bars(), 16, new, old) if not gate["passed"]}
    alone = {(metric, "family1")} if metric in ("divergence", "spectral_error") else set()
    assert places == {(f"physics_{metric}", "all")} | alone


def test_of_one_or_two_families_a_bad_one_fails_by_itself():
    for names in (("one",), ("one", "two")):
        old, new = (tables(families=names, shock_iou=0.9) for _ in range(2))
        new["one"]["model"]["shock_iou@16"] = 0.75
        gates = physics_gates(Bars(), 16, new, old)
        assert failed(gates) == {("one", 16), ("all", 16)}
        (gate,) = [
            gate for gate in gates if (gate["name"], gate["family"]) == ("shock_iou", "one") and not gate["passed"]
        ]
        assert (gate["value"], gate["champion"], gate["limit"]) == pytest.approx((0.25, 0.1, 0.2))


def test_ece_is_judged_of_equal_ensembles_only():
    worse, old = evaluation("b", ece=0.2)[0], evaluation()[0]
    assert len(failed(ece_gates(Bars(), worse, old)[0])) == 12
    worse["noise_scale"] = {"burgers_1d": 2.0}  # a second try's, which the gate is there to judge
    assert len(failed(ece_gates(Bars(), worse, old)[0])) == 12
    worse["noise"] = 0.01
    gates, why = ece_gates(Bars(), worse, old)
    assert gates == []
    assert why == "ece is not judged: ensembles of 8 members and noise 0.01, the champion's of 8 members and noise 0.03"
    worse |= {"noise": 0.03, "suite_settings": {"members": 4}}
    assert ece_gates(Bars(), worse, old)[0] == []


def test_an_overlap_of_shocks_is_worse_where_it_is_smaller():
    worse = physics_gates(Bars(), 16, tables(shock_iou=0.8), tables(shock_iou=0.9))
    better = physics_gates(Bars(), 16, tables(shock_iou=0.9), tables(shock_iou=0.8))
    assert {gate["name"] for gate in worse if not gate["passed"]} == {"physics_shock_iou"}
    assert failed(better) == set()


def test_a_horizon_is_shorter_only_beyond_its_noise():
    changes = {"sure": (8.0, 10.0, 0.2), "noisy": (8.0, 10.0, 1.5), "half a step": (9.6, 10.0, 0.0)}
    assert failed(horizon_gates(Bars(), 16, changes)) == {("sure", 16)}


def test_the_clock_is_relative_or_absolute_and_on_equal_terms_only():
    old, new = evaluation(clock=0)[0], evaluation(clock=0)[0]
    assert failed(wall_clock_gates(Bars(), 16, new, old)[0]) == set()
    for of in new["efficiency"].values():
        of["wall_clock_s"] *= 1.3
    assert failed(wall_clock_gates(Bars(), 16, new, old)[0]) == {("all", 16)}
    assert failed(wall_clock_gates(Bars(wall_clock=1.5), 16, new, old)[0]) == set()
    assert failed(wall_clock_gates(Bars(wall_clock_s=2.5), 16, new, old)[0]) == {("all", 16)}
    assert failed(wall_clock_gates(Bars(wall_clock_s=2.7), 16, new, old)[0]) == set()
    new["num_processes"] = 2
    assert wall_clock_gates(Bars(), 16, new, old) == (
        [],
        "wall_clock is not judged: it ran on 2 processes, the champion on 1",
    )
    new["num_processes"] = 1
    new["efficiency"]["burgers_1d"]["device"] = "cpu"
    gates, why = wall_clock_gates(Bars(), 16, new, old)
    assert gates == []
    assert why == "wall_clock is not judged: burgers_1d ran with device cpu, the champion's with NVIDIA H200"


def test_a_clock_on_a_cpu_is_held_to_a_budget_alone():
    old, new = evaluation(clock=0)[0], evaluation(clock=0)[0]
    for report in (old, new):
        for of in report["efficiency"].values():
            of["device"] = "cpu"
    new["efficiency"]["burgers_1d"]["wall_clock_s"] *= 100
    assert wall_clock_gates(Bars(), 16, new, old) == ([], "wall_clock: on a CPU a clock says little: not judged")
    assert failed(wall_clock_gates(Bars(wall_clock_s=2.5), 16, new, old)[0]) == {("all", 16)}


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        ({"margin": 1.5}, "margin 1.5"),
        ({"margin": -0.1}, "margin -0.1"),
        ({"step": 0}, "step 0"),
        ({"sigmas": -1}, "sigmas"),
        ({"ece": 0.5}, "ece 0.5"),
        ({"physics_family": 0.5}, "physics_family 0.5"),
        ({"wall_clock_s": 0}, "wall_clock_s 0"),
        ({"resamples": 10}, "resamples 10"),
    ],
)
def test_bars_that_make_no_sense_are_refused(bars, message):
    with pytest.raises(UserError, match=f"{message}.*expected"):
        Bars(**bars)
