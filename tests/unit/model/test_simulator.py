from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import CONDITIONING, LINE, MODEL, PLANE, SPECS, TORUS, inputs, make

from ups_scale.errors import CheckpointError, DataError
from ups_scale.model.simulator import Simulator


def test_untrained_model_is_persistence(spec) -> None:
    u, *rest = inputs(spec)
    predicted = make()(u, *rest, 3)
    assert predicted.shape == (3, 3, *u.shape[2:])
    assert torch.equal(predicted, u[:, -1:].expand_as(predicted))


def test_every_weight_gets_a_gradient_over_the_families() -> None:
    model = make(trained=True).train()
    for spec in SPECS:
        model(*inputs(spec), 2).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # The nulls are learned only where a condition is missing, which none is here, geometry where there are obstacles.
    assert [name for name in without if not name.endswith("null") and "geometry" not in name] == []


def test_every_weight_takes_part_in_every_microstep(spec) -> None:
    model = make(trained=True).train()
    model(*inputs(spec), 1).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_families_share_blocks_but_not_projections(spec) -> None:
    model = make(trained=True)
    model(*inputs(spec), 1).square().mean().backward()
    key = "4" if spec.dimensions == 1 else "4x4"
    for name, p in model.encoders["grid"].projections.named_parameters():
        assert p.grad.any() == (name.split(".")[0] == key)
    assert all(p.grad.any() for p in model.operator.blocks.parameters())


def test_scaling_the_fields_scales_the_prediction_when_scale_is_hidden(spec) -> None:
    model = make(trained=True, conditioning={"scale": False}).eval()
    u, *rest = inputs(spec)
    torch.testing.assert_close(model(100 * u, *rest, 1), 100 * model(u, *rest, 1), rtol=1e-4, atol=1e-4)


def test_scale_is_a_condition_when_shown(spec) -> None:
    model = make(trained=True).eval()
    u, *rest = inputs(spec)
    assert not torch.allclose(model(100 * u, *rest, 1), 100 * model(u, *rest, 1), rtol=1e-3)


@pytest.mark.parametrize("shift", [4, 12])
def test_rolling_a_periodic_domain_rolls_the_prediction(shift: int) -> None:
    model = make(trained=True).eval()
    for spec in (LINE, TORUS):
        u, *rest = inputs(spec)
        rolled = model(u.roll(shift, dims=3), *rest, 1)
        torch.testing.assert_close(rolled, model(u, *rest, 1).roll(shift, dims=3), rtol=1e-4, atol=1e-4)


def test_rolling_a_bounded_domain_is_another_problem() -> None:
    model = make(trained=True).eval()
    u, *rest = inputs(PLANE)
    assert not torch.allclose(model(u.roll(4, dims=3), *rest, 1), model(u, *rest, 1).roll(4, dims=3), rtol=1e-2)


@pytest.mark.parametrize("condition", ["family", "parameters", "dt", "boundary", "extents", "scale"])
def test_missing_conditions_are_legal_and_each_condition_matters(condition: str) -> None:
    shown, hidden = make(trained=True).eval(), make(trained=True, conditioning={condition: False}).eval()
    assert not torch.equal(shown(*inputs(LINE), 1), hidden(*inputs(LINE), 1))


def test_a_parameter_that_is_not_stated_takes_the_learned_null() -> None:
    model = make(trained=True).eval()
    u, family, parameters, dt = inputs(PLANE)
    parameters[0, 1] = float("nan")
    predicted = model(u, family, parameters, dt, 1)
    assert predicted.isfinite().all()
    assert not torch.equal(predicted[0], model(*inputs(PLANE), 1)[0])
    assert torch.equal(predicted[1:], model(*inputs(PLANE), 1)[1:])


def test_nothing_is_taken_from_future_frames_and_context_slides() -> None:
    model = make(trained=True, context_frames=2).eval()
    u, *rest = inputs(LINE, frames=2)
    two = model(u, *rest, 2)
    once = model(u, *rest, 1)
    again = model(torch.cat([u[:, 1:], once], dim=1), *rest, 1)
    torch.testing.assert_close(two, torch.cat([once, again], dim=1))


@pytest.mark.parametrize("detach", [False, True])
def test_detached_unroll_stops_the_gradient_between_frames(detach: bool) -> None:
    model = make(trained=True).eval()
    u, *rest = inputs(LINE)
    u.requires_grad_()
    model(u, *rest, 2, detach)[:, 1].square().sum().backward()
    assert bool(u.grad.any()) != detach


def test_a_zero_field_stays_finite() -> None:
    model = make(trained=True).train()
    u, *rest = inputs(PLANE)
    u[:, :, 1] = 0
    predicted = model(u, *rest, 2)
    predicted.square().mean().backward()
    assert predicted.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_field_that_is_zero_in_all_of_the_data_stays_finite() -> None:
    silent = replace(PLANE, u_rms=(0.5, 0.0), delta_rms=(0.1, 0.0))
    torch.manual_seed(0)
    model = Simulator([silent], MODEL, CONDITIONING)
    u, *rest = inputs(PLANE)
    u[:, :, 1] = 0
    assert model(u, *rest, 2).isfinite().all()
    assert model.least_rms(silent.name, u.device).tolist() == pytest.approx([5e-4, 0])


def test_bf16_weights_keep_float32_ends_and_stay_close(spec) -> None:
    model = make(trained=True).eval()
    u, *rest = inputs(spec)
    full = model(u, *rest, 4)
    low = model.to(torch.bfloat16)(u, *rest, 4)
    assert low.dtype == torch.float32
    assert (low - full).norm() / (full - u[:, -1:]).norm() < 0.05


def test_save_and_load_round_trip(tmp_path, spec) -> None:
    model = make(trained=True).eval()
    model.save_pretrained(tmp_path)
    loaded = Simulator.from_pretrained(tmp_path)
    assert loaded.specs == model.specs
    assert torch.equal(loaded(*inputs(spec), 2), model(*inputs(spec), 2))


def test_damaged_or_foreign_files_are_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="not a saved model"):
        Simulator.from_pretrained(tmp_path / "nothing")
    make().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)

    save_file({name: value for name, value in weights.items() if "decoder" not in name}, path)
    with pytest.raises(CheckpointError, match=r"6 missing: decoders.patch.heads.4.bias, decoders.patch.heads.4.weight"):
        Simulator.from_pretrained(tmp_path)
    loaded = Simulator.from_pretrained(tmp_path, strict=False)
    assert len(loaded.differences.missing) == 6
    assert not loaded.differences.unexpected

    save_file({**weights, "extra": torch.ones(1), "operator.out.weight": torch.zeros(1)}, path)
    with pytest.raises(
        CheckpointError, match=r"1 unexpected: extra; 1 of another shape: operator.out.weight \[1\], not \[24, 32\]"
    ):
        Simulator.from_pretrained(tmp_path)

    save_file(weights, path)
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**description, "format": 7}))
    with pytest.raises(CheckpointError, match="format 7, expected 3"):
        Simulator.from_pretrained(tmp_path)


def test_unknown_family_and_wrong_shape_are_named() -> None:
    model = make()
    u, _, parameters, dt = inputs(LINE)
    with pytest.raises(DataError, match=r"not trained on family 'heat'; it knows advection_1d"):
        model(u, "heat", parameters, dt, 1)
    with pytest.raises(DataError, match=r"context of shape \(3, 1, 1, 16\), expected .* \(B, 1, 1, 32\)"):
        model(u[..., :16], "advection_1d", parameters, dt, 1)


def test_patches_that_do_not_divide_the_grid_overlap() -> None:
    model = make(trained=True, specs=[LINE, PLANE], patch_size=5).eval()
    for spec in (LINE, PLANE):
        u, *rest = inputs(spec)
        assert model(u, *rest, 2).shape == (3, 2, *u.shape[2:])
    assert model.tilings[LINE.name].patch == (5,)
    assert not model.tilings[LINE.name].exact
