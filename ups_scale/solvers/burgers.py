"""A pseudo-spectral solver of the 1D Burgers equation, u_t + u u_x = (nu / pi) u_xx on [0, 1), periodic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ups_scale.solvers.spectral import integrate, kept_modes, wavenumbers


def solve_burgers(u_bx: Tensor, nu_b: Tensor, *, dt: float, num_frames: int, steps_per_frame: int) -> Tensor:
    """Frames of u on the input's grid: (B, T, X) float64, frame 0 the input without the modes that dealiasing drops.

    Fourier in space with the 2/3 rule and the product in conservation form, (u^2 / 2)_x; integrating-factor RK4 in
    time. The viscosity in the equation is nu / pi, PDEBench's convention (arXiv 2210.07182, appendix D.2). Shocks are
    of width 8 nu / (pi jump): the grid must have a few points in that.

    Args:
        u_bx: (B, X), u at x = i / X, in domain lengths per second.
        nu_b: (B,) PDEBench's nu.
        dt: seconds between frames.
    """
    num_points = u_bx.shape[-1]
    k = wavenumbers(num_points, 1.0, half=True, device=u_bx.device)
    keep_k = kept_modes(num_points, half=True, device=u_bx.device)
    rate_bk = -(nu_b.double()[:, None] / math.pi) * k**2
    slope_k = -0.5j * k * keep_k

    def nonlinear(state_bk: Tensor) -> Tensor:
        return slope_k * torch.fft.rfft(torch.fft.irfft(state_bk, n=num_points).square())

    state_bk = torch.fft.rfft(u_bx.double()) * keep_k
    frames = [torch.fft.irfft(state_bk, n=num_points)]
    for _ in range(num_frames - 1):
        state_bk = integrate(state_bk, rate_bk, nonlinear, dt / steps_per_frame, steps_per_frame)
        frames.append(torch.fft.irfft(state_bk, n=num_points))
    return torch.stack(frames, dim=1)
