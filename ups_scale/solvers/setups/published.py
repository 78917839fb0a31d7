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
from ups_scale.solvers.setups.case import Case, Draw, Drawn, Problem, Range, Setup, Solve
from ups_scale.solvers.setups.lines import every

CELLS = 1024
DT = 0.01
NUM_FRAMES = 201
DRAWN = 2
EDGE = 0.01
"""Width of the windows' edges."""
UNSIGNED_SHARE = WINDOW_SHARE = 0.1


def draw_waves(rng: np.random.Generator, num_waves: int) -> np.ndarray:
    """What a start consists of, (num_waves + 2, 3): of each wave the number of its periods, amplitude and phase; its
    sign, and whether the absolute value is taken; the window's low and high end, or zeros.

    Two wavenumbers are drawn; one that is drawn twice has twice as many periods. Those that aren't drawn have none, and
    so add a constant, amplitude sin(phase): the published formula doesn't have these, but its generator does.
    """
    times = np.bincount(rng.integers(0, num_waves, DRAWN), minlength=num_waves)
    amplitude, phase = rng.uniform(size=num_waves), rng.uniform(0, 2 * math.pi, num_waves)
    waves = np.stack((np.arange(1, num_waves + 1) * times, amplitude, phase), axis=1)
    unsigned, windowed = rng.uniform() < UNSIGNED_SHARE, rng.uniform() < WINDOW_SHARE
    sign = rng.choice((-1.0, 1.0))
    window = rng.uniform(0.1, 0.45), rng.uniform(0.55, 0.9)
    choices = (sign, unsigned, 0.0), (*(window if windowed else (0.0, 0.0)), 0.0)
    return np.concatenate((waves, choices))


def start(waves_bwn: Tensor, x: Tensor) -> Tensor:
    """u(x, 0) at points x of [0, 1), (B, *X) from `draw_waves` (B, num_waves + 2, 3)."""
    shape = (-1, *(1 for _ in range(x.ndim - 1)))
    # Its waves have whole periods between the first and the last cell's centre: a small step is left at the seam.
    length = 1 - 1 / CELLS
    u = torch.zeros_like(x)
    for wave_bn in waves_bwn[:, :-2].unbind(1):
        periods, amplitude, phase = (values_b.view(shape) for values_b in wave_bn.unbind(1))
        u = u + amplitude * torch.sin(2 * math.pi * periods * x / length + phase)
    sign, unsigned, _ = (values_b.view(shape) for values_b in waves_bwn[:, -2].unbind(1))
    u = sign * torch.where(unsigned > 0, u.abs(), u)
    low, high, _ = (values_b.view(shape) for values_b in waves_bwn[:, -1].unbind(1))
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
    _setup("advection_1d", "beta", 0.1, draw_advection, solve_advection, 1.13, 0.0203),
    _setup("burgers_1d", "nu", 0.001, draw_burgers, solve_burgers, 0.544, 0.0475),
)
