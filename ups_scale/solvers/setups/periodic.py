"""How the periodic 2D and 3D families are generated, which are solved in Fourier space."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ups_scale.physics.families import FAMILIES
from ups_scale.solvers import initial
from ups_scale.solvers.linear import solve_linear
from ups_scale.solvers.navier_stokes import LENGTH, solve_navier_stokes, solve_navier_stokes_3d
from ups_scale.solvers.setups.case import Case, Drawn, Problem, Range, Setup

ADVECTION_DIFFUSION_DT = 0.03


def draw_advection_diffusion(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    speed, nu = case.ranges["speed"].draw(rng), case.ranges["nu"].draw(rng)
    angle = rng.uniform(0, 2 * math.pi)
    parameters = {"velocity_x": speed * math.cos(angle), "velocity_y": speed * math.sin(angle), "nu": nu}
    u_xy = initial.periodic_band(rng, size, low=1, high=4)
    return Drawn(parameters, initial.with_rms(u_xy, rng.uniform(0.5, 1.0))[None])


def solve_advection_diffusion(problem: Problem) -> Tensor:
    values = problem.parameters
    return solve_linear(
        problem.initial_bcx[:, 0],
        torch.stack((values["velocity_x"], values["velocity_y"]), dim=1),
        values["nu"],
        dt=ADVECTION_DIFFUSION_DT,
        num_frames=problem.case.num_frames,
    )[:, :, None]


NAVIER_STOKES_DT = 0.18


def draw_navier_stokes(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    nu = case.ranges["nu"].draw(rng)
    w_xy = initial.periodic_band(rng, size, low=1, high=4)
    return Drawn({"nu": nu}, initial.with_rms(w_xy, rng.uniform(1.2, 2.0))[None])


def solve_navier_stokes_setup(problem: Problem) -> Tensor:
    return solve_navier_stokes(
        problem.initial_bcx[:, 0],
        problem.parameters["nu"],
        dt=NAVIER_STOKES_DT,
        num_frames=problem.case.num_frames,
        steps_per_frame=4 * problem.initial_bcx.shape[-1] // 64,
        num_output=problem.case.grid[0],
    )[:, :, None]


KOLMOGOROV_DT = 0.12
KOLMOGOROV_WAVES = 4
KOLMOGOROV_BURN_IN = 40
"""Frames that pass before the first that is kept: the forcing has then replaced the start."""


def draw_kolmogorov(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    parameters = {name: case.ranges[name].draw(rng) for name in ("nu", "drag", "amplitude")}
    w_xy = initial.periodic_band(rng, size, low=1, high=4)
    return Drawn(parameters, initial.with_rms(w_xy, 3.0)[None])


def solve_kolmogorov(problem: Problem) -> Tensor:
    size, values = problem.initial_bcx.shape[-1], problem.parameters
    y = torch.arange(size, dtype=torch.float64, device=problem.initial_bcx.device) * (LENGTH / size)
    curl_y = -KOLMOGOROV_WAVES * torch.cos(KOLMOGOROV_WAVES * y)
    return solve_navier_stokes(
        problem.initial_bcx[:, 0],
        values["nu"],
        dt=KOLMOGOROV_DT,
        num_frames=KOLMOGOROV_BURN_IN + problem.case.num_frames,
        steps_per_frame=8 * size // 64,
        num_output=problem.case.grid[0],
        drag_b=values["drag"],
        forcing_bxy=(values["amplitude"].view(-1, 1, 1) * curl_y).expand(-1, size, size),
    )[:, KOLMOGOROV_BURN_IN:, None]


VORTICES_DT = 0.25


def draw_vortices(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    """Taylor and Green's vortices, shifted, with some waves that break their symmetry."""
    nu = case.ranges["nu"].draw(rng)
    shift, scale = rng.uniform(0, 2 * math.pi, 3), rng.uniform(0.8, 1.6)
    points = np.arange(size) * (LENGTH / size)
    x, y, z = np.meshgrid(*(points + s for s in shift), indexing="ij")
    vortex = np.stack((np.sin(x) * np.cos(y) * np.cos(z), -np.cos(x) * np.sin(y) * np.cos(z), np.zeros_like(x)))
    noise = initial.solenoidal_waves(rng, size, num_waves=8, max_wavenumber=2)
    return Drawn({"nu": nu}, scale * (vortex + initial.with_rms(noise, 0.15)))


def solve_vortices(problem: Problem) -> Tensor:
    return solve_navier_stokes_3d(
        problem.initial_bcx,
        problem.parameters["nu"],
        dt=VORTICES_DT,
        num_frames=problem.case.num_frames,
        steps_per_frame=6 * problem.initial_bcx.shape[-1] // 32,
        num_output=problem.case.grid[0],
    )


SQUARE = ((0.0, LENGTH), (0.0, LENGTH))

SETUPS = (
    Setup(
        family=FAMILIES["navier_stokes_2d"],
        grid=(32, 32),
        finest=64,
        extents=SQUARE,
        points="left",
        dt=NAVIER_STOKES_DT,
        cpu_batch=4,
        ranges={"nu": Range(3e-3, 3e-2, "log")},
        limits={"nu": (3e-3, 10.0)},
        boundaries=("periodic",),
        draw=draw_navier_stokes,
        solve=solve_navier_stokes_setup,
        u_rms=(1.336,),
        delta_rms=(0.248,),
        other_ranges={"nu": (2e-3, 3e-3)},
        finest_other=128,
    ),
    Setup(
        family=FAMILIES["kolmogorov_flow_2d"],
        grid=(32, 32),
        finest=64,
        extents=SQUARE,
        points="left",
        dt=KOLMOGOROV_DT,
        cpu_batch=4,
        ranges={"nu": Range(1e-2, 4e-2, "log"), "drag": Range(0.1, 0.1), "amplitude": Range(0.7, 1.4)},
        limits={"nu": (1e-2, 1.0), "drag": (0.05, 1.0), "amplitude": (0.0, 1.5)},
        boundaries=("periodic",),
        draw=draw_kolmogorov,
        solve=solve_kolmogorov,
        u_rms=(2.92,),
        delta_rms=(0.354,),
        other_ranges={"nu": (5e-3, 1e-2)},
        finest_other=128,
    ),
    Setup(
        family=FAMILIES["advection_diffusion_2d"],
        grid=(32, 32),
        finest=1,
        extents=((0.0, 1.0), (0.0, 1.0)),
        points="left",
        dt=ADVECTION_DIFFUSION_DT,
        cpu_batch=16,
        ranges={"speed": Range(0.2, 1.0), "nu": Range(1e-4, 1e-3, "log")},
        limits={"speed": (0.0, 15.0), "nu": (0.0, 1000.0)},
        boundaries=("periodic",),
        draw=draw_advection_diffusion,
        solve=solve_advection_diffusion,
        u_rms=(0.727,),
        delta_rms=(0.176,),
        other_ranges={"speed": (1.2, 2.0)},
    ),
    Setup(
        family=FAMILIES["navier_stokes_3d"],
        grid=(16, 16, 16),
        finest=32,
        extents=((0.0, LENGTH),) * 3,
        points="left",
        dt=VORTICES_DT,
        cpu_batch=1,
        ranges={"nu": Range(1e-2, 5e-2, "log")},
        limits={"nu": (1e-2, 10.0)},
        boundaries=("periodic",),
        draw=draw_vortices,
        solve=solve_vortices,
        u_rms=(0.334, 0.336, 0.186),
        delta_rms=(0.0294, 0.0296, 0.0283),
        other_ranges={"nu": (5e-3, 1e-2)},
        finest_other=64,
    ),
)
