"""Burgers' equation u_t + (u^2 / 2)_x = a u_xx, periodic, for fronts that are narrower than the grid's cells.

Finite volumes: limited linear reconstruction, Godunov's flux and two-stage Runge-Kutta as in `finite_volume`, for the
left side; half steps of the diffusion, exact in Fourier space, around it (Strang splitting). Order 2 where u is smooth.

Dimensions in names: b trajectory, x cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ups_scale.solvers.finite_volume import CFL, limited
from ups_scale.solvers.spectral import wavenumbers


def solve_burgers_volumes(
    u_bx: Tensor, diffusion_b: Tensor, *, dt: float, num_frames: int, length: float = 1.0
) -> Tensor:
    """Frames of the cell averages: (B, T, X) float64, frame 0 the input.

    Each trajectory takes steps of its own length, which do not grow within a frame: |u| never does.

    Args:
        u_bx: (B, X).
        diffusion_b: (B,) a, length^2/s, 0 or more.
        dt: seconds between frames.
        length: of the domain.
    """
    size = u_bx.shape[-1]
    width = length / size
    u_bx = u_bx.double()
    rate_bk = -diffusion_b.double()[:, None] * wavenumbers(size, length, half=True, device=u_bx.device) ** 2
    frames = [u_bx]
    for _ in range(num_frames - 1):
        num_steps_b = (u_bx.abs().amax(1) * (dt / (CFL * width))).ceil().clamp(min=1)
        step_b1 = (dt / num_steps_b)[:, None]
        half_bk = torch.exp(rate_bk * (step_b1 / 2))
        for done in range(int(num_steps_b.max())):
            # Those that need fewer steps stand still, so that none depends on the others of its batch.
            on_b1 = (done < num_steps_b)[:, None]
            half = torch.where(on_b1, half_bk, 1.0)
            u_bx = _diffuse(u_bx, half)
            first_bx = u_bx + torch.where(on_b1, step_b1, 0.0) * _tendency(u_bx, width)
            second_bx = first_bx + torch.where(on_b1, step_b1, 0.0) * _tendency(first_bx, width)
            u_bx = _diffuse(0.5 * (u_bx + second_bx), half)
        frames.append(u_bx)
    return torch.stack(frames, dim=1)


def _diffuse(u_bx: Tensor, decay_bk: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(u_bx) * decay_bk, n=u_bx.shape[-1])


def _tendency(u_bx: Tensor, width: float) -> Tensor:
    slope_bx = limited(u_bx - u_bx.roll(1, -1), u_bx.roll(-1, -1) - u_bx)
    left_bx, right_bx = u_bx + 0.5 * slope_bx, (u_bx - 0.5 * slope_bx).roll(-1, -1)
    # Godunov's flux of a convex law, at the face right of each cell.
    flux_bx = torch.maximum(0.5 * left_bx.clamp(min=0) ** 2, 0.5 * right_bx.clamp(max=0) ** 2)
    return (flux_bx.roll(1, -1) - flux_bx) / width
