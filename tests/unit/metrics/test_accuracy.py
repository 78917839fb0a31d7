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
    assert accuracy.rmse(PRED, TRUTH).tolist() == [[[math.sqrt(0.5), 1.0]]]
    assert accuracy.mae(PRED, TRUTH).tolist() == [[[0.5, 0.5]]]
    assert accuracy.max_error(PRED, TRUTH).tolist() == [[[1.0, 2.0]]]
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


def test_rel_l2_is_joint_over_space_fields_and_the_steps_so_far():
    truth = torch.cat([TRUTH, 2 * TRUTH], dim=1)
    pred = torch.cat([PRED, 2 * TRUTH], dim=1)
    # step 1: (1+1+4) / (25+16); steps 1 and 2: 6 / (41 + 4*41).
    expected = torch.tensor([[math.sqrt(6 / 41), math.sqrt(6 / 205)]], dtype=torch.float64)
    torch.testing.assert_close(accuracy.rel_l2(pred, truth), expected)


def test_perfect_prediction_scores_zero_and_zero_scores_one():
    truth = torch.randn(3, 2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    for metric in (accuracy.nrmse, accuracy.rmse, accuracy.mae, accuracy.max_error, accuracy.rel_l2):
        assert metric(truth, truth).abs().max() == 0
    assert accuracy.vrmse(truth, truth)[0].abs().max() == 0
    assert (accuracy.nrmse(torch.zeros_like(truth), truth) == 1).all()
    assert (accuracy.rel_l2(torch.zeros_like(truth), truth) == 1).all()


def test_persistence_of_a_known_wave():
    # A wave that moved by a phase d: rms error / rms = 2 sin(d / 2).
    x, d = torch.arange(64) * 2 * math.pi / 64, 0.3
    last, truth = torch.sin(x).reshape(1, 1, 1, -1), torch.sin(x - d).reshape(1, 1, 1, -1)
    assert accuracy.nrmse(last, truth).item() == pytest.approx(2 * math.sin(d / 2), rel=1e-6)


def test_scaling_a_field_changes_no_nrmse_but_the_joint_error():
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(8, 2, 3, 32, generator=generator)
    # The relative error differs by field, as in the definitions' example of three fields of scale 1, 100, 0.01.
    pred = truth + torch.tensor([0.1, 0.001, 1.0])[:, None] * torch.randn(truth.shape, generator=generator)
    scale = torch.tensor([1.0, 100.0, 0.01])[:, None]
    torch.testing.assert_close(
        accuracy.nrmse(scale * pred, scale * truth), accuracy.nrmse(pred, truth), rtol=1e-4, atol=0
    )
    assert accuracy.nrmse(scale * pred, scale * truth).mean().item() == pytest.approx(0.367, abs=0.03)
    assert accuracy.rel_l2(scale * pred, scale * truth).mean().item() == pytest.approx(0.0014, abs=0.0005)


def test_frames_of_zero_truth_are_told():
    truth = torch.zeros(1, 1, 2, 4)
    truth[..., 1, 2] = 1e-30
    assert accuracy.truth_is_zero(truth).tolist() == [[[True, False]]]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 5), st.sampled_from([(7,), (4, 6), (3, 4, 5)]))
def test_trajectories_do_not_see_each_other(seed, cut, grid):
    generator = torch.Generator().manual_seed(seed)
    truth, pred = torch.randn(2, 6, 2, 2, *grid, generator=generator)
    for metric in (accuracy.nrmse, accuracy.rel_l2, lambda p, y: accuracy.vrmse(p, y)[0], accuracy.max_error):
        parts = torch.cat([metric(pred[:cut], truth[:cut]), metric(pred[cut:], truth[cut:])])
        torch.testing.assert_close(parts, metric(pred, truth), rtol=1e-12, atol=0)
