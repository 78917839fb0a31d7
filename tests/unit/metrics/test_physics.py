"""The conservation gap and power spectra."""

import math

import pytest
import torch
from measured_specs import spec_of

from ups_scale.metrics.accumulate import Accumulator
from ups_scale.metrics.measure import RolloutMeasure
from ups_scale.metrics.spectra import power_spectrum


def spec(grid, extents, kind="periodic"):
    return spec_of("burgers_1d", grid, kind, extents=extents)


def test_gap_worked_out_by_hand():
    line = spec((4,), ((0.0, 2.0),))
    last = torch.tensor([[[1.0, 1.0, 1.0, -2.0]]])  # integral 0.5, L1 norm 2.5
    pred = torch.tensor([[[[1.0, 1.0, 1.0, -2.0]], [[3.0, 1.0, 1.0, -2.0]]]])  # integrals 0.5, 1.5
    gaps = measured(line, last, last[:, None].expand(1, 2, 1, 4), {"model": pred}, (2,))[1].gaps["integral"]["model"]
    torch.testing.assert_close(gaps, torch.tensor([[0.0, 1.0 / 2.5]], dtype=torch.float64))


def test_gap_of_a_field_that_is_and_stays_zero_is_zero():
    zero = torch.zeros(1, 1, 4)
    _, measure = measured(spec((4,), ((0.0, 1.0),)), zero, zero[:, None], {"model": zero[:, None]}, (1,))
    assert measure.gaps["integral"]["model"].item() == 0


def measured(spec, last, truth, predicted, horizons):
    accumulator = Accumulator()
    measure = RolloutMeasure(spec, last, list(predicted), horizons, accumulator)
    for h in range(truth.shape[1]):
        measure.step(h + 1, truth[:, h], {name: pred[:, h] for name, pred in predicted.items()})
    measure.finish()
    return accumulator, measure


GAS = ("density", "pressure", "velocity_x")


def gas(density, pressure, velocity):
    return torch.tensor([density, pressure, velocity], dtype=torch.float64)[None]


def test_gaps_of_a_gas_are_of_what_it_conserves_not_of_its_fields():
    tube = spec_of("compressible_flow_1d", (2,), "periodic", GAS)
    last = gas([1.0, 3.0], [2.0, 2.0], [1.0, -1.0])
    moved = gas([2.0, 2.0], [2.0, 2.0], [-1.0, 0.0])
    # mass 2 -> 2; momentum (1 - 3) / 2 -> -2 / 2, of 2 in magnitude; energy 3 + (1 + 3) / 4 = 4 -> 3.5.
    accumulator, measure = measured(tube, last, moved[:, None], {"model": last[:, None]}, (1,))
    for invariant, expected in (("mass", 0), ("momentum", 0), ("energy", 0.5 / 4)):
        assert measure.gaps[invariant]["truth"].item() == pytest.approx(expected)
    figures = accumulator.figures()
    assert figures["compressible_flow_1d/truth/all/conservation_gap_energy@1"] == pytest.approx(0.125)
    assert figures["compressible_flow_1d/truth/all/conservation_gap@1"] == pytest.approx(0.125 / 3)
    assert figures["compressible_flow_1d/model/all/conservation_gap@1"] == 0
    assert not any("conservation_gap" in name for name in figures if "/pressure/" in name)


def test_what_open_sides_let_through_is_held_against_the_truth():
    tube = spec_of("compressible_flow_1d", (2,), "open", GAS)
    last, truth = gas([1.0, 3.0], [2.0, 2.0], [1.0, -1.0]), gas([1.0, 2.0], [2.0, 2.0], [1.0, -1.0])
    figures = measured(tube, last, truth[:, None], {"model": last[:, None]}, (1,))[0].figures()
    assert figures["compressible_flow_1d/model/all/conservation_gap_mass@1"] == pytest.approx(0.5 / 2)
    assert figures["compressible_flow_1d/truth/all/conservation_gap_mass@1"] == 0


def test_divergence_of_a_known_flow_beside_the_floor_of_the_truth():
    grid, turn = (16, 16, 16), 2 * math.pi / 16
    names = ("velocity_x", "velocity_y", "velocity_z")
    spec = spec_of("navier_stokes_3d", grid, fields=names, extents=((0.0, 2 * math.pi),) * 3)
    x, y, _ = torch.meshgrid(*(torch.arange(16) * turn for _ in grid), indexing="ij")
    solenoidal = torch.stack([y.sin(), x.cos(), torch.zeros_like(x)])[None]
    pred = torch.stack([x.sin(), 0 * x, 0 * x])[None]  # div = cos(x), as large as the flow, but for its components
    figures = measured(spec, solenoidal, solenoidal[:, None], {"model": pred[:, None]}, (1,))[0].figures()
    assert figures["navier_stokes_3d/model/all/divergence@1"] == pytest.approx(2 * math.pi * math.sqrt(3), rel=1e-6)
    assert figures["navier_stokes_3d/truth/all/divergence@1"] < 1e-5


def test_what_is_stated_at_the_sides_is_missed_by_a_known_share():
    spec = spec_of("reaction_diffusion_2d", (16, 16), "neumann", ("a", "b"))
    x = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    plane = 1 + 0 * x[:, None] + 2 * x
    truth = torch.stack([torch.cos(math.pi * x)[:, None].expand(16, 16), 3 * torch.ones(16, 16).double()])[None]
    pred = torch.stack([plane, 3 * torch.ones(16, 16).double()])[None]
    figures = measured(spec, truth, truth[:, None], {"model": pred[:, None]}, (1,))[0].figures()
    # A slope of 2 over a length of 1 at two of four sides, over the truth's root mean square.
    expected = math.sqrt(2**2 / 2) / math.sqrt(0.5)
    assert figures["reaction_diffusion_2d/model/a/bc_violation@1"] == pytest.approx(expected, rel=1e-3)
    assert figures["reaction_diffusion_2d/model/b/bc_violation@1"] == pytest.approx(0, abs=1e-12)
    assert figures["reaction_diffusion_2d/model/all/bc_violation@1"] == pytest.approx(expected / 2, rel=1e-3)
    assert figures["reaction_diffusion_2d/truth/a/bc_violation@1"] < 0.06


@pytest.mark.parametrize("kind", ["periodic", "neumann"])
def test_spectrum_sums_to_the_mean_square_of_a_smooth_field(kind):
    x = (torch.arange(32) + 0.5) / 32
    wave = torch.cos(2 * math.pi * 3 * x)[:, None] + 0.5 * torch.cos(2 * math.pi * 2 * x)[None, :]
    found = power_spectrum(wave[None, None], spec((32, 32), ((0.0, 1.0),) * 2, kind))
    assert found.shape == (1, 1, 16)
    assert found[0, 0, 3].item() == pytest.approx(0.5, rel=1e-5)
    assert found[0, 0, 2].item() == pytest.approx(0.125, rel=1e-5)
    assert found.sum().item() == pytest.approx(wave.square().mean().item(), rel=1e-5)


def test_spectrum_counts_cycles_along_the_longest_side():
    x, y = (torch.arange(32) + 0.5) / 32, torch.zeros(16)
    wave = torch.cos(2 * math.pi * 3 * x)[:, None] + y[None, :]
    found = power_spectrum(wave[None, None], spec((32, 16), ((0.0, 2.0), (0.0, 1.0))))
    assert found[0, 0].argmax() == 3
