"""Sums over batches and ranks, and the names under which rollouts are added."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ups_scale.metrics.accumulate import Accumulator
from ups_scale.metrics.measure import rollout_errors
from ups_scale.physics.families import FamilySpec

SPEC = FamilySpec(
    name="reaction_diffusion_2d",
    fields=("a", "b"),
    units=("1", "1"),
    parameters=(),
    grid=(4, 4),
    extents=((0.0, 1.0),) * 2,
    boundaries=(("neumann", "neumann"),) * 2,
    u_rms=(1.0, 1.0),
    delta_rms=(0.1, 0.1),
    dt=0.1,
)
AT = "reaction_diffusion_2d/{}/{}/{}"


def random_rollout(seed, num=6, steps=4):
    generator = torch.Generator().manual_seed(seed)
    pred, truth = torch.randn(2, num, steps, 2, 4, 4, generator=generator)
    return pred, truth, torch.randn(num, 2, 4, 4, generator=generator)


def test_batches_of_unequal_size_weigh_by_their_size():
    accumulator = Accumulator()
    accumulator.add("x", torch.tensor([1.0, 2.0, 3.0]))
    accumulator.add("x", torch.tensor([10.0]))
    assert accumulator.figures() == {"x": 4.0}


def test_left_out_values_count_for_nothing_even_if_not_finite():
    accumulator = Accumulator()
    accumulator.add("x", torch.tensor([1.0, math.nan]), where=torch.tensor([True, False]))
    accumulator.add("y", torch.tensor([math.inf]), where=torch.tensor([False]))
    figures = accumulator.figures()
    assert figures["x"] == 1.0
    assert math.isnan(figures["y"])


def test_summed_flats_are_the_merge():
    parts = [Accumulator(), Accumulator()]
    for seed, part in enumerate(parts):
        rollout_errors(*random_rollout(seed, num=2 + seed), SPEC, part, [1, 4])
    merged = Accumulator()
    for part in parts:
        merged.merge(part)
    assert parts[0].names == parts[1].names
    parts[0].load_flat(parts[0].flat() + parts[1].flat())
    assert parts[0].figures() == merged.figures()


def test_merge_leaves_the_other_alone():
    one, two = Accumulator(), Accumulator()
    two.add("x", torch.tensor([1.0]))
    one.merge(two)
    one.add("x", torch.tensor([3.0]))
    assert two.figures() == {"x": 1.0}


def test_flats_of_other_names_are_refused():
    accumulator = Accumulator()
    accumulator.add("x", torch.ones(2))
    with pytest.raises(ValueError, match=r"flat holds 4 numbers, expected 2.*did every rank add the same names"):
        accumulator.load_flat(torch.zeros(4))


def test_persistence_as_model_scores_as_persistence():
    _, truth, last = random_rollout(0)
    accumulator = Accumulator()
    rollout_errors(last[:, None].expand_as(truth), truth, last, SPEC, accumulator, [1, 2, 4])
    figures = accumulator.figures()
    for name, value in figures.items():
        assert value == figures[name.replace("/model/", "/persistence/")], name


def test_figures_over_fields_and_per_field():
    _, truth, last = random_rollout(3)
    pred = truth.clone()
    pred[:, :, 1] *= 1.5
    accumulator = Accumulator()
    rollout_errors(pred, truth, last, SPEC, accumulator, [1, 4])
    figures = accumulator.figures()
    assert figures[AT.format("model", "a", "nrmse@4")] == 0
    assert figures[AT.format("model", "b", "nrmse@4")] == pytest.approx(0.5, rel=1e-6)
    assert figures[AT.format("model", "all", "nrmse@4")] == pytest.approx(0.25, rel=1e-6)
    assert figures[AT.format("model", "all", "nrmse_mean@1-4")] == pytest.approx(0.25, rel=1e-6)
    rms = (0.5 * truth[:, 3, 1]).square().mean().sqrt().item()
    assert figures[AT.format("model", "b", "rmse@4")] == pytest.approx(rms, rel=1e-5)
    assert not any("conservation_gap" in name for name in figures)


def test_figures_in_units_are_not_mixed():
    accumulator = Accumulator()
    rollout_errors(*random_rollout(0), replace(SPEC, units=("1", "m/s")), accumulator, [1])
    assert AT.format("model", "a", "rmse@1") in accumulator.names
    assert AT.format("model", "all", "rmse@1") not in accumulator.names


def test_non_finite_predictions_are_counted_and_not_averaged_away():
    pred, truth, last = random_rollout(0)
    pred[2, 3, 0, 1, 1] = math.inf
    accumulator = Accumulator()
    rollout_errors(pred, truth, last, SPEC, accumulator, [1, 4])
    figures = accumulator.figures()
    assert figures[AT.format("model", "all", "non_finite@4")] == 1
    assert figures[AT.format("model", "all", "non_finite@1")] == 0
    assert figures[AT.format("model", "b", "non_finite@4")] == 0
    assert not math.isfinite(figures[AT.format("model", "all", "nrmse@4")])
    assert math.isfinite(figures[AT.format("model", "all", "nrmse@1")])


def test_zero_truth_has_no_nrmse_and_is_counted():
    pred, truth, last = random_rollout(0)
    truth[0, 0, 1] = 0
    accumulator = Accumulator()
    rollout_errors(torch.zeros_like(pred), truth, last, SPEC, accumulator, [1])
    figures = accumulator.figures()
    assert figures[AT.format("model", "all", "nrmse@1")] == 1
    assert figures[AT.format("model", "b", "zero_truth@1")] == 1


def test_too_short_rollouts_are_refused():
    with pytest.raises(ValueError, match="at least 8 steps, the longest horizon"):
        rollout_errors(*random_rollout(0), SPEC, Accumulator(), [1, 8])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 5))
def test_a_batch_split_in_two_gives_the_same_figures(seed, cut):
    pred, truth, last = random_rollout(seed)
    whole, split = Accumulator(), Accumulator()
    rollout_errors(pred, truth, last, SPEC, whole, [1, 4])
    for part in (slice(None, cut), slice(cut, None)):
        rollout_errors(pred[part], truth[part], last[part], SPEC, split, [1, 4])
    assert split.names == whole.names
    torch.testing.assert_close(split.flat(), whole.flat(), rtol=1e-12, atol=1e-12)


def test_static_fields_have_no_figures():
    pred, truth, last = random_rollout(0)
    whole, alone = Accumulator(), Accumulator()
    rollout_errors(pred, truth, last, replace(SPEC, static=("a",)), whole, [1, 4])
    rollout_errors(
        pred[:, :, 1:], truth[:, :, 1:], last[:, 1:], replace(SPEC, fields=("b",), units=("1",)), alone, [1, 4]
    )
    assert whole.figures() == alone.figures()
    assert not any("/a/" in name for name in whole.names)


def test_a_masked_rollout_is_measured_where_there_are_values():
    pred, truth, last = random_rollout(0)
    masked = replace(SPEC, masked=True)
    mask = torch.ones_like(truth, dtype=torch.bool)
    mask[..., :2, :] = False
    spoilt, half = Accumulator(), Accumulator()
    rollout_errors(
        torch.where(mask, pred, math.nan), torch.where(mask, truth, 1e30), last, masked, spoilt, [1, 4], mask
    )
    rollout_errors(pred[..., 2:, :], truth[..., 2:, :], last[..., 2:, :], masked, half, [1, 4])
    assert spoilt.figures() == pytest.approx(half.figures(), rel=1e-12)
    assert spoilt.figures()[AT.format("model", "all", "non_finite@4")] == 0


def test_frames_without_any_value_are_left_out_and_counted():
    pred, truth, last = random_rollout(0)
    mask = torch.ones_like(truth, dtype=torch.bool)
    mask[0, :, 1] = False  # field b of the first trajectory
    mask[1] = False  # all of the second
    found = Accumulator()
    rollout_errors(pred, torch.where(mask, truth, 0.0), last, replace(SPEC, masked=True), found, [1, 4], mask)
    figures = found.figures()
    assert figures[AT.format("model", "all", "no_value@4")] == 3
    assert figures[AT.format("model", "a", "no_value@4")] == 1
    assert figures[AT.format("model", "b", "zero_truth@4")] == 0
    assert figures[AT.format("model", "b", "low_variance@4")] == 0
    rest = Accumulator()
    rollout_errors(pred[2:], truth[2:], last[2:], SPEC, rest, [1, 4])
    expected = rest.figures()
    for metric in ("nrmse@4", "vrmse@4", "rmse@4", "mae@4", "max_error@4"):
        name = AT.format("model", "b", metric)
        assert figures[name] == pytest.approx(expected[name], rel=1e-12)
    # The joint error of the second trajectory does not exist; the first's is that of its other field.
    assert math.isfinite(figures[AT.format("model", "all", "rel_l2@4")])


def test_names_do_not_depend_on_a_batch_having_a_mask():
    pred, truth, last = random_rollout(0)
    masked = replace(SPEC, masked=True)
    with_mask, without = Accumulator(), Accumulator()
    rollout_errors(pred, truth, last, masked, with_mask, [1], torch.ones_like(truth, dtype=torch.bool))
    rollout_errors(pred[:0], truth[:0], last[:0], masked, without, [1])
    assert with_mask.names == without.names
