"""The conservation gap and power spectra."""

import math

import pytest
import torch

from ups_scale.metrics.physics import conservation_gap, power_spectrum
from ups_scale.physics.families import FamilySpec


def spec(grid, extents, kind="periodic", name="burgers_1d"):
    return FamilySpec(
        name=name,
        fields=("u",),
        units=("1",),
        parameters=(),
        grid=grid,
        extents=extents,
        boundaries=((kind, kind),) * len(grid),
        u_rms=(1.0,),
        delta_rms=(0.1,),
        dt=0.1,
    )


def test_gap_worked_out_by_hand():
    line = spec((4,), ((0.0, 2.0),))
    last = torch.tensor([[[1.0, 1.0, 1.0, -2.0]]])  # integral 0.5, L1 norm 2.5
    pred = torch.tensor([[[[1.0, 1.0, 1.0, -2.0]], [[3.0, 1.0, 1.0, -2.0]]]])  # integrals 0.5, 1.5
    torch.testing.assert_close(
        conservation_gap(pred, last, "integral", line), torch.tensor([[[0.0], [1.0 / 2.5]]], dtype=torch.float64)
    )


def test_gap_of_a_field_that_is_and_stays_zero_is_zero():
    zero = torch.zeros(1, 1, 4)
    assert conservation_gap(zero[:, None], zero, "integral", spec((4,), ((0.0, 1.0),))).item() == 0


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
