"""How data that differ from the training data are taken: as what, with which scales, and what is refused and why."""

from dataclasses import replace

import pytest
import torch
from small_models import LINE, PLANE, POINTS, TORUS, inputs, make

from ups_scale.errors import DataError
from ups_scale.evaluate.loading import fit
from ups_scale.evaluate.variants import fitted, match, same_extents

KNOWN = {spec.name: spec for spec in (LINE, PLANE, TORUS)}
FINER = replace(TORUS, grid=(32, 16), u_rms=(9.0,), delta_rms=(7.0,), dt=0.06)


def test_what_was_trained_on_is_taken_as_it_is():
    found = match(replace(LINE, u_rms=(5.0,)), KNOWN)
    assert (found.known_as, found.taken_as, found.variant) == ("advection_1d", "", None)
    nearly = replace(LINE, extents=((0.0, 1.0 + 1e-7),))
    assert same_extents(nearly, LINE)
    assert match(nearly, KNOWN).variant is None


def test_the_same_data_by_another_name_is_taken_as_what_is_known():
    found = match(replace(LINE, name="advection_1d-beta0_1"), KNOWN)
    assert (found.known_as, found.taken_as, found.variant) == ("advection_1d", "advection_1d", None)


@pytest.mark.parametrize(("name", "becomes"), [("navier_stokes_2d-32x16", "navier_stokes_2d-32x16"), (None, None)])
def test_a_variant_has_the_scales_of_the_training_data(name, becomes):
    found = match(replace(FINER, name=name or FINER.name), KNOWN, reserved=("navier_stokes_2d-32x16",))
    assert found.known_as == found.variant.name == (becomes or "navier_stokes_2d-32x16_2")
    assert found.taken_as == "navier_stokes_2d, fitted without training to grid 32 x 16 (trained on grid 16 x 8)"
    variant = found.variant
    assert (variant.u_rms, variant.delta_rms, variant.dt) == (TORUS.u_rms, TORUS.delta_rms, TORUS.dt)
    assert variant.grid == (32, 16)


def test_another_domain_boundary_or_number_of_points_is_said():
    other = replace(PLANE, extents=((0.0, 2.0), (-1.0, 0.0)), boundaries=(("wall", "open"), ("neumann", "neumann")))
    taken = match(other, KNOWN).taken_as
    assert "domain 0 to 2 x -1 to 0 (trained on -1 to 1 x -1 to 0)" in taken
    assert "boundaries wall to open x neumann (trained on neumann x neumann)" in taken
    fewer = replace(POINTS, name="shallow_water_2d-points24", grid=(24,))
    assert "24 points (trained on 40 points)" in match(fewer, {POINTS.name: POINTS}).taken_as


def test_the_nearest_of_several_is_taken():
    coarse, fine = replace(TORUS, u_rms=(1.0,)), replace(FINER, name="navier_stokes_2d-fine", dt=TORUS.dt)
    walled = replace(FINER, name="navier_stokes_2d-walls", boundaries=(("wall", "wall"),) * 2)
    known = {spec.name: spec for spec in (coarse, fine, walled)}
    assert match(replace(TORUS, name="navier_stokes_2d-x", grid=(40, 20)), known).variant.u_rms == fine.u_rms
    assert match(replace(TORUS, name="navier_stokes_2d-x", grid=(8, 8)), known).variant.u_rms == coarse.u_rms


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            replace(LINE, name="kdv_1d"),
            "the model does not know the family kdv_1d; it knows advection_1d, navier_stokes_2d, reaction_diffusion_2d",
        ),
        (
            replace(TORUS, fields=("streamfunction",)),
            "it has fields (streamfunction), parameters (nu), 2 axes, grid 16 x 8; the model knows navier_stokes_2d: "
            "fields (vorticity), parameters (nu), 2 axes, grid 16 x 8",
        ),
        (replace(LINE, parameters=("beta", "nu")), "it has fields (u), parameters (beta, nu), 1 axis"),
        (
            replace(TORUS, grid=(64,), geometry="points", coordinates=("x", "y"), static=("x", "y")),
            "2 axes, 64 points, coordinates (x, y); the model knows navier_stokes_2d: fields (vorticity)",
        ),
        (replace(LINE, steady=True), "grid 32, steady; the model knows advection_1d"),
    ],
)
def test_what_does_not_match_is_refused_with_what_the_model_knows(spec, message):
    with pytest.raises(DataError) as caught:
        match(spec, KNOWN)
    assert message in str(caught.value)


@pytest.mark.parametrize(("dt", "max_stride", "covered"), [(0.025, 1, 1), (0.1, 1, 1), (0.2, 2, 1), (0.02, 4, 0)])
def test_times_are_covered_from_half_to_twice_the_longest_stride(dt, max_stride, covered):
    spec = replace(LINE, dt=dt)
    if covered:
        assert match(spec, KNOWN, max_stride).known_as == "advection_1d"
        return
    with pytest.raises(DataError, match=r"0.05 s apart, trained at strides of 1 to 4, so 0.025 to 0.4 s"):
        match(spec, KNOWN, max_stride)


def test_times_that_are_not_covered_are_refused():
    with pytest.raises(DataError) as caught:
        match(replace(LINE, dt=0.11), KNOWN)
    assert str(caught.value).startswith(
        "its frames are 0.11 s apart (the median); the model knows advection_1d with frames 0.05 s apart, trained at a "
        "stride of 1, so 0.025 to 0.1 s. Shard frames of such times"
    )


@pytest.mark.parametrize("prediction", ["field", "latent"])
def test_the_fitted_model_takes_the_variant_and_predicts_the_same_elsewhere(prediction):
    model = make(trained=True, specs=[TORUS, POINTS], encoder="auto", decoder="auto", prediction=prediction).eval()
    fewer = replace(POINTS, name="shallow_water_2d-points24", grid=(24,))
    variants = [match(spec, model.specs).variant for spec in (FINER, fewer)]
    larger, refused = fitted(model, variants)
    assert refused == {}
    assert not larger.training
    with torch.no_grad():
        for spec in variants:
            context, name, parameters, dt = inputs(spec)
            assert larger(context, name, parameters, dt, 2).isfinite().all()
        for spec in (TORUS, POINTS):
            given = inputs(spec)
            torch.testing.assert_close(larger(*given, 2), model(*given, 2), rtol=1e-5, atol=1e-6)


def test_what_needs_untrained_weights_is_refused():
    model = make(specs=[TORUS])
    unknown = replace(LINE, name="navier_stokes_2d-line")
    found, refused = fitted(model, [unknown, replace(FINER, name="navier_stokes_2d-fine")])
    assert refused["navier_stokes_2d-line"].startswith("it needs weights that were never trained (")
    assert refused["navier_stokes_2d-line"].endswith("; fine-tune the model on it first")
    assert set(found.specs) == {"navier_stokes_2d", "navier_stokes_2d-fine"}
    crowded = replace(LINE, name="crowded", extents=((0.0, 1.0),) * 4)
    assert fitted(model, [crowded])[1]["crowded"].startswith("the model can't take it: family crowded has 4 axes")


def test_entries_are_taken_fitted_or_left_out():
    slow = replace(LINE, name="advection_1d-slow", dt=7.0)
    entries = {spec.name: spec for spec in (LINE, FINER, PLANE, slow)}
    larger, matches, left_out = fit(make(specs=[LINE, TORUS]), entries, 1, entries)
    assert {name: of.known_as for name, of in matches.items()} == {
        "advection_1d": "advection_1d",
        "navier_stokes_2d": "navier_stokes_2d-32x16",
    }
    assert larger.specs["navier_stokes_2d-32x16"].u_rms == TORUS.u_rms
    assert "trained on grid 16 x 8" in matches["navier_stokes_2d"].taken_as
    assert set(left_out) == {"reaction_diffusion_2d", "advection_1d-slow"}
    assert "7 s apart" in left_out["advection_1d-slow"]
