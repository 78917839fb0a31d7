"""What describes how a family is generated: what is drawn, on which grid, under which boundary, and what may be asked.

Dimensions in names: b trajectory, t frame, c field, x every axis of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ups_scale.physics.families import Family, FamilySpec

Parameters = Mapping[str, Tensor]
COARSEST = 16
FINEST = {1: 8192, 2: 1024, 3: 256}
"""Points per axis of the frames, by the number of axes."""


@dataclass(frozen=True)
class Range:
    """What a number is drawn from: "uniform", "log" (its logarithm is), or "signed" (uniform, then either sign)."""

    low: float
    high: float
    scale: str = "uniform"

    def draw(self, rng: np.random.Generator) -> float:
        """One number, by the same random numbers whatever the bounds are."""
        if self.scale == "log":
            share = rng.uniform()
            return self.low if self.low == self.high else self.low * (self.high / self.low) ** share
        value = rng.uniform(self.low, self.high)
        return float(value * rng.choice((-1.0, 1.0))) if self.scale == "signed" else value


@dataclass(frozen=True)
class Case:
    """What a data set has chosen of a setup.

    Attributes:
        grid: points of the frames, per axis.
        num_frames: of a trajectory; 2 of a steady family.
        boundary: kind on all sides.
        ranges: what is drawn per trajectory, by name.
        shapes: of the obstacles, where there are any.
        finest: points per axis that are solved on, or those of the frames if they are more.
    """

    grid: tuple[int, ...]
    num_frames: int
    boundary: str
    ranges: Mapping[str, Range]
    shapes: str
    finest: int


@dataclass(frozen=True)
class Drawn:
    """One trajectory before it is solved: `initial_cx` (C, *internal grid) float64; `solid_x` (*grid) bool, cells that
    no fluid enters, in the frames' grid."""

    parameters: dict[str, float]
    initial_cx: np.ndarray
    solid_x: np.ndarray | None = None


@dataclass(frozen=True)
class Problem:
    """A batch of `Drawn` on a device."""

    case: Case
    parameters: Parameters
    initial_bcx: Tensor
    solid_bx: Tensor | None


Draw = Callable[[np.random.Generator, Case, int], Drawn]
Solve = Callable[[Problem], Tensor]


@dataclass(frozen=True)
class Setup:
    """One family as generated, or a variant of it.

    Attributes:
        family: the registry's entry.
        variant: "" or what tells it from the family's usual setup; the name is then `<family>-<variant>`.
        grid: usual grid of the frames.
        finest: points per axis that are solved on, or those of the frames if they are more.
        extents: (low, high) of the domain per axis.
        points: where in a cell a value stands, "left" (x_i = low + i dx), "centre", or "first" (the centre of the first
            of the finest cells in it).
        dt: seconds between frames.
        cpu_batch: trajectories that are solved together on a CPU.
        ranges: what is drawn per trajectory: parameters and quantities of the initial condition.
        limits: where each of those may lie, so that the solver is stable and resolves the solution on `finest` points.
        boundaries: kinds that the solver has, the usual one first.
        draw: one trajectory; `size` is the number of internal points per axis.
        solve: (B, T, C, *grid) float64 from a batch.
        u_rms, delta_rms: per field, measured on 256 training trajectories of seed 0.
        sides: (low, high) boundary kind per axis, where they are not all the same.
        other_ranges, other_boundary, other_shapes: what the splits ood_regime, ood_boundary and ood_geometry take
            instead, where the setup has them.
        finest_other: `finest` of ood_regime, if that needs more.
        shapes: of the obstacles, "" where there are none.
        sharp: its solutions have jumps.
        num_frames: usual number of frames.
    """

    family: Family
    grid: tuple[int, ...]
    finest: int
    extents: tuple[tuple[float, float], ...]
    points: str
    dt: float
    cpu_batch: int
    ranges: Mapping[str, Range]
    limits: Mapping[str, tuple[float, float]]
    boundaries: tuple[str, ...]
    draw: Draw
    solve: Solve
    u_rms: tuple[float, ...]
    delta_rms: tuple[float, ...]
    sides: tuple[tuple[str, str], ...] = ()
    other_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    finest_other: int = 0
    other_boundary: str = ""
    other_shapes: str = ""
    variant: str = ""
    shapes: str = ""
    sharp: bool = False
    num_frames: int = 24

    @property
    def name(self) -> str:
        return f"{self.family.name}-{self.variant}" if self.variant else self.family.name

    def internal(self, case: Case) -> int:
        """Points per axis that are solved on."""
        return max(case.finest, case.grid[0])

    def sides_of(self, boundary: str) -> tuple[tuple[str, str], ...]:
        """(low, high) boundary kind per axis."""
        return self.sides or ((boundary, boundary),) * self.family.dimensions

    def coordinates(self, grid: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """The points of each axis, float64."""
        shift = {"left": 0.0, "centre": 0.5, "first": 0.5 * grid[0] / self.finest}[self.points]
        return tuple(
            low + (high - low) * (np.arange(size) + shift) / size
            for size, (low, high) in zip(grid, self.extents, strict=True)
        )

    def spec(self) -> FamilySpec:
        """The family as a data set of these trajectories describes it."""
        return FamilySpec(
            name=self.name,
            fields=tuple(field.name for field in self.family.fields),
            units=tuple(field.unit for field in self.family.fields),
            parameters=self.family.parameters,
            grid=self.grid,
            extents=self.extents,
            boundaries=self.sides_of(self.boundaries[0]),
            u_rms=self.u_rms,
            delta_rms=self.delta_rms,
            dt=math.nan if self.family.steady else self.dt,
            static=tuple(field.name for field in self.family.fields if field.static),
            steady=self.family.steady,
            masked=bool(self.shapes),
        )


def stack_parameters(drawn: list[dict[str, float]], device: torch.device | str) -> dict[str, Tensor]:
    """{name: (B,) float64} from one dict per trajectory."""
    return {
        name: torch.tensor([values[name] for values in drawn], dtype=torch.float64, device=device) for name in drawn[0]
    }


def block_mean(field_bcx: Tensor, size: int) -> Tensor:
    """Means over blocks of cells, down to `size` cells per axis: (..., *grid)."""
    for axis in range(2, field_bcx.ndim):
        block = field_bcx.shape[axis] // size
        if block > 1:
            field_bcx = field_bcx.unflatten(axis, (size, block)).mean(axis + 1)
    return field_bcx


def with_static(dynamic_btcx: Tensor, static_bcx: Tensor) -> Tensor:
    """Fields that don't change, repeated in every frame, after those that do: (B, T, C, *grid)."""
    num_frames = dynamic_btcx.shape[1]
    repeated = static_bcx[:, None].expand(-1, num_frames, *static_bcx.shape[1:])
    return torch.cat((dynamic_btcx, repeated), dim=2)
