"""How each family's embedded data are made: grid, frame spacing, what is drawn per trajectory, and which solver.

Change a number here, and raise GENERATOR_VERSION: files made before are then made again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ups_scale.errors import DataError
from ups_scale.physics.families import FAMILIES, Family, FamilySpec
from ups_scale.solvers import initial
from ups_scale.solvers.linear import solve_linear
from ups_scale.solvers.navier_stokes import LENGTH as NAVIER_STOKES_LENGTH
from ups_scale.solvers.navier_stokes import solve_navier_stokes
from ups_scale.solvers.reaction_diffusion import fitzhugh_nagumo, solve_reaction_diffusion
from ups_scale.solvers.steepening import solve_steepening

GENERATOR_VERSION = 2
DEFAULT_FRAMES = 24

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Setup:
    """One family as generated.

    `grid` is the output grid, `extents` the (low, high) of the whole domain per axis, `points` where in a cell a value
    stands ("left": x_i = low + i dx; "centre": half a cell further), `dt` the seconds between frames, `cpu_batch` the
    trajectories solved at a time on a CPU. `draw` gives one trajectory's parameters and initial fields (C, *internal
    grid) float64; `solve` maps these, stacked to (B,) and (B, C, *internal grid), to (B, T, C, *grid) float64.
    `u_rms` and `delta_rms` are measured per field on 256 training trajectories of seed 0.
    """

    family: Family
    grid: tuple[int, ...]
    extents: tuple[tuple[float, float], ...]
    points: str
    dt: float
    cpu_batch: int
    draw: Callable[[np.random.Generator], tuple[dict[str, float], np.ndarray]]
    solve: Callable[[Tensor, Parameters, int], Tensor]
    u_rms: tuple[float, ...]
    delta_rms: tuple[float, ...]

    def coordinates(self) -> tuple[np.ndarray, ...]:
        """The points of each axis, float64."""
        shift = {"left": 0.0, "centre": 0.5}[self.points]
        return tuple(
            low + (high - low) * (np.arange(size) + shift) / size
            for size, (low, high) in zip(self.grid, self.extents, strict=True)
        )

    def spec(self) -> FamilySpec:
        """The family as a data set of these trajectories describes it."""
        return FamilySpec(
            name=self.family.name,
            fields=tuple(field.name for field in self.family.fields),
            units=tuple(field.unit for field in self.family.fields),
            parameters=self.family.parameters,
            grid=self.grid,
            extents=self.extents,
            boundaries=((self.family.boundary, self.family.boundary),) * self.family.dimensions,
            u_rms=self.u_rms,
            delta_rms=self.delta_rms,
            dt=self.dt,
        )


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low * (high / low) ** rng.uniform()


ADVECTION_DT = 0.018


def draw_advection(rng: np.random.Generator) -> tuple[dict[str, float], np.ndarray]:
    beta = rng.uniform(0.2, 1.0) * rng.choice((-1.0, 1.0))
    u_x = initial.sinusoids(rng, 128, num_modes=3, max_wavenumber=6)
    return {"beta": float(beta)}, initial.with_rms(u_x, rng.uniform(0.5, 1.0))[None]


def solve_advection_setup(u_bcx: Tensor, parameters: Parameters, num_frames: int) -> Tensor:
    beta_b = parameters["beta"]
    return solve_linear(u_bcx[:, 0], beta_b[:, None], torch.zeros_like(beta_b), dt=ADVECTION_DT, num_frames=num_frames)[
        :, :, None
    ]


BURGERS_DT = 0.03
BURGERS_INTERNAL = 512
BURGERS_OUTPUT = 128


def draw_burgers(rng: np.random.Generator) -> tuple[dict[str, float], np.ndarray]:
    nu = log_uniform(rng, 0.005, 0.05)
    u_x = initial.sinusoids(rng, BURGERS_INTERNAL, num_modes=3, max_wavenumber=3)
    # A mean flow: without one, some trajectories decay to nearly nothing.
    mean = rng.uniform(0.2, 0.5) * rng.choice((-1.0, 1.0))
    return {"nu": nu}, (initial.with_rms(u_x, rng.uniform(0.5, 1.0)) + mean)[None]


def solve_burgers_setup(u_bcx: Tensor, parameters: Parameters, num_frames: int) -> Tensor:
    u_btx = solve_steepening(
        u_bcx[:, 0], diffusion_b=parameters["nu"] / math.pi, dt=BURGERS_DT, num_frames=num_frames, steps_per_frame=32
    )
    return u_btx[:, :, None, :: BURGERS_INTERNAL // BURGERS_OUTPUT]


REACTION_DIFFUSION_DT = 0.15
REACTION_DIFFUSION_INTERNAL = 64


def draw_reaction_diffusion(rng: np.random.Generator) -> tuple[dict[str, float], np.ndarray]:
    # PDEBench's values, each times a factor of 1/2 to 2.
    parameters = {name: log_uniform(rng, v / 2, v * 2) for name, v in (("du", 1e-3), ("dv", 5e-3), ("k", 5e-3))}
    fields = []
    for _ in range(2):
        field_xy = initial.with_rms(initial.cosine_band(rng, REACTION_DIFFUSION_INTERNAL, high=4), 1.0)
        # The corners' peaks (above 4) are rounded off: the cubic term is stiff there.
        fields.append(initial.with_rms(np.tanh(field_xy / 2), rng.uniform(0.5, 1.0)))
    return parameters, np.stack(fields)


def solve_reaction_diffusion_setup(state_bcxy: Tensor, parameters: Parameters, num_frames: int) -> Tensor:
    return solve_reaction_diffusion(
        state_bcxy,
        torch.stack((parameters["du"], parameters["dv"]), dim=1),
        fitzhugh_nagumo(parameters["k"]),
        edges="neumann",
        length=2.0,
        dt=REACTION_DIFFUSION_DT,
        num_frames=num_frames,
        steps_per_frame=4,
        num_output=32,
    )


NAVIER_STOKES_DT = 0.18
NAVIER_STOKES_INTERNAL = 64


def draw_navier_stokes(rng: np.random.Generator) -> tuple[dict[str, float], np.ndarray]:
    nu = log_uniform(rng, 3e-3, 3e-2)
    w_xy = initial.periodic_band(rng, NAVIER_STOKES_INTERNAL, low=1, high=4)
    return {"nu": nu}, initial.with_rms(w_xy, rng.uniform(1.2, 2.0))[None]


def solve_navier_stokes_setup(w_bcxy: Tensor, parameters: Parameters, num_frames: int) -> Tensor:
    return solve_navier_stokes(
        w_bcxy[:, 0],
        parameters["nu"],
        dt=NAVIER_STOKES_DT,
        num_frames=num_frames,
        steps_per_frame=6,
        num_output=32,
    )[:, :, None]


SETUPS: dict[str, Setup] = {
    setup.family.name: setup
    for setup in (
        Setup(
            family=FAMILIES["advection_1d"],
            grid=(128,),
            extents=((0.0, 1.0),),
            points="left",
            dt=ADVECTION_DT,
            cpu_batch=16,
            draw=draw_advection,
            solve=solve_advection_setup,
            u_rms=(0.765,),
            delta_rms=(0.212,),
        ),
        Setup(
            family=FAMILIES["burgers_1d"],
            grid=(BURGERS_OUTPUT,),
            extents=((0.0, 1.0),),
            points="left",
            dt=BURGERS_DT,
            cpu_batch=32,
            draw=draw_burgers,
            solve=solve_burgers_setup,
            u_rms=(0.586,),
            delta_rms=(0.123,),
        ),
        Setup(
            family=FAMILIES["reaction_diffusion_2d"],
            grid=(32, 32),
            extents=((-1.0, 1.0), (-1.0, 1.0)),
            points="centre",
            dt=REACTION_DIFFUSION_DT,
            cpu_batch=8,
            draw=draw_reaction_diffusion,
            solve=solve_reaction_diffusion_setup,
            u_rms=(0.603, 0.473),
            delta_rms=(0.0503, 0.0703),
        ),
        Setup(
            family=FAMILIES["navier_stokes_2d"],
            grid=(32, 32),
            extents=((0.0, NAVIER_STOKES_LENGTH), (0.0, NAVIER_STOKES_LENGTH)),
            points="left",
            dt=NAVIER_STOKES_DT,
            cpu_batch=16,
            draw=draw_navier_stokes,
            solve=solve_navier_stokes_setup,
            u_rms=(1.336,),
            delta_rms=(0.248,),
        ),
    )
}


def setup(name: str) -> Setup:
    """How `name` is generated.

    Raises:
        DataError: no such family; the message lists those that can be generated.
    """
    if name not in SETUPS:
        raise DataError(f"unknown family {name!r}; can be generated: {', '.join(SETUPS)}, or all")
    return SETUPS[name]


def default_specs() -> dict[str, FamilySpec]:
    """Every generated family as a default data set describes it, without making the data."""
    return {name: setup.spec() for name, setup in SETUPS.items()}


def stack_parameters(drawn: list[dict[str, float]], device: torch.device | str) -> dict[str, Tensor]:
    """{name: (B,) float64} from one dict per trajectory."""
    return {
        name: torch.tensor([values[name] for values in drawn], dtype=torch.float64, device=device) for name in drawn[0]
    }
