"""FitzHugh-Nagumo against scipy's integrator on the same stencil, Fisher and KPP's travelling wave, Gray and Scott's
order, and what no-flow edges imply."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ups_scale.solvers.reaction_diffusion import (
    fitzhugh_nagumo,
    gray_scott,
    logistic,
    solve_reaction_diffusion,
)


def solve(state, du, dv, k, *, react=True, **settings):
    """PDEBench's equations on [-1, 1]^2."""
    reaction = fitzhugh_nagumo(k) if react else None
    return solve_reaction_diffusion(
        state, torch.stack((du, dv), dim=1), reaction, edges="neumann", length=2.0, **settings
    )


def random_state(num, size):
    return torch.rand(num, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 3 - 1.5


def coefficients(*rows):
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]


def by_scipy(state, du, dv, k, t):
    """The same finite volumes, ghost cells mirrored by np.pad, integrated by DOP853 to 1e-10."""
    size = state.shape[-1]

    def rate(_, flat):
        u, v = flat.reshape(2, size, size)

        def laplace(a):
            g = np.pad(a, 1, mode="edge")
            return (g[2:, 1:-1] + g[:-2, 1:-1] + g[1:-1, 2:] + g[1:-1, :-2] - 4 * a) * (size / 2) ** 2

        return np.concatenate([(du * laplace(u) + u - u**3 - k - v).ravel(), (dv * laplace(v) + u - v).ravel()])

    return solve_ivp(rate, (0, t), state.ravel(), "DOP853", rtol=1e-10, atol=1e-12).y[:, -1].reshape(2, size, size)


def test_agrees_with_scipy_and_converges_with_second_order():
    rows = [(1e-3, 5e-3, 5e-3), (2e-3, 1e-2, 2e-3)]
    state = random_state(2, 12)
    expected = np.stack([by_scipy(s.numpy(), *row, 0.6) for s, row in zip(state, rows, strict=True)])
    errors = []
    for steps in (8, 16, 32):
        frames = solve(state, *coefficients(*rows), dt=0.3, num_frames=3, steps_per_frame=steps, num_output=12)
        errors.append(np.abs(frames[:, 2].numpy() - expected).max())
    assert errors[2] < 1e-4
    assert 1.9 < math.log2(errors[1] / errors[2]) < 2.1


def test_without_reaction_the_mean_is_conserved_and_a_cosine_mode_decays_exactly():
    size, m, n = 16, 3, 5
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    mode = torch.cos(math.pi * m * centre)[:, None] * torch.cos(math.pi * n * centre)
    du, dv, k = coefficients((0.02, 0.05, 1.0))
    start = torch.stack((0.4 + mode, -0.2 + mode))[None]
    frames = solve(start, du, dv, k, dt=0.3, num_frames=3, steps_per_frame=7, num_output=size, react=False)
    torch.testing.assert_close(frames.mean((-2, -1)), torch.tensor([0.4, -0.2]).double().expand(1, 3, 2))
    wavenumber = sum((size * math.sin(math.pi * i / (2 * size))) ** 2 for i in (m, n))
    for field, (mean, diffusivity) in enumerate(((0.4, 0.02), (-0.2, 0.05))):
        for frame in range(3):
            decay = math.exp(-diffusivity * wavenumber * 0.3 * frame)
            torch.testing.assert_close(frames[0, frame, field], mean + decay * mode, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [8, 24])
def test_diffusion_conserves_any_field_and_leaves_a_constant_alone(size):
    coefficient = coefficients((2e-3, 1e-2, 0.0))
    state = random_state(1, size)
    frames = solve(state, *coefficient, dt=1.0, num_frames=4, steps_per_frame=2, num_output=size, react=False)
    torch.testing.assert_close(frames.mean((-2, -1)), state.mean((-2, -1))[:, None].expand(1, 4, 2))
    assert frames.max() <= state.max()
    constant = torch.full_like(state, 0.7)
    frames = solve(constant, *coefficient, dt=1.0, num_frames=2, steps_per_frame=2, num_output=size, react=False)
    torch.testing.assert_close(frames[:, 1], constant)


def test_output_averages_blocks_of_cells():
    state = random_state(1, 8)
    frames = solve(state, *coefficients((1e-3, 5e-3, 5e-3)), dt=0.1, num_frames=2, steps_per_frame=1, num_output=4)
    torch.testing.assert_close(frames[0, 0, 1, 0, 3], state[0, 1, 0:2, 6:8].mean())


@pytest.mark.parametrize("mode", [1, 5])
def test_between_periodic_edges_a_wave_decays_exactly(mode):
    size, length = 16, 3.0
    x = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    wave = torch.sin(2 * math.pi * mode * x + 0.4)
    frames = solve_reaction_diffusion(
        torch.stack((wave, 0.3 + wave))[None], torch.tensor([[0.02, 0.05]], dtype=torch.float64), None,
        edges="periodic", length=length, dt=0.3, num_frames=3, steps_per_frame=2, num_output=size,
    )  # fmt: skip
    rate = (2 * size / length * math.sin(math.pi * mode / size)) ** 2
    for frame in range(3):
        for field, (mean, diffusivity) in enumerate(((0.0, 0.02), (0.3, 0.05))):
            expected = mean + math.exp(-diffusivity * rate * 0.3 * frame) * wave
            torch.testing.assert_close(frames[0, frame, field], expected, rtol=0, atol=1e-13)


def test_fishers_wave_travels_at_its_speed_and_converges_with_second_order():
    """Ablowitz and Zeppetella's u = (1 + exp(z / sqrt 6))^-2 with z = x - 5 / sqrt(6) t, for nu = rho = 1."""
    length = 120.0

    def exact(num_points, t):
        x = (torch.arange(num_points, dtype=torch.float64) + 0.5) * (length / num_points)
        return (1 + torch.exp(((x - length / 2).abs() - 20 - 5 / math.sqrt(6) * t) / math.sqrt(6))) ** -2

    errors = []
    for num_points in (256, 512):
        one = torch.ones(1, dtype=torch.float64)
        frames = solve_reaction_diffusion(
            exact(num_points, 0)[None, None], one[:, None], logistic(one), edges="periodic", length=length, dt=5.0,
            num_frames=2, steps_per_frame=num_points // 4, num_output=num_points,
        )  # fmt: skip
        errors.append((frames[0, 1, 0] - exact(num_points, 5)).abs().max().item())
    assert errors[1] < 2e-4
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.2


def test_gray_scott_keeps_its_steady_state_and_converges_with_second_order():
    feed, kill = (torch.tensor([value], dtype=torch.float64) for value in (0.04, 0.06))

    def end(state, steps):
        return solve_reaction_diffusion(
            state, torch.tensor([[2e-5, 1e-5]], dtype=torch.float64), gray_scott(feed, kill), edges="periodic",
            length=0.3, dt=40.0, num_frames=2, steps_per_frame=steps, num_output=32,
        )[0, 1]  # fmt: skip

    fed = torch.zeros(1, 2, 32, 32, dtype=torch.float64)
    fed[:, 0] = 1
    torch.testing.assert_close(end(fed, 3), fed[0], rtol=0, atol=1e-13)
    state = torch.rand(1, 2, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    state = torch.stack((1 - 0.5 * state[:, 0], 0.3 * state[:, 1]), dim=1)
    reference = end(state, 640)
    errors = [(end(state, steps) - reference).abs().max().item() for steps in (40, 80)]
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.2
