"""Advection against the shifted initial condition."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ups_scale.solvers.advection import solve_advection


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

    frames = solve_advection(exact(0.0)[None], torch.tensor([beta], dtype=torch.float64), dt=dt, num_frames=5)
    assert frames.shape == (1, 5, 64)
    expected = torch.stack([exact(j * dt) for j in range(5)])
    torch.testing.assert_close(frames[0], expected, atol=1e-11, rtol=0)


def test_each_trajectory_moves_with_its_own_velocity():
    u_bx = torch.rand(1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    u_bx -= torch.fft.irfft(torch.fft.rfft(u_bx) * (torch.arange(9) == 8), n=16)  # no energy at Nyquist
    frames = solve_advection(u_bx, torch.tensor([1.0, -2.0]), dt=1 / 16, num_frames=2)
    torch.testing.assert_close(frames[0, 1], u_bx[0].roll(1))
    torch.testing.assert_close(frames[1, 1], u_bx[1].roll(-2))
