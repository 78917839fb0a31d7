"""PDEBench's diffusion with sorption (arXiv 2210.07182, appendix D.6): u_t = D / R(u) u_xx on [0, 1].

R(u) = 1 + K n u^(n - 1) with K = (1 - phi) / phi rho_s k (Freundlich's isotherm) is the derivative of what a cell
holds, dissolved and sorbed, m(u) = u + K u^n, so m_t = D u_xx: the form that is solved. u = 1 on the left; on the right
-D u_x = u leaves.

Dimensions in names: b trajectory, x cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

POROSITY, BULK_DENSITY, FREUNDLICH_K, EXPONENT = 0.29, 2880.0, 3.5e-4, 0.874
SORPTION = (1 - POROSITY) / POROSITY * BULK_DENSITY * FREUNDLICH_K
SMALLEST = 1e-3
NEWTON_STEPS = 30
START_STEPS = 4
"""Backward steps that the first step is made of: they damp the jumps at both sides, which others would overshoot."""


def held(u: Tensor) -> Tensor:
    """Dissolved and sorbed substance, m(u)."""
    return u + SORPTION * u**EXPONENT


def retardation(u: Tensor) -> Tensor:
    """m'(u), which is R(u)."""
    return 1 + SORPTION * EXPONENT * u ** (EXPONENT - 1)


def solve_diffusion_sorption(
    u_bx: Tensor, diffusivity_b: Tensor, *, dt: float, num_frames: int, steps_per_frame: int
) -> Tensor:
    """Frames of u at cell centres: (B, T, X) float64.

    Finite volumes, order 2 in space; in time TR-BDF2 (a trapezoidal, then a backward step; Bank et al., IEEE Trans. CAD
    4 (1985) 436), order 2, after a start of backward steps (Rannacher, Numer. Math. 43 (1984) 309). What the cells hold
    changes by what passes the two sides, to the tolerance of Newton's method.

    Args:
        u_bx: (B, X) in [`SMALLEST`, 1]: towards 0, R(u) grows without bound.
        diffusivity_b: (B,) length^2/s.
        dt: seconds between frames.

    Raises:
        ValueError: u_bx is out of range.
        ArithmeticError: Newton's method did not converge.
    """
    size = u_bx.shape[-1]
    if not bool((u_bx >= SMALLEST).logical_and(u_bx <= 1).all()):
        raise ValueError(f"u starts at {float(u_bx.min()):g}, but must lie in [{SMALLEST:g}, 1]")
    u_bx = u_bx.double()
    d_b1 = diffusivity_b.double()[:, None]
    step, part = dt / steps_per_frame, 2 - 2**0.5
    across = size * d_b1  # flux per difference between neighbouring cells
    right = 2 * across / (1 + 2 * across)  # what leaves on the right per u of the last cell
    frames = [u_bx]

    def inflow(u: Tensor) -> Tensor:
        """What each cell gains per second, times its width."""
        leftward = torch.cat((2 * across * (u[:, :1] - 1), across * u.diff(dim=-1), -right * u[:, -1:]), dim=-1)
        return leftward.diff(dim=-1)

    def implicit(known: Tensor, seconds: float, guess: Tensor) -> Tensor:
        """u with m(u) - seconds * size * inflow(u) = known."""
        scale = seconds * size
        u = guess
        todo = torch.ones_like(u[:, :1], dtype=torch.bool)
        for _ in range(NEWTON_STEPS):
            residual = held(u) - scale * inflow(u) - known
            diagonal = retardation(u) + scale * across * 2
            diagonal[:, :1] += scale * across
            diagonal[:, -1:] += scale * (right - across)
            off = (-scale * across).expand(-1, size)
            change = tridiagonal(off, diagonal, off, residual)
            # Trajectories that are done stand still, whatever else is in the batch.
            u = torch.where(todo, torch.maximum(u - change, 0.1 * u), u)
            todo = todo & (change.abs().amax(1, keepdim=True) >= 1e-12)
            if not bool(todo.any()):
                return u
        raise ArithmeticError(f"Newton's method still changed u by {change.abs().amax().item():.1e}: take more steps")

    for _ in range(START_STEPS):
        u_bx = implicit(held(u_bx), step / START_STEPS, u_bx)
    for number in range(num_frames - 1):
        for _ in range(steps_per_frame if number else steps_per_frame - 1):
            before = held(u_bx)
            middle = implicit(before + part / 2 * step * size * inflow(u_bx), part / 2 * step, u_bx)
            known = (held(middle) - (1 - part) ** 2 * before) / (part * (2 - part))
            u_bx = implicit(known, (1 - part) / (2 - part) * step, middle)
        frames.append(u_bx)
    return torch.stack(frames, dim=1)


def tridiagonal(lower: Tensor, diagonal: Tensor, upper: Tensor, right: Tensor) -> Tensor:
    """Solutions of diagonally dominant tridiagonal systems, all (B, X), by cyclic reduction in log2(X) steps.

    `lower[:, 0]` and `upper[:, -1]` don't count. Source: Hockney, J. ACM 12 (1965) 95.
    """
    size = diagonal.shape[-1]
    lower, upper = lower.clone(), upper.clone()
    lower[:, 0] = 0
    upper[:, -1] = 0

    def shifted(values: Tensor, by: int, fill: float) -> Tensor:
        """values[i + by], `fill` beyond the ends."""
        ends = torch.full_like(values[:, : abs(by)], fill)
        return torch.cat((values[:, by:], ends), -1) if by > 0 else torch.cat((ends, values[:, :by]), -1)

    distance = 1
    while distance < size:
        down, up = lower / shifted(diagonal, -distance, 1.0), upper / shifted(diagonal, distance, 1.0)
        right = right - down * shifted(right, -distance, 0.0) - up * shifted(right, distance, 0.0)
        diagonal = diagonal - down * shifted(upper, -distance, 0.0) - up * shifted(lower, distance, 0.0)
        lower, upper = -down * shifted(lower, -distance, 0.0), -up * shifted(upper, distance, 0.0)
        distance *= 2
    return right / diagonal
