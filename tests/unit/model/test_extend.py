"""A model extended by families keeps what it has learned, and says which of its weights are new."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_models import FORCED, LINE, PLANE, POINTS, STEADY, TORUS, inputs, make

from ups_scale.errors import DataError
from ups_scale.model.extend import extended
from ups_scale.model.simulator import Simulator

LEARNED = (LINE, PLANE)
SETTINGS = {
    "grid, patch": {"encoder": "grid", "decoder": "patch"},
    "points, points, latent": {"encoder": "points", "decoder": "points", "prediction": "latent"},
    "u": {"operator": "u_shaped", "depth": 3, "latent_tokens": 32},
    "separated": {"channel_separated": True, "accept_stacked_separated": True, "context_frames": 2},
}


def predictions(model: Simulator, specs) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(*inputs(spec), 2) for spec in specs]


def rows(model: Simulator) -> dict[str, torch.Tensor]:
    """Every weight by its name, and those of tables by the name of their row."""
    found = {}
    for path, module in model.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            if hasattr(module, "row_names"):
                found |= {f"{path}.{name}[{row}]": values for row, values in zip(module.row_names, weight, strict=True)}
            else:
                found[f"{path}.{name}"] = weight
    return found


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("training", [True, False])
def test_what_was_known_stays_as_it_was(settings: dict, training: bool) -> None:
    model = make(specs=LEARNED, trained=True, **settings).eval()
    before, weights = (
        predictions(model, LEARNED),
        {name: weight.detach().clone() for name, weight in rows(model).items()},
    )
    model.train(training)
    larger, fresh = extended(model, [TORUS, FORCED, STEADY])
    assert larger.training == training
    assert list(larger.specs) == [spec.name for spec in (*LEARNED, TORUS, FORCED, STEADY)]
    for one, other in zip(before, predictions(larger.eval(), LEARNED), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    after = rows(larger)
    for name, weight in weights.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=0, msg=name)
        torch.testing.assert_close(rows(model)[name], weight, rtol=0, atol=0, msg=name)
    assert weights.keys() < after.keys()
    assert after.keys() - weights.keys() >= set(fresh)
    for spec in (TORUS, FORCED, STEADY):
        assert all(torch.isfinite(frame).all() for frame in predictions(larger, [spec]))


def test_weights_that_are_new_are_named() -> None:
    """New fields, parameters and families take rows; nothing else is new. A field that is cut by no known patch has
    no weights to resize."""
    model = make(specs=LEARNED, trained=True)
    _, fresh = extended(model, [TORUS])
    projection, head = "encoders.grid.projections.4x4", "decoders.patch.heads.4x4"
    table = "conditioner.parameter_values"
    assert sorted(fresh) == sorted(
        [
            *(f"{table}.{name}[nu]" for name in ("frequency", "weight", "null")),
            *(f"conditioner.scale.{name}[vorticity]" for name in ("frequency", "weight", "null")),
            "conditioner.family.weight[navier_stokes_2d]",
            *(f"{projection}.{name}[vorticity]" for name in ("weight", "bias")),
            *(f"{head}.{name}[vorticity]" for name in ("weight", "bias")),
        ]
    )


def test_new_rows_are_as_a_new_model_has_them() -> None:
    model = make(specs=[LINE], trained=True)
    torch.manual_seed(5)
    larger, _ = extended(model, [TORUS])
    torch.manual_seed(5)
    new = rows(make(5, specs=[LINE, TORUS]))
    found = rows(larger)
    for name in ("conditioner.family.weight[navier_stokes_2d]", "encoders.grid.projections.4x4.weight[vorticity]"):
        torch.testing.assert_close(found[name], new[name], rtol=0, atol=0)
    u, *rest = inputs(TORUS)
    with torch.no_grad():  # its head is zero, so it starts as persistence
        torch.testing.assert_close(larger(u, *rest, 2), u.expand(-1, 2, -1, -1, -1))


def test_a_variant_shares_what_its_family_has_learned() -> None:
    model = make(specs=LEARNED, trained=True).eval()
    variant = replace(PLANE, name="reaction_diffusion_2d-again")
    larger, fresh = extended(model, [variant])
    assert fresh == []
    with torch.no_grad():
        u, _, *rest = inputs(PLANE)
        torch.testing.assert_close(larger(u, variant.name, *rest, 2), model(u, PLANE.name, *rest, 2), rtol=0, atol=0)


def advected(spec, shift: float, seed: int, batch: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1, 1, X) sums of two waves, and the same moved by `shift` of the domain."""
    x = (torch.arange(spec.grid[0]) + 0.5) / spec.grid[0]
    phase, size = torch.rand(2, batch, 2, 1, generator=torch.Generator().manual_seed(seed))
    waves = torch.tensor([1.0, 2.0]).reshape(2, 1)

    def at(place: torch.Tensor) -> torch.Tensor:
        return ((0.5 + size) * (2 * math.pi * (waves * place + phase)).sin()).sum(dim=1)[:, None, None]

    return at(x), at(x - shift)


def trained_to_advect(**settings: object) -> Simulator:
    model = make(specs=[LINE], **settings).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(250):
        u, expected = advected(LINE, 0.04, seed=step)
        _, *rest = inputs(LINE, batch=8)
        loss = (model(u, *rest, 1) - expected).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_a_known_family_at_another_resolution_needs_no_training() -> None:
    """The model has learned to move waves on 32 points; on 64 and 128 it moves them as well, with resized patches."""
    model = trained_to_advect(latent_tokens=8)

    def error(model: Simulator, spec) -> float:
        u, expected = advected(spec, 0.04, seed=1000)
        _, _, parameters, dt = inputs(LINE, batch=8)
        with torch.no_grad():
            found = model(u, spec.name, parameters, dt, 1)
        return float((found - expected).norm() / (u - expected).norm())

    own = error(model, LINE)
    assert own < 0.15
    for points in (64, 128):
        other = replace(LINE, name=f"advection_1d-{points}", grid=(points,))
        larger, fresh = extended(model, [other])
        assert fresh == []
        assert larger.tilings[other.name].lattice == model.tilings[LINE.name].lattice
        assert error(larger, other) < own + 0.05
        u, _ = advected(other, 0.04, seed=1000)
        _, _, parameters, dt = inputs(LINE, batch=8)
        with torch.no_grad():
            fine = larger(u, other.name, parameters, dt, 1)[:, 0, 0]
            u = F.avg_pool1d(u[:, 0, 0][:, None], points // 32)
            coarse = model(u[:, None], LINE.name, parameters, dt, 1)[:, 0, 0]
        assert (F.avg_pool1d(fine[:, None], points // 32)[:, 0] - coarse).norm() / (coarse - u[:, 0]).norm() < 0.05


def test_patches_of_two_axes_are_resized_too() -> None:
    """Of several fields and context frames, on as many tokens: a field that is linear in space gives the same ones."""
    model = make(specs=[PLANE], trained=True, context_frames=2, latent_tokens=8).eval()
    other = replace(PLANE, name="reaction_diffusion_2d-other", grid=(28, 16))
    larger, fresh = extended(model, [other])
    assert fresh == []
    assert larger.lattices[other.name] == model.lattices[PLANE.name] == (4, 2)

    def tokens(spec) -> torch.Tensor:
        x, y = torch.meshgrid(*((torch.arange(size) + 0.5) / size for size in spec.grid), indexing="ij")
        fields = torch.stack([x + 0.5 * y, 1 - y, 0.3 * x - y, 0.2 + y]).unflatten(0, (2, 2))
        with torch.no_grad():
            return larger.encoders["grid"](fields[None], spec)

    torch.testing.assert_close(tokens(other), tokens(PLANE), rtol=1e-3, atol=1e-4)
    (found,) = predictions(larger, [other])
    assert torch.isfinite(found).all()


def test_the_nearest_known_patch_is_resized() -> None:
    """Near by its ratio: of patches of 4 and 16 points those of 4 serve patches of 7."""
    fine = replace(LINE, name="advection_1d-fine", grid=(128,))
    model = make(specs=[LINE, fine], trained=True, latent_tokens=8)
    other = replace(LINE, name="advection_1d-other", grid=(33,), boundaries=(("neumann", "neumann"),))
    weight = "encoders.grid.projections.{}.weight[u]".format
    patches = {"4": 4.0, "16": 16.0}
    with torch.no_grad():
        for patch, value in patches.items():
            model.encoders["grid"].projections[patch].weight.fill_(value)
    larger, fresh = extended(model, [other])
    assert fresh == []
    total = rows(larger)[weight("7")].sum(dim=0)  # a constant field gives the token that it gave
    torch.testing.assert_close(total, torch.full_like(total, 4 * patches["4"]))


def test_a_u_that_merges_otherwise_has_new_weights_to_merge() -> None:
    u_shaped = {"operator": "u_shaped", "depth": 3, "patch_size": 4, "latent_tokens": 32}
    model = make(specs=[PLANE], trained=True, **u_shaped).eval()
    assert model.lattices[PLANE.name] == (4, 2)
    same = replace(PLANE, name="reaction_diffusion_2d-large", grid=(32, 16))
    assert extended(model, [same])[1] == []
    narrow = replace(PLANE, name="reaction_diffusion_2d-narrow", grid=(16, 4))
    before = predictions(model, [PLANE])
    larger, fresh = extended(model, [narrow])
    assert larger.lattices[narrow.name] == (4, 1)
    assert fresh
    assert all(name.startswith(("operator.merges.0.", "operator.splits.0.")) for name in fresh), fresh
    assert {name.split(".")[1] for name in fresh} == {"merges", "splits"}
    torch.testing.assert_close(predictions(larger, [PLANE])[0], before[0], rtol=0, atol=0)


@pytest.mark.parametrize("prediction", ["field", "latent"])
def test_a_point_family_takes_another_number_of_points(prediction: str) -> None:
    model = make(specs=[LINE, POINTS], trained=True, encoder="auto", decoder="auto", prediction=prediction).eval()
    before = predictions(model, [LINE, POINTS])
    other = replace(POINTS, name="shallow_water_2d-points70", grid=(70,))
    larger, fresh = extended(model, [other])
    assert fresh == []
    for one, two in zip(before, predictions(larger, [LINE, POINTS]), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    (found,) = predictions(larger, [other])
    assert found.shape == (3, 2, 3, 70)
    assert torch.isfinite(found).all()


def test_a_model_of_grids_takes_its_first_point_family() -> None:
    """All of what serves points is new, and is named so."""
    model = make(specs=[PLANE], trained=True, encoder="auto", decoder="auto").eval()
    before = predictions(model, [PLANE])
    larger, fresh = extended(model, [POINTS])
    torch.testing.assert_close(predictions(larger, [PLANE])[0], before[0], rtol=0, atol=0)
    ends = ("encoders.points.", "decoders.points.")
    new = {name for name in rows(larger) if name.startswith(ends)}
    assert new == {name for name in fresh if name.startswith(ends)}
    assert {name for name in fresh if not name.startswith(ends)} == {
        "conditioner.family.weight[shallow_water_2d]",
        *(f"conditioner.scale.{name}[{field}]" for name in ("frequency", "weight", "null") for field in ("height",)),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"fields": ("activator", "other")},
            r"family reaction_diffusion_2d: fields \(activator, other\), but the model knows it with \(activator, "
            r"inhibitor\); name the variant reaction_diffusion_2d-<something>",
        ),
        (
            {"parameters": ("k",)},
            r"family reaction_diffusion_2d: parameters \(k,\), but the model knows it with \(du, dv, k\); name",
        ),
        (
            {"grid": (32, 16)},
            r"family reaction_diffusion_2d: grid \(32, 16\), but the model knows it with \(16, 8\); name the variant",
        ),
    ],
)
def test_a_family_that_is_known_as_something_else_is_refused(change: dict, message: str) -> None:
    model = make(specs=LEARNED)
    with pytest.raises(DataError, match=message):
        extended(model, [replace(PLANE, **change)])


def test_a_known_family_is_not_added_twice() -> None:
    model = make(specs=LEARNED, trained=True)
    larger, fresh = extended(model, [PLANE])
    assert fresh == []
    assert list(larger.specs) == [spec.name for spec in LEARNED]
    assert larger.state_dict().keys() == model.state_dict().keys()


def test_an_extended_model_is_saved_and_loaded(tmp_path) -> None:
    model = make(specs=[LINE, POINTS], trained=True, encoder="auto", decoder="auto")
    large = replace(POINTS, name="shallow_water_2d-points70", grid=(70,))
    specs = [LINE, POINTS, FORCED, large]
    larger, _ = extended(model, [FORCED, large])
    larger.eval().save_pretrained(tmp_path)
    loaded = Simulator.from_pretrained(tmp_path)
    assert not loaded.differences
    assert list(loaded.specs.values()) == specs
    for one, other in zip(predictions(larger, specs), predictions(loaded, specs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
