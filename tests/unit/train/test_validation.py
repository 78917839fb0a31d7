"""Validation during training on the kinds of data that differ: masks, static fields, one step only."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from small_models import FORCED, STEADY, make

from ups_scale.data.batch import FieldBatch
from ups_scale.distributed import Ranks
from ups_scale.errors import DivergenceError
from ups_scale.metrics import accuracy
from ups_scale.train.validation import check_reconstruction, validate


class Reader:
    """Trajectories of noise; a masked family's have land at the first points."""

    def __init__(self, spec):
        self.data, self.num_trajectories = SimpleNamespace(spec=spec), 3
        self.family, self.split = spec.name, "valid"
        self.num_frames = None

    def read(self, indices, first_frames, num_frames):
        spec, self.num_frames = self.data.spec, num_frames
        size = len(indices)
        u = torch.randn(size, num_frames, len(spec.fields), *spec.grid, generator=torch.Generator().manual_seed(0))
        mask = None
        if spec.masked:
            mask = torch.ones_like(u, dtype=torch.bool)
            mask[..., :2] = False
            u[:, 1:, ..., :2] = 1e6
        dt = torch.full((size, num_frames - 1), spec.dt)
        return FieldBatch(spec.name, u, torch.zeros(size, len(spec.parameters)), dt, ("k",) * size, mask)


class Sound:
    """A quarantine that nothing comes into."""

    def find(self, *_):
        return None

    def account(self, items):
        assert not items

    def take_new(self):
        return []

    def merge(self, of_ranks):
        return []

    def counts(self):
        return {}


def test_every_kind_of_family_is_validated() -> None:
    model = make(trained=True, specs=[FORCED, STEADY]).eval()
    engine = SimpleNamespace(forward=model, module=model, train=model.train, averaged=nullcontext)
    readers = {spec.name: Reader(spec) for spec in (FORCED, STEADY)}
    found = validate(
        engine,
        readers,
        Sound(),
        Ranks(0, 1, 0, torch.device("cpu"), None),
        trajectories=2,
        horizons=(2, 4),
        context_frames=1,
    )
    assert readers["darcy_2d"].num_frames == 2
    steps = {name: {key.partition("@")[2] for key in found.figures if key.startswith(name)} for name in readers}
    assert steps == {"incompressible_ns_2d": {"2", "4"}, "darcy_2d": {"1"}}

    batch = Reader(FORCED).read([0, 1], [0, 0], 5)
    expected = model.eval()(
        batch.u_btcx[:, :1], FORCED.name, batch.parameters_bp, batch.dt_bt, 4, mask_btcx=batch.mask_btcx[:, :1]
    )
    for k in (2, 4):
        velocity = expected[:, k - 1 : k, :1], batch.u_btcx[:, k : k + 1, :1]
        nrmse = accuracy.nrmse(velocity[0][..., 2:], velocity[1][..., 2:]).mean().item()
        assert found.figures[f"incompressible_ns_2d/model/nrmse@{k}"] == pytest.approx(nrmse, rel=1e-6)
    predicted, truth = found.rollouts["incompressible_ns_2d"]
    assert predicted.shape == truth.shape == (4, 2, 16, 8)
    assert predicted[..., :2].isnan().all()
    assert torch.equal(predicted[..., 2:], expected.detach()[0, ..., 2:])


def test_a_model_that_encodes_once_is_measured_as_an_autoencoder_and_held_to_the_gate() -> None:
    model = make(trained=True, specs=[FORCED, STEADY], prediction="latent").eval()
    engine = SimpleNamespace(forward=model, module=model, train=model.train, averaged=nullcontext)
    readers = {spec.name: Reader(spec) for spec in (FORCED, STEADY)}
    ranks = Ranks(0, 1, 0, torch.device("cpu"), None)
    found = validate(engine, readers, Sound(), ranks, trajectories=2, horizons=(2,), context_frames=1)
    name = "incompressible_ns_2d/model/velocity_x/reconstruction"
    assert [figure for figure in found.figures if "reconstruction" in figure] == [name]
    error = found.figures[name]
    batch = Reader(FORCED).read([0, 1], [0, 0], 3)
    mask = batch.mask_btcx[:, :1]
    given = (batch.u_btcx[:, :1], FORCED.name, batch.parameters_bp, batch.dt_bt)
    _, reconstructed = model.eval()(*given, 0, mask_btcx=mask, reconstruct=True)
    square = (reconstructed - batch.u_btcx[:, 0])[:, 0, :, 2:].square().mean(dim=(1, 2))
    variance = batch.u_btcx[:, 0, 0, :, 2:].flatten(1).var(dim=1) + 1e-7
    assert error == pytest.approx((square / variance).mean().item(), rel=1e-3)

    check_reconstruction(found.figures, error * 1.01, 7)
    with pytest.raises(DivergenceError, match=r"step 7: .* of incompressible_ns_2d velocity_x .* less than 0.001"):
        check_reconstruction(found.figures, 0.001, 7)
    with pytest.raises(DivergenceError):
        check_reconstruction({"a/model/u/reconstruction": float("nan")}, 0.001, 7)


def test_points_that_have_a_value_only_later_count_in_no_figure_and_are_in_the_pictures() -> None:
    class Cloudy(Reader):
        def read(self, *asked):
            batch = super().read(*asked)
            batch.mask_btcx[:, :1, ..., 2:4] = False
            batch.u_btcx[:, :1, ..., 2:4] = 1e3  # filled in
            return batch

    model = make(trained=True, specs=[FORCED]).eval()
    engine = SimpleNamespace(forward=model, module=model, train=model.train, averaged=nullcontext)
    found = validate(
        engine,
        {FORCED.name: Cloudy(FORCED)},
        Sound(),
        Ranks(0, 1, 0, torch.device("cpu"), None),
        trajectories=2,
        horizons=(2,),
        context_frames=1,
    )
    batch = Cloudy(FORCED).read([0, 1], [0, 0], 3)
    truth, last = batch.u_btcx[:, 2:, :1, :, 4:], batch.u_btcx[:, :1, :1, :, 4:]
    persistence = accuracy.nrmse(last, truth).mean().item()
    assert found.figures["incompressible_ns_2d/persistence/nrmse@2"] == pytest.approx(persistence, rel=1e-6)
    assert found.figures["incompressible_ns_2d/model/nrmse@2"] < 10
    predicted, shown = found.rollouts[FORCED.name]
    assert torch.equal(shown[..., 2:], batch.u_btcx[0, 1:, ..., 2:])
    assert predicted[..., :4].isnan().all()
    assert predicted[..., 4:].isfinite().all()
