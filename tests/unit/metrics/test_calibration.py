"""Ensembles: CRPS against scoringrules, coverage and spread of calibrated and of wrong ensembles."""

import math

import numpy as np
import pytest
import scoringrules
import torch
from measured_specs import spec_of

from ups_scale.metrics.accumulate import Accumulator
from ups_scale.metrics.calibration import LEVELS, EnsembleMeasure, coverage, fair_crps

LINE = spec_of(grid=(400,))


def measured(members, truth, spec=LINE, mask=None):
    accumulator = Accumulator()
    measure = EnsembleMeasure(spec, accumulator, (1,), len(members))
    measure.step(1, truth, members, mask)
    return {name.partition("/model/")[2]: value for name, value in accumulator.figures().items()}, measure


@pytest.mark.parametrize("members", [2, 3, 8])
def test_fair_crps_is_that_of_scoringrules(members):
    rng = np.random.default_rng(members)
    ensemble, truth = rng.normal(size=(members, 2, 1, 400)), rng.normal(size=(2, 1, 400))
    figures, _ = measured(torch.from_numpy(ensemble), torch.from_numpy(truth))
    expected = scoringrules.crps_ensemble(truth, ensemble, m_axis=0, estimator="fair")
    assert figures["all/crps@1"] == pytest.approx(expected.mean(), rel=1e-12)


def test_fair_crps_worked_out_by_hand():
    members = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64).view(1, 1, 3, 1)
    # mean|X - y| = (2 + 1 + 1) / 3; pairs differ by 1, 3, 2: sum over i and j 12, over 2 * 3 * 2.
    assert fair_crps(members, torch.full((1, 1, 1), 2.0, dtype=torch.float64)).item() == pytest.approx(4 / 3 - 1)


@pytest.mark.parametrize("members", [2, 5, 8])
def test_a_calibrated_ensemble_of_any_size_is_called_so(members):
    generator = torch.Generator().manual_seed(members)
    drawn = torch.randn(members + 1, 100, 1, 400, generator=generator)
    figures, measure = measured(drawn[1:], drawn[0])
    assert figures["all/ece@1"] < 0.01
    for level in LEVELS:
        assert figures[f"all/coverage_{round(100 * level)}@1"] == pytest.approx(level, abs=0.01)
    assert figures["all/spread_skill@1"] == pytest.approx(1, abs=0.01)
    assert figures["all/sharpness@1"] == pytest.approx(1, abs=0.01)
    assert measure.covered[1].shape == (100, len(LEVELS))
    assert measure.counted[1].tolist() == [400] * 100
    assert (measure.covered[1].sum(0) / measure.counted[1].sum()).tolist() == pytest.approx(
        [figures[f"all/coverage_{round(100 * level)}@1"] for level in LEVELS]
    )


def test_a_narrow_ensemble_covers_too_little():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(9, 20, 1, 400, generator=generator)
    figures, _ = measured(0.2 * drawn[1:], drawn[0])
    assert figures["all/coverage_50@1"] < 0.2
    assert figures["all/ece@1"] == pytest.approx(
        sum(abs(figures[f"all/coverage_{round(100 * level)}@1"] - level) for level in LEVELS) / len(LEVELS)
    )
    assert figures["all/ece@1"] > 0.3
    assert figures["all/spread_skill@1"] == pytest.approx(0.2, abs=0.05)


def test_coverage_worked_out_by_hand():
    members = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).view(1, 1, 3, 1).expand(1, 1, 3, 4)
    truth = torch.tensor([[[0.0, 1.5, 2.0, 5.0]]], dtype=torch.float64)
    # Of 3 members [1, 3] covers 2/4 and [2, 2] 0: level 0.25 takes half of each; level 0.75 half of [1, 3] and half of
    # everything.
    low, high = coverage(members, truth, (0.25, 0.75))
    assert low.flatten().tolist() == [0, 0.5, 1, 0]
    assert high.flatten().tolist() == [0.5, 1, 1, 0.5]


def test_spread_over_skill_worked_out_by_hand():
    members = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 1, 400)
    figures, _ = measured(members, torch.full((1, 1, 400), 4.0))
    # variance 2, times 3/2; the mean is 1, its error 3.
    assert figures["u/spread_skill@1"] == pytest.approx(math.sqrt(3 / 9))
    assert figures["u/sharpness@1"] == pytest.approx(math.sqrt(2))


def test_fields_of_other_units_are_taken_together_by_their_scale():
    spec = spec_of("reaction_diffusion_2d", (8, 8), fields=("a", "b"), units=("1", "Pa"), u_rms=(1.0, 100.0))
    drawn = torch.randn(5, 30, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn[:, :, 1] *= 100
    figures, _ = measured(drawn[1:], drawn[0], spec)
    assert "all/crps@1" not in figures
    assert figures["b/crps@1"] > 50 * figures["a/crps@1"]
    assert figures["b/sharpness@1"] == pytest.approx(figures["a/sharpness@1"], rel=0.1)


def test_masked_points_count_for_nothing_and_what_is_not_finite_for_all():
    drawn = torch.randn(5, 3, 1, 400, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 1, 400, dtype=torch.bool)
    mask[..., 100:] = False
    spoilt = torch.where(mask, drawn, math.nan)
    figures, _ = measured(spoilt[1:], spoilt[0], mask=mask)
    expected, _ = measured(drawn[1:, ..., :100], drawn[0, ..., :100])
    assert figures == pytest.approx(expected, rel=1e-12)
    lost, _ = measured(spoilt[1:], drawn[0])
    assert all(math.isnan(lost[f"all/{metric}@1"]) for metric in ("crps", "ece", "coverage_50", "spread_skill"))


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="1 members, expected 2 or more: one has no spread"):
        EnsembleMeasure(LINE, Accumulator(), (1,), 1)
    measure = EnsembleMeasure(LINE, Accumulator(), (1,), 3)
    with pytest.raises(ValueError, match=r"members of shape \(2, 1, 1, 400\), expected \(3, 1, 1, 400\)"):
        measure.step(1, torch.zeros(1, 1, 400), torch.zeros(2, 1, 1, 400))
