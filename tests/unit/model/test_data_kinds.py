"""Static and steady families, masks, times, variants, point sets and three axes in the model."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from small_models import BOX, CONDITIONING, FORCED, LINE, MODEL, PLANE, STEADY, inputs, make

from ups_scale.errors import DataError, RecipeError
from ups_scale.metrics.accumulate import Accumulator
from ups_scale.metrics.accuracy import counted_points
from ups_scale.metrics.measure import rollout_errors
from ups_scale.model.scales import scales
from ups_scale.model.simulator import Simulator
from ups_scale.objective.forward import add_noise, nrmse_loss

EVERY_KIND = (LINE, FORCED, STEADY)


def scale(spec, u, dt, mask=None):
    """What the model multiplies the normalised change by, (B, C), and the RMS of the context."""
    rms, delta = scales(u, spec, dt, mask)
    return delta, rms


# Static fields


@pytest.mark.parametrize("spec", [FORCED, STEADY], ids=lambda spec: spec.name)
@pytest.mark.parametrize("frames", [1, 3])
def test_static_fields_stay_as_they_were_given(spec, frames) -> None:
    model = make(trained=True, specs=EVERY_KIND, context_frames=frames).eval()
    u, *rest = inputs(spec, frames=frames)  # noisy: no two context frames have the same static field
    predicted = model(u, *rest, 3)
    static, dynamic = spec.fields.index(spec.static[0]), spec.dynamic[0]
    assert torch.equal(predicted[:, :, static], u[:, -1:, static].expand(-1, 3, *spec.grid))
    assert (predicted[:, :, dynamic] != u[:, -1:, dynamic]).any()


def test_a_static_field_is_seen() -> None:
    model = make(trained=True, specs=EVERY_KIND).eval()
    u, *rest = inputs(STEADY)
    other = u.clone()
    other[:, :, 0] += 1
    assert not torch.allclose(model(u, *rest, 1)[:, :, 1], model(other, *rest, 1)[:, :, 1])


def test_no_weight_of_the_decoder_is_for_static_fields() -> None:
    model = make(trained=True, specs=EVERY_KIND).train()
    assert len(model.encoders["grid"].projections["4x4"].weight) == 4
    assert len(model.decoders["patch"].heads["4x4"].weight) == 2  # velocity_x and u
    for spec in EVERY_KIND:
        model(*inputs(spec), 1).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in without if not name.endswith("null") and "geometry" not in name] == []


@pytest.mark.parametrize("spec", EVERY_KIND, ids=lambda spec: spec.name)
def test_every_weight_takes_part_in_every_microstep(spec) -> None:
    model = make(trained=True, specs=EVERY_KIND).train()
    u, *rest = inputs(spec)
    mask = torch.rand(u.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    model(u, *rest, 1, mask_btcx=mask).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_family_of_static_fields_only_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"advection_1d has only static fields \(u\), so there is nothing to predict"):
        make(specs=[replace(LINE, static=("u",))])


# Steady families


@pytest.mark.parametrize("frames", [1, 3])
def test_a_steady_solution_has_the_datas_size_whatever_is_given(frames) -> None:
    u = inputs(STEADY, batch=2)[0].expand(-1, frames, -1, -1, -1).clone()
    u[:, :, 1] = 0  # the solution is not known yet
    delta, rms = scale(STEADY, u, torch.full((2, frames), math.nan))
    assert torch.equal(delta, torch.tensor([[0.0, 0.3]] * 2))
    assert rms[0, 1].item() == pytest.approx(0.2e-3)  # of zeros: the floor


def test_a_steady_family_trains_and_its_missing_time_is_the_null() -> None:
    model = make(trained=True, specs=EVERY_KIND).train()
    u, family, parameters, dt = inputs(STEADY)
    u[:, :, 1] = 0
    assert dt.isnan().all()
    predicted = model(u, family, parameters, dt, 1)
    predicted.square().mean().backward()
    assert predicted.isfinite().all()
    assert model.conditioner.dt.null.grad.any()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# Times


def test_equal_times_change_nothing_bit_by_bit() -> None:
    for frames in (1, 4):
        u = inputs(PLANE, frames=frames)[0]
        dt = torch.full((3, frames), PLANE.dt)
        delta, _ = scale(PLANE, u, dt)
        unknown, _ = scale(PLANE, u, torch.full_like(dt, math.nan))
        assert torch.equal(delta, unknown)
        if frames > 1:  # a stride: all frames three times as far apart
            assert torch.equal(scale(PLANE, u, 3 * dt)[0], delta)


def test_the_change_grows_with_the_time_to_the_next_frame() -> None:
    u = inputs(PLANE, batch=2)[0]
    usual, _ = scale(PLANE, u, torch.full((2, 1), PLANE.dt))
    other, _ = scale(PLANE, u, torch.tensor([[2 * PLANE.dt], [PLANE.dt / 2]]))
    torch.testing.assert_close(other, usual * torch.tensor([[2.0], [0.5]]))


def test_the_change_is_measured_by_the_mean_time_between_the_context_frames() -> None:
    smooth = torch.linspace(1, 1.05, 4).reshape(1, 4, 1, 1, 1) * inputs(PLANE, batch=1)[0]
    usual, _ = scale(PLANE, smooth, torch.full((1, 4), 1.0))
    other, _ = scale(PLANE, smooth, torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    torch.testing.assert_close(other, 2 * usual)


def test_a_long_time_is_bounded_by_the_size_of_the_field() -> None:
    smooth = torch.linspace(1, 1.05, 4).reshape(1, 4, 1, 1, 1) * inputs(PLANE, batch=1)[0]
    delta, rms = scale(PLANE, smooth, torch.tensor([[1.0, 1.0, 1.0, 1e6]]))
    torch.testing.assert_close(delta, math.sqrt(2) * rms)


def test_the_bound_lowers_nothing_that_changes_more_than_its_size() -> None:
    u = inputs(PLANE, batch=1)[0]
    jumping = torch.stack([u[:, 0], -u[:, 0]], dim=1)  # its change is twice its RMS
    usual, rms = scale(PLANE, jumping, torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(usual, 2 * rms)
    assert torch.equal(scale(PLANE, jumping, torch.tensor([[1.0, 10.0]]))[0], usual)


@pytest.mark.parametrize("frames", [1, 2])
def test_every_step_is_told_its_own_time(frames) -> None:
    model = make(trained=True, context_frames=frames).eval()
    u, family, parameters, _ = inputs(LINE, frames=frames)
    dt = torch.tensor([0.05, 0.02, 0.07, 0.2])[: frames + 2].expand(3, -1)
    three = model(u, family, parameters, dt, 3)
    window = u
    for step in range(3):
        once = model(window, family, parameters, dt[:, step : step + frames], 1)
        torch.testing.assert_close(three[:, step : step + 1], once)
        window = torch.cat([window[:, 1:], once], dim=1)
    later = dt.clone()
    later[:, -1] *= 3
    other = model(u, family, parameters, later, 3)
    assert torch.equal(other[:, :2], three[:, :2])
    assert not torch.allclose(other[:, 2], three[:, 2])


def test_times_that_do_not_fit_are_named() -> None:
    model = make(context_frames=2)
    u, family, parameters, dt = inputs(LINE, frames=2)
    with pytest.raises(DataError, match=r"dt_bt of shape \(3, 3\), expected \(3, 4\): .* for 2 given and 3 predicted"):
        model(u, family, parameters, dt[:, :3], 3)
    with pytest.raises(DataError, match=r"mask_btcx of shape \(3, 1, 32\), expected .* \(3, 2, 1, 32\)"):
        model(u, family, parameters, dt, 3, mask_btcx=torch.ones(3, 1, 32, dtype=torch.bool))


# Masks


def half(u):
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[..., :3] = False
    return mask


@pytest.mark.parametrize("spec", [PLANE, FORCED], ids=lambda spec: spec.name)
def test_points_without_a_value_stay_as_they_were_filled(spec) -> None:
    model = make(trained=True, specs=[PLANE, FORCED]).eval()
    u, *rest = inputs(spec)
    mask = half(u)
    predicted = model(u, *rest, 3, mask_btcx=mask)
    stays = predicted == u[:, -1:]
    assert stays[(~mask).expand_as(stays)].all()
    dynamic = list(spec.dynamic)
    seen = mask[:, :, dynamic].expand(-1, 3, -1, *spec.grid)
    assert not stays[:, :, dynamic][seen].any()


@pytest.mark.parametrize("frames", [1, 3])
def test_a_mask_that_hides_nothing_is_no_mask(frames) -> None:
    model = make(trained=True, context_frames=frames).eval()
    u, *rest = inputs(PLANE, frames=frames)
    full = torch.ones_like(u, dtype=torch.bool)
    torch.testing.assert_close(model(u, *rest, 2, mask_btcx=full), model(u, *rest, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 3])
def test_scales_are_measured_where_there_are_values(frames) -> None:
    u, *_, dt = inputs(PLANE, frames=frames)
    mask = half(u)
    expected = scale(PLANE, u[..., 3:], dt[:, :frames])
    for found, wanted in zip(scale(PLANE, torch.where(mask, u, 1e6), dt[:, :frames], mask), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_field_without_any_value_has_the_datas_size() -> None:
    u, *_, dt = inputs(PLANE)
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[:, :, 1] = False
    _, rms = scale(PLANE, u, dt[:, :1], mask)
    assert rms[:, 1].tolist() == [PLANE.u_rms[1]] * 3


def clouds(u, seed=0):
    """A mask of its own for every frame, with points that come and go."""
    return torch.rand(u.shape, generator=torch.Generator().manual_seed(seed)) > 0.4


@pytest.mark.parametrize("garbage", [0.0, 1e6, math.nan])
def test_the_change_between_frames_is_measured_where_both_have_a_value(garbage) -> None:
    u, *_, dt = inputs(PLANE, frames=3)
    mask = clouds(u)
    delta, rms = scale(PLANE, torch.where(mask, u, garbage), dt[:, :3], mask)
    there, both = mask.double(), (mask[:, 1:] & mask[:, :-1]).double()
    for found, values, weights in ((rms, u, there), (delta, u.diff(dim=1), both)):
        axes = (1, 3, 4)
        expected = ((values.double().square() * weights).sum(axes) / weights.sum(axes)).sqrt()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_a_cloud_over_an_earlier_frame_is_no_change() -> None:
    far = 285 + inputs(PLANE, batch=1)[0]  # far from zero, as a temperature in K is
    u = torch.cat([far, far + 0.01 * torch.randn(far.shape, generator=torch.Generator().manual_seed(1))], dim=1)
    mask = torch.ones_like(u, dtype=torch.bool)
    clear, _ = scale(PLANE, u, torch.ones(1, 2), mask)
    mask[:, 0, :, :2] = False
    cloudy, _ = scale(PLANE, torch.where(mask, u, 280.0), torch.ones(1, 2), mask)
    torch.testing.assert_close(cloudy, clear, rtol=0.2, atol=0)


@pytest.mark.parametrize("dt", [PLANE.dt, 3 * PLANE.dt])
def test_frames_without_a_point_in_common_are_as_good_as_one(dt) -> None:
    u = inputs(PLANE, frames=2)[0]
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[1, 0, 1, :4], mask[1, 1, 1, 4:] = False, False  # field 1 of sample 1: one half, then the other
    times = torch.tensor([[7.0, dt]]).expand(3, -1)
    delta, rms = scale(PLANE, u, times, mask)
    data = PLANE.delta_rms[1] / PLANE.u_rms[1] * dt / PLANE.dt
    assert delta[1, 1].item() == pytest.approx(rms[1, 1].item() * data, rel=1e-5)
    usual, _ = scale(PLANE, u, times)
    rest = torch.ones_like(usual, dtype=torch.bool)
    rest[1, 1] = False
    torch.testing.assert_close(delta[rest], usual[rest])


def test_the_time_of_the_change_is_that_of_the_frames_it_is_measured_between() -> None:
    u = torch.linspace(1, 1.05, 3).reshape(1, 3, 1, 1, 1) * inputs(PLANE, batch=1)[0]
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[:, 0] = False  # nothing is known of the first frame, nor of the 50 s after it
    found = scale(PLANE, u, torch.tensor([[50.0, 2.0, 1.0]]), mask)
    for part, expected in zip(found, scale(PLANE, u[:, 1:], torch.tensor([[2.0, 1.0]])), strict=True):
        torch.testing.assert_close(part, expected)


def test_a_predicted_frame_has_values_where_the_frame_before_it_has() -> None:
    model = make(trained=True, context_frames=2).eval()
    u, family, parameters, dt = inputs(PLANE, frames=2)
    mask = clouds(u)
    three = model(u, family, parameters, dt, 3, mask_btcx=mask)
    window, seen = u, mask
    for step in range(3):
        once = model(window, family, parameters, dt[:, step : step + 2], 1, mask_btcx=seen)
        torch.testing.assert_close(three[:, step : step + 1], once)
        window, seen = torch.cat([window[:, 1:], once], dim=1), torch.stack([seen[:, 1], mask[:, 1]], dim=1)
    changed = three != u[:, 1:]
    assert torch.equal(changed, mask[:, 1:].expand_as(changed))


@pytest.mark.parametrize("spec", [PLANE, FORCED], ids=lambda spec: spec.name)
def test_frames_without_a_point_in_common_give_finite_gradients(spec) -> None:
    model = make(trained=True, specs=[PLANE, FORCED], context_frames=2).train()
    u, *rest = inputs(spec, frames=2)
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[0, 0] = False
    mask[1] = False  # no value at all
    u.requires_grad_()
    predicted = model(u, *rest, 3, mask_btcx=mask)
    loss = nrmse_loss(predicted, torch.ones_like(predicted), model.least_rms(spec.name, u.device), mask[:, 1:])
    loss.backward()
    assert predicted.isfinite().all()
    assert u.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# Variants, point sets, three axes


def test_variants_share_what_is_learned_of_their_family_and_are_known_by_name() -> None:
    variant = replace(LINE, name="advection_1d-64", grid=(64,))
    model = make(trained=True, specs=[LINE, variant, PLANE])
    assert model.conditioner.family.num_embeddings == 3  # the null and two families
    assert model(*inputs(variant), 1).shape == (3, 1, 1, 64)
    u, _, *rest = inputs(LINE)
    with pytest.raises(
        DataError, match="not trained on family 'advection_1d-128'; it knows advection_1d, advection_1d-64"
    ):
        model(u, "advection_1d-128", *rest, 1)


def test_point_sets_are_refused_with_what_to_do() -> None:
    cloud = replace(LINE, name="airfoil", geometry="points", coordinates=("x",), static=("x",), fields=("u", "x"))
    with pytest.raises(
        RecipeError,
        match=r"family airfoil is a point set, and model.encoder 'grid' needs a grid: set model.encoder to \"auto\" ",
    ):
        Simulator([LINE, cloud], MODEL, CONDITIONING)
    with pytest.raises(RecipeError, match=r"family airfoil is a point set, and model.decoder 'patch' needs a grid"):
        Simulator([LINE, cloud], {**MODEL, "encoder": "auto"}, CONDITIONING)


def test_three_axes_run_forward_and_backward_beside_one_and_two() -> None:
    specs = [BOX, LINE, PLANE]
    model = make(trained=True, specs=specs).train()
    for spec in specs:
        predicted = model(*inputs(spec), 2)
        assert predicted.shape == (3, 2, len(spec.fields), *spec.grid)
        predicted.square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in without if not name.endswith("null") and "geometry" not in name] == []


def test_three_periodic_axes_roll() -> None:
    model = make(trained=True, specs=[BOX]).eval()
    u, *rest = inputs(BOX)
    for axis in (3, 4, 5):
        rolled = model(u.roll(4, dims=axis), *rest, 1)
        torch.testing.assert_close(rolled, model(u, *rest, 1).roll(4, dims=axis), rtol=1e-3, atol=1e-4)


def test_heads_too_narrow_for_three_axes_are_refused() -> None:
    with pytest.raises(
        RecipeError,
        match=r"compressible_flow_3d has 3 axes: heads of width 4 .* rotate 2 pairs.*num_heads to 4",
    ):
        make(specs=[BOX], num_heads=8)


def test_a_field_that_is_zero_gives_finite_gradients_through_an_unrolled_horizon() -> None:
    """The root of a mean square that is zero has none: a flow at rest, before anything is learned."""
    silent = replace(PLANE, u_rms=(0.5, 0.0), delta_rms=(0.1, 0.0))  # in all of the data
    for spec, frames in ((PLANE, 1), (PLANE, 2), (silent, 1), (silent, 2)):
        model = make(specs=[spec], context_frames=frames).train()
        u, *rest = inputs(PLANE, frames=frames)
        u[:, :, 1] = 0
        model(u, *rest, 3).square().mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# Saved


def test_every_kind_survives_saving(tmp_path) -> None:
    model = make(trained=True, specs=EVERY_KIND).eval()
    model.save_pretrained(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text(), parse_constant=pytest.fail)
    assert description["format"] == 3
    assert [spec["dt"] for spec in description["specs"]] == [0.05, 0.05, None]
    loaded = Simulator.from_pretrained(tmp_path)
    assert math.isnan(loaded.specs["darcy_2d"].dt)
    for spec in EVERY_KIND:
        assert replace(loaded.specs[spec.name], dt=1.0) == replace(spec, dt=1.0)
        assert torch.equal(loaded(*inputs(spec), 1), model(*inputs(spec), 1))


@pytest.mark.parametrize("spec", [PLANE, FORCED, STEADY, BOX], ids=lambda spec: spec.name)
@pytest.mark.parametrize("frames", [1, 2])
def test_nothing_in_a_microstep_waits_for_the_device(spec, frames) -> None:
    """On the meta device there are no values: whatever asks for one raises."""
    with torch.device("meta"):
        model = make(specs=[spec], context_frames=frames).train()
        u = torch.empty(2, frames + 3, len(spec.fields), *spec.grid)
        mask = torch.ones(u.shape, dtype=torch.bool)
        parameters, dt = torch.empty(2, len(spec.parameters)), torch.empty(2, frames + 2)
    context, truth = u.split([frames, 3], dim=1)
    noisy = add_noise(context, 0.1, mask[:, :frames], spec.dynamic)
    predicted = model(noisy, spec.name, parameters, dt, 3, mask_btcx=mask[:, :frames])
    counted = counted_points(mask, frames)
    loss = nrmse_loss(predicted, truth, model.least_rms(spec.name, u.device), counted, spec.dynamic)
    loss.backward()
    assert loss.shape == ()
    masked = replace(spec, masked=True)
    rollout_errors(predicted, truth, context[:, -1], masked, Accumulator(), [1, 3], counted)
