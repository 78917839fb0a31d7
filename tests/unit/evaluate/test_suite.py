"""The suite end to end on small families: figures, gates, divergence, and what it refuses."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from suite_runs import evaluate, examples

from ups_scale.errors import DataError
from ups_scale.evaluate import share, testset
from ups_scale.evaluate.entrants import Entrant
from ups_scale.evaluate.gates import persistence_gates
from ups_scale.evaluate.testset import check_tests, own_batches

HORIZONS = (1, 4)


def specs(tests):
    return {name: test.spec for name, test in tests.items()}


def test_persistence_as_model_is_exactly_at_the_bar_and_fails(models, tests, accelerator):
    found = evaluate(models.persistence, tests, HORIZONS, accelerator)
    assert len(found.gates) == 4
    for table in found.families.values():
        assert table["model"] == table["persistence"]
        assert table["fields"]
    for gate in found.gates:
        assert gate["value"] / gate["limit"] == 1
        assert not gate["passed"]


def test_figures_against_the_definition(models, tests, accelerator):
    found = evaluate(models.linear, tests, HORIZONS, accelerator)
    u = tests["advection_1d"].trajectories.u_ntcx.double()
    for k in HORIZONS:
        truth, pred = u[:, 1 + k], u[:, 1] + 0.5 * k * (u[:, 1] - u[:, 0])
        ratio = (pred - truth).square().mean((1, 2)).sqrt() / truth.square().mean((1, 2)).sqrt()
        assert found.families["advection_1d"]["model"][f"nrmse@{k}"] == pytest.approx(ratio.mean().item(), rel=1e-5)
        assert found.families["advection_1d"]["zero"][f"nrmse@{k}"] == 1
        assert found.growth["advection_1d"]["model"]["mean"][k - 1] == pytest.approx(ratio.mean().item(), rel=1e-5)
    assert all(gate["passed"] for gate in found.gates)
    assert found.data["advection_1d"]["num_trajectories"] == 5
    assert "conservation_gap@4" in found.families["advection_1d"]["model"]
    assert "conservation_gap@4" not in found.families["reaction_diffusion_2d"]["model"]
    assert set(found.families["reaction_diffusion_2d"]["fields"]) == {"activator", "inhibitor"}
    assert "peak_memory_mib" not in found.efficiency["advection_1d"]


def test_peak_memory_is_of_a_rollout_of_the_model_alone(monkeypatch):
    """The counters of a GPU, in place of one: what is allocated while another predictor runs is not the model's."""
    device, peak, weights = torch.device("cuda"), {"bytes": 10_000}, torch.nn.Linear(3, 5, bias=False)
    zoo = Entrant("fno", weights, {"a": "a"})
    takers = [zoo, Entrant("model", torch.nn.Linear(2, 2), {"a": "a"}), Entrant("zero", object(), {"a": "a"})]
    rolled = []

    def frames(entrant, test, start, horizon):
        for k in range(1, horizon + 1):
            rolled.append((entrant.name, k))
            peak["bytes"] = max(peak["bytes"], 1000 + k)
            yield k, None

    monkeypatch.setattr(share, "frames_of", frames)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.update(bytes=500))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak["bytes"])
    start = SimpleNamespace(u_btcx=SimpleNamespace(device=device))
    assert share._peak_memory(takers, None, start, 3) == 1003 - 3 * 5 * 4
    assert rolled == [("model", 1), ("model", 2), ("model", 3)]
    start.u_btcx.device = torch.device("cpu")
    assert share._peak_memory(takers, None, start, 3) is None


def test_batches_do_not_matter(models, tests, accelerator, monkeypatch):
    whole = evaluate(models.linear, tests, HORIZONS, accelerator)
    monkeypatch.setattr(testset, "MAX_BATCH", 2)
    split = evaluate(models.linear, tests, HORIZONS, accelerator)
    for name, table in whole.families.items():
        for metric, value in table["model"].items():
            assert split.families[name]["model"][metric] == pytest.approx(value, rel=1e-12), metric
    assert list(split.ranking) == list(whole.ranking)


def test_shares_of_processes_are_all_trajectories_once(tests):
    ranks = [SimpleNamespace(process_index=rank, num_processes=3) for rank in range(3)]
    found = [i for rank in ranks for batch in own_batches(tests["advection_1d"], rank) for i in batch]
    assert sorted(found) == [0, 1, 2, 3, 4]


def test_divergence_is_counted_and_fails_its_gates(models, tests, accelerator):
    found = evaluate(models.diverging, tests, HORIZONS, accelerator)
    model = found.families["advection_1d"]["model"]
    assert model["non_finite@4"] == 5
    assert model["non_finite@1"] == 0
    assert not math.isfinite(model["nrmse@4"])
    passed = {(gate["family"], gate["horizon"]): gate["passed"] for gate in found.gates}
    assert passed == {
        ("advection_1d", 1): True,
        ("advection_1d", 4): False,
        ("reaction_diffusion_2d", 1): True,
        ("reaction_diffusion_2d", 4): True,
    }


def test_gates_use_the_zero_predictor_where_persistence_is_worse():
    table = {"f": {"model": {"nrmse@1": 1.2, "non_finite@1": 0}, "persistence": {"nrmse@1": 1.5}}}
    (gate,) = persistence_gates(table)
    assert gate == {
        "name": "persistence",
        "family": "f",
        "horizon": 1,
        "value": 1.2,
        "limit": 1.0,
        "passed": False,
    }


def test_examples_are_good_median_and_worst_by_rank(models, tests, accelerator):
    found = evaluate(models.linear, tests, HORIZONS, accelerator)
    ranking = found.ranking["advection_1d"]
    assert list(ranking) == [0, 1, 2, 3, 4]  # the later waves are the faster ones
    shown = examples(models.linear, tests["advection_1d"], ranking, HORIZONS, accelerator.device)
    assert [example.label for example in shown] == ["good", "median", "worst"]
    assert [example.key[-1] for example in shown] == ["0", "2", "4"]
    assert shown[0].nrmse < shown[2].nrmse
    assert shown[0].truth_hcx.shape == shown[0].pred_hcx.shape == (4, 1, 16)
    assert len(examples(models.linear, tests["advection_1d"], {3: 0.1}, HORIZONS, accelerator.device)) == 1


def test_damaged_truth_is_named(models, tests, accelerator):
    tests["advection_1d"].trajectories.u_ntcx[1, 3, 0, 0] = torch.nan
    with pytest.raises(DataError, match="advection_1d: the data hold values that are not finite"):
        evaluate(models.linear, tests, HORIZONS, accelerator)


def test_every_reason_not_to_evaluate_is_listed(tests):
    known = specs(tests)
    tests["kdv_1d"] = replace(tests["advection_1d"], spec=replace(known["advection_1d"], name="kdv_1d"))
    known["reaction_diffusion_2d"] = replace(known["reaction_diffusion_2d"], fields=("u", "v"))
    with pytest.raises(DataError) as caught:
        check_tests(list(tests.values()), known, context=2, horizons=(4, 16))
    text = str(caught.value)
    assert "the model does not know the families kdv_1d; it knows advection_1d, reaction_diffusion_2d" in text
    assert "the data's fields are (activator, inhibitor), the model was trained with (u, v)" in text
    assert "have 8 frames, but 2 given frames and a rollout of 16 steps need 18; lower evaluate.horizons" in text


def test_an_empty_split_is_refused(tests):
    tests["advection_1d"].trajectories.u_ntcx = torch.zeros(0, 8, 1, 16)
    with pytest.raises(DataError, match="advection_1d: the split has no trajectories"):
        check_tests(list(tests.values()), specs(tests), context=2, horizons=(4,))


def test_a_steady_family_is_evaluated_at_its_one_step(models, kinds, accelerator):
    found = evaluate(models.halfway, kinds, (4,), accelerator)
    table = found.families["darcy_2d"]
    assert table["model"]["nrmse@1"] == pytest.approx(0.5, rel=1e-6)  # of the solution; the given field is right
    assert table["persistence"]["nrmse@1"] == 1
    assert set(table["fields"]) == {"u"}
    assert not any(name.endswith("@4") for name in table["model"])
    assert [(gate["family"], gate["horizon"]) for gate in found.gates] == [("ocean", 4), ("darcy_2d", 1)]
    assert found.efficiency["darcy_2d"]["steps"] == 1
    assert len(found.growth["darcy_2d"]["model"]["mean"]) == 1
    assert math.isnan(found.data["darcy_2d"]["dt_s"])
    (example, *_) = examples(models.halfway, kinds["darcy_2d"], found.ranking["darcy_2d"], (4,), accelerator.device)
    assert example.truth_hcx.shape == (1, 2, 8, 8)
    assert example.nrmse == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("garbage", [1e30, math.nan])
def test_masked_points_change_no_figure(models, kinds, accelerator, garbage):
    expected = evaluate(models.linear, {"ocean": kinds["ocean"]}, HORIZONS, accelerator)
    data = kinds["ocean"].trajectories
    data.u_ntcx = torch.where(data.mask_ntcx, data.u_ntcx, garbage)
    found = evaluate(models.linear, {"ocean": kinds["ocean"]}, HORIZONS, accelerator)
    assert found.families == expected.families
    assert found.growth == expected.growth
    assert found.families["ocean"]["model"]["non_finite@4"] == 0
    assert found.data["ocean"]["regular"] is False
    assert found.data["ocean"]["no_value@4"] == 0
    assert "ocean" not in found.spectra
    assert set(found.families["ocean"]["fields"]) == {"sst"}
    (example, *_) = examples(models.linear, kinds["ocean"], found.ranking["ocean"], HORIZONS, accelerator.device)
    assert np.isnan(example.truth_hcx[..., :3, :2]).all()
    assert np.isfinite(example.pred_hcx[..., 3:, :]).all()
    assert example.nrmse == pytest.approx(np.mean(found.growth["ocean"]["model"]["mean"]), rel=1e-5)


def test_the_model_is_told_the_masks_of_the_given_frames(models, kinds, accelerator):
    told = []

    class Listening(type(models.linear)):
        def predict(self, context_btcx, family, dt_bt, horizon, mask_btcx):
            told.append(mask_btcx)
            return super().predict(context_btcx, family, dt_bt, horizon, mask_btcx)

    kinds["ocean"].trajectories.mask_ntcx[:, 1, 0, 7, 7] = False  # the second of the two given frames
    evaluate(Listening(), {"ocean": kinds["ocean"]}, HORIZONS, accelerator)
    assert torch.equal(told[-1], kinds["ocean"].trajectories.mask_ntcx[:, :2])


def test_what_appears_after_the_given_frames_counts_in_no_figure_and_is_in_the_pictures(models, kinds, accelerator):
    ocean = kinds["ocean"]
    data = ocean.trajectories
    data.mask_ntcx[..., 4:6, :] = False  # never a value
    expected = evaluate(models.linear, {"ocean": ocean}, HORIZONS, accelerator)
    data.mask_ntcx[:, 2:, :, 4:6] = True  # one from the first predicted frame on
    data.u_ntcx[:, :2, :, 4:6] = 0.4  # as the reader fills in
    found = evaluate(models.linear, {"ocean": ocean}, HORIZONS, accelerator)
    assert found.families == expected.families
    assert found.growth == expected.growth
    assert found.data == expected.data
    example = examples(models.linear, ocean, {2: found.ranking["ocean"][2]}, HORIZONS, accelerator.device)[0]
    truth = data.u_ntcx[2, 2:6]
    assert np.array_equal(example.truth_hcx[:, :, 4:6], truth[:, :, 4:6].numpy())
    assert np.isnan(example.pred_hcx[:, :, 4:6]).all()
    assert example.nrmse == pytest.approx(np.mean(expected_curve(models.linear, data, 2)), rel=1e-6)


def expected_curve(model, data, index):
    """nRMSE of the one dynamic field at the four steps, where the truth and the last given frame have a value."""
    u, mask = data.u_ntcx[index].double(), data.mask_ntcx[index]
    predicted = model.predict(u[None, :2], "ocean", None, 4, None)[0, :, 0]
    curve = []
    for step in range(4):
        there = mask[2 + step, 0] & mask[1, 0]
        error, truth = (predicted[step] - u[2 + step, 0])[there], u[2 + step, 0][there]
        curve.append((error.square().mean() / truth.square().mean()).sqrt().item())
    return curve


def test_frames_without_a_value_are_counted_and_spoil_no_mean(models, kinds, accelerator):
    kinds["ocean"].trajectories.mask_ntcx[1, 5] = False  # step 4 of one trajectory
    kinds["ocean"].trajectories.mask_ntcx[:, 3] = False  # step 2 of all
    found = evaluate(models.linear, {"ocean": kinds["ocean"]}, HORIZONS, accelerator)
    assert found.data["ocean"]["no_value@4"] == 1
    assert found.data["ocean"]["zero_truth@4"] == 0
    growth = found.growth["ocean"]["model"]
    assert [math.isfinite(mean) for mean in growth["mean"]] == [True, False, True, True]
    assert found.families["ocean"]["model"]["nrmse@4"] == pytest.approx(growth["mean"][3], rel=1e-12)
    assert sorted(found.ranking["ocean"]) == [0, 1, 2, 3]


def test_other_kinds_of_the_same_family_are_refused(tests, kinds):
    known = specs(kinds)
    kinds["ocean"] = replace(kinds["ocean"], spec=replace(kinds["ocean"].spec, static=(), masked=False, dt=7.0))
    with pytest.raises(
        DataError, match=r"ocean: the data's static are \(\), the model was trained with \('depth',\)"
    ) as of:
        check_tests(list(kinds.values()), known, context=2, horizons=(4,))
    assert str(of.value).count("\n") == 1  # neither the mask nor the time between frames has to be the same
