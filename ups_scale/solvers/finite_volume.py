"""Second-order finite volumes for hyperbolic conservation laws on regular grids, in 1 to 3 dimensions.

Limited linear reconstruction of the primitive variables (MUSCL, van Leer's limiter), an approximate Riemann solver per
law, and two-stage strong-stability-preserving Runge-Kutta; all axes in one step. Sources: van Leer, J. Comput. Phys. 32
(1979) 101; Toro, Riemann Solvers and Numerical Methods for Fluid Dynamics (2009), chapters 10, 13 and 14.

Each trajectory takes steps of its own length, so that none depends on the others of its batch.

Dimensions in names: b trajectory, c component (scalars, then a velocity or momentum per axis), d axis, x every axis of
the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

KINDS = ("periodic", "open", "wall")
CFL = 0.4
GHOSTS = 2


class Law(Protocol):
    """A system of conservation laws. `num_scalars` components come before the velocity's, in both sets of variables."""

    @property
    def num_scalars(self) -> int: ...

    def primitive(self, conserved_bcx: Tensor) -> Tensor: ...

    def conserved(self, primitive_bcx: Tensor) -> Tensor: ...

    def riemann(self, left_bcx: Tensor, right_bcx: Tensor, normal: int) -> Tensor:
        """Flux of the conserved variables through faces between these primitive states; `normal` is the component of
        the velocity across them."""
        ...

    def speeds(self, primitive_bcx: Tensor) -> Tensor:
        """Fastest signal along each axis, length/s: (B, D, *grid)."""
        ...


@runtime_checkable
class Viscous(Law, Protocol):
    """One that may have viscous terms."""

    def diffusion(self, primitive_bcx: Tensor) -> Tensor | None:
        """The largest diffusivity per trajectory, length^2/s: (B,); None without viscosity."""
        ...

    def viscous(self, primitive_bcx: Tensor, gradient_bdcx: Tensor, axis: int) -> Tensor:
        """Viscous flux of the conserved variables along `axis` from states and gradients at faces."""
        ...


def solve(
    law: Law,
    primitive_bcx: Tensor,
    *,
    dx: Sequence[float],
    sides: Sequence[tuple[str, str]],
    dt: float,
    num_frames: int,
    solid_bx: Tensor | None = None,
) -> Tensor:
    """Frames of the primitive variables' cell averages, to second order: (B, T, C, *grid) float64.

    Args:
        primitive_bcx: (B, C, *grid) at time 0.
        dx: cell width per axis.
        sides: (low, high) boundary kind per axis: periodic, open (no gradient), or wall (slip: no flow across it).
        dt: seconds between frames.
        solid_bx: (B, *grid) bool, cells that no fluid enters: their faces are slip walls. Their state stays as it is.
    """
    conserved_bcx = law.conserved(primitive_bcx.double())
    frames = [primitive_bcx.double()]
    for _ in range(num_frames - 1):
        conserved_bcx = _advance(law, conserved_bcx, dx, sides, dt, solid_bx)
        frames.append(law.primitive(conserved_bcx))
    return torch.stack(frames, dim=1)


def _advance(
    law: Law,
    state_bcx: Tensor,
    dx: Sequence[float],
    sides: Sequence[tuple[str, str]],
    seconds: float,
    solid_bx: Tensor | None,
) -> Tensor:
    """The conserved variables `seconds` later."""
    batch, *rest = state_bcx.shape
    shape = (batch, *(1 for _ in rest))
    left_b = torch.full((batch,), seconds, dtype=torch.float64, device=state_bcx.device)
    while bool((left_b > 0).any()):
        primitive_bcx = law.primitive(state_bcx)
        num_steps_b = (left_b * _rate(law, primitive_bcx, dx, solid_bx) / CFL).ceil().clamp(min=1)
        step_b = left_b / num_steps_b
        step_bcx = step_b.view(shape)
        first_bcx = state_bcx + step_bcx * _tendency(law, primitive_bcx, dx, sides, solid_bx)
        second_bcx = first_bcx + step_bcx * _tendency(law, law.primitive(first_bcx), dx, sides, solid_bx)
        state_bcx = 0.5 * (state_bcx + second_bcx)
        left_b = torch.where(num_steps_b > 1, left_b - step_b, 0.0)
        if not bool(state_bcx.isfinite().all()):
            break  # the caller names the trajectory; a time step of no length would never end
    return state_bcx


def _rate(law: Law, primitive_bcx: Tensor, dx: Sequence[float], solid_bx: Tensor | None) -> Tensor:
    """Largest stable step is CFL over this, 1/s: (B,)."""
    width_dx = torch.tensor(dx, dtype=torch.float64, device=primitive_bcx.device)
    crossings_bx = (law.speeds(primitive_bcx) / width_dx.view(-1, *(1 for _ in dx))).sum(1)
    if solid_bx is not None:
        crossings_bx = crossings_bx.masked_fill(solid_bx, 0)
    rate_b = crossings_bx.flatten(1).amax(1)
    diffusivity_b = law.diffusion(primitive_bcx) if isinstance(law, Viscous) else None
    return rate_b if diffusivity_b is None else rate_b + 2 * diffusivity_b * float((1 / width_dx**2).sum())


def _tendency(
    law: Law,
    primitive_bcx: Tensor,
    dx: Sequence[float],
    sides: Sequence[tuple[str, str]],
    solid_bx: Tensor | None,
) -> Tensor:
    """d/dt of the conserved variables."""
    total = torch.zeros_like(primitive_bcx)
    for axis, (width, kinds) in enumerate(zip(dx, sides, strict=True)):
        normal = law.num_scalars + axis
        cells = primitive_bcx.movedim(2 + axis, -1)
        solid = None if solid_bx is None else solid_bx.movedim(1 + axis, -1)[:, None]
        flux = _inviscid(law, cells, solid, normal, kinds)
        if isinstance(law, Viscous) and law.diffusion(primitive_bcx) is not None:
            flux = flux - _viscous(law, primitive_bcx, dx, sides, axis, solid_bx).movedim(2 + axis, -1)
        total = total - (flux.diff(dim=-1) / width).movedim(-1, 2 + axis)
    return total if solid_bx is None else total.masked_fill(solid_bx[:, None], 0)


def _inviscid(law: Law, cells: Tensor, solid: Tensor | None, normal: int, kinds: tuple[str, str]) -> Tensor:
    """Fluxes through the N + 1 faces along the last axis."""
    padded = pad(cells, GHOSTS, normal, kinds)
    low, centre, high = padded[..., :-2], padded[..., 1:-1], padded[..., 2:]
    if solid is not None:
        filled = _pad_solid(solid, kinds, GHOSTS)
        reflected = mirror(centre, normal)
        low = torch.where(filled[..., :-2], reflected, low)
        high = torch.where(filled[..., 2:], reflected, high)
    slope = limited(centre - low, high - centre)
    left, right = (centre + 0.5 * slope)[..., :-1], (centre - 0.5 * slope)[..., 1:]
    if solid is not None:
        before, after = filled[..., 1:-2], filled[..., 2:-1]
        # Between two solid cells the states don't matter: their fluxes reach no fluid cell.
        left, right = torch.where(before, mirror(right, normal), left), torch.where(after, mirror(left, normal), right)
    return law.riemann(left, right, normal)


def _viscous(
    law: Viscous,
    primitive_bcx: Tensor,
    dx: Sequence[float],
    sides: Sequence[tuple[str, str]],
    axis: int,
    solid_bx: Tensor | None,
) -> Tensor:
    """Viscous fluxes through the faces of `axis`, from central differences; none through those of solid cells, beside
    which differences are taken on the fluid's side."""
    padded, solid = primitive_bcx, None if solid_bx is None else solid_bx[:, None]
    for other, kinds in enumerate(sides):
        moved = pad(padded.movedim(2 + other, -1), 1, law.num_scalars + other, kinds)
        padded = moved.movedim(-1, 2 + other)
        if solid is not None:
            solid = _pad_solid(solid.movedim(2 + other, -1), kinds, 1).movedim(-1, 2 + other)
    inside: list[Any] = [..., *(slice(1, -1) for _ in dx)]
    inside[1 + axis] = slice(None)
    gradients = []
    for other, width in enumerate(dx):
        if other == axis:
            gradient = padded[tuple(inside)].diff(dim=2 + axis) / width
        else:
            ahead, behind = list(inside), list(inside)
            ahead[1 + other], behind[1 + other] = slice(2, None), slice(None, -2)
            after, before = padded[tuple(ahead)], padded[tuple(behind)]
            if solid is not None:
                after = torch.where(solid[tuple(ahead)], padded[tuple(inside)], after)
                before = torch.where(solid[tuple(behind)], padded[tuple(inside)], before)
            gradient = _between((after - before) / (2 * width), 2 + axis)
        gradients.append(gradient)
    flux = law.viscous(_between(padded[tuple(inside)], 2 + axis), torch.stack(gradients, dim=1), axis)
    if solid is None:
        return flux
    filled = solid[tuple(inside)].movedim(2 + axis, -1)
    return flux.masked_fill((filled[..., 1:] | filled[..., :-1]).movedim(-1, 2 + axis), 0)


def _between(values: Tensor, dim: int) -> Tensor:
    """Means of neighbours along a dimension."""
    size = values.shape[dim]
    return 0.5 * (values.narrow(dim, 0, size - 1) + values.narrow(dim, 1, size - 1))


def _pad_solid(solid: Tensor, kinds: tuple[str, str], width: int) -> Tensor:
    """The mask with `width` ghost cells: those beyond a side that is not periodic are as the cells at it."""
    if kinds == ("periodic", "periodic"):
        return torch.cat((solid[..., -width:], solid, solid[..., :width]), dim=-1)
    first, last = (edge.expand(*edge.shape[:-1], width) for edge in (solid[..., :1], solid[..., -1:]))
    return torch.cat((first, solid, last), dim=-1)


def limited(before: Tensor, after: Tensor) -> Tensor:
    """Van Leer's harmonic mean of two differences, 0 at extrema."""
    product = before * after
    return torch.where(product > 0, 2 * product / torch.where(product > 0, before + after, 1.0), 0.0)


def mirror(state: Tensor, normal: int) -> Tensor:
    """The state behind a slip wall."""
    sign = torch.ones(state.shape[1], dtype=state.dtype, device=state.device)
    sign[normal] = -1
    return state * sign.view(1, -1, *(1 for _ in state.shape[2:]))


def pad(cells: Tensor, width: int, normal: int, kinds: tuple[str, str]) -> Tensor:
    """`width` ghost cells more at both ends of the last axis."""
    if kinds == ("periodic", "periodic"):
        return torch.cat((cells[..., -width:], cells, cells[..., :width]), dim=-1)
    ends = []
    for kind, near, edge in (
        (kinds[0], cells[..., :width], cells[..., :1]),
        (kinds[1], cells[..., -width:], cells[..., -1:]),
    ):
        if kind == "wall":
            ends.append(mirror(near.flip(-1), normal))
        elif kind == "open":
            ends.append(edge.expand(*edge.shape[:-1], width))
        else:
            raise ValueError(f"sides {kinds}: each must be open or wall, or both periodic")
    return torch.cat((ends[0], cells, ends[1]), dim=-1)
