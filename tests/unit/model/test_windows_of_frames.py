"""Context frames: too few of them, dropped ones, and fields rolled by less than a patch in training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import LINE, PLANE, POINTS, TORUS, inputs, make

from ups_scale.errors import DataError
from ups_scale.model.window import Window

ENDS = {"encoder": "auto", "decoder": "auto"}
KINDS = [LINE, PLANE, POINTS]
PREDICTIONS = ("field", "latent")


def learn_nulls(model) -> None:
    with torch.no_grad():
        for encoder in model.encoders.values():
            encoder.missing.weight.normal_(std=1.0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec.name)
def test_fewer_frames_than_the_models_are_enough(spec, prediction: str) -> None:
    model = make(specs=KINDS, trained=True, context_frames=3, prediction=prediction, **ENDS).eval()
    u, name, parameters, dt = inputs(spec, frames=3)
    with torch.no_grad():
        whole = model(u, name, parameters, dt, 2)
        for given in (1, 2):
            fewer = model(u[:, -given:], name, parameters, dt, 2)
            assert fewer.shape == whole.shape
            assert (fewer - whole).abs().max() > 1e-3
        for frames in (u[:, :0], torch.cat([u, u], dim=1)):
            with pytest.raises(DataError, match=r"expected \(batch, frames, fields, grid\) = \(B, 1 to 3, "):
                model(frames, name, parameters, dt, 2)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec.name)
def test_a_missing_frame_is_told_from_a_frame_of_zeros_by_its_learned_null(spec, prediction: str) -> None:
    model = make(specs=KINDS, context_frames=3, prediction=prediction, **ENDS).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any() and "missing" not in name:
                parameter.normal_(std=0.2)
        u, name, parameters, dt = inputs(spec, frames=1)
        before = model(u, name, parameters, dt, 1)
        learn_nulls(model)
        after = model(u, name, parameters, dt, 1)
        two, *_ = inputs(spec, frames=3, seed=3)
        whole = model(two, name, parameters, dt, 1)
        for encoder in model.encoders.values():
            encoder.missing.weight.normal_(std=1.0)
        torch.testing.assert_close(model(two, name, parameters, dt, 1), whole, rtol=0, atol=0)
    assert (after - before).abs().max() > 1e-3


def test_each_missing_frame_has_a_null_of_its_own() -> None:
    model = make(specs=[LINE], trained=True, context_frames=4).eval()
    u, name, parameters, dt = inputs(LINE, frames=4)
    found = {}
    for changed in range(4):
        with torch.no_grad():
            model.encoders["grid"].missing.weight[changed] += 1.0
            found[changed] = [model(u[:, -given:], name, parameters, dt, 1) for given in (1, 2, 3, 4)]
            model.encoders["grid"].missing.weight[changed] -= 1.0
            base = [model(u[:, -given:], name, parameters, dt, 1) for given in (1, 2, 3, 4)]
        matters = [not torch.allclose(a, b, atol=1e-5) for a, b in zip(found[changed], base, strict=True)]
        assert matters == [changed < 4 - given for given in (1, 2, 3, 4)], changed


def test_the_given_frames_alone_set_the_scales() -> None:
    """A model that was given one frame of two scales with that frame, not with a zero beside it."""
    model = make(specs=[LINE], trained=True, context_frames=2, conditioning={"scale": False}).eval()
    u, name, parameters, dt = inputs(LINE)
    with torch.no_grad():
        small, large = model(u, name, parameters, dt, 2), model(10 * u, name, parameters, dt, 2)
    torch.testing.assert_close(large, 10 * small, rtol=1e-4, atol=1e-4)
    filled = Window(u).filled(2)
    assert filled.context_btcx.shape[1] == 2
    assert filled.counted_btcx.sum() == u.numel()
    torch.testing.assert_close(filled.counted_btcx[:, 1:], torch.ones_like(u, dtype=torch.bool))


def test_a_window_that_slides_learns_what_it_lacked() -> None:
    """After as many steps as frames were missing every frame is given, by the model itself."""
    window = Window(torch.ones(2, 1, 1, 8), torch.ones(2, 1, 1, 8, dtype=torch.bool)).filled(3)
    assert window.seen_bt.tolist() == [[False, False, True]] * 2
    assert not window.mask_btcx[:, :2].any()
    for step, seen in enumerate([[False, True, True], [True, True, True]]):
        window = window.slid(torch.full((2, 1, 8), float(step)))
        assert window.seen_bt.tolist() == [seen] * 2
        assert window.mask_btcx[:, -1].all()
    torch.testing.assert_close(window.last_bcx, torch.ones(2, 1, 8))


# Patch jitter.


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec.name)
def test_untrained_it_is_persistence_however_the_fields_are_rolled(spec, prediction: str) -> None:
    model = make(specs=KINDS, patch_jitter=True, prediction=prediction, **ENDS).train()
    u, *rest = inputs(spec)
    for _ in range(5):
        predicted = model(u, *rest, 2)
        torch.testing.assert_close(predicted, u.expand_as(predicted), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_patches_are_cut_at_random_at_each_call_in_training_alone(prediction: str) -> None:
    model = make(specs=[TORUS], trained=True, patch_jitter=True, prediction=prediction)
    u, *rest = inputs(TORUS)

    def calls(count: int) -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(u, *rest, 2) for _ in range(count)]

    model.train()
    torch.manual_seed(0)
    found = calls(24)
    assert sum(bool((found[0] - other).abs().max() > 1e-3) for other in found[1:]) > 15
    model.eval()
    one, other = calls(2)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    plain = make(specs=[TORUS], trained=True, prediction=prediction).train()
    with torch.no_grad():
        expected = plain(u, *rest, 2)
    torch.testing.assert_close(expected[:, :1], one[:, :1], rtol=0, atol=0)
    # Beyond the first step a field rollout cuts its patches elsewhere.
    assert torch.equal(expected, one) == (prediction == "latent")


def test_in_evaluation_each_step_cuts_patches_elsewhere_on_periodic_axes() -> None:
    model, plain = (make(specs=[TORUS, LINE, PLANE], trained=True, patch_jitter=on).eval() for on in (True, False))
    u, *rest = inputs(TORUS)
    with torch.no_grad():
        found, window = model(u, *rest, 5), u
        for step, part in enumerate((0, 1 / 2, 1 / 4, 3 / 4, 1 / 8)):
            offsets = tuple(int(part * size) for size in model.tilings[TORUS.name].patch)
            moved = window.roll(offsets, (3, 4))
            expected = plain(moved, *rest, 1).roll(tuple(-offset for offset in offsets), (3, 4))
            torch.testing.assert_close(found[:, step : step + 1], expected, rtol=1e-5, atol=1e-5)
            window = expected
        bounded = inputs(PLANE)
        assert torch.equal(model(*bounded, 5), plain(*bounded, 5))


def test_what_is_predicted_is_rolled_back() -> None:
    """It is one of the predictions of the fields rolled by less than a patch, rolled back by as much; so is what is
    reconstructed."""
    model = make(specs=[TORUS], trained=True, patch_jitter=True, prediction="latent")
    u, *rest = inputs(TORUS)
    with torch.no_grad():
        model.train()
        torch.manual_seed(1)
        jittered = [model(u, *rest, 2, reconstruct=True) for _ in range(6)]
        model.eval()
        offsets = [(x, y) for x in range(4) for y in range(4)]
        possible = [model(u.roll(offset, (3, 4)), *rest, 2, reconstruct=True) for offset in offsets]
    chosen = set()
    for predicted, reconstruction in jittered:
        matches = [
            offset
            for offset, (p, r) in zip(offsets, possible, strict=True)
            if torch.allclose(p.roll((-offset[0], -offset[1]), (3, 4)), predicted, atol=1e-4)
            and torch.allclose(r.roll((-offset[0], -offset[1]), (2, 3)), reconstruction, atol=1e-4)
        ]
        assert len(matches) == 1
        chosen.update(matches)
    assert len(chosen) > 3


@pytest.mark.parametrize("spec", [PLANE, POINTS], ids=lambda spec: spec.name)
def test_where_the_domain_ends_nothing_is_rolled(spec) -> None:
    # Every point is a supernode, so that none is drawn.
    model = make(specs=KINDS, trained=True, patch_jitter=True, **ENDS).train()
    u, *rest = inputs(spec)
    with torch.no_grad():
        found = [model(u, *rest, 1) for _ in range(6)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-5)


def test_of_a_channel_only_the_periodic_axis_is_rolled() -> None:
    channel = replace(TORUS, name="channel_2d", boundaries=(("periodic",) * 2, ("dirichlet",) * 2))
    model = make(specs=[channel], patch_jitter=True).train()
    torch.manual_seed(0)
    shifts = [model._jitter(channel) for _ in range(40)]
    assert {shift[1] for shift in shifts if shift} == {(0,)}
    assert {shift[0] for shift in shifts if shift} == {(1,), (2,), (3,)}
    assert None in shifts  # an offset of 0


def test_a_mask_is_rolled_with_its_field() -> None:
    masked = replace(TORUS, masked=True)
    model = make(specs=[masked], trained=True, patch_jitter=True).train()
    u, *rest = inputs(masked)
    mask = torch.rand(u.shape, generator=torch.Generator().manual_seed(2)) > 0.4
    with torch.no_grad():
        for _ in range(6):
            changed = model(u, *rest, 1, mask_btcx=mask) - u
            assert not changed[~mask].any()
            assert (changed[mask] != 0).float().mean() > 0.99


# Frame dropout.


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec.name)
def test_frames_are_dropped_in_training_alone(spec) -> None:
    model = make(specs=KINDS, trained=True, context_frames=3, frame_dropout=1.0, **ENDS)
    kept = make(specs=KINDS, trained=True, context_frames=3, **ENDS).eval()
    u, *rest = inputs(spec, frames=3)
    with torch.no_grad():
        model.train()
        torch.manual_seed(0)
        found = [model(u, *rest, 1) for _ in range(8)]
        assert any((one - found[0]).abs().max() > 1e-3 for one in found)
        model.eval()
        torch.testing.assert_close(model(u, *rest, 1), kept(u, *rest, 1), rtol=0, atol=0)


def test_a_dropped_frame_is_a_missing_frame() -> None:
    """With probability 1 each sample keeps one or two frames of three, as if it had been given no more."""
    model = make(specs=[LINE], trained=True, context_frames=3, frame_dropout=1.0)
    u, name, parameters, dt = inputs(LINE, batch=16, frames=3)
    with torch.no_grad():
        model.train()
        torch.manual_seed(0)
        found = model(u, name, parameters, dt, 1)
        model.eval()
        fewer = [model(u[:, -given:], name, parameters, dt, 1) for given in (1, 2)]
    which = [[torch.allclose(found[b], of[b], atol=1e-5) for b in range(16)] for of in fewer]
    assert all(one != two for one, two in zip(*which, strict=True))
    assert any(which[0])
    assert any(which[1])


def test_the_last_frame_is_never_dropped_and_the_share_is_as_asked() -> None:
    torch.manual_seed(0)
    seen = Window(torch.ones(4000, 4, 1, 2)).thinned(0.3).seen_bt
    assert seen[:, -1].all()
    assert (seen[:, 1:] >= seen[:, :-1]).all()  # the earlier ones
    dropped = (~seen).sum(dim=1)
    assert abs(float((dropped > 0).float().mean()) - 0.3) < 0.03
    assert [abs(float((dropped == count).float().mean()) - 0.1) < 0.02 for count in (1, 2, 3)] == [True] * 3
