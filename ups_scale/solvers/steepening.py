"""A pseudo-spectral solver of u_t + s u u_x = a u_xx + b u_xxx + c u_xxxx, periodic: the equations of Burgers (s = 1,
a = nu / pi as PDEBench writes it), Korteweg and de Vries (s = 6, b = -1), Kuramoto and Sivashinsky (s = 1, a = c = -1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ups_scale.solvers.spectral import integrate, kept_modes, wavenumbers


def solve_steepening(
    u_bx: Tensor,
    *,
    steepening: float = 1.0,
    diffusion_b: Tensor | float = 0.0,
    dispersion_b: Tensor | float = 0.0,
    hyperdiffusion_b: Tensor | float = 0.0,
    dt: float,
    num_frames: int,
    steps_per_frame: int,
    length: float = 1.0,
) -> Tensor:
    """Frames of u on the input's grid: (B, T, X) float64, frame 0 the input without the modes that dealiasing drops.

    Fourier in space with the 2/3 rule and the product in conservation form, (u^2 / 2)_x; integrating-factor RK4 in
    time, so that the linear terms are exact. The grid must have a few points in the steepest front.

    Args:
        u_bx: (B, X), u at x = i length / X, in length/s for s = 1.
        steepening, diffusion_b, dispersion_b, hyperdiffusion_b: s, a, b and c, each a number or (B,).
        dt: seconds between frames.
        length: of the domain.
    """
    num_points, device = u_bx.shape[-1], u_bx.device
    k = wavenumbers(num_points, length, half=True, device=device)
    keep_k = kept_modes(num_points, half=True, device=device)
    a_b1, b_b1, c_b1 = (
        torch.as_tensor(value, dtype=torch.float64, device=device).view(-1, 1)
        for value in (diffusion_b, dispersion_b, hyperdiffusion_b)
    )
    rate_bk = -a_b1 * k**2 - 1j * b_b1 * k**3 + c_b1 * k**4
    slope_k = -0.5j * steepening * k * keep_k

    def nonlinear(state_bk: Tensor) -> Tensor:
        return slope_k * torch.fft.rfft(torch.fft.irfft(state_bk, n=num_points).square())

    state_bk = torch.fft.rfft(u_bx.double()) * keep_k
    frames = [torch.fft.irfft(state_bk, n=num_points)]
    for _ in range(num_frames - 1):
        state_bk = integrate(state_bk, rate_bk, nonlinear, dt / steps_per_frame, steps_per_frame)
        frames.append(torch.fft.irfft(state_bk, n=num_points))
    return torch.stack(frames, dim=1)
