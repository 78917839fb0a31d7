"""Super-resolution: what is measured, beside what, what is left out, and how it is reported."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from small_models import LINE, PLANE, POINTS, STEADY, make
from suite_runs import written

from ups_scale.data.batch import FieldBatch
from ups_scale.errors import UserError
from ups_scale.evaluate import report, testset
from ups_scale.evaluate.super_resolution import check_factors, coarsened, lines, super_resolution
from ups_scale.evaluate.testset import TestSet
from ups_scale.evaluate.variants import fitted
from ups_scale.model.extend import extended
from ups_scale.model.interpolate import resample_grid

SCHEMA = Path(__file__).parents[3] / "docs" / "report.schema.json"
HORIZONS = (1, 3)


class Waves:
    """Trajectories of a family as they are wanted: (N, T, C, *X) of smooth fields."""

    def __init__(self, spec, num=3, frames=5):
        generator = torch.Generator().manual_seed(0)
        self.spec = spec
        u = torch.randn(num, frames, len(spec.fields), *[4] * len(spec.grid), generator=generator)
        self.u_ntcx = resample_grid(u.flatten(0, 1), spec.grid, spec.periodic[: len(spec.grid)])
        self.u_ntcx = self.u_ntcx.unflatten(0, (num, frames))

    @property
    def num_trajectories(self):
        return len(self.u_ntcx)

    def read(self, indices, first_frames, num_frames):
        u = self.u_ntcx[list(indices), :num_frames]
        parameters = torch.ones(len(indices), len(self.spec.parameters))
        dt = torch.full((len(indices), num_frames - 1), self.spec.dt)
        return FieldBatch(self.spec.name, u, parameters, dt, tuple(f"k{i}" for i in indices))


@pytest.fixture(scope="module", params=["field", "latent"])
def model(request):
    return make(trained=True, decoder="points", prediction=request.param, specs=[LINE, PLANE]).eval()


@pytest.fixture
def tests():
    return {spec.name: TestSet(spec, 5, Waves(spec)) for spec in (LINE, PLANE)}


def nrmse(pred, truth):
    """(H,) of (B, H, C, *X)."""
    ratio = (pred - truth).double().square().flatten(3).mean(-1).sqrt() / truth.double().square().flatten(3).mean(
        -1
    ).sqrt()
    return ratio.mean((0, 2))


def test_cells_are_averaged():
    u = torch.arange(16.0).reshape(1, 4, 4)
    assert coarsened(u, 2, 2).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]
    assert coarsened(u, 2, 1).shape == (1, 4, 2)


def test_figures_against_the_definition(model, tests, accelerator):
    found = super_resolution(model, model.specs, tests, (2,), HORIZONS, accelerator)
    plane = found["reaction_diffusion_2d"]["2x"]
    u = tests["reaction_diffusion_2d"].trajectories.u_ntcx
    truth = u[:, [1, 3]]
    coarse = coarsened(u, 2, 2)
    back = resample_grid(coarse.flatten(0, 1), (16, 8), PLANE.periodic).unflatten(0, u.shape[:2])
    small = replace(PLANE, grid=(8, 4))
    larger, _ = extended(model, [replace(small, name="reaction_diffusion_2d-half")])
    batch = tests["reaction_diffusion_2d"].trajectories.read([0, 1, 2], None, 4)
    with torch.no_grad():
        predicted = larger(
            coarse[:, :1], "reaction_diffusion_2d-half", batch.parameters_bp, batch.dt_bt, 3, at=(16, 8), steps=(1, 3)
        )
    for predictor, pred in (
        ("model", predicted),
        ("persistence", back[:, :1].expand_as(truth)),
        ("interpolation", back[:, [1, 3]]),
    ):
        expected = nrmse(pred, truth)
        for place, k in enumerate(HORIZONS):
            assert plane[predictor][f"nrmse@{k}"] == pytest.approx(expected[place].item(), rel=1e-4)
        assert plane[predictor]["non_finite@1"] == 0
    assert set(plane["fields"]) == {"activator", "inhibitor"}
    means = [plane["fields"][name]["model"]["nrmse@3"] for name in plane["fields"]]
    assert sum(means) / 2 == pytest.approx(plane["model"]["nrmse@3"])
    assert plane["interpolation"]["nrmse@1"] < plane["persistence"]["nrmse@1"]


def test_a_fitted_variant_is_coarsened_from_the_trained_weights(accelerator):
    trained = make(trained=True, decoder="points", specs=[LINE]).eval()
    finer = replace(LINE, name="advection_1d-64", grid=(64,))
    larger, _ = fitted(trained, [finer])
    tests = {"advection_1d": TestSet(replace(finer, name="advection_1d"), 5, Waves(finer), known_as=finer.name)}
    found = super_resolution(trained, larger.specs, tests, (2, 4), HORIZONS, accelerator)
    assert {name for name, table in found["advection_1d"].items() if "model" in table} == {"2x", "4x"}


def test_batches_do_not_matter(model, tests, accelerator, monkeypatch):
    whole = super_resolution(model, model.specs, tests, (2,), HORIZONS, accelerator)["advection_1d"]["2x"]
    monkeypatch.setattr(testset, "MAX_BATCH", 2)
    split = super_resolution(model, model.specs, tests, (2,), HORIZONS, accelerator)["advection_1d"]["2x"]
    for predictor in ("model", "persistence", "interpolation"):
        assert split[predictor] == pytest.approx(whole[predictor], rel=1e-5)


def test_what_can_not_be_coarsened_is_left_out_with_the_reason(accelerator):
    odd = replace(LINE, name="burgers_1d", grid=(36,))
    masked = replace(PLANE, name="ocean", masked=True)
    model = make(encoder="auto", decoder="points", specs=[odd, masked, POINTS, LINE])
    tests = {spec.name: TestSet(spec, 5, Waves(spec)) for spec in (odd, masked, POINTS, LINE)}
    found = super_resolution(model, model.specs, tests, (8, 16), HORIZONS, accelerator)
    assert found["burgers_1d"]["8x"] == {"left_out": "8 does not divide its grid of 36 points"}
    assert "averages over cells need all" in found["ocean"]["8x"]["left_out"]
    assert "it is a point set" in found[POINTS.name]["8x"]["left_out"]
    assert "model" in found["advection_1d"]["8x"]
    assert found["advection_1d"]["16x"] == {
        "left_out": "of its grid of 32 points fewer than 4 along an axis would be left"
    }


def test_a_steady_family_is_measured_at_its_one_step(accelerator):
    model = make(decoder="points", specs=[STEADY]).eval()
    found = super_resolution(
        model, model.specs, {"darcy_2d": TestSet(STEADY, 2, Waves(STEADY, frames=2))}, (2,), (4,), accelerator
    )
    table = found["darcy_2d"]["2x"]
    assert set(table["model"]) == {"nrmse@1", "non_finite@1"}
    assert set(table["fields"]) == {"u"}  # the coefficient is given
    assert table["model"]["nrmse@1"] == pytest.approx(table["persistence"]["nrmse@1"], rel=1e-5)  # untrained


@pytest.mark.parametrize("decoder", ["patch", "auto"])
def test_a_model_without_an_any_point_decoder_is_refused(decoder):
    with pytest.raises(UserError, match=f'model.decoder "points", and this one was trained with "{decoder}"'):
        check_factors((2,), decoder)
    check_factors((), decoder)
    with pytest.raises(UserError, match="--super-resolution 1,2: factors are whole numbers from 2"):
        check_factors((1, 2), "points")


def test_it_is_in_the_report_the_table_and_the_page(tmp_path, model, tests, subject, accelerator):
    out = tmp_path / "small"
    asked = replace(subject, context_frames=1, horizons=HORIZONS, super_resolution=(2, 4))
    made = written(out, model, tests, asked, accelerator)
    jsonschema.validate(json.loads((out / "report.json").read_text()), json.loads(SCHEMA.read_text()))
    plane = made["super_resolution"]["reaction_diffusion_2d"]
    assert set(plane["4x"]) == {"left_out"}
    rows = [tuple(row) for row in csv.reader(io.StringIO((out / "table.csv").read_text()))]
    value = repr(plane["2x"]["fields"]["inhibitor"]["interpolation"]["nrmse@3"])
    assert ("reaction_diffusion_2d", "inhibitor", "interpolation", "super_resolution_2x_nrmse@3", value) in rows
    html = (out / "report.html").read_text()
    assert html.count("<h3>Super-resolution</h3>") == 2
    assert "left out: of its grid of 16 x 8 points fewer than 4 along an axis would be left" in html
    shown = list(lines(made))
    assert len(shown) == 4
    assert shown[0].startswith("super-resolution 2x, advection_1d: nrmse @1 ")
    assert "left out: of its grid" in shown[-1]
    assert report.saved(out, asked) == made
    assert report.saved(out, replace(asked, super_resolution=())) == made
    assert report.saved(out, replace(asked, super_resolution=(2, 8))) is None
