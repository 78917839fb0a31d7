"""Darcy flow against a series, a manufactured solution and layers, and its balance."""

import math

import pytest
import torch

from ups_scale.solvers.darcy import solve_darcy


def centres(size):
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def test_a_uniform_medium_converges_to_the_series_with_second_order():
    errors = []
    for size in (16, 32):
        x = centres(size)
        series = torch.zeros(size, size, dtype=torch.float64)
        for i in range(1, 100, 2):
            for j in range(1, 100, 2):
                wave = torch.sin(i * math.pi * x)[:, None] * torch.sin(j * math.pi * x)
                series += 16 / (math.pi**4 * i * j * (i * i + j * j)) * wave
        errors.append((solve_darcy(torch.full((1, size, size), 2.0), torch.tensor([2.0]))[0] - series).abs().max())
    assert errors[1] < 2e-4
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.2


def test_across_layers_the_flux_is_the_same():
    """Layers across x and a source: u(x) in the middle of a wide... is not 1D here, so fluxes are balanced instead."""
    size = 32
    generator = torch.Generator().manual_seed(0)
    permeability = torch.where(torch.rand(3, size, size, generator=generator) > 0.5, 12.0, 0.1).double()
    beta = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    u = solve_darcy(permeability, beta)
    out = sum(
        (2 * permeability.select(axis, end) * u.select(axis, end)).sum(1) for axis in (1, 2) for end in (0, size - 1)
    )
    torch.testing.assert_close(out, beta, rtol=1e-7, atol=0)
    assert (u > 0).all()


def test_no_solution_depends_on_the_others_of_its_batch():
    generator = torch.Generator().manual_seed(1)
    permeability = torch.exp(torch.randn(3, 16, 16, generator=generator, dtype=torch.float64))
    permeability[1] = 1  # solved in one step
    beta = torch.ones(3, dtype=torch.float64)
    together = solve_darcy(permeability, beta)
    for index in range(3):
        alone = solve_darcy(permeability[index : index + 1], beta[:1])[0]
        torch.testing.assert_close(together[index], alone, rtol=0, atol=1e-12)


def test_what_can_not_be_solved_is_an_error(monkeypatch):
    monkeypatch.setattr("ups_scale.solvers.darcy.MOST_STEPS", 2)
    with pytest.raises(ArithmeticError, match="in 2 steps"):
        solve_darcy(torch.rand(1, 16, 16) + 0.01, torch.ones(1))
