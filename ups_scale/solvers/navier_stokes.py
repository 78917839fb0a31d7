"""Pseudo-spectral solvers of incompressible flow, periodic: 2D in vorticity form, decaying or forced, and 3D.

Dimensions in names: b trajectory, c component, x and y grid points, k and l their wavenumbers (l halved).
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
    drag_b: Tensor | None = None,
    forcing_bxy: Tensor | None = None,
) -> Tensor:
    """Frames of the vorticity w = v_x - u_y on `num_output`^2 points: (B, T, num_output, num_output) float64.

    w_t + u w_x + v w_y = nu lap(w) - drag w + forcing. Fourier in space on the input's grid with the 2/3 rule; the
    advection enters as the curl of the momentum fluxes, (d_xx - d_yy)(u v) + d_xy(v^2 - u^2) (Basdevant, J. Comput.
    Phys. 50 (1983) 209, four transforms); integrating-factor RK4 in time. Frames are truncated in Fourier space to the
    output grid, frame 0 too.

    Args:
        w_bxy: (B, X, X) vorticity, 1/s; the mean is dropped, a periodic flow has none.
        nu_b: (B,) kinematic viscosity, length^2/s.
        dt: seconds between frames.
        length: of the domain's edge.
        drag_b: (B,) linear drag, 1/s.
        forcing_bxy: (B or 1, X, X) curl of a steady body force, 1/s^2.
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
    # Complex, since products of complex numbers with real ones would convert those each time.
    straight_kl = ((k**2 - l**2) * keep_kl).to(torch.complex128)
    mixed_kl = (k * l * keep_kl).to(torch.complex128)
    rate_bkl = -nu_b.double()[:, None, None] * laplace_kl
    if drag_b is not None:
        rate_bkl = rate_bkl - drag_b.double()[:, None, None]
    forcing_bkl = None if forcing_bxy is None else torch.fft.rfft2(forcing_bxy.double()) * keep_kl
    shape = (num_points, num_points)

    def nonlinear(state_bkl: Tensor) -> Tensor:
        u_bxy, v_bxy = torch.fft.irfft2(velocity_ckl[:, None] * state_bkl, s=shape)
        shear_bkl = torch.fft.rfft2(u_bxy * v_bxy)
        normal_bkl = torch.fft.rfft2((v_bxy - u_bxy) * (v_bxy + u_bxy))
        advected_bkl = torch.addcmul(straight_kl * shear_bkl, mixed_kl, normal_bkl)
        return advected_bkl if forcing_bkl is None else advected_bkl + forcing_bkl

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


def solve_navier_stokes_3d(
    velocity_bcx: Tensor,
    nu_b: Tensor,
    *,
    dt: float,
    num_frames: int,
    steps_per_frame: int,
    num_output: int,
    length: float = LENGTH,
) -> Tensor:
    """Frames of the velocity on `num_output`^3 points: (B, T, 3, num_output, num_output, num_output) float64.

    v_t = P(v x curl(v)) + nu lap(v) with P the projection on fields without divergence. Fourier in space on the
    input's grid with the 2/3 rule, integrating-factor RK4 in time. Source: Canuto et al., Spectral Methods (2007),
    chapter 3.

    Args:
        velocity_bcx: (B, 3, X, X, X), length/s; what of it has a divergence is dropped.
        nu_b: (B,) kinematic viscosity, length^2/s.
        dt: seconds between frames.
        length: of the domain's edge.
    """
    num_points, device = velocity_bcx.shape[-1], velocity_bcx.device
    axes, shape = (-3, -2, -1), (num_points,) * 3
    wave = [wavenumbers(num_points, length, half=axis == 2, device=device) for axis in range(3)]
    keep = [kept_modes(num_points, half=axis == 2, device=device) for axis in range(3)]
    k_ck = torch.stack(torch.meshgrid(*wave, indexing="ij"))
    keep_k = keep[0][:, None, None] & keep[1][:, None] & keep[2]
    square_k = (k_ck**2).sum(0)
    inverse_k = torch.where(square_k > 0, 1 / square_k, 0)
    rate_bck = -nu_b.double().view(-1, 1, 1, 1, 1) * square_k

    def project(field_bck: Tensor) -> Tensor:
        along_bk = (k_ck * field_bck).sum(1) * inverse_k
        return (field_bck - k_ck * along_bk[:, None]) * keep_k

    def nonlinear(state_bck: Tensor) -> Tensor:
        curl_bck = 1j * torch.linalg.cross(k_ck.expand_as(state_bck).to(state_bck.dtype), state_bck, dim=1)
        v_bcx, w_bcx = torch.fft.irfftn(torch.stack((state_bck, curl_bck)), s=shape, dim=axes)
        return project(torch.fft.rfftn(torch.linalg.cross(v_bcx, w_bcx, dim=1), dim=axes))

    def output(state_bck: Tensor) -> Tensor:
        half = num_output // 2
        coarse = torch.zeros(
            *state_bck.shape[:2], num_output, num_output, half + 1, dtype=state_bck.dtype, device=device
        )
        rows = torch.cat((torch.arange(half), torch.arange(num_output - half + 1, num_output))).to(device)
        fine = torch.where(rows < half, rows, rows + num_points - num_output)
        coarse[:, :, rows[:, None], rows, :half] = state_bck[:, :, fine[:, None], fine, :half]
        return torch.fft.irfftn(coarse, s=(num_output,) * 3, dim=axes) * (num_output / num_points) ** 3

    state_bck = project(torch.fft.rfftn(velocity_bcx.double(), dim=axes))
    frames = [output(state_bck)]
    for _ in range(num_frames - 1):
        state_bck = integrate(state_bck, rate_bck, nonlinear, dt / steps_per_frame, steps_per_frame)
        frames.append(output(state_bck))
    return torch.stack(frames, dim=1)
