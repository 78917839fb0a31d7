"""Diffusion with sorption: orders in space and time, what passes the sides, and the linear solver."""

import math
from itertools import pairwise

import pytest
import torch

from ups_scale.solvers.sorption import SMALLEST, held, retardation, solve_diffusion_sorption, tridiagonal


def run(num_points, steps, *, start=0.1, num_frames=2, dt=50.0):
    u = torch.full((1, num_points), start, dtype=torch.float64)
    return solve_diffusion_sorption(u, torch.tensor([5e-4]), dt=dt, num_frames=num_frames, steps_per_frame=steps)[0]


@pytest.fixture(scope="module")
def fine():
    return run(256, 200)[-1]


def test_space_is_of_second_order(fine):
    errors = [(run(size, 200)[-1] - fine.view(size, -1).mean(1)).abs().mean().item() for size in (16, 32, 64)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(1.8 < order < 2.2 for order in orders), orders


def test_time_is_of_second_order():
    reference = run(64, 320)[-1]
    errors = [(run(64, steps)[-1] - reference).abs().max().item() for steps in (10, 20, 40)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(1.8 < order < 2.2 for order in orders), orders


def test_what_the_cells_hold_changes_by_what_passes_the_sides():
    size, diffusivity = 64, 5e-4
    frames = run(size, 1, num_frames=401, dt=0.5)
    content = held(frames).mean(1)
    entering = 2 * size * diffusivity * (1 - frames[:, 0])
    leaving = 2 * size * diffusivity / (1 + 2 * size * diffusivity) * frames[:, -1]
    rate = entering - leaving
    gained = torch.cumulative_trapezoid(rate[40:], dx=0.5)
    torch.testing.assert_close(content[41:] - content[40], gained, rtol=1e-4, atol=0)


def test_the_retardation_is_the_slope_of_what_is_held():
    u = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    slope = (held(u + 1e-6) - held(u - 1e-6)) / 2e-6
    torch.testing.assert_close(retardation(u), slope, rtol=1e-6, atol=0)


def test_concentrations_stay_between_nothing_and_the_inlets_even_from_a_nearly_empty_start():
    frames = run(64, 4, start=SMALLEST, num_frames=51, dt=5.0)
    assert frames.min() > 0
    assert frames.max() < 1
    assert (frames.diff(dim=0)[:, 0] > 0).all()


@pytest.mark.parametrize("size", [1, 2, 7, 32, 37])
def test_tridiagonal_systems(size):
    generator = torch.Generator().manual_seed(size)
    lower, upper, right = torch.rand(3, 4, size, dtype=torch.float64, generator=generator) - 0.5
    diagonal = 1 + lower.abs() + upper.abs()
    matrix = torch.diag_embed(diagonal) + torch.diag_embed(lower[:, 1:], -1) + torch.diag_embed(upper[:, :-1], 1)
    expected = torch.linalg.solve(matrix, right[..., None])[..., 0]
    torch.testing.assert_close(tridiagonal(lower, diagonal, upper, right), expected, rtol=1e-12, atol=1e-13)


def test_an_empty_start_is_refused():
    with pytest.raises(ValueError, match=r"u starts at 0, but must lie in \[0\.001, 1\]"):
        run(8, 1, start=0.0)
