"""FitzHugh-Nagumo against scipy's integrator on the same stencil, and what no-flow edges imply."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ups_scale.solvers.reaction_diffusion import solve_reaction_diffusion


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
        frames = solve_reaction_diffusion(
            state, *coefficients(*rows), dt=0.3, num_frames=3, steps_per_frame=steps, num_output=12
        )
        errors.append(np.abs(frames[:, 2].numpy() - expected).max())
    assert errors[2] < 1e-4
    assert 1.7 < math.log2(errors[1] / errors[2]) < 2.5


def test_without_reaction_the_mean_is_conserved_and_a_cosine_mode_decays_exactly():
    size, m, n = 16, 3, 5
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    mode = torch.cos(math.pi * m * centre)[:, None] * torch.cos(math.pi * n * centre)
    du, dv, k = coefficients((0.02, 0.05, 1.0))
    start = torch.stack((0.4 + mode, -0.2 + mode))[None]
    frames = solve_reaction_diffusion(
        start, du, dv, k, dt=0.3, num_frames=3, steps_per_frame=7, num_output=size, react=False
    )
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
    frames = solve_reaction_diffusion(
        state, *coefficient, dt=1.0, num_frames=4, steps_per_frame=2, num_output=size, react=False
    )
    torch.testing.assert_close(frames.mean((-2, -1)), state.mean((-2, -1))[:, None].expand(1, 4, 2))
    assert frames.max() <= state.max()
    constant = torch.full_like(state, 0.7)
    frames = solve_reaction_diffusion(
        constant, *coefficient, dt=1.0, num_frames=2, steps_per_frame=2, num_output=size, react=False
    )
    torch.testing.assert_close(frames[:, 1], constant)


def test_output_averages_blocks_of_cells():
    state = random_state(1, 8)
    frames = solve_reaction_diffusion(
        state, *coefficients((1e-3, 5e-3, 5e-3)), dt=0.1, num_frames=2, steps_per_frame=1, num_output=4
    )
    torch.testing.assert_close(frames[0, 0, 1, 0, 3], state[0, 1, 0:2, 6:8].mean())
