"""Accuracy metrics against values worked out by hand, and the properties their definitions promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ups_scale.metrics import accuracy


def frames(*rows):
    """(1, 1, C, X) from one row of points per field."""
    return torch.tensor(rows, dtype=torch.float32)[None, None]


TRUTH = frames([3.0, 4.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0])
PRED = frames([3.0, 4.0, 1.0, 1.0], [2.0, 2.0, 2.0, 4.0])


def test_values_worked_out_by_hand():
    assert accuracy.squared_error(PRED, TRUTH).tolist() == [[[0.5, 1.0]]]
    # RMS of the truth: sqrt(25 / 4) = 2.5, and 2.
    torch.testing.assert_close(
        accuracy.nrmse(PRED, TRUTH), torch.tensor([[[math.sqrt(0.5) / 2.5, 0.5]]], dtype=torch.float64)
    )


def test_vrmse_uses_the_unbiased_variance_and_reports_the_floor():
    values, low = accuracy.vrmse(PRED, TRUTH)
    # mean 7/4, squares 25: (25 - 49/4) / 3 = 4.25; the second field is constant.
    expected = torch.tensor([[[math.sqrt(0.5 / (4.25 + 1e-7)), math.sqrt(1.0 / 1e-7)]]], dtype=torch.float64)
    torch.testing.assert_close(values, expected)
    assert low.tolist() == [[[False, True]]]


def test_perfect_prediction_scores_zero_and_zero_scores_one():
    truth = torch.randn(3, 2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    for metric in (accuracy.nrmse, accuracy.squared_error):
        assert metric(truth, truth).abs().max() == 0
    assert accuracy.vrmse(truth, truth)[0].abs().max() == 0
    assert (accuracy.nrmse(torch.zeros_like(truth), truth) == 1).all()


def test_persistence_of_a_known_wave():
    # A wave that moved by a phase d: rms error / rms = 2 sin(d / 2).
    x, d = torch.arange(64) * 2 * math.pi / 64, 0.3
    last, truth = torch.sin(x).reshape(1, 1, 1, -1), torch.sin(x - d).reshape(1, 1, 1, -1)
    assert accuracy.nrmse(last, truth).item() == pytest.approx(2 * math.sin(d / 2), rel=1e-6)


def test_scaling_a_field_changes_no_nrmse():
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(8, 2, 3, 32, generator=generator)
    # The relative error differs by field, as in the definitions' example of three fields of scale 1, 100, 0.01.
    pred = truth + torch.tensor([0.1, 0.001, 1.0])[:, None] * torch.randn(truth.shape, generator=generator)
    scale = torch.tensor([1.0, 100.0, 0.01])[:, None]
    torch.testing.assert_close(
        accuracy.nrmse(scale * pred, scale * truth), accuracy.nrmse(pred, truth), rtol=1e-4, atol=0
    )
    assert accuracy.nrmse(scale * pred, scale * truth).mean().item() == pytest.approx(0.367, abs=0.03)


def test_frames_of_zero_truth_are_told():
    truth = torch.zeros(1, 1, 2, 4)
    truth[..., 1, 2] = 1e-30
    assert accuracy.truth_is_zero(truth).tolist() == [[[True, False]]]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 5), st.sampled_from([(7,), (4, 6), (3, 4, 5)]))
def test_trajectories_do_not_see_each_other(seed, cut, grid):
    generator = torch.Generator().manual_seed(seed)
    truth, pred = torch.randn(2, 6, 2, 2, *grid, generator=generator)
    for metric in (accuracy.nrmse, lambda p, y: accuracy.vrmse(p, y)[0]):
        parts = torch.cat([metric(pred[:cut], truth[:cut]), metric(pred[cut:], truth[cut:])])
        torch.testing.assert_close(parts, metric(pred, truth), rtol=1e-12, atol=0)


# Points without a value hold what must change nothing.
MASK = torch.tensor([[True, True, True, False], [True, False, False, True]])[None, None]
MASKED_TRUTH = torch.where(MASK, frames([3.0, 4.0, 0.0, 0.0], [2.0, 0.0, 0.0, 4.0]), math.nan)
MASKED_PRED = torch.where(MASK, frames([3.0, 5.0, 2.0, 0.0], [2.0, 0.0, 0.0, 8.0]), 1e30)


def close(found, row):
    torch.testing.assert_close(found, torch.tensor([[row]], dtype=torch.float64), rtol=1e-12, atol=0)


def test_masked_values_worked_out_by_hand():
    given = MASKED_PRED, MASKED_TRUTH, MASK
    assert accuracy.num_points(MASKED_TRUTH, MASK).tolist() == [[[3, 2]]]
    close(accuracy.squared_error(*given), [5 / 3, 8.0])
    # mean squares of the truth: 25 / 3, and 20 / 2.
    close(accuracy.nrmse(*given), [math.sqrt(5 / 25), math.sqrt(8 / 10)])
    # means 7/3 and 3; unbiased variances (25 - 49/3) / 2 = 13/3, and (1 + 1) / 1 = 2.
    values, low = accuracy.vrmse(*given)
    close(values, [math.sqrt(5 / 3 / (13 / 3 + 1e-7)), math.sqrt(8 / (2 + 1e-7))])
    assert not low.any()
    assert not accuracy.non_finite(MASKED_TRUTH, MASK).any()
    assert accuracy.non_finite(MASKED_TRUTH).all()


def test_zero_truth_is_told_by_the_points_that_have_a_value():
    truth = frames([0.0, 0.0, 0.0, 7.0], [0.0, 7.0, math.nan, 1.0])
    assert accuracy.truth_is_zero(truth, MASK).tolist() == [[[True, False]]]


def test_one_point_has_no_variance_and_none_no_error():
    mask = torch.tensor([[True, False, False, False], [False] * 4])[None, None]
    values, low = accuracy.vrmse(PRED, TRUTH, mask)
    assert values.isnan().all()
    assert not low.any()
    assert accuracy.nrmse(PRED, TRUTH, mask).isnan().tolist() == [[[False, True]]]


METRICS = {
    "squared_error": accuracy.squared_error,
    "nrmse": accuracy.nrmse,
    "vrmse": lambda *given: accuracy.vrmse(*given)[0],
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("garbage", [1e30, math.nan, math.inf])
def test_what_stands_at_a_masked_point_changes_nothing(name, garbage):
    generator = torch.Generator().manual_seed(2)
    truth, pred = torch.randn(2, 3, 2, 2, 5, 6, generator=generator)
    mask = torch.rand(truth.shape, generator=generator) > 0.4  # changes with time
    expected = METRICS[name](pred, truth, mask)
    assert expected.isfinite().all()
    spoilt = METRICS[name](torch.where(mask, pred, garbage), torch.where(mask, truth, -garbage), mask)
    assert torch.equal(spoilt, expected)


@pytest.mark.parametrize("name", METRICS)
def test_a_mask_that_hides_nothing_is_no_mask(name):
    truth, pred = torch.randn(2, 3, 2, 2, 5, 6, generator=torch.Generator().manual_seed(3))
    full = torch.ones_like(truth, dtype=torch.bool)
    torch.testing.assert_close(
        METRICS[name](pred, truth, full), METRICS[name](pred, truth), rtol=1e-13, atol=0, msg=name
    )


@pytest.mark.parametrize("name", METRICS)
def test_a_mask_is_the_same_as_leaving_the_points_out(name):
    truth, pred = torch.randn(2, 3, 2, 2, 12, generator=torch.Generator().manual_seed(4))
    kept = torch.tensor([0, 2, 3, 7, 11])
    mask = torch.zeros_like(truth, dtype=torch.bool)
    mask[..., kept] = True
    torch.testing.assert_close(
        METRICS[name](pred, truth, mask), METRICS[name](pred[..., kept], truth[..., kept]), rtol=1e-12, atol=0
    )


def test_points_count_that_have_a_value_in_the_truth_and_in_the_last_given_frame():
    mask = torch.rand(2, 5, 2, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.4
    counted = accuracy.counted_points(mask, 2)
    assert counted.shape == (2, 3, 2, 4, 4)
    for step in range(3):
        assert torch.equal(counted[:, step], mask[:, 2 + step] & mask[:, 1])
    assert accuracy.counted_points(None, 2) is None
