"""Point sets, from figures to pictures: what needs a grid is left out, and points are drawn where they lie."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from small_models import POINTS, inputs, make

from ups_scale.data.batch import FieldBatch
from ups_scale.evaluate import pictures
from ups_scale.evaluate.run import evaluate_and_write
from ups_scale.evaluate.suite import Example, evaluate
from ups_scale.evaluate.testset import TestSet
from ups_scale.metrics.physics import conservation_gap, power_spectrum
from ups_scale.observe.pictures import comparison
from ups_scale.physics.families import FAMILIES
from ups_scale.physics.invariants import conserved

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
    report = evaluate_and_write(model, model.specs, tests, asked, {}, tmp_path, accelerator)
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    table = report["families"]["navier_stokes_2d"]
    assert set(table["fields"]) == {"vorticity"}  # coordinates are given
    assert "nrmse@4" in table["model"]
    assert not any("conservation" in metric for metric in table["model"])
    assert report["data"]["navier_stokes_2d"]["geometry"] == "points"
    html = (tmp_path / "report.html").read_text()
    assert "3 trajectories, 40 points, dt 0.05 s" in html
    assert html.count("No power spectrum: the points are scattered, and a spectrum needs a grid.") == 2
    assert html.count('src="data:image/png;base64,') == 2 * (1 + 3)  # growth, and rollouts of the one dynamic field


def test_an_untrained_model_is_persistence_on_points(accelerator):
    model = make(encoder="auto", decoder="auto", specs=[VORTICES]).eval()
    found = evaluate(model, {VORTICES.name: TestSet(VORTICES, 5, Scattered(VORTICES))}, (1, 4), accelerator)
    table = found.families["navier_stokes_2d"]
    assert table["model"]["nrmse@4"] == pytest.approx(table["persistence"]["nrmse@4"], rel=1e-6)
    assert found.spectra["navier_stokes_2d"] == {}


def test_figures_of_cells_refuse_points():
    u = torch.zeros(1, 3, 40)
    with pytest.raises(AssertionError, match="no Fourier transform"):
        power_spectrum(u, VORTICES)
    assert conserved(replace(VORTICES, geometry="grid", grid=(4, 4)))
    with pytest.raises(AssertionError, match="no cells to integrate over"):
        conservation_gap(u[:, None], u, "integral", VORTICES)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_points_are_drawn_where_they_lie_in_any_order(axes):
    rng = np.random.default_rng(0)
    names = ("x", "y", "z")[:axes]
    spec = replace(
        POINTS,
        fields=("height", *names),
        coordinates=names,
        static=names,
        extents=((0.0, 1.0),) * axes,
        boundaries=(("wall", "wall"),) * axes,
        units=("m",) * (axes + 1),
    )
    place_dp = rng.random((axes, 40))
    truth = np.broadcast_to(np.concatenate([np.sin(6 * place_dp[:1]), place_dp])[None], (4, axes + 1, 40)).copy()
    truth[:, 0] *= np.arange(1, 5)[:, None]
    pred = truth * 1.1

    def png(order, moved=0.0):
        of = truth[..., order].copy()
        of[:, 1] += moved
        return pictures.rollout(Example("good", "k", 0.1, of, pred[..., order]), 0, spec, (1, 4))

    whole = png(np.arange(40))
    assert whole[1:4] == b"PNG"
    if axes == 1:  # in two axes the later dots lie on the earlier ones
        assert whole == png(rng.permutation(40))
    assert whole != png(np.arange(40), moved=0.1)


def test_points_without_a_value_or_a_place_are_drawn_as_blank():
    u = inputs(POINTS, batch=1, frames=4)[0][0].numpy()
    blank = u.copy()
    blank[:, 2, :10] = np.nan
    blank[:, :, 10] = np.nan
    line = replace(LINE_POINTS, fields=("x", "y", "u"), units=("m", "m", "1"))
    for spec in (POINTS, line):
        whole, gaps = (pictures.rollout(Example("good", "k", 0.1, of, of), 2, spec, (1, 4)) for of in (u, blank))
        assert gaps[1:4] == b"PNG"
        assert gaps != whole


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
