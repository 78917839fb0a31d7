"""Rollouts measured step by step: figures worked out by hand, and what must not change them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_specs import spec_of

from ups_scale.metrics.accumulate import Accumulator
from ups_scale.metrics.measure import RolloutMeasure

SQUARE = spec_of("reaction_diffusion_2d", (8, 8), "neumann", ("a", "b"))
LINE = spec_of(grid=(16,))


def measured(spec, last, truth, predicted, horizons, mask=None, **more):
    """The figures of rollouts (B, H, C, *X), and the measure."""
    accumulator = Accumulator()
    measure = RolloutMeasure(spec, last, list(predicted), horizons, accumulator, **more)
    for h in range(truth.shape[1]):
        step = {name: pred[:, h] for name, pred in predicted.items()}
        measure.step(h + 1, truth[:, h], step, None if mask is None else mask[:, h])
    measure.finish()
    return accumulator, measure


def rollouts(spec, num=3, steps=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (num, steps, len(spec.fields), *spec.grid)
    truth, pred = torch.randn(2, *shape, generator=generator)
    return torch.randn(num, *shape[2:], generator=generator), truth, pred


def test_values_worked_out_by_hand():
    line = spec_of(grid=(4,))
    last = torch.tensor([[[1.0, 1.0, 1.0, 1.0]]])
    truth = torch.tensor([[[[3.0, 4.0, 0.0, 0.0]], [[-1.0, 1.0, 1.0, 3.0]]]])
    pred = torch.tensor([[[[3.0, 4.0, 1.0, 1.0]], [[-1.0, 1.0, 3.0, 3.0]]]])
    accumulator, measure = measured(line, last, truth, {"model": pred}, (1, 2))
    found = {name.removeprefix("burgers_1d/model/all/"): value for name, value in accumulator.figures().items()}
    assert found["rmse@1"] == pytest.approx(math.sqrt(0.5))
    assert found["mae@1"] == pytest.approx(0.5)
    assert found["max_error@2"] == pytest.approx(2.0)
    assert found["nrmse@1"] == pytest.approx(math.sqrt(0.5) / 2.5)
    assert found["nrmse@2"] == pytest.approx(1 / math.sqrt(3))
    assert found["rel_l2@2"] == pytest.approx(math.sqrt(6 / 37))
    # The trajectory goes from -1 to 4, so its range is 5 at both steps.
    assert found["psnr@1"] == pytest.approx(10 * math.log10(25 / 0.5))
    assert found["psnr@2"] == pytest.approx(10 * math.log10(25 / 1.0))
    assert found["brmse@1"] == pytest.approx(math.sqrt(1 / 2))
    assert found["brmse@2"] == 0
    # integrals: 1 at first, then (3 + 4 + 1 + 1) / 4.
    assert found["conservation_gap@1"] == pytest.approx(1.25)
    assert measure.curves["model"].tolist() == [pytest.approx([math.sqrt(0.5) / 2.5, 1 / math.sqrt(3)])]
    assert measure.gaps["integral"]["truth"].tolist() == [pytest.approx([0.75, 0.0])]


def test_perfect_predictions_and_zero_and_persistence():
    last, truth, _ = rollouts(SQUARE)
    still = last[:, None].expand_as(truth)
    predicted = {"model": truth, "zero": torch.zeros_like(truth), "persistence": still}
    figures = measured(SQUARE, last, truth, predicted, (1, 4))[0].figures()

    def of(predictor, metric):
        return figures[f"reaction_diffusion_2d/{predictor}/all/{metric}"]

    for metric in ("nrmse", "vrmse", "rel_l2", "rmse", "mae", "max_error", "brmse", "frmse_low", "frmse_pdebench_low"):
        assert of("model", f"{metric}@4") == 0
    assert of("model", "spectral_error@4") == pytest.approx(0, abs=1e-9)
    assert of("model", "psnr@4") == math.inf
    assert of("model", "horizon@0.8") == 4
    assert of("model", "horizon_censored@0.8") == 6
    assert of("zero", "nrmse@4") == pytest.approx(1, rel=1e-14)
    assert of("zero", "band_error_mid@1") == pytest.approx(1, rel=1e-12)
    assert of("zero", "horizon@0.8") == 1
    assert of("zero", "horizon_censored@0.8") == 0
    assert of("persistence", "nrmse@1") == pytest.approx(
        ((last - truth[:, 0]).square().mean((2, 3)) / truth[:, 0].square().mean((2, 3))).sqrt().mean().item(), rel=1e-6
    )


def test_the_horizon_is_the_first_step_below_and_censored_ones_count():
    x = 2 * math.pi * torch.arange(16) / 16
    truth = x.sin().expand(2, 5, 1, 16)
    angle = torch.tensor([[0.0, 0.3, 0.7, 0.2, 0.1], [0.0, 0.1, 0.2, 0.3, 0.4]])  # correlation is its cosine
    pred = 3 + 2 * torch.sin(x + angle[:, :, None, None])
    accumulator, measure = measured(LINE, truth[:, 0], truth, {"model": pred}, (1, 5))
    figures = accumulator.figures()
    assert measure.horizons["model"].tolist() == [3, 5]
    assert figures["burgers_1d/model/u/horizon@0.8"] == 4
    assert figures["burgers_1d/model/all/horizon_censored@0.8"] == 1


def test_frames_that_are_nothing_beside_their_trajectory_are_left_out_and_counted():
    last, truth, pred = rollouts(SQUARE)
    truth[0, 3, 1] *= 1e-7
    accumulator, measure = measured(SQUARE, last, truth, {"model": pred}, (1, 4))
    figures = accumulator.figures()
    assert figures["reaction_diffusion_2d/model/b/zero_truth@4"] == 1
    assert figures["reaction_diffusion_2d/model/all/zero_truth@1"] == 0
    others = (pred - truth)[1:, 3, 1].square().mean((1, 2)) / truth[1:, 3, 1].square().mean((1, 2))
    assert figures["reaction_diffusion_2d/model/b/nrmse@4"] == pytest.approx(others.sqrt().mean().item(), rel=1e-6)
    alone = (pred - truth)[0, 3, 0].square().mean() / truth[0, 3, 0].square().mean()
    assert measure.curves["model"][0, 3].item() == pytest.approx(alone.sqrt().item(), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_rollout_is_named_and_never_averaged_away(bad):
    last, truth, pred = rollouts(SQUARE)
    pred[1, 2:, 0, 3, 3] = bad
    accumulator, measure = measured(SQUARE, last, truth, {"model": pred, "still": truth}, (1, 4))
    figures = accumulator.figures()
    assert measure.diverged["model"].tolist() == [0, 3, 0]
    assert measure.diverged["still"].tolist() == [0, 0, 0]
    assert measure.curves["model"].isinf().tolist() == [[False] * 4, [False, False, True, True], [False] * 4]
    assert figures["reaction_diffusion_2d/model/all/non_finite@4"] == 1
    assert figures["reaction_diffusion_2d/model/b/non_finite@4"] == 0
    metrics = ("nrmse", "vrmse", "rel_l2", "rmse", "mae", "max_error", "psnr", "brmse", "frmse_low", "spectral_error")
    for metric in metrics[:7] + metrics[8:]:
        value = figures[f"reaction_diffusion_2d/model/all/{metric}@4"]
        assert not math.isfinite(value), metric
        assert math.isfinite(figures[f"reaction_diffusion_2d/model/all/{metric}@1"]), metric


def test_masked_points_change_nothing_and_spoil_no_spectrum():
    spec = spec_of("reaction_diffusion_2d", (8, 8), "neumann", ("a", "b"), masked=True)
    last, truth, pred = rollouts(spec)
    mask = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    plain, _ = measured(spec, last, truth, {"model": pred}, (1, 4), mask)
    spoilt, _ = measured(
        spec, last, torch.where(mask, truth, 1e30), {"model": torch.where(mask, pred, math.nan)}, (1, 4), mask
    )
    torch.testing.assert_close(plain.flat(), spoilt.flat(), rtol=0, atol=0, equal_nan=True)
    metrics = {name.rpartition("/")[2].partition("@")[0] for name in plain.names}
    assert "brmse" in metrics
    assert not metrics & {"spectral_error", "frmse_low", "bc_violation", "conservation_gap"}


def test_weights_are_the_same_as_repeated_points():
    last, truth, pred = rollouts(LINE)
    points = spec_of(grid=(16,), geometry="points", fields=("u",))
    weight = torch.tensor([1.0, 2.0, 3.0, 2.0] * 4)
    where = torch.arange(16).repeat_interleave(weight.long())
    weighted = measured(points, last, truth, {"model": pred}, (4,), weights=weight)[0].figures()
    repeated = measured(points, last[..., where], truth[..., where], {"model": pred[..., where]}, (4,))[0].figures()
    for metric in ("nrmse@4", "rmse@4", "mae@4", "max_error@4", "rel_l2@4", "horizon@0.8", "psnr@4"):
        name = f"burgers_1d/model/all/{metric}"
        assert weighted[name] == pytest.approx(repeated[name], rel=1e-12), metric


def test_weights_of_a_grid_are_one_tensor_per_axis():
    last, truth, pred = rollouts(SQUARE)
    along = [torch.linspace(1, 2, 8), torch.linspace(3, 1, 8)]
    outer = along[0][:, None] * along[1]
    by_axis, _ = measured(SQUARE, last, truth, {"model": pred}, (4,), weights=along)
    by_point, _ = measured(SQUARE, last, truth, {"model": pred}, (4,), weights=outer)
    torch.testing.assert_close(by_axis.flat(), by_point.flat(), rtol=1e-6, atol=0)
    expected = ((pred - truth)[:, 3].square() * outer).sum((2, 3)) / (truth[:, 3].square() * outer).sum((2, 3))
    assert by_axis.figures()["reaction_diffusion_2d/model/all/nrmse@4"] == pytest.approx(
        expected.sqrt().mean().item(), rel=1e-5
    )
    with pytest.raises(ValueError, match=r"weights of shape \(8, 4\), expected \(8, 8\)"):
        RolloutMeasure(SQUARE, last, ["model"], (1,), Accumulator(), weights=[along[0], along[1][:4]])


def test_point_sets_have_no_figures_of_cells():
    spec = spec_of("navier_stokes_2d", (40,), "periodic", ("vorticity", "x", "y"), extents=((0.0, 1.0),) * 2)
    spec = spec_of(
        "navier_stokes_2d",
        (40,),
        fields=("vorticity", "x", "y"),
        extents=((0.0, 1.0),) * 2,
        boundaries=(("periodic", "periodic"),) * 2,
        static=("x", "y"),
        coordinates=("x", "y"),
        geometry="points",
    )
    last, truth, pred = rollouts(spec)
    names = measured(spec, last, truth, {"model": pred}, (1, 4))[0].names
    metrics = {name.rpartition("/")[2].partition("@")[0] for name in names}
    assert {name.split("/")[2] for name in names} == {"all", "vorticity"}
    assert {"nrmse", "psnr", "horizon"} <= metrics
    assert not metrics & {"brmse", "frmse_low", "spectral_error", "conservation_gap", "divergence", "bc_violation"}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 5), st.sampled_from([SQUARE, LINE]))
def test_a_batch_split_in_two_and_merged_is_the_whole(seed, cut, spec):
    last, truth, pred = rollouts(spec, num=6, seed=seed)
    predicted = {"model": pred, "persistence": last[:, None].expand_as(truth)}
    whole, _ = measured(spec, last, truth, predicted, (1, 4))
    merged = Accumulator()
    for part in (slice(None, cut), slice(cut, None)):
        share, _ = measured(spec, last[part], truth[part], {name: u[part] for name, u in predicted.items()}, (1, 4))
        assert share.names == whole.names
        merged.merge(share)
    torch.testing.assert_close(merged.flat(), whole.flat(), rtol=1e-10, atol=1e-12, equal_nan=True)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.integers(-10, 10))
def test_scaling_a_field_changes_no_relative_figure(seed, exponent):
    last, truth, pred = rollouts(LINE, seed=seed)
    factor = 2.0**exponent
    once, _ = measured(LINE, last, truth, {"model": pred}, (1, 4))
    scaled, _ = measured(LINE, factor * last, factor * truth, {"model": factor * pred}, (1, 4))
    one, other = once.figures(), scaled.figures()
    for metric in ("nrmse@4", "rel_l2@4", "psnr@4", "spectral_error@4", "band_error_low@4", "conservation_gap@4",
                   "shock_iou@4", "horizon@0.8"):  # fmt: skip
        name = f"burgers_1d/model/all/{metric}"
        assert other[name] == pytest.approx(one[name], rel=1e-9), metric


def test_misuse_is_refused():
    last, truth, pred = rollouts(LINE)
    measure = RolloutMeasure(LINE, last, ["model"], (1, 4), Accumulator())
    with pytest.raises(ValueError, match="step 2 after 0: every step is measured, in order, from 1"):
        measure.step(2, truth[:, 0], {"model": pred[:, 0]})
    with pytest.raises(ValueError, match=r"predictions of \['fno'\], expected \['model'\]"):
        measure.step(1, truth[:, 0], {"fno": pred[:, 0]})
    with pytest.raises(ValueError, match=r"predictions of shape \{'model': \(3, 1, 8\)\}, expected the truth's"):
        measure.step(1, truth[:, 0], {"model": pred[:, 0, :, :8]})
    measure.step(1, truth[:, 0], {"model": pred[:, 0]})
    with pytest.raises(ValueError, match="1 steps, expected at least 4, the longest horizon"):
        measure.finish()


def test_a_steady_family_has_no_horizon():
    spec = spec_of("darcy_2d", (8, 8), "dirichlet", ("permeability", "u"), static=("permeability",), steady=True)
    last, truth, pred = rollouts(spec, steps=1)
    names = measured(spec, last, truth, {"model": pred}, (1,))[0].names
    assert "darcy_2d/model/u/nrmse@1" in names
    assert "darcy_2d/truth/u/bc_violation@1" in names
    assert not any("horizon" in name for name in names)
