"""What a model is asked for: places, steps, wrong input; and what must not leak into the answer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_models import FORCED, LINE, PLANE, POINTS, inputs, make

from ups_scale.errors import CheckpointError, DataError, RecipeError
from ups_scale.model.geometry import of_mask
from ups_scale.model.simulator import Simulator

ANYWHERE = {"encoder": "auto", "decoder": "points"}


def test_places_outside_a_bounded_domain_have_no_value_and_periodic_ones_wrap() -> None:
    model = make(specs=[PLANE, LINE], trained=True, **ANYWHERE).eval()
    at = torch.tensor([[[0.0, -0.5], [1.5, -0.5], [0.0, -1.2], [math.nan, -0.5], [1.0, 0.0]]]).expand(3, -1, -1)
    found = model(*inputs(PLANE), 2, at=at)
    assert found.isfinite().flatten(0, 2).all(dim=0).tolist() == [True, False, False, False, True]
    assert found[..., 1:4].isnan().all()
    x = torch.rand(3, 7, 1)
    torch.testing.assert_close(model(*inputs(LINE), 2, at=x), model(*inputs(LINE), 2, at=x - 3.0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spec", [FORCED, replace(POINTS, masked=True)], ids=lambda spec: spec.name)
@pytest.mark.parametrize("prediction", ["field", "latent"])
def test_nothing_is_interpolated_from_points_without_a_value(spec, prediction: str) -> None:
    model = make(specs=[spec], trained=True, prediction=prediction, **{**ANYWHERE, "encoder": "points"}).eval()
    u, *rest = inputs(spec)
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[:, :, spec.dynamic[0], ..., -6:] = False
    low, high = (torch.tensor([ends[side] for ends in spec.extents]) for side in (0, 1))
    at = low + (high - low) * torch.rand(3, 60, 2, generator=torch.Generator().manual_seed(0))
    found = model(u, *rest, 2, mask_btcx=mask, at=at)[:, :, spec.dynamic[0]]
    again = model(torch.where(mask, u, 1e3), *rest, 2, mask_btcx=mask, at=at)[:, :, spec.dynamic[0]]
    assert 0.02 < found.isnan().float().mean() < 0.98
    torch.testing.assert_close(found, again, equal_nan=True)


def test_where_points_lie_along_a_periodic_axis_is_told_by_nothing() -> None:
    model = make(specs=[POINTS], trained=True, **ANYWHERE).eval()
    u, *rest = inputs(POINTS)
    there = u.clone()
    there[:, :, 1] += 1.0  # once round the periodic y axis
    found, again = model(u, *rest, 1)[:, :, 2], model(there, *rest, 1)[:, :, 2]
    torch.testing.assert_close(found, again, rtol=1e-4, atol=1e-4)


def test_a_geometry_is_the_same_however_the_patches_are_jittered(monkeypatch) -> None:
    spec = replace(FORCED, boundaries=(("periodic", "periodic"),) * 2)
    model = make(specs=[spec], patch_jitter=True, conditioning={"geometry_hash": True}).train()
    u, *rest = inputs(spec)
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[:, :, 0, 3:6, 2:5] = False
    seen, forward = [], model.conditioner.geometry.forward
    monkeypatch.setattr(model.conditioner.geometry, "forward", lambda g, k: seen.append(g.hash_b) or forward(g, k))
    for _ in range(6):
        model(u, *rest, 1, mask_btcx=mask)
    expected = of_mask(mask[:, 0, 0], spec.periodic).hash_b
    assert all(torch.equal(hash_b, expected) for hash_b in seen)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_reconstruction_needs_the_times_between_the_given_frames_alone(frames: int) -> None:
    model = make(specs=[LINE], context_frames=3, prediction="latent").eval()
    u, family, parameters, dt = inputs(LINE, frames=frames)
    predicted, reconstructed = model(u, family, parameters, dt[:, : frames - 1], 0, reconstruct=True)
    assert predicted.shape == (3, 0, 1, 32)
    assert reconstructed.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon 0: expected at least 1, or 0 to reconstruct only"),
        ({"steps": [5]}, r"steps \[5\]: expected some of 1 to 2"),
        ({"steps": [0]}, r"steps \[0\]: expected some of 1 to 2"),
        ({"at": [8, 8]}, "asked at list; expected a tuple of 2 sizes of a grid, or a floating-point tensor of points"),
        ({"at": (8,)}, "asked at a grid of 8; expected a tuple of 2 sizes"),
        ({"at": (0, 8)}, "asked at a grid of 0x8; expected a tuple of 2 sizes"),
        ({"at": torch.rand(1, 5, 2)}, r"asked at points of shape \(1, 5, 2\); expected .* of shape \(3, Q, 2\)"),
        ({"context_btcx": 3.0}, "context_btcx is float; expected a torch tensor of float32"),
        ({"parameters_bp": None}, "parameters_bp is NoneType; expected a torch tensor"),
        ({"parameters_bp": torch.ones(3, 1)}, r"parameters_bp of shape \(3, 1\), expected \(3, 3\): du, dv, k"),
        ({"dt_bt": torch.ones(3, 8, dtype=torch.int64)}, "dt_bt is torch.int64; expected"),
        ({"reconstruct": True}, 'only a model of model.prediction "latent" reconstructs'),
    ],
)
def test_wrong_input_is_a_data_error(change: dict, message: str) -> None:
    model = make(specs=[PLANE], decoder="points").eval()
    names = ("context_btcx", "family", "parameters_bp", "dt_bt")
    arguments = {**dict(zip(names, inputs(PLANE), strict=True)), "horizon": 2, **change}
    with pytest.raises(DataError, match=message):
        model(**arguments)


def test_a_point_sets_shape_names_its_places() -> None:
    model = make(specs=[POINTS], **ANYWHERE)
    u, *rest = inputs(POINTS)
    with pytest.raises(DataError, match=r"being x, y, height, of which x, y are the places. Another .* number"):
        model(u[..., :30], *rest, 1)


def test_heads_that_an_encoder_of_points_cannot_have_are_named() -> None:
    with pytest.raises(
        RecipeError, match=r"model.latent_dim 8 can't be cut into heads about as wide as the operator's, 16"
    ):
        make(specs=[LINE], encoder="points", latent_dim=8)
    with pytest.raises(RecipeError, match=r"heads of width 2 .* rotate 1 pairs.*lower model.num_heads to 8"):
        make(specs=[PLANE], num_heads=16)


def test_a_checkpoint_folder_is_loaded_and_a_damaged_one_said(tmp_path) -> None:
    make(specs=[LINE]).save_pretrained(tmp_path / "step-5" / "model")
    assert list(Simulator.from_pretrained(tmp_path / "step-5").specs) == [LINE.name]
    with pytest.raises(CheckpointError, match=r"it has no model.json\); name a folder that save_pretrained wrote"):
        Simulator.from_pretrained(tmp_path)
    path = tmp_path / "step-5" / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"is cut off or damaged .* copy the folder again"):
        Simulator.from_pretrained(tmp_path / "step-5")
