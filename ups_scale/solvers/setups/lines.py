"""How the 1D families are generated."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ups_scale.physics.families import FAMILIES
from ups_scale.solvers import initial, sorption
from ups_scale.solvers.compressible import GAMMA, Gas
from ups_scale.solvers.finite_volume import solve as solve_finite_volume
from ups_scale.solvers.linear import solve_linear
from ups_scale.solvers.reaction_diffusion import logistic, solve_reaction_diffusion
from ups_scale.solvers.setups.case import FINEST, Case, Drawn, Problem, Range, Setup, block_mean
from ups_scale.solvers.steepening import solve_steepening


def every(u_btx: Tensor, size: int) -> Tensor:
    """Every so many points, so that `size` are left: (B, T, 1, size)."""
    return u_btx[:, :, None, :: u_btx.shape[-1] // size]


FINE = 2 * FINEST[1]


def at_centres(u_x: np.ndarray, size: int) -> np.ndarray:
    """Of `FINE` points those in the centres of `size` cells: what is drawn there does not depend on the grid."""
    block = len(u_x) // size
    return u_x[block // 2 :: block]


ADVECTION_DT = 0.018


def draw_advection(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    beta = case.ranges["beta"].draw(rng)
    u_x = initial.sinusoids(rng, size, num_modes=3, max_wavenumber=6)
    return Drawn({"beta": beta}, initial.with_rms(u_x, rng.uniform(0.5, 1.0))[None])


def solve_advection(problem: Problem) -> Tensor:
    beta_b = problem.parameters["beta"]
    u_bx, still_b = problem.initial_bcx[:, 0], torch.zeros_like(beta_b)
    return solve_linear(u_bx, beta_b[:, None], still_b, dt=ADVECTION_DT, num_frames=problem.case.num_frames)[:, :, None]


BURGERS_DT = 0.03


def draw_burgers(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    nu = case.ranges["nu"].draw(rng)
    u_x = initial.sinusoids(rng, size, num_modes=3, max_wavenumber=3)
    # A mean flow: without one, some trajectories decay to nearly nothing.
    mean = rng.uniform(0.2, 0.5) * rng.choice((-1.0, 1.0))
    return Drawn({"nu": nu}, (initial.with_rms(u_x, rng.uniform(0.5, 1.0)) + mean)[None])


def solve_burgers(problem: Problem) -> Tensor:
    size = problem.initial_bcx.shape[-1]
    u_btx = solve_steepening(
        problem.initial_bcx[:, 0],
        diffusion_b=problem.parameters["nu"] / math.pi,
        dt=BURGERS_DT,
        num_frames=problem.case.num_frames,
        steps_per_frame=32 * size // 512,
    )
    return every(u_btx, problem.case.grid[0])


KDV_DT = 0.2
KDV_LENGTH = 32.0


def draw_kdv(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    delta = case.ranges["delta"].draw(rng)
    u_x = initial.sinusoids(rng, size, num_modes=3, max_wavenumber=3)
    return Drawn({"delta": delta}, initial.with_rms(u_x, rng.uniform(0.4, 0.8))[None])


def solve_kdv(problem: Problem) -> Tensor:
    size = problem.initial_bcx.shape[-1]
    u_btx = solve_steepening(
        problem.initial_bcx[:, 0],
        steepening=6.0,
        dispersion_b=-problem.parameters["delta"],
        dt=KDV_DT,
        num_frames=problem.case.num_frames,
        steps_per_frame=80 * size // 256,
        length=KDV_LENGTH,
    )
    return every(u_btx, problem.case.grid[0])


KS_DT = 0.8
KS_LENGTH = 64.0
KS_BURN_IN = 40
"""Frames that pass before the first that is kept: the noise of the start has then become the attractor's."""


def draw_ks(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    nu = case.ranges["nu"].draw(rng)
    u_x = initial.sinusoids(rng, size, num_modes=8, max_wavenumber=8)
    return Drawn({"nu": nu}, initial.with_rms(u_x, 1.0)[None])


def solve_ks(problem: Problem) -> Tensor:
    size = problem.initial_bcx.shape[-1]
    u_btx = solve_steepening(
        problem.initial_bcx[:, 0],
        diffusion_b=-1.0,
        hyperdiffusion_b=-problem.parameters["nu"],
        dt=KS_DT,
        num_frames=KS_BURN_IN + problem.case.num_frames,
        steps_per_frame=32 * size // 256,
        length=KS_LENGTH,
    )
    return every(u_btx[:, KS_BURN_IN:], problem.case.grid[0])


FISHER_DT = 0.03


def draw_fisher(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    parameters = {name: case.ranges[name].draw(rng) for name in ("nu", "rho")}
    u_x = np.abs(initial.sinusoids(rng, FINE, num_modes=2, max_wavenumber=4))
    return Drawn(parameters, at_centres(u_x / u_x.max() * rng.uniform(0.4, 1.0), size)[None])


def solve_fisher(problem: Problem) -> Tensor:
    size = problem.initial_bcx.shape[-1]
    return solve_reaction_diffusion(
        problem.initial_bcx,
        problem.parameters["nu"][:, None],
        logistic(problem.parameters["rho"]),
        edges=problem.case.boundary,
        length=1.0,
        dt=FISHER_DT,
        num_frames=problem.case.num_frames,
        steps_per_frame=8 * size // 256,
        num_output=problem.case.grid[0],
    )


SORPTION_DT = 10.0


def draw_sorption(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    diffusivity = case.ranges["D"].draw(rng)
    # PDEBench starts from a constant; here a part of it varies, so that there is more than one solution to learn.
    level, share = rng.uniform(0.05, 0.25), rng.uniform(0.2, 0.9)
    wave_x = initial.sinusoids(rng, FINE, num_modes=3, max_wavenumber=4)
    return Drawn({"D": diffusivity}, at_centres(level * (1 + share * wave_x / np.abs(wave_x).max()), size)[None])


def solve_sorption(problem: Problem) -> Tensor:
    u_btx = sorption.solve_diffusion_sorption(
        problem.initial_bcx[:, 0],
        problem.parameters["D"],
        dt=SORPTION_DT,
        num_frames=problem.case.num_frames,
        steps_per_frame=4,
    )
    return block_mean(u_btx, problem.case.grid[0])[:, :, None]


GAS_DT = 0.012


def draw_gas(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    """A gas in waves, or, every other time, in pieces whose borders become shocks, rarefactions and contacts."""
    mach, eta = case.ranges["M"].draw(rng), case.ranges["eta"].draw(rng)
    parameters = {"M": mach, "eta": eta, "zeta": eta}
    if rng.uniform() < 0.5:
        drawn = [initial.sinusoids(rng, FINE, num_modes=3, max_wavenumber=3) for _ in range(3)]
        waves = [at_centres(initial.with_rms(wave_x, 1.0), size) for wave_x in drawn]
        density_x, pressure_x = np.exp(0.3 * waves[0]), np.exp(0.3 * waves[1])
        velocity_x = waves[2]
    else:
        pieces = rng.integers(2, 6)
        borders = np.sort(rng.uniform(size=pieces))
        x = (np.arange(size) + 0.5) / size
        piece_x = np.searchsorted(borders, x) % pieces
        density_x, pressure_x = (rng.uniform(0.25, 1.75, pieces)[piece_x] for _ in range(2))
        velocity_x = rng.standard_normal(pieces)[piece_x]
    sound = math.sqrt(GAMMA * pressure_x.mean() / density_x.mean())
    return Drawn(parameters, np.stack((density_x, pressure_x, mach * sound * velocity_x)))


def solve_gas(problem: Problem) -> Tensor:
    case, size = problem.case, problem.initial_bcx.shape[-1]
    frames_btcx = solve_finite_volume(
        gas_of(problem),
        problem.initial_bcx,
        dx=(1 / size,),
        sides=((case.boundary, case.boundary),),
        dt=GAS_DT,
        num_frames=case.num_frames,
    )
    return block_mean(frames_btcx.flatten(0, 1), case.grid[0]).unflatten(0, frames_btcx.shape[:2])


def gas_of(problem: Problem) -> Gas:
    """The gas of a batch; without viscous terms where all its viscosities are 0."""
    eta_b, zeta_b = problem.parameters["eta"], problem.parameters["zeta"]
    return Gas(eta_b=eta_b, zeta_b=zeta_b) if bool(eta_b.any()) else Gas()


UNIT = ((0.0, 1.0),)

SETUPS = (
    Setup(
        family=FAMILIES["advection_1d"],
        grid=(128,),
        finest=1,
        extents=UNIT,
        points="left",
        dt=ADVECTION_DT,
        cpu_batch=16,
        ranges={"beta": Range(0.2, 1.0, "signed")},
        limits={"beta": (0.0, 25.0)},
        boundaries=("periodic",),
        draw=draw_advection,
        solve=solve_advection,
        u_rms=(0.765,),
        delta_rms=(0.212,),
        other_ranges={"beta": (1.2, 2.0)},
    ),
    Setup(
        family=FAMILIES["burgers_1d"],
        grid=(128,),
        finest=512,
        extents=UNIT,
        points="left",
        dt=BURGERS_DT,
        cpu_batch=32,
        ranges={"nu": Range(0.005, 0.05, "log")},
        limits={"nu": (0.003, 1.0)},
        boundaries=("periodic",),
        draw=draw_burgers,
        solve=solve_burgers,
        u_rms=(0.586,),
        delta_rms=(0.123,),
        other_ranges={"nu": (0.003, 0.005)},
    ),
    Setup(
        family=FAMILIES["korteweg_de_vries_1d"],
        grid=(128,),
        finest=256,
        extents=((0.0, KDV_LENGTH),),
        points="left",
        dt=KDV_DT,
        cpu_batch=32,
        ranges={"delta": Range(0.5, 2.0, "log")},
        limits={"delta": (0.25, 10.0)},
        boundaries=("periodic",),
        draw=draw_kdv,
        solve=solve_kdv,
        u_rms=(0.61,),
        delta_rms=(0.294,),
        other_ranges={"delta": (0.25, 0.5)},
    ),
    Setup(
        family=FAMILIES["kuramoto_sivashinsky_1d"],
        grid=(128,),
        finest=256,
        extents=((0.0, KS_LENGTH),),
        points="left",
        dt=KS_DT,
        cpu_batch=32,
        ranges={"nu": Range(0.7, 1.4, "log")},
        limits={"nu": (0.2, 10.0)},
        boundaries=("periodic",),
        draw=draw_ks,
        solve=solve_ks,
        u_rms=(1.33,),
        delta_rms=(0.286,),
        other_ranges={"nu": (0.45, 0.7)},
    ),
    Setup(
        family=FAMILIES["reaction_diffusion_1d"],
        grid=(128,),
        finest=256,
        extents=UNIT,
        points="centre",
        dt=FISHER_DT,
        cpu_batch=32,
        ranges={"nu": Range(1e-3, 1e-2, "log"), "rho": Range(1.0, 4.0, "log")},
        limits={"nu": (1e-4, 0.1), "rho": (0.0, 10.0)},
        boundaries=("periodic", "neumann"),
        draw=draw_fisher,
        solve=solve_fisher,
        u_rms=(0.545,),
        delta_rms=(0.0179,),
        other_ranges={"rho": (4.0, 6.0)},
        other_boundary="neumann",
    ),
    Setup(
        family=FAMILIES["diffusion_sorption_1d"],
        grid=(128,),
        finest=256,
        extents=UNIT,
        points="centre",
        dt=SORPTION_DT,
        cpu_batch=32,
        ranges={"D": Range(2.5e-4, 1e-3, "log")},
        limits={"D": (1e-5, 0.1)},
        boundaries=("dirichlet",),
        sides=(("dirichlet", "robin"),),
        draw=draw_sorption,
        solve=solve_sorption,
        u_rms=(0.337,),
        delta_rms=(0.0327,),
        other_ranges={"D": (1e-3, 4e-3)},
    ),
    Setup(
        family=FAMILIES["compressible_flow_1d"],
        grid=(128,),
        finest=512,
        extents=UNIT,
        points="centre",
        dt=GAS_DT,
        cpu_batch=32,
        ranges={"M": Range(0.1, 0.7), "eta": Range(0.0, 0.0)},
        limits={"M": (0.0, 3.0), "eta": (0.0, 0.005)},
        boundaries=("periodic", "open", "wall"),
        draw=draw_gas,
        solve=solve_gas,
        u_rms=(1.16, 1.18, 0.436),
        delta_rms=(0.124, 0.194, 0.137),
        other_ranges={"M": (0.7, 1.2)},
        other_boundary="open",
        sharp=True,
    ),
)
