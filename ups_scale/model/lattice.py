"""The latent lattice: which patch of a grid makes a token, and where the tokens lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ups_scale.errors import RecipeError


def patch_shape(grid: Sequence[int], smallest: int, max_tokens: int) -> tuple[int, ...]:
    """Edge lengths of the patch, in grid points per axis, that turns `grid` into at most `max_tokens` tokens.

    Starts from `smallest` on every axis (or the axis itself where it is shorter) and doubles the edge along the axis
    with the most tokens until they fit: the cost per sample stays the same whatever the resolution.

    Raises:
        RecipeError: the edge does not divide the grid (nothing is padded or cropped silently).
    """
    patch = [min(smallest, size) for size in grid]
    while math.prod(size // edge for size, edge in zip(grid, patch, strict=True)) > max_tokens:
        axis = max(range(len(grid)), key=lambda a: grid[a] // patch[a])
        patch[axis] *= 2
    for axis, (size, edge) in enumerate(zip(grid, patch, strict=True)):
        if size % edge:
            raise RecipeError(
                f"a grid of {'x'.join(map(str, grid))} points can't be cut in patches of {edge} along axis {axis}: "
                f"choose model.patch_size (now {smallest}) and model.latent_tokens (now {max_tokens}) so that the edge "
                f"divides {size}"
            )
    return tuple(patch)


def lattice_shape(grid: Sequence[int], smallest: int, max_tokens: int) -> tuple[int, ...]:
    """Number of tokens per axis for `grid`; see `patch_shape`."""
    return tuple(size // edge for size, edge in zip(grid, patch_shape(grid, smallest, max_tokens), strict=True))


def positions(lattice: Sequence[int], device: torch.device | None = None) -> Tensor:
    """(L, d) float32 centres of the tokens, as fractions of the domain's extent along each axis, row-major."""
    axes = [(torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size for size in lattice]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(lattice))
