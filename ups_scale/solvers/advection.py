"""Exact solutions of 1D linear advection, u_t + beta u_x = 0 on [0, 1), periodic."""

from __future__ import annotations

import torch
from torch import Tensor

from ups_scale.solvers.spectral import wavenumbers


def solve_advection(u_bx: Tensor, beta_b: Tensor, *, dt: float, num_frames: int) -> Tensor:
    """Frames u(x, j dt) = u(x - beta j dt, 0) by a shift of the phases: (B, T, X) float64, frame 0 the input.

    Exact for input that has no energy at the Nyquist mode.

    Args:
        u_bx: (B, X), u at x = i / X.
        beta_b: (B,) velocity, domain lengths per second.
        dt: seconds between frames.
    """
    num_points = u_bx.shape[-1]
    k = wavenumbers(num_points, 1.0, half=True, device=u_bx.device)
    t = torch.arange(num_frames, dtype=torch.float64, device=u_bx.device) * dt
    angle_btk = -beta_b.double()[:, None, None] * t[:, None] * k
    spectrum_btk = torch.fft.rfft(u_bx.double())[:, None] * torch.polar(torch.ones_like(angle_btk), angle_btk)
    return torch.fft.irfft(spectrum_btk, n=num_points)
