"""Rollouts as streams: the frames of `forward`, one by one, in memory that doesn't grow; and the trivial predictors."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from small_models import FORCED, LINE, PLANE, POINTS, SPECS, STEADY, TORUS, inputs, make

from ups_scale.errors import DataError
from ups_scale.rollout.guards import Guards
from ups_scale.rollout.rollout import rollout
from ups_scale.rollout.trivial import Extrapolation, Persistence, Zero

ENDS = {"encoder": "auto", "decoder": "points"}
PREDICTIONS = ("field", "latent")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spec", [LINE, PLANE, POINTS, FORCED], ids=lambda spec: spec.name)
@pytest.mark.parametrize("frames", [1, 2])
def test_the_stream_gives_what_forward_gives(spec, prediction: str, frames: int) -> None:
    model = make(specs=[spec], trained=True, prediction=prediction, context_frames=2, **ENDS).eval()
    u, name, parameters, dt = inputs(spec, frames=frames)
    mask = None
    if spec.masked:
        mask = torch.ones_like(u, dtype=torch.bool)
        mask[..., :3, :2] = False
    for asked in ({}, {"steps": [2, 5]}, {} if spec.masked else {"at": (5,) * spec.dimensions}):
        with torch.no_grad():
            whole = model(u, name, parameters, dt, 6, mask_btcx=mask, **asked)
        streamed = dict(rollout(model, u, name, parameters, dt, 6, mask_btcx=mask, **asked))
        assert list(streamed) == asked.get("steps", list(range(1, 7)))
        found = torch.stack(list(streamed.values()), dim=1)
        assert torch.equal(found.nan_to_num(7.0), whole.nan_to_num(7.0))
        assert not found.requires_grad


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_long_stream_holds_a_constant_number_of_frames(prediction: str) -> None:
    """Each frame is gone when the caller has let go of it, and after 200 steps no more tensors live than after 5."""
    model = make(specs=[LINE], trained=True, std=0.02, prediction=prediction, context_frames=2).eval()
    u, name, parameters, dt = inputs(LINE, batch=1, frames=2)
    guards = Guards(("conservation", "interface_flux"), model.specs, model.tilings)
    alive, frames = {}, []
    for step, frame in rollout(model, u, name, parameters, dt, 200, guards=guards):
        frames.append(weakref.ref(frame))
        del frame
        if step in (5, 200):
            gc.collect()
            alive[step] = sum(type(of) is torch.Tensor for of in gc.get_objects())
    assert alive[200] <= alive[5]
    assert sum(of() is not None for of in frames) <= 3


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_field_rollout_goes_on_from_what_the_guard_leaves(prediction: str) -> None:
    model = make(specs=[TORUS], trained=True, prediction=prediction).eval()
    u, name, parameters, dt = inputs(TORUS)
    with torch.no_grad():
        plain = dict(model.frames(u, name, parameters, dt, 3))
        doubled = dict(model.frames(u, name, parameters, dt, 3, guard=lambda u_bcx: 2 * u_bcx))
        torch.testing.assert_close(doubled[1], 2 * plain[1])
        if model.latent:
            torch.testing.assert_close(doubled[3], 2 * plain[3])
        else:
            torch.testing.assert_close(doubled[2], 2 * model(doubled[1][:, None], name, parameters, dt, 1)[:, 0])
            assert (doubled[2] - 2 * plain[2]).abs().max() > 0.01


def test_errors_come_before_the_first_frame() -> None:
    model = make(specs=[PLANE], **ENDS).eval()
    u, name, parameters, dt = inputs(PLANE)
    guards = Guards(("interface_flux",), model.specs, model.tilings)
    with pytest.raises(DataError, match="not trained on family 'burgers_1d'; it knows reaction_diffusion_2d"):
        rollout(model, u, "burgers_1d", parameters, dt, 2)
    with pytest.raises(DataError, match="context of shape"):
        rollout(model, u[..., :4], name, parameters, dt, 2)
    with pytest.raises(DataError, match="guards act on all of the input's own points"):
        rollout(model, u, name, parameters, dt, 2, guards=guards, at=(4, 4))
    with pytest.raises(DataError, match=r"torch.float32 or torch.bfloat16"):
        rollout(model, u, name, parameters, dt, 2, dtype=torch.float16)


def test_times_go_on_as_the_last_one_stated() -> None:
    model = make(specs=[LINE], trained=True, context_frames=2).eval()
    u, name, parameters, dt = inputs(LINE, frames=2)
    dt = dt * torch.tensor([1.0, 1.0, 2.0, *[2.0] * 6])
    expected = dict(rollout(model, u, name, parameters, dt, 6))
    for stated, same in ((3, True), (2, False)):
        found = dict(rollout(model, u, name, parameters, dt[:, :stated], 6))
        assert torch.equal(found[6], expected[6]) == same
    one = make(specs=[LINE], trained=True).eval()
    usual = dict(rollout(one, u[:, 1:], name, parameters, torch.full((3, 4), LINE.dt), 4))
    assert torch.equal(dict(rollout(one, u[:, 1:], name, parameters, torch.zeros(3, 0), 4))[4], usual[4])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_bf16_is_close_and_the_callers_own_code_is_not_under_autocast(prediction: str) -> None:
    model = make(specs=[TORUS], trained=True, std=0.1, prediction=prediction).eval()
    u, name, parameters, dt = inputs(TORUS)
    exact = dict(rollout(model, u, name, parameters, dt, 4))
    for step, frame in rollout(model, u, name, parameters, dt, 4, dtype=torch.bfloat16):
        assert frame.dtype == torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.is_grad_enabled()
        assert 0 < (frame - exact[step]).norm() < 0.02 * exact[step].norm()


def test_persistence_and_zero_keep_what_is_not_predicted() -> None:
    specs = {spec.name: spec for spec in (*SPECS, FORCED, POINTS)}
    for spec in specs.values():
        u, name, parameters, dt = inputs(spec, frames=2)
        mask = torch.rand(u.shape, generator=torch.Generator().manual_seed(0)) > 0.3 if spec.masked else None
        kept = dict(rollout(Persistence(specs), u, name, parameters, dt, 3, mask_btcx=mask, steps=[1, 3]))
        assert list(kept) == [1, 3]
        assert all(torch.equal(frame, u[:, -1]) for frame in kept.values())
        zero = Zero(specs)(u, name, parameters, dt, 3, mask_btcx=mask)
        assert zero.shape == (3, 3, *u.shape[2:])
        goes = torch.zeros_like(u[:, -1], dtype=torch.bool)
        goes[:, list(spec.dynamic)] = True
        goes = goes if mask is None else goes & mask[:, -1]
        assert goes.any()
        assert torch.equal(zero[:, 2], torch.where(goes, 0.0, u[:, -1]))
    with pytest.raises(DataError, match="persistence gives fields at the given points only"):
        rollout(Persistence(specs), *inputs(PLANE), 2, at=(4, 4))


def test_extrapolation_is_linear_in_the_frames_own_times() -> None:
    specs = {spec.name: spec for spec in (LINE, FORCED)}
    predictor = Extrapolation(specs)
    u, name, parameters, _ = inputs(LINE, frames=3)
    dt = torch.tensor([[9.0, 0.5, 0.25, 1.0], [9.0, 0.5, 0.5, 0.5], [9.0, 0.1, 0.2, 0.3]])
    slope = (u[:, 2] - u[:, 1]) / dt[:, 1].reshape(3, 1, 1)
    found = dict(rollout(predictor, u, name, parameters, dt, 2))
    for step in (1, 2):
        time = dt[:, 2 : 2 + step].sum(1).reshape(3, 1, 1)
        torch.testing.assert_close(found[step], u[:, 2] + slope * time)
    unknown = dict(rollout(predictor, u, name, parameters, torch.full((3, 4), math.nan), 2))
    torch.testing.assert_close(unknown[2], u[:, 2] + 2 * (u[:, 2] - u[:, 1]))
    with pytest.raises(DataError, match="extrapolation needs two given frames, and 1 is given"):
        rollout(predictor, u[:, :1], name, parameters, dt, 2)

    u, name, parameters, dt = inputs(FORCED, frames=2)
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[:, 0, :, :4] = False  # without a value before the last frame
    mask[:, :, :, 8:] = False
    found = dict(rollout(predictor, u, name, parameters, dt, 1, mask_btcx=mask))[1]
    still = torch.ones(16, dtype=torch.bool)
    still[4:8] = False
    assert torch.equal(found[:, 0, still], u[:, 1, 0, still])
    torch.testing.assert_close(found[:, 0, 4:8], (2 * u[:, 1] - u[:, 0])[:, 0, 4:8])
    assert torch.equal(found[:, 1], u[:, 1, 1])


def test_a_steady_family_has_its_solution() -> None:
    model = make(specs=[STEADY], trained=True).eval()
    u, name, parameters, _ = inputs(STEADY)
    ((step, frame),) = rollout(model, u, name, parameters, torch.full((3, 0), math.nan), 1)
    with torch.no_grad():
        expected = model(u, name, parameters, torch.full((3, 1), math.nan), 1)
    assert step == 1
    assert torch.equal(frame, expected[:, 0])
