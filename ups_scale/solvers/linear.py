"""Exact solutions of linear advection and diffusion, u_t + velocity . grad(u) = nu lap(u), periodic, in any dimension.

Dimensions in names: b trajectory, t frame, x every axis of the grid, k its wavenumbers (the last axis halved).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ups_scale.solvers.spectral import wavenumbers


def solve_linear(
    u_bx: Tensor,
    velocity_bd: Tensor,
    nu_b: Tensor,
    *,
    dt: float,
    num_frames: int,
    lengths: Sequence[float] | None = None,
) -> Tensor:
    """Frames of u at any time at once, by the decay and shift of every Fourier mode: (B, T, *grid) float64.

    Exact for input that has no energy at the Nyquist modes; frame 0 is the input.

    Args:
        u_bx: (B, *grid), u at i / N of each axis.
        velocity_bd: (B, D) length/s.
        nu_b: (B,) diffusivity, length^2/s, 0 or more.
        dt: seconds between frames.
        lengths: of the domain per axis, 1 where not given.
    """
    grid, device = u_bx.shape[1:], u_bx.device
    num_axes = len(grid)
    axes = tuple(range(-num_axes, 0))
    rate_bk = torch.zeros(1, dtype=torch.complex128, device=device)
    for axis, size in enumerate(grid):
        k = wavenumbers(size, lengths[axis] if lengths else 1.0, half=axis == num_axes - 1, device=device)
        k = k.view(-1, *(1 for _ in range(num_axes - 1 - axis)))
        shape = (-1, *(1 for _ in grid))
        rate_bk = rate_bk - 1j * velocity_bd[:, axis].double().view(shape) * k - nu_b.double().view(shape) * k**2
    start_bk = torch.fft.rfftn(u_bx.double(), dim=axes)
    frames = (start_bk * torch.exp(rate_bk * (dt * frame)) for frame in range(num_frames))
    return torch.stack([torch.fft.irfftn(frame_bk, s=grid, dim=axes) for frame_bk in frames], dim=1)
