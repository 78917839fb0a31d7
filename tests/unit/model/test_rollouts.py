"""What a rollout must leave as it is: shifts, the order of points, precision, where and when it is asked for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from small_models import FORCED, LINE, PLANE, POINTS, STEADY, TORUS, inputs, make

from ups_scale.errors import DataError
from ups_scale.model.places import ask, own_places

# 16 x 8 tokens of 2 x 2 points; at the U's coarsest level 8 x 4, in windows of 2 x 2: 8 x 8 points each.
WIDE = replace(TORUS, grid=(32, 16))
FINE = {"patch_size": 2, "latent_tokens": 128}
OPERATORS = {"stacked": {"operator": "stacked"}, "u_shaped": {"operator": "u_shaped", "depth": 3}}
PREDICTIONS = ("field", "latent")
# Of each part of a model a few weights, small ones.
PARTS = {
    "encoders": ("projections.2x2.weight", "messages.send.weight", "pooling.content", "missing.weight"),
    "operator": ("into.weight", "query.weight", "out.bias"),
    "decoders": ("place.bias", "key.weight", "head.weight"),
    "conditioner": ("out.weight", "dt.weight"),
}
FREE = {"encoder": "auto", "decoder": "points"}


def smooth(spec, frames: int = 1, batch: int = 2, seed: int = 0) -> torch.Tensor:
    """(B, T, C, *grid), a few waves per field, that move."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.arange(size) / size for size in spec.grid), indexing="ij")
    u = torch.zeros(batch, frames, len(spec.fields), *spec.grid)
    for b, t, c in itertools.product(range(batch), range(frames), range(len(spec.fields))):
        draw = torch.rand(3 * len(axes), generator=torch.Generator().manual_seed(seed + 10 * b + c))
        wave = torch.ones(spec.grid)
        for axis, x in enumerate(axes):
            waves = 1 + int(2 * draw[3 * axis])
            wave = wave * (2 * torch.pi * (waves * x + draw[3 * axis + 1] + 0.02 * t)).sin()
        u[b, t, c] = wave + 0.3 * torch.randn(1, generator=generator)
    return u * torch.tensor(spec.u_rms).reshape(-1, *(1,) * len(spec.grid))


def nrmse(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("decoder", ["patch", "points"])
@pytest.mark.parametrize("encoder", ["grid", "points"])
@pytest.mark.parametrize(("operator", "shift"), [("stacked", (2, -6)), ("u_shaped", (8, 8)), ("u_shaped", (-16, 0))])
def test_a_shifted_periodic_field_has_a_shifted_future(operator, shift, encoder, decoder, prediction) -> None:
    """By whole patches; of a U by whole windows of its coarsest level. Every node is a supernode."""
    model = make(
        specs=[WIDE], trained=True, encoder=encoder, decoder=decoder, prediction=prediction, supernodes=512,
        **OPERATORS[operator], **FINE,
    ).eval()  # fmt: skip
    u, *rest = inputs(WIDE, batch=1)
    with torch.no_grad():
        predicted = model(u, *rest, 3)
        shifted = model(u.roll(shift, (3, 4)), *rest, 3)
    assert nrmse(predicted, u.expand_as(predicted)) > 0.05
    assert nrmse(predicted, predicted.roll(shift, (3, 4))) > 0.5
    assert nrmse(shifted, predicted.roll(shift, (3, 4))) < 1e-4


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("operator", "encoder", "decoder"),
    [("stacked", "grid", "patch"), ("stacked", "points", "points"), ("u_shaped", "grid", "points")],
)
def test_a_rollout_in_bf16_stays_close_to_one_in_float32(operator, encoder, decoder, prediction) -> None:
    settings = {"encoder": encoder, "decoder": decoder, "prediction": prediction, **OPERATORS[operator], **FINE}
    exact, rough = (make(specs=[WIDE], trained=True, std=0.1, **settings).eval() for _ in range(2))
    rough.to(torch.bfloat16)
    u, (_, *rest) = smooth(WIDE), inputs(WIDE, batch=2)
    with torch.no_grad():
        expected, found = exact(u, *rest, 8), rough(u, *rest, 8)
    assert found.dtype == torch.float32
    assert nrmse(expected, u.expand_as(expected)) > 0.05
    # Frame k is the difference of two decoded ones, and the any-point decoder's products are in bf16.
    assert 0 < nrmse(found, expected) < (0.02 if (prediction, decoder) == ("latent", "points") else 0.006)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_order_of_the_points_changes_nothing_but_the_order(prediction: str) -> None:
    model = make(specs=[POINTS], trained=True, prediction=prediction, supernodes=16, neighbours=4, **FREE).eval()
    u, *rest = inputs(POINTS)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        predicted, permuted = model(u, *rest, 3), model(u[..., order], *rest, 3)
    assert nrmse(predicted[:, :, 2], u[:, :, 2].expand_as(predicted[:, :, 2])) > 0.05
    torch.testing.assert_close(permuted, predicted[..., order], rtol=1e-5, atol=1e-5)


def own_grid(spec, u: torch.Tensor) -> torch.Tensor:
    """(B, Q, d) where the points of the fields lie, in the domain's coordinates."""
    low, high = (torch.tensor([ends[side] for ends in spec.extents]) for side in (0, 1))
    return own_places(spec, u[:, -1]) * (high - low) + low


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spec", [LINE, PLANE, TORUS, POINTS], ids=lambda spec: spec.name)
def test_asked_at_its_own_points_the_model_gives_what_it_gives_anyway(spec, prediction: str) -> None:
    model = make(specs=[LINE, PLANE, TORUS, POINTS], trained=True, prediction=prediction, **FREE).eval()
    u, *rest = inputs(spec)
    with torch.no_grad():
        expected = model(u, *rest, 2)
        scattered = model(u, *rest, 2, at=own_grid(spec, u))
        torch.testing.assert_close(scattered.unflatten(3, spec.grid), expected, rtol=1e-4, atol=1e-4)
        if spec.geometry == "grid":
            torch.testing.assert_close(model(u, *rest, 2, at=spec.grid), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spec", [LINE, PLANE, TORUS, POINTS], ids=lambda spec: spec.name)
@pytest.mark.parametrize("scattered", [True, False])
def test_untrained_and_asked_elsewhere_the_last_frame_is_interpolated(spec, prediction: str, scattered: bool) -> None:
    model = make(specs=[spec], prediction=prediction, **FREE).eval()
    u, *rest = inputs(spec)
    low, high = (torch.tensor([ends[side] for ends in spec.extents]) for side in (0, 1))
    at = (7, 9, 5)[: spec.dimensions]
    if scattered:
        at = low + (high - low) * torch.rand(3, 11, spec.dimensions, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        predicted = model(u, *rest, 2, at=at)
    asked = ask(spec, model.lattices[spec.name], at, own_places(spec, u[:, -1]), None)
    interpolated = asked.interpolate(u[:, -1])
    torch.testing.assert_close(predicted, interpolated[:, None].expand_as(predicted), rtol=1e-5, atol=1e-5)
    if scattered and spec.geometry == "points":  # a point set's coordinates are those asked for
        torch.testing.assert_close(predicted[:, 0, :2], at.transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_an_interpolated_wave_is_the_wave() -> None:
    """`at` is in the domain's own coordinates, and a grid's points are the centres of its cells."""
    wide = replace(LINE, grid=(64,), extents=((-2.0, 3.0),))
    model = make(specs=[wide], prediction="field", **FREE).eval()
    x = -2 + 5 * (torch.arange(64) + 0.5) / 64
    at = torch.linspace(-2.0, 2.99, 33).reshape(1, 33, 1)
    wave = lambda x: (2 * torch.pi * x / 5 + 0.7).sin()  # noqa: E731
    _, *rest = inputs(wide, batch=1)
    with torch.no_grad():
        found = model(wave(x).reshape(1, 1, 1, 64), *rest, 1, at=at)
    torch.testing.assert_close(found[0, 0, 0], wave(at[0, :, 0]), rtol=0, atol=2e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("elsewhere", [True, False])
def test_steps_picks_frames_of_the_whole_rollout(prediction: str, elsewhere: bool) -> None:
    model = make(specs=[PLANE], trained=True, prediction=prediction, **FREE).eval()
    u, *rest = inputs(PLANE)
    at = {"at": (5, 6)} if elsewhere else {}
    with torch.no_grad():
        whole = model(u, *rest, 4, **at)
        assert nrmse(whole[:, 1], whole[:, 2]) > 0.01
        torch.testing.assert_close(model(u, *rest, 4, steps=[2], **at), whole[:, 1:2])
        torch.testing.assert_close(model(u, *rest, 4, steps=[4, 1], **at), whole[:, [0, 3]])
        assert model(u, *rest, 4, steps=[], **at).shape == (3, 0, 2, *whole.shape[3:])


@pytest.mark.parametrize("spec", [LINE, POINTS], ids=lambda spec: spec.name)
def test_a_latent_model_that_has_not_learned_to_advance_is_persistence(spec) -> None:
    """Whatever its encoder and decoder say: the operator's last layer is zero."""
    model = make(specs=[spec], trained=True, prediction="latent", **FREE).eval()
    with torch.no_grad():
        model.operator.out.weight.zero_()
        model.operator.out.bias.zero_()
        u, *rest = inputs(spec)
        predicted, reconstruction = model(u, *rest, 4, reconstruct=True)
        torch.testing.assert_close(predicted, u.expand_as(predicted), rtol=1e-6, atol=1e-6)
        assert nrmse(reconstruction, u[:, -1]) > 0.1


@pytest.mark.parametrize("spec", [PLANE, FORCED, POINTS], ids=lambda spec: spec.name)
def test_reconstruction_is_of_the_dynamic_fields_and_of_the_shape_asked_for(spec) -> None:
    model = make(specs=[spec], trained=True, prediction="latent", **FREE).eval()
    u, *rest = inputs(spec)
    with torch.no_grad():
        predicted, reconstruction = model(u, *rest, 2, reconstruct=True)
        assert predicted.shape == (3, 2, *u.shape[2:])
        assert reconstruction.shape == (3, *u.shape[2:])
        static = [number for number, name in enumerate(spec.fields) if name in spec.static]
        torch.testing.assert_close(reconstruction[:, static], u[:, -1, static], rtol=0, atol=0)
        none, alone = model(u, *rest, 0, reconstruct=True)
        assert none.shape == (3, 0, *u.shape[2:])
        torch.testing.assert_close(alone, reconstruction)
        for at, shape in (((5, 6), (5, 6)), (own_grid(spec, u)[:, :7], (7,))):
            predicted, elsewhere = model(u, *rest, 2, reconstruct=True, at=at)
            assert predicted.shape == (3, 2, len(spec.fields), *shape)
            assert elsewhere.shape == (3, len(spec.fields), *shape)
        torch.testing.assert_close(elsewhere, reconstruction.flatten(2)[..., :7], rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match=r'only a model of model\.prediction "latent" reconstructs'):
        make(specs=[spec], **FREE)(u, *rest, 1, reconstruct=True)


def test_a_reconstruction_is_in_the_fields_unit() -> None:
    """Scaled by the RMS of the context, not by the size to expect of a change; a steady solution has the data's."""
    hidden = {"conditioning": {"scale": False}, "trained": True, "prediction": "latent"}

    def reconstructed(spec, factor: float = 1.0, change: float = 1.0) -> torch.Tensor:
        spec = replace(spec, delta_rms=tuple(change * size for size in spec.delta_rms))
        u, *rest = inputs(spec)
        with torch.no_grad():
            return make(specs=[spec], **hidden).eval()(factor * u, *rest, 0, reconstruct=True)[1][:, -1]

    torch.testing.assert_close(reconstructed(TORUS, 10.0), 10 * reconstructed(TORUS), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reconstructed(TORUS, change=3.0), reconstructed(TORUS))
    torch.testing.assert_close(reconstructed(STEADY, 10.0), reconstructed(STEADY), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reconstructed(STEADY, change=3.0), 3 * reconstructed(STEADY), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spec", [PLANE, POINTS], ids=lambda spec: spec.name)
def test_gradients_of_a_whole_rollout(spec, prediction: str) -> None:
    """In float64, of weights of every part. The fields' scales are float32, so it ends before they are measured of a
    predicted frame."""
    small = replace(spec, grid=(4, 4) if spec is PLANE else (10,))
    model = make(
        specs=[small], trained=True, prediction=prediction, context_frames=2, model_dim=8, latent_dim=8, depth=1,
        patch_size=2, latent_tokens=4, supernodes=4, neighbours=2, conditioning={"geometry": False}, **FREE,
    ).double().eval()  # fmt: skip
    u, name, parameters, dt = inputs(small, batch=1, frames=2)
    for part, ends in PARTS.items():
        weights = [p for n, p in model.named_parameters() if n.startswith(part) and n.endswith(ends)]
        assert weights, part

        def change(*_: torch.Tensor) -> torch.Tensor:
            found = model(u.double(), name, parameters.double(), dt.double(), 2 if model.latent else 1)
            return found[..., ::3]

        assert torch.autograd.gradcheck(change, weights, fast_mode=True), part
