"""Linear advection and diffusion against the shifted, decayed initial condition."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ups_scale.solvers.linear import solve_linear


@settings(max_examples=25, deadline=None)
@given(
    beta=st.floats(-2, 2),
    dt=st.floats(0.001, 0.5),
    wavenumber=st.integers(0, 8),
    phase=st.floats(0, 2 * math.pi),
)
def test_every_frame_is_the_shifted_initial_condition(beta, dt, wavenumber, phase):
    x = torch.arange(64, dtype=torch.float64) / 64

    def exact(t):
        return 0.3 + torch.sin(2 * math.pi * wavenumber * (x - beta * t) + phase)

    velocity = torch.tensor([[beta]], dtype=torch.float64)
    frames = solve_linear(exact(0.0)[None], velocity, torch.zeros(1), dt=dt, num_frames=5)
    assert frames.shape == (1, 5, 64)
    expected = torch.stack([exact(j * dt) for j in range(5)])
    torch.testing.assert_close(frames[0], expected, atol=1e-11, rtol=0)


def test_each_trajectory_moves_with_its_own_velocity():
    u_bx = torch.rand(1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    u_bx -= torch.fft.irfft(torch.fft.rfft(u_bx) * (torch.arange(9) == 8), n=16)  # no energy at Nyquist
    frames = solve_linear(u_bx, torch.tensor([[1.0], [-2.0]]), torch.zeros(2), dt=1 / 16, num_frames=2)
    torch.testing.assert_close(frames[0, 1], u_bx[0].roll(1))
    torch.testing.assert_close(frames[1, 1], u_bx[1].roll(-2))


def test_a_wave_in_two_dimensions_is_carried_and_decays():
    lengths, mode, velocity, nu = (1.0, 2.0), (2, -3), (0.3, -0.2), 0.01
    x, y = (torch.arange(16, dtype=torch.float64) * (length / 16) for length in lengths)
    k, l = (2 * math.pi * m / length for m, length in zip(mode, lengths, strict=True))

    def exact(t):
        phase = k * (x - velocity[0] * t)[:, None] + l * (y - velocity[1] * t)
        return 0.5 + math.exp(-nu * (k * k + l * l) * t) * torch.sin(phase)

    coefficients = (torch.tensor([velocity], dtype=torch.float64), torch.tensor([nu], dtype=torch.float64))
    frames = solve_linear(exact(0)[None], *coefficients, dt=0.7, num_frames=3, lengths=lengths)
    torch.testing.assert_close(frames[0], torch.stack([exact(0.7 * j) for j in range(3)]), atol=1e-12, rtol=0)
