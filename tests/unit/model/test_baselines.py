"""Other people's networks as simulators: applied, trained in all their weights, symmetric where the domain is, saved,
and taken to other resolutions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import BOX, LINE, PLANE, POINTS, STEADY, TORUS, inputs, make

from ups_scale.errors import DataError, RecipeError
from ups_scale.model import baselines
from ups_scale.model.extend import extended
from ups_scale.model.simulator import Simulator
from ups_scale.observe.activations import activations
from ups_scale.observe.flops import forward_flops
from ups_scale.physics.families import FamilySpec

WAVES = replace(LINE, grid=(64,))
REACTION = replace(PLANE, grid=(32, 16))
VORTICES = replace(TORUS, grid=(32, 16))
DARCY = replace(STEADY, grid=(16, 16))
SPECS = (WAVES, REACTION, VORTICES, DARCY)
PERIODIC = (WAVES, VORTICES)
SETTINGS = {"fno": {"modes": [16, 8, 4], "model_dim": 12}, "unet": {"model_dim": 8}}
operators = pytest.mark.parametrize("operator", SETTINGS)


def zoo(operator: str, specs: tuple[FamilySpec, ...] = SPECS, trained: bool = True, **changes: object) -> Simulator:
    settings = {"depth": 2, **SETTINGS[operator], **changes}
    return make(specs=specs, operator=operator, trained=trained, **settings).eval()


def moved(model: Simulator, spec: FamilySpec, offsets: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model predicts from shifted fields, and its prediction shifted."""
    u, *rest = inputs(spec)
    axes = tuple(range(3, 3 + len(offsets)))
    with torch.no_grad():
        return model(u.roll(offsets, axes), *rest, 2), model(u, *rest, 2).roll(offsets, axes)


@operators
def test_untrained_it_is_persistence_and_with_an_absolute_target_zero(operator: str) -> None:
    for spec in SPECS:
        given = inputs(spec)
        model = zoo(operator, trained=False)
        assert torch.equal(model(*given, 2), given[0].expand(-1, 2, *given[0].shape[2:]))
        found = zoo(operator, trained=False, target="absolute")(*given, 1)
        dynamic = list(spec.dynamic)
        assert not found[:, :, dynamic].any()
        static = [number for number in range(len(spec.fields)) if number not in dynamic]
        assert torch.equal(found[:, :, static], given[0][:, :, static])


@operators
def test_the_network_changes_the_output_at_every_layer(operator: str) -> None:
    """A benchmark's Fourier layers were once built and never called."""
    model, given = zoo(operator), inputs(VORTICES)
    expected = model(*given, 1)
    trunk = model.operator.trunks["2"]
    layers = list(trunk.blocks.convs) if operator == "fno" else [getattr(trunk.net, f"down_{n}") for n in (1, 2, 3, 4)]
    assert len(layers) == (2 if operator == "fno" else 4)
    for layer in layers:
        before = {name: weight.clone() for name, weight in layer.named_parameters()}
        with torch.no_grad():
            for weight in layer.parameters():
                weight.mul_(1.5)
        assert (model(*given, 1) - expected).abs().max() > 1e-3
        with torch.no_grad():
            for name, weight in layer.named_parameters():
                weight.copy_(before[name])
    assert torch.equal(model(*given, 1), expected)


@operators
def test_every_weight_has_a_gradient_whatever_the_family(operator: str) -> None:
    model = zoo(operator).train()
    moved_by_any: set[str] = set()
    for spec in SPECS:
        model.zero_grad()
        model(*inputs(spec), 2).square().sum().backward()
        # Under ZeRO every weight takes part in every backward pass.
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
        moved_by_any |= {name for name, weight in model.named_parameters() if weight.grad.any()}
    still = {name for name, _ in model.named_parameters()} - moved_by_any
    # Nulls of what is given, and the geometry that a full grid has not.
    assert all("null" in name or "geometry" in name for name in still), still


@operators
@pytest.mark.parametrize("spec", PERIODIC, ids=lambda spec: spec.name)
def test_shifting_a_periodic_domain_shifts_the_prediction(operator: str, spec: FamilySpec) -> None:
    """FNO by any number of points, U-Net by those that are one at its coarsest level."""
    stride = 1 if operator == "fno" else baselines.UNET_STRIDE
    model = zoo(operator)
    found, expected = moved(model, spec, tuple(stride * (3 + axis) for axis in range(spec.dimensions)))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@operators
def test_a_bounded_domain_is_no_periodic_one(operator: str) -> None:
    found, expected = moved(zoo(operator), REACTION, (16, 0))
    assert (found - expected).abs().max() > 1e-3 * expected.abs().max()


def test_a_unet_pads_each_axis_by_its_own_kind() -> None:
    conv = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
    torch.nn.init.ones_(conv.weight)
    edges = baselines._Edges(2)
    padded = baselines.EdgeConv(conv, edges)
    u = torch.arange(12.0).reshape(1, 1, 3, 4)
    edges.periodic = (True, False)
    # Of the corner: rows 2, 0, 1 (round the end) and columns 0, 0, 1 (the first again).
    expected = sum(u[0, 0, row, column] for row in (2, 0, 1) for column in (0, 0, 1))
    assert padded(u)[0, 0, 0, 0].item() == expected
    assert padded(u).shape == u.shape


@operators
def test_other_resolutions_need_no_fresh_weights_and_change_nothing(operator: str) -> None:
    model = zoo(operator)
    sizes = {WAVES: (128,), REACTION: (48, 20), VORTICES: (17, 33)}
    variants = [replace(spec, name=f"{spec.name}-other", grid=grid) for spec, grid in sizes.items()]
    larger, fresh = extended(model, variants)
    assert fresh == []
    for spec in SPECS:
        assert torch.equal(larger(*inputs(spec), 2), model(*inputs(spec), 2))
    for spec in variants:
        predicted = larger(*inputs(spec), 1)
        assert predicted.shape[3:] == spec.grid
        assert predicted.isfinite().all()


def test_an_fno_gives_the_same_function_on_a_finer_grid() -> None:
    """Of one mode, which both grids hold exactly."""
    model = zoo("fno", target="absolute")
    fine = replace(WAVES, name="advection_1d-fine", grid=(128,))
    larger, _ = extended(model, [fine])
    waves = {spec: torch.sin(2 * torch.pi * torch.arange(spec.grid[0]) / spec.grid[0]) for spec in (WAVES, fine)}
    coarse_h, fine_h = (
        larger(waves[spec][None, None, None], spec.name, torch.ones(1, 1), torch.full((1, 1), 0.05), 1)[0, 0, 0]
        for spec in (WAVES, fine)
    )
    assert (fine_h[::2] - coarse_h).abs().max() < 0.05 * coarse_h.abs().max()


@operators
def test_a_saved_model_predicts_the_same(operator: str, tmp_path: Path) -> None:
    model = zoo(operator, target="absolute")
    model.save_pretrained(tmp_path)
    loaded = Simulator.from_pretrained(tmp_path)
    assert loaded.baseline
    assert model.arguments["model"].items() <= loaded.arguments["model"].items()
    for spec in SPECS:
        assert torch.equal(loaded(*inputs(spec), 2), model(*inputs(spec), 2))
    assert not any(weight.is_complex() for weight in model.parameters()), "optimizers and files take real numbers"


@operators
def test_frames_that_are_missing_and_masks_are_respected(operator: str) -> None:
    model = zoo(operator, context_frames=2)
    given = inputs(VORTICES, frames=1)
    assert model(*given, 2).shape[1] == 2
    context, *rest = inputs(VORTICES, frames=2)
    mask = torch.rand(context.shape, generator=torch.Generator().manual_seed(0)) > 0.2
    predicted = model(context, *rest, 2, mask_btcx=mask)
    land = ~mask[:, -1]
    for step in range(2):
        assert torch.equal(predicted[:, step][land], context[:, -1][land])
    absolute = zoo(operator, context_frames=2, target="absolute")(context, *rest, 1, mask_btcx=mask)[:, 0]
    assert torch.equal(absolute[land], context[:, -1][land])
    assert not torch.equal(absolute[~land], context[:, -1][~land])


def test_three_axes() -> None:
    cube = replace(BOX, grid=(16, 16, 16))
    for operator in SETTINGS:
        assert zoo(operator, specs=(cube,))(*inputs(cube, batch=1), 1).shape[2:] == (5, 16, 16, 16)


def test_our_own_model_can_have_an_absolute_target_too() -> None:
    model, given = make(target="absolute", trained=True).eval(), inputs(LINE)
    assert model(*given, 2).isfinite().all()
    twice = model(2 * given[0], *given[1:], 1)
    assert not torch.equal(twice, 2 * model(*given, 1)), "the scale is told"
    assert not make(target="absolute").eval()(*given, 1).any()


def test_families_that_a_network_cannot_take_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"grid of 8 points, .* at least 16 along each axis; leave the family out"):
        zoo("unet", specs=(replace(LINE, grid=(8,)),))
    with pytest.raises(RecipeError, match=r'is a point set, and model.operator "fno" needs a grid'):
        zoo("fno", specs=(POINTS,))
    with pytest.raises(RecipeError, match=r'"pdetransformer" takes 2 axes of multiples of 16 points'):
        make(specs=(WAVES,), operator="pdetransformer", model_dim=96)
    with pytest.raises(DataError, match="gives fields at the input's own points only"):
        zoo("fno")(*inputs(WAVES), 1, at=(7,))


def test_a_package_that_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "find_spec", lambda name: None)
    for operator, package in (("fno", "neuralop"), ("unet", "monai"), ("pdetransformer", "pdetransformer")):
        with pytest.raises(RecipeError, match=rf'"{operator}" is the package {package}\'s, .* not installed: pip'):
            make(specs=(replace(VORTICES, grid=(32, 32)),), operator=operator, model_dim=96)


@operators
def test_operations_and_activations_are_counted(operator: str) -> None:
    with torch.device("meta"):
        model = zoo(operator, trained=False)
    for spec in SPECS:
        assert forward_flops(model, spec.name) > 0
        none, full = (activations(model, spec.name, mode).per_sample for mode in ("none", "full"))
        assert 0 < full < none / 2


def test_the_operations_of_an_fno_by_hand() -> None:
    """Of its Fourier layers: transforms of n log n, and 8 real operations for each complex product."""
    with torch.device("meta"):
        shallow, deep = (zoo("fno", specs=(WAVES,), trained=False, depth=depth) for depth in (1, 2))
    points, width, kept = 64, SETTINGS["fno"]["model_dim"], 9
    transforms = 2 * 5 * width * points * 6 // 2
    pointwise = 2 * points * (width * width + 2 * width * (width // 2))
    layer = transforms + 8 * width * width * kept + pointwise
    assert forward_flops(deep, WAVES.name) - forward_flops(shallow, WAVES.name) == layer
