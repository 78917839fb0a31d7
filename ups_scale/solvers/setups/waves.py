"""How the 2D families of waves and flows with shocks are generated, with and without obstacles."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ups_scale.physics.families import FAMILIES
from ups_scale.solvers import initial
from ups_scale.solvers.acoustics import solve_acoustics
from ups_scale.solvers.compressible import GAMMA
from ups_scale.solvers.finite_volume import Law
from ups_scale.solvers.finite_volume import solve as solve_finite_volume
from ups_scale.solvers.setups.case import Case, Drawn, Problem, Range, Setup, block_mean, with_static
from ups_scale.solvers.setups.lines import gas_of
from ups_scale.solvers.shallow_water import ShallowWater


def solve_law(law: Law, problem: Problem, length: float, dt: float) -> Tensor:
    """Frames of a conservation law on a square, as means over blocks of cells."""
    case, size = problem.case, problem.initial_bcx.shape[-1]
    frames_btcx = solve_finite_volume(
        law,
        problem.initial_bcx,
        dx=(length / size,) * 2,
        sides=((case.boundary, case.boundary),) * 2,
        dt=dt,
        num_frames=case.num_frames,
        solid_bx=solid_cells(problem),
    )
    return block_mean(frames_btcx.flatten(0, 1), case.grid[0]).unflatten(0, frames_btcx.shape[:2])


def solid_cells(problem: Problem) -> Tensor | None:
    """The obstacles on the internal grid: (B, X, Y) bool."""
    if problem.solid_bx is None:
        return None
    block = problem.initial_bcx.shape[-1] // problem.solid_bx.shape[-1]
    return problem.solid_bx.repeat_interleave(block, 1).repeat_interleave(block, 2)


GAS_DT = 0.02


def draw_gas(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    """A gas with random eddies and waves, or, every other time, four quarters that collide (two-dimensional Riemann
    problems; Lax and Liu, SIAM J. Sci. Comput. 19 (1998) 319)."""
    mach, eta = case.ranges["M"].draw(rng), case.ranges["eta"].draw(rng)
    if rng.uniform() < 0.5:
        bands = [initial.with_rms(initial.periodic_band(rng, size, low=1, high=4, centred=True), 1.0) for _ in range(4)]
        density_xy, pressure_xy = np.exp(0.25 * bands[0]), np.exp(0.25 * bands[1])
        velocity = np.stack(bands[2:]) / math.sqrt(2)
    else:
        corner = rng.uniform(0.3, 0.7, 2)
        x = (np.arange(size) + 0.5) / size
        quarter_xy = 2 * (x > corner[0])[:, None] + (x > corner[1])
        density_xy, pressure_xy = (rng.uniform(0.3, 1.7, 4)[quarter_xy] for _ in range(2))
        velocity = rng.standard_normal((2, 4))[:, quarter_xy] / math.sqrt(2)
    sound = math.sqrt(GAMMA * pressure_xy.mean() / density_xy.mean())
    state = np.stack((density_xy, pressure_xy, *(mach * sound * velocity)))
    return Drawn({"M": mach, "eta": eta, "zeta": eta}, state)


def solve_gas(problem: Problem) -> Tensor:
    return solve_law(gas_of(problem), problem, 1.0, GAS_DT)


def draw_blast(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    """A gas at rest between walls, with obstacles, and one or two discs of high pressure away from them."""
    eta, blast = case.ranges["eta"].draw(rng), case.ranges["blast"].draw(rng)
    centres = [rng.uniform(0.15, 0.85, 2) for _ in range(rng.integers(1, 3))]
    solid_xy = initial.obstacles(rng, case.grid[0], case.shapes, keep_clear=centres, margin=0.12)
    heat_xy = np.zeros((size, size))
    for centre in centres:
        heat_xy = np.maximum(heat_xy, initial.disc(size, centre, rng.uniform(0.07, 0.12), edge=0.01))
    state = np.stack((1 + 0.5 * heat_xy, 1 + (blast - 1) * heat_xy, *np.zeros((2, size, size))))
    return Drawn({"M": 0.0, "eta": eta, "zeta": eta}, state, solid_xy)


WATER_DT = 0.07
WATER_LENGTH = 5.0


def draw_dams(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    """PDEBench's dam, a column of water that stands on a lower level, at one to three places, of several heights."""
    height_xy = np.ones((size, size))
    for _ in range(rng.integers(1, 4)):
        centre, radius = rng.uniform(0.2, 0.8, 2), rng.uniform(0.06, 0.14)
        height = case.ranges["height"].draw(rng)
        height_xy = np.maximum(height_xy, 1 + (height - 1) * initial.disc(size, centre, radius, edge=0.0))
    return Drawn({}, np.stack((height_xy, *np.zeros((2, size, size)))))


def solve_dams(problem: Problem) -> Tensor:
    return solve_law(ShallowWater(), problem, WATER_LENGTH, WATER_DT)[:, :, :1]


SOUND_DT = 0.035
SOUND_LENGTH = 2.0


def draw_sound(rng: np.random.Generator, case: Case, size: int) -> Drawn:
    """Pulses of pressure in a medium of layers and lumps. What is solved for comes first, then the medium."""
    contrast = math.log(case.ranges["contrast"].draw(rng))
    bands = [initial.with_rms(initial.cosine_band(rng, size, high=4), 1.0) for _ in range(2)]
    if rng.uniform() < 0.5:
        bands[1] = np.sign(bands[1])
    density_xy, speed_xy = np.exp(0.5 * contrast * np.tanh(bands[0])), np.exp(0.5 * contrast * np.tanh(bands[1]))
    pressure_xy = np.zeros((size, size))
    for _ in range(rng.integers(1, 5)):
        centre, radius = rng.uniform(0.15, 0.85, 2), rng.uniform(0.05, 0.12)
        pressure_xy += rng.uniform(0.5, 1.0) * rng.choice((-1.0, 1.0)) * initial.bump(size, centre, radius)
    pressure_xy = initial.with_rms(pressure_xy, 0.3)
    solid_xy = None
    if case.shapes:
        solid_xy = initial.obstacles(rng, case.grid[0], case.shapes, keep_clear=(), margin=0.0)
    return Drawn({}, np.stack((pressure_xy, density_xy, speed_xy)), solid_xy)


def solve_sound(problem: Problem) -> Tensor:
    case, size = problem.case, problem.initial_bcx.shape[-1]
    width = SOUND_LENGTH / size
    pressure, density, speed = problem.initial_bcx.unbind(1)
    solid = solid_cells(problem)
    fastest = math.sqrt(case.ranges["contrast"].high)
    frames_btcx = solve_acoustics(
        pressure if solid is None else pressure.masked_fill(solid, 0),
        density,
        speed,
        dx=(width, width),
        sides=((case.boundary, case.boundary),) * 2,
        dt=SOUND_DT,
        num_frames=case.num_frames,
        steps_per_frame=math.ceil(SOUND_DT * fastest * math.sqrt(2) / (0.5 * width)),
        solid_bx=solid,
    )
    moving = block_mean(frames_btcx.flatten(0, 1), case.grid[0]).unflatten(0, frames_btcx.shape[:2])
    return with_static(moving, block_mean(torch.stack((density, speed), dim=1), case.grid[0]))


UNIT = ((0.0, 1.0), (0.0, 1.0))
SOUND = Setup(
    family=FAMILIES["acoustics_2d"],
    grid=(32, 32),
    finest=64,
    extents=((-1.0, 1.0), (-1.0, 1.0)),
    points="centre",
    dt=SOUND_DT,
    cpu_batch=4,
    ranges={"contrast": Range(2.0, 4.0, "log")},
    limits={"contrast": (1.0, 25.0)},
    boundaries=("wall", "open", "periodic"),
    draw=draw_sound,
    solve=solve_sound,
    u_rms=(0.225, 0.165, 0.164, 1.11, 1.14),
    delta_rms=(0.0462, 0.0337, 0.0335, 0.0, 0.0),
    other_ranges={"contrast": (4.0, 9.0)},
    other_boundary="open",
)

SETUPS = (
    Setup(
        family=FAMILIES["shallow_water_2d"],
        grid=(32, 32),
        finest=64,
        extents=((-2.5, 2.5), (-2.5, 2.5)),
        points="centre",
        dt=WATER_DT,
        cpu_batch=4,
        ranges={"height": Range(1.5, 2.5)},
        limits={"height": (1.05, 10.0)},
        boundaries=("open", "wall", "periodic"),
        draw=draw_dams,
        solve=solve_dams,
        u_rms=(1.06,),
        delta_rms=(0.043,),
        other_ranges={"height": (2.5, 4.0)},
        other_boundary="wall",
        sharp=True,
    ),
    Setup(
        family=FAMILIES["compressible_flow_2d"],
        grid=(32, 32),
        finest=64,
        extents=UNIT,
        points="centre",
        dt=GAS_DT,
        cpu_batch=1,
        ranges={"M": Range(0.1, 0.8), "eta": Range(1e-4, 1e-2, "log")},
        limits={"M": (0.0, 3.0), "eta": (0.0, 0.02)},
        boundaries=("periodic", "open", "wall"),
        draw=draw_gas,
        solve=solve_gas,
        u_rms=(1.12, 1.15, 0.382, 0.385),
        delta_rms=(0.11, 0.188, 0.0996, 0.0994),
        other_ranges={"M": (0.8, 1.4)},
        other_boundary="wall",
        sharp=True,
    ),
    Setup(
        family=FAMILIES["compressible_flow_2d"],
        variant="obstacles",
        grid=(32, 32),
        finest=64,
        extents=UNIT,
        points="centre",
        dt=GAS_DT,
        cpu_batch=1,
        ranges={"eta": Range(1e-4, 1e-3, "log"), "blast": Range(2.0, 6.0)},
        limits={"eta": (0.0, 0.02), "blast": (0.1, 50.0)},
        boundaries=("wall", "open"),
        draw=draw_blast,
        solve=solve_gas,
        u_rms=(1.04, 1.17, 0.129, 0.128),
        delta_rms=(0.0712, 0.163, 0.0678, 0.0676),
        other_ranges={"blast": (6.0, 12.0)},
        other_boundary="open",
        shapes="discs",
        other_shapes="bars",
        sharp=True,
    ),
    SOUND,
    replace(
        SOUND,
        variant="obstacles",
        shapes="discs",
        other_shapes="bars",
        sharp=True,
        u_rms=(0.221, 0.165, 0.165, 1.1, 1.14),
        delta_rms=(0.0458, 0.034, 0.0341, 0.0, 0.0),
    ),
)
