"""Point sets, from figures to pictures: what needs a grid is left out, and points are drawn where they lie."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from small_models import POINTS, inputs, make
from suite_runs import evaluate, written

from ups_scale.data.batch import FieldBatch
from ups_scale.evaluate.testset import TestSet
from ups_scale.metrics.physics import Budget
from ups_scale.metrics.spectra import power_spectrum
from ups_scale.observe.pictures import comparison
from ups_scale.physics.families import FAMILIES
from ups_scale.physics.invariants import quantities

SCHEMA = Path(__file__).parents[3] / "docs" / "report.schema.json"
# A family of the registry that conserves its integral, as a point set.
VORTICES = replace(
    POINTS,
    name="navier_stokes_2d",
    fields=("x", "y", "vorticity"),
    units=("1", "1", "1/s"),
    boundaries=(("periodic", "periodic"),) * 2,
    parameters=("nu",),
)
LINE_POINTS = replace(
    POINTS,
    name="advection_1d",
    fields=("u", "x"),
    units=("1", "m"),
    static=("x",),
    coordinates=("x",),
    extents=((0.0, 1.0),),
    boundaries=(("periodic", "periodic"),),
    u_rms=(1.0, 0.6),
    delta_rms=(0.1, 0.0),
)


class Scattered:
    def __init__(self, spec, frames=5):
        self.spec, self.num_trajectories = spec, 3
        self.u_ntcx = inputs(spec, batch=3, frames=frames)[0]

    def read(self, indices, first_frames, num_frames):
        size = len(indices)
        dt = torch.full((size, num_frames - 1), self.spec.dt)
        parameters = torch.ones(size, len(self.spec.parameters))
        return FieldBatch(self.spec.name, self.u_ntcx[list(indices), :num_frames], parameters, dt, ("k",) * size)


def test_point_families_are_reported_without_what_needs_a_grid(tmp_path, subject, accelerator):
    assert FAMILIES["navier_stokes_2d"].invariants
    specs = (VORTICES, LINE_POINTS)
    model = make(encoder="auto", decoder="auto", specs=specs).eval()
    tests = {spec.name: TestSet(spec, 5, Scattered(spec)) for spec in specs}
    asked = replace(subject, context_frames=1)
    report = written(tmp_path, model, tests, asked, accelerator)
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    table = report["families"]["navier_stokes_2d"]
    assert set(table["fields"]) == {"vorticity"}  # coordinates are given
    assert "nrmse@4" in table["model"]
    assert not any("conservation" in metric for metric in table["model"])
    assert report["data"]["navier_stokes_2d"]["geometry"] == "points"
    html = (tmp_path / "report.html").read_text()
    assert "3 trajectories, 40 points, dt 0.05 s" in html
    assert html.count("No power spectrum: the points are scattered, and a spectrum needs a grid.") == 2
    # Of three trajectories, the one dynamic field as truth, model and error.
    assert html.count("data:image/png;base64,") == 2 * 3 * 3


def test_an_untrained_model_is_persistence_on_points(accelerator):
    model = make(encoder="auto", decoder="auto", specs=[VORTICES]).eval()
    found = evaluate(model, {VORTICES.name: TestSet(VORTICES, 5, Scattered(VORTICES))}, (1, 4), accelerator)
    table = found.families["navier_stokes_2d"]
    assert table["model"]["nrmse@4"] == pytest.approx(table["persistence"]["nrmse@4"], rel=1e-6)
    assert found.spectra == {}


def test_figures_of_cells_refuse_points():
    u = torch.zeros(1, 3, 40)
    with pytest.raises(AssertionError, match="no Fourier transform"):
        power_spectrum(u, VORTICES)
    (integral, *_) = quantities(replace(VORTICES, geometry="grid", grid=(4, 4)))
    assert integral.is_closed
    with pytest.raises(AssertionError, match="no cells to integrate over"):
        Budget(integral, {"vorticity": u}, VORTICES)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_board_shows_points_where_they_lie(axes):
    generator = torch.Generator().manual_seed(0)
    place, truth = torch.rand(50, axes, generator=generator), torch.randn(8, 50, generator=generator)
    same, other = comparison(truth, truth, place), comparison(truth + 1, truth, place)
    assert same.dtype == np.uint8
    assert same.shape == other.shape
    third = same.shape[0] // 3
    assert np.array_equal(same[:third], other[:third])
    assert not np.array_equal(same[third:], other[third:])
    assert not np.array_equal(same[:third], comparison(truth, truth, place.flip(0))[:third])
    if axes == 1:
        order = torch.randperm(50, generator=generator)
        assert np.array_equal(same, comparison(truth[:, order], truth[:, order], place[order]))
