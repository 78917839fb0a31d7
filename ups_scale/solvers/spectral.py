"""What the periodic pseudo-spectral solvers share: wavenumbers, dealiasing, and a time stepper.

Dimensions in names: b trajectory, k wavenumber(s) of a real FFT (last axis halved), x grid point(s).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def wavenumbers(num_points: int, length: float, *, half: bool, device: torch.device | str) -> Tensor:
    """Angular wavenumbers 2 pi m / length, float64: (num_points // 2 + 1,) where `half`, else (num_points,)."""
    frequencies = torch.fft.rfftfreq if half else torch.fft.fftfreq
    return frequencies(num_points, 1 / num_points, dtype=torch.float64, device=device) * (2 * math.pi / length)


def kept_modes(num_points: int, *, half: bool, device: torch.device | str) -> Tensor:
    """Which modes the 2/3 rule keeps, so that quadratic products alias into none of them: bool, as `wavenumbers`.

    Source: Orszag, J. Atmos. Sci. 28 (1971) 1074.
    """
    return wavenumbers(num_points, 2 * math.pi, half=half, device=device).abs() < num_points / 3


def integrate(
    state_bk: Tensor, rate_bk: Tensor, nonlinear: Callable[[Tensor], Tensor], step: float, num_steps: int
) -> Tensor:
    """The state after `num_steps` steps of d/dt state = rate * state + nonlinear(state), (B, *K) complex128.

    Integrating-factor Runge-Kutta of order 4: exact for the linear part whatever the step, so diffusion does not limit
    it. Source: Canuto et al., Spectral Methods (2006), appendix D.

    Args:
        state_bk: (B, *K) complex128.
        rate_bk: the linear part per mode, broadcastable to (B, *K), 1/s; what grows fast wants short steps.
        nonlinear: the rest of the right-hand side, (B, *K) -> (B, *K).
        step: in seconds.
    """
    # Products of complex numbers with real ones would convert the real ones each time.
    half_bk = torch.exp(rate_bk * (step / 2)).to(torch.complex128)
    for _ in range(num_steps):
        a_bk = half_bk * nonlinear(state_bk)
        halfway_bk = half_bk * state_bk
        b_bk = nonlinear(torch.add(halfway_bk, a_bk, alpha=step / 2))
        c_bk = nonlinear(torch.add(halfway_bk, b_bk, alpha=step / 2))
        whole_bk = half_bk * halfway_bk
        d_bk = nonlinear(torch.add(whole_bk, half_bk * c_bk, alpha=step))
        slope_bk = half_bk * torch.add(a_bk, b_bk + c_bk, alpha=2) + d_bk
        state_bk = torch.add(whole_bk, slope_bk, alpha=step / 6)
    return state_bk
