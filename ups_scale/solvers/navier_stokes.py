"""A pseudo-spectral solver of decaying 2D incompressible flow in vorticity form, periodic on [0, length)^2.

Dimensions in names: b trajectory, x and y grid points, k and l their wavenumbers (l halved).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ups_scale.solvers.spectral import integrate, kept_modes, wavenumbers

LENGTH = 2 * math.pi


def solve_navier_stokes(
    w_bxy: Tensor,
    nu_b: Tensor,
    *,
    dt: float,
    num_frames: int,
    steps_per_frame: int,
    num_output: int,
    length: float = LENGTH,
) -> Tensor:
    """Frames of the vorticity w = v_x - u_y on `num_output`^2 points: (B, T, num_output, num_output) float64.

    w_t + u w_x + v w_y = nu lap(w). Fourier in space on the input's grid with the 2/3 rule; the advection enters as the
    curl of the momentum fluxes, (d_xx - d_yy)(u v) + d_xy(v^2 - u^2) (Basdevant, J. Comput. Phys. 50 (1983) 209, four
    transforms); integrating-factor RK4 in time. Frames are truncated in Fourier space to the output grid, frame 0 too.

    Args:
        w_bxy: (B, X, X) vorticity, 1/s; the mean is dropped, a periodic flow has none.
        nu_b: (B,) kinematic viscosity, length^2/s.
        dt: seconds between frames.
        length: of the domain's edge.
    """
    num_points, device = w_bxy.shape[-1], w_bxy.device
    k = wavenumbers(num_points, length, half=False, device=device)[:, None]
    l = wavenumbers(num_points, length, half=True, device=device)[None, :]
    keep_kl = (
        kept_modes(num_points, half=False, device=device)[:, None]
        & kept_modes(num_points, half=True, device=device)[None, :]
    )
    laplace_kl = k**2 + l**2
    inverse_kl = torch.where(laplace_kl > 0, 1 / laplace_kl, 0)
    # Stream function psi with u = psi_y, v = -psi_x, so w = -lap(psi).
    velocity_ckl = torch.stack((1j * l * inverse_kl, -1j * k * inverse_kl))
    straight_kl = (k**2 - l**2) * keep_kl
    mixed_kl = k * l * keep_kl
    rate_bkl = -nu_b.double()[:, None, None] * laplace_kl
    shape = (num_points, num_points)

    def nonlinear(state_bkl: Tensor) -> Tensor:
        u_bxy, v_bxy = torch.fft.irfft2(velocity_ckl[:, None] * state_bkl, s=shape)
        products = torch.stack((u_bxy * v_bxy, (v_bxy - u_bxy) * (v_bxy + u_bxy)))
        shear_bkl, normal_bkl = torch.fft.rfft2(products)
        return straight_kl * shear_bkl + mixed_kl * normal_bkl

    state_bkl = torch.fft.rfft2(w_bxy.double()) * (keep_kl & (laplace_kl > 0))
    frames = [truncate(state_bkl, num_points, num_output)]
    for _ in range(num_frames - 1):
        state_bkl = integrate(state_bkl, rate_bkl, nonlinear, dt / steps_per_frame, steps_per_frame)
        frames.append(truncate(state_bkl, num_points, num_output))
    return torch.stack(frames, dim=1)


def truncate(state_bkl: Tensor, num_points: int, num_output: int) -> Tensor:
    """The field on the coarser grid that keeps the modes below its Nyquist: (B, num_output, num_output) float64."""
    half = num_output // 2
    coarse = torch.zeros(*state_bkl.shape[:-2], num_output, half + 1, dtype=state_bkl.dtype, device=state_bkl.device)
    coarse[..., :half, :half] = state_bkl[..., :half, :half]
    coarse[..., half + 1 :, :half] = state_bkl[..., num_points - half + 1 :, :half]
    return torch.fft.irfft2(coarse, s=(num_output, num_output)) * (num_output / num_points) ** 2
