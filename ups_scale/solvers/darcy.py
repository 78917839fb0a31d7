"""Steady Darcy flow, -div(a grad(u)) = beta on the unit square with u = 0 on its sides, PDEBench's (arXiv 2210.07182).

Dimensions in names: b trajectory, x and y cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOLERANCE = 1e-10
MOST_STEPS = 2000


def solve_darcy(permeability_bxy: Tensor, beta_b: Tensor) -> Tensor:
    """u at cell centres: (B, X, X) float64.

    Finite volumes, order 2 where the permeability is smooth: fluxes between cells by the harmonic mean of their
    permeabilities. Conjugate gradients, preconditioned by the constant-coefficient problem, which sines diagonalise:
    the number of steps grows with the root of the contrast and not with the grid. A residual of `TOLERANCE` is left.

    Args:
        permeability_bxy: (B, X, X), above 0.
        beta_b: (B,) source.

    Raises:
        ArithmeticError: not converged in `MOST_STEPS` steps.
    """
    a_bxy = permeability_bxy.double()
    size, device = a_bxy.shape[-1], a_bxy.device
    faces = [_faces(a_bxy.movedim(axis, -1)) for axis in (1, 2)]
    mode = torch.arange(1, size + 1, dtype=torch.float64, device=device)
    centre = (torch.arange(size, dtype=torch.float64, device=device) + 0.5) / size
    basis = torch.sin(math.pi * mode[:, None] * centre) * math.sqrt(2 / size)
    basis[-1] /= math.sqrt(2)
    eigenvalue = (2 * size * torch.sin(math.pi * mode / (2 * size))) ** 2
    inverse_kl = 1 / (eigenvalue[:, None] + eigenvalue)

    def apply(u: Tensor) -> Tensor:
        total = torch.zeros_like(u)
        for axis, face in zip((1, 2), faces, strict=True):
            padded = torch.nn.functional.pad(u.movedim(axis, -1), (1, 1))
            total = total - ((face * padded.diff(dim=-1)).diff(dim=-1) * size**2).movedim(-1, axis)
        return total

    def precondition(residual: Tensor) -> Tensor:
        return basis.T @ ((basis @ residual @ basis.T) * inverse_kl) @ basis

    source = beta_b.double()[:, None, None].expand_as(a_bxy)
    u, residual = torch.zeros_like(a_bxy), source
    direction = conditioned = precondition(residual)
    product = (residual * conditioned).sum((1, 2), keepdim=True)
    goal = TOLERANCE * source.flatten(1).norm(dim=1)
    todo = torch.ones_like(product, dtype=torch.bool)
    for _ in range(MOST_STEPS):
        image = apply(direction)
        # Trajectories that are done stand still, whatever else is in the batch.
        length = torch.where(todo, product / (direction * image).sum((1, 2), keepdim=True), 0.0)
        u, residual = u + length * direction, residual - length * image
        todo = todo & (residual.flatten(1).norm(dim=1) > goal)[:, None, None]
        if not bool(todo.any()):
            return u
        conditioned = precondition(residual)
        last, product = product, (residual * conditioned).sum((1, 2), keepdim=True)
        direction = torch.where(todo, conditioned + (product / last) * direction, direction)
    raise ArithmeticError(f"not solved to {TOLERANCE} in {MOST_STEPS} steps")


def _faces(a: Tensor) -> Tensor:
    """Permeability at the N + 1 faces along the last axis; twice the cell's at the sides, which are half as far."""
    inner = 2 * a[..., 1:] * a[..., :-1] / (a[..., 1:] + a[..., :-1])
    return torch.cat((2 * a[..., :1], inner, 2 * a[..., -1:]), dim=-1)
