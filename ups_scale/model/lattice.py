"""The latent lattice: which points of a grid make a token, and where the tokens lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ups_scale.errors import RecipeError

# How far the number of tokens along an axis may be from what patch_size and latent_tokens ask for, as a ratio.
MAX_CHANGE = 1.5


@dataclass(frozen=True)
class Fit:
    """What the operator asks of the number of tokens along an axis: an even number at each of `halvings` halvings (one
    token stays one), and windows of at least half of `window` tokens at every level. None: attention has no windows."""

    halvings: int = 0
    window: int | None = None

    def __call__(self, size: int) -> bool:
        for level in range(self.halvings + 1):
            if self.window is not None and size > self.window and 2 * window_edge(size, self.window) < self.window:
                return False
            if level < self.halvings and size > 1:
                if size % 2:
                    return False
                size //= 2
        return True


def nearest_fits(size: int, fit: Fit) -> tuple[int, int]:
    """The nearest numbers of tokens below and above `size`, which doesn't fit, that do."""
    below = next(count for count in range(size - 1, 0, -1) if fit(count))
    return below, next(count for count in range(size + 1, 4 * size + 4) if fit(count))


def shown(sizes: Sequence[int]) -> str:
    """Sizes per axis for a message or a name: 4x2."""
    return "x".join(map(str, sizes))


def window_edge(size: int, window: int) -> int:
    """Tokens along one edge of a window on an axis of `size` tokens: the largest divisor of it up to `window`."""
    return max(edge for edge in range(1, min(window, size) + 1) if size % edge == 0)


@dataclass(frozen=True)
class Tiling:
    """The patches of a grid, one per token of `lattice`. Along an axis of n points whose tokens number L, a patch has
    ceil(n / L) points; where L does not divide n, patches overlap, evenly: no point is padded or left out.

    Attributes:
        grid: points per axis.
        lattice: tokens per axis.
        periodic: per axis, whether a patch may go round the end.
    """

    grid: tuple[int, ...]
    lattice: tuple[int, ...]
    periodic: tuple[bool, ...]

    @cached_property
    def patch(self) -> tuple[int, ...]:
        """Points per patch and axis."""
        return tuple(-(-size // tokens) for size, tokens in zip(self.grid, self.lattice, strict=True))

    @property
    def exact(self) -> bool:
        """Whether no two patches overlap."""
        return all(size % tokens == 0 for size, tokens in zip(self.grid, self.lattice, strict=True))

    def points(self, axis: int) -> list[list[int]]:
        """The numbers of the points of each patch along an axis, (tokens, width)."""
        size, tokens, width = self.grid[axis], self.lattice[axis], self.patch[axis]
        if self.periodic[axis]:
            starts = [token * size // tokens for token in range(tokens)]
        else:
            starts = [round(token * (size - width) / max(tokens - 1, 1)) for token in range(tokens)]
        return [[(start + offset) % size for offset in range(width)] for start in starts]


def tile(
    name: str, grid: Sequence[int], periodic: Sequence[bool], smallest: int, max_tokens: int, fit: Fit | None = None
) -> Tiling:
    """The patches that turn the `grid` of family `name` into at most `max_tokens` tokens.

    Starts from patches of `smallest` points on every axis (or the axis itself where it is shorter) and doubles the edge
    along the axis with the most tokens until they fit: the cost per sample stays the same whatever the resolution.
    Then every axis takes the nearest number of tokens that the operator takes.

    Raises:
        RecipeError: that number is far off; lists the nearest ones that do.
    """
    fit = fit or Fit()
    edges = [min(smallest, size) for size in grid]
    while math.prod(_tokens(grid, edges)) > max_tokens:
        axis = max(range(len(grid)), key=lambda a: grid[a] / edges[a])
        edges[axis] *= 2
    lattice = _tokens(grid, edges)
    for axis, (size, natural) in enumerate(zip(grid, lattice, strict=True)):
        if fit(natural):
            continue
        others = math.prod(lattice) // natural
        below, above = nearest_fits(natural, fit)
        allowed = [below] + ([above] if above <= size and above * others <= max_tokens else [])
        nearest = min(allowed, key=lambda count: abs(math.log(count / natural)))
        if max(nearest / natural, natural / nearest) > MAX_CHANGE:
            raise RecipeError(
                f"family {name}: a grid of {shown(grid)} points makes {natural} tokens along axis {axis}, which don't "
                f"fit model.u_stages and model.window_size; the nearest that do are {below} and {above}: change "
                f"model.patch_size (now {smallest}) or model.latent_tokens (now {max_tokens}, the most of all axes "
                "together)"
            )
        lattice[axis] = nearest
    return Tiling(tuple(grid), tuple(lattice), tuple(periodic))


def point_lattice(extents: Sequence[tuple[float, float]], num_points: int, max_tokens: int) -> tuple[int, ...]:
    """Tokens per axis of the lattice that a set of `num_points` points in a box is pooled onto: cells as near to cubes
    as halving edges gets them, at most `max_tokens`, and one per 4 points."""
    lengths = [high - low for low, high in extents]
    lattice = [1] * len(lengths)
    while 2 * math.prod(lattice) <= min(max_tokens, max(num_points // 4, 1)):
        axis = max(range(len(lattice)), key=lambda a: lengths[a] / lattice[a])
        lattice[axis] *= 2
    return tuple(lattice)


def _tokens(grid: Sequence[int], edges: Sequence[int]) -> list[int]:
    return [-(-size // edge) for size, edge in zip(grid, edges, strict=True)]


def positions(lattice: Sequence[int], device: torch.device | None = None) -> Tensor:
    """(L, d) float32 centres of the tokens, as fractions of the domain's extent along each axis, row-major."""
    axes = [(torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size for size in lattice]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(lattice))
