"""How the 2D families of reaction and diffusion are generated, and the steady one."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ups_scale.physics.families import FAMILIES
from ups_scale.solvers import initial
from ups_scale.solvers.darcy import solve_darcy
from ups_scale.solvers.reaction_diffusion import fitzhugh_nagumo, gray_scott, solve_reaction_diffusion
from ups_scale.solvers.setups.case import Case, Drawn, Problem, Range, Setup, block_mean

FITZHUGH_NAGUMO_DT = 0.15


def draw_fitzhugh_nagumo(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    parameters = {name: case.ranges[name].draw(rng) for name in ("du", "dv", "k")}
    fields = []
    for _ in range(2):
        field_xy = initial.with_rms(initial.cosine_band(rng, size, high=4), 1.0)
        # The corners' peaks (above 4) are rounded off: the cubic term is stiff there.
        fields.append(initial.with_rms(np.tanh(field_xy / 2), rng.uniform(0.5, 1.0)))
    return Drawn(parameters, np.stack(fields))


def solve_fitzhugh_nagumo(problem: Problem) -> Tensor:
    values = problem.parameters
    return solve_reaction_diffusion(
        problem.initial_bcx,
        torch.stack((values["du"], values["dv"]), dim=1),
        fitzhugh_nagumo(values["k"]),
        edges=problem.case.boundary,
        length=2.0,
        dt=FITZHUGH_NAGUMO_DT,
        num_frames=problem.case.num_frames,
        steps_per_frame=4 * problem.initial_bcx.shape[-1] // 64,
        num_output=problem.case.grid[0],
    )


GRAY_SCOTT_DT = 60.0
GRAY_SCOTT_LENGTH = 0.64
GRAY_SCOTT_BURN_IN = 10
"""Frames that pass before the first that is kept: the seeds have then begun to grow."""


def draw_gray_scott(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    """Discs of the second species in the first; `kill` is drawn so near to the line on which the pattern-less states
    merge that patterns form: 4 (feed + kill)^2 = feed (Pearson, Science 261 (1993) 189, figure 3)."""
    feed = case.ranges["feed"].draw(rng)
    kill = math.sqrt(feed) / 2 - feed + case.ranges["excess"].draw(rng)
    eaten_xy = np.zeros((size, size))
    for _ in range(rng.integers(3, 7)):
        centre, radius = rng.uniform(size=2), rng.uniform(0.06, 0.15)
        eaten_xy = np.maximum(eaten_xy, initial.disc(size, centre, radius, edge=0.03, periodic=True))
    return Drawn({"feed": feed, "kill": kill}, np.stack((1 - 0.5 * eaten_xy, 0.25 * eaten_xy)))


def solve_gray_scott(problem: Problem) -> Tensor:
    values = problem.parameters
    return solve_reaction_diffusion(
        problem.initial_bcx,
        torch.tensor((2e-5, 1e-5), dtype=torch.float64, device=values["feed"].device).expand(len(values["feed"]), 2),
        gray_scott(values["feed"], values["kill"]),
        edges=problem.case.boundary,
        length=GRAY_SCOTT_LENGTH,
        dt=GRAY_SCOTT_DT,
        num_frames=GRAY_SCOTT_BURN_IN + problem.case.num_frames,
        steps_per_frame=30,  # of 2 s, whatever the grid: diffusion is exact
        num_output=problem.case.grid[0],
        spectral=True,
    )[:, GRAY_SCOTT_BURN_IN:]


def draw_darcy(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    """Two materials, as PDEBench's, or, every other time, one that varies smoothly by a factor of ten or so."""
    beta, contrast = case.ranges["beta"].draw(rng), case.ranges["contrast"].draw(rng)
    field_xy = initial.with_rms(initial.cosine_band(rng, size, high=6), 1.0)
    if rng.uniform() < 0.5:
        permeability_xy = np.where(field_xy > 0, 1.0, 1 / contrast)
    else:
        permeability_xy = np.exp(0.5 * math.log(contrast) * np.tanh(field_xy) - 0.5 * math.log(contrast))
    return Drawn({"beta": beta}, permeability_xy[None])


def solve_darcy_setup(problem: Problem) -> Tensor:
    """Two frames: what is given, then the solution."""
    u_bxy = solve_darcy(problem.initial_bcx[:, 0], problem.parameters["beta"])
    given, solved = (
        block_mean(torch.stack((problem.initial_bcx[:, 0], u), dim=1), problem.case.grid[0])
        for u in (torch.zeros_like(u_bxy), u_bxy)
    )
    return torch.stack((given, solved), dim=1)


SETUPS = (
    Setup(
        family=FAMILIES["reaction_diffusion_2d"],
        grid=(32, 32),
        finest=64,
        extents=((-1.0, 1.0), (-1.0, 1.0)),
        points="centre",
        dt=FITZHUGH_NAGUMO_DT,
        cpu_batch=4,
        # PDEBench's values, each times a factor of 1/2 to 2.
        ranges={name: Range(v / 2, v * 2, "log") for name, v in (("du", 1e-3), ("dv", 5e-3), ("k", 5e-3))},
        limits={"du": (1e-4, 1.0), "dv": (1e-4, 1.0), "k": (-0.5, 0.5)},
        boundaries=("neumann", "periodic"),
        draw=draw_fitzhugh_nagumo,
        solve=solve_fitzhugh_nagumo,
        u_rms=(0.603, 0.473),
        delta_rms=(0.0503, 0.0703),
        other_ranges={"du": (2.5e-4, 5e-4)},
        other_boundary="periodic",
    ),
    Setup(
        family=FAMILIES["gray_scott_2d"],
        grid=(64, 64),
        finest=64,
        extents=((0.0, GRAY_SCOTT_LENGTH),) * 2,
        points="centre",
        dt=GRAY_SCOTT_DT,
        cpu_batch=4,
        ranges={"feed": Range(0.02, 0.05, "log"), "excess": Range(0.001, 0.004)},
        limits={"feed": (0.01, 0.08), "excess": (-0.002, 0.01)},
        boundaries=("periodic", "neumann"),
        draw=draw_gray_scott,
        solve=solve_gray_scott,
        u_rms=(0.664, 0.17),
        delta_rms=(0.0435, 0.0236),
        other_ranges={"feed": (0.05, 0.06)},
        other_boundary="neumann",
    ),
    Setup(
        family=FAMILIES["darcy_2d"],
        grid=(32, 32),
        finest=64,
        extents=((0.0, 1.0), (0.0, 1.0)),
        points="centre",
        dt=1.0,
        cpu_batch=16,
        ranges={"beta": Range(0.5, 2.0, "log"), "contrast": Range(5.0, 20.0, "log")},
        limits={"beta": (1e-6, 1e6), "contrast": (1.0, 1e4)},
        boundaries=("dirichlet",),
        draw=draw_darcy,
        solve=solve_darcy_setup,
        u_rms=(0.604, 0.109),
        delta_rms=(0.0, 0.154),
        other_ranges={"contrast": (20.0, 100.0)},
        sharp=True,
    ),
)
