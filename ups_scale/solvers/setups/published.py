"""Advection and Burgers by PDEBench's published recipe (arXiv 2210.07182, appendix D.1 and D.2, and the settings of its
generator): 1024 cells on [0, 1], 201 frames 0.01 s apart, one value of the parameter per file, 10,000 trajectories.

The equation, initial condition, grid and time span are its own; the solver isn't: advection is exact, and Burgers'
fluxes, splitting and limiter are `burgers_volumes`'.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ups_scale.physics.families import FAMILIES
from ups_scale.solvers.burgers_volumes import solve_burgers_volumes
from ups_scale.solvers.setups.common import Case, Draw, Drawn, Problem, Range, Setup, Solve
from ups_scale.solvers.setups.lines import every

CELLS = 1024
DT = 0.01
NUM_FRAMES = 201
WAVES = 2
EDGE = 0.01
"""Width of the windows' edges."""
UNSIGNED_SHARE = WINDOW_SHARE = 0.1


def draw_waves(rng: np.random.Generator, max_wavenumber: int) -> np.ndarray:
    """What a start consists of, (5, 2): wavenumbers, amplitudes, phases; its sign, and whether the absolute value is
    taken; the window's low and high end, or 0, 0."""
    wavenumber = rng.integers(1, max_wavenumber + 1, WAVES)
    # A wavenumber that is drawn twice has twice its frequency there.
    wavenumber = np.array([k * np.count_nonzero(wavenumber == k) for k in wavenumber])
    amplitude, phase = rng.uniform(size=WAVES), rng.uniform(0, 2 * math.pi, WAVES)
    unsigned, windowed = rng.uniform() < UNSIGNED_SHARE, rng.uniform() < WINDOW_SHARE
    sign = rng.choice((-1.0, 1.0))
    window = rng.uniform(0.1, 0.45), rng.uniform(0.55, 0.9)
    return np.stack((wavenumber, amplitude, phase, (sign, unsigned), window if windowed else (0.0, 0.0)))


def start(waves_bwn: Tensor, x: Tensor) -> Tensor:
    """u(x, 0) at points x of [0, 1), (B, *X) from `draw_waves` (B, 5, 2)."""
    shape = (-1, *(1 for _ in range(x.ndim - 1)))
    # Its waves have whole periods between the first and the last cell's centre: a small step is left at the seam.
    period = 1 - 1 / CELLS
    u = torch.zeros_like(x)
    for wave in range(WAVES):
        wavenumber, amplitude, phase = (waves_bwn[:, row, wave].view(shape) for row in range(3))
        u = u + amplitude * torch.sin(2 * math.pi * wavenumber * (x - 0.5 / CELLS) / period + phase)
    sign, unsigned = (waves_bwn[:, 3, column].view(shape) for column in range(2))
    u = sign * torch.where(unsigned > 0, u.abs(), u)
    low, high = (waves_bwn[:, 4, column].view(shape) for column in range(2))
    window = 0.5 * (torch.tanh((x - low) / EDGE) - torch.tanh((x - high) / EDGE))
    return torch.where(high > 0, u * window, u)


def centres(like: Tensor) -> Tensor:
    return (torch.arange(CELLS, dtype=torch.float64, device=like.device) + 0.5) / CELLS


def draw_advection(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    return Drawn({"beta": case.ranges["beta"].draw(rng)}, draw_waves(rng, 8))


def solve_advection(problem: Problem) -> Tensor:
    """The start, shifted: exact, also at its jumps."""
    x, beta_b = centres(problem.initial_bcx), problem.parameters["beta"]
    x = x[:: CELLS // problem.case.grid[0]]
    times = torch.arange(problem.case.num_frames, dtype=torch.float64, device=x.device) * DT
    return start(problem.initial_bcx, (x - (beta_b[:, None] * times)[..., None]) % 1.0)[:, :, None]


def draw_burgers(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    return Drawn({"nu": case.ranges["nu"].draw(rng)}, draw_waves(rng, 4))


def solve_burgers(problem: Problem) -> Tensor:
    x, nu_b = centres(problem.initial_bcx), problem.parameters["nu"]
    u_bx = start(problem.initial_bcx, x.expand(len(nu_b), -1))
    u_btx = solve_burgers_volumes(u_bx, nu_b / math.pi, dt=DT, num_frames=problem.case.num_frames)
    return every(u_btx, problem.case.grid[0])


def _setup(
    family: str, parameter: str, usual: float, draw: Draw, solve: Solve, u_rms: float, delta_rms: float
) -> Setup:
    return Setup(
        family=FAMILIES[family],
        variant="pdebench",
        grid=(CELLS,),
        finest=CELLS,
        extents=((0.0, 1.0),),
        points="first",
        dt=DT,
        cpu_batch=32,
        ranges={parameter: Range(usual, usual)},
        limits={parameter: (0.0, 100.0)},
        boundaries=("periodic",),
        draw=draw,
        solve=solve,
        u_rms=(u_rms,),
        delta_rms=(delta_rms,),
        num_frames=NUM_FRAMES,
    )


SETUPS = (
    _setup("advection_1d", "beta", 0.1, draw_advection, solve_advection, 0.552, 0.0208),
    _setup("burgers_1d", "nu", 0.001, draw_burgers, solve_burgers, 0.281, 0.0224),
)
