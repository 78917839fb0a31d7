"""Between the levels of a U: neighbouring tokens merged on the way down, and told apart again on the way up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_scale.errors import RecipeError
from ups_scale.model.embed import wide
from ups_scale.model.encoder import idle_share
from ups_scale.model.lattice import Fit, nearest_fits, shown
from ups_scale.model.windows import cut, uncut

# Dimensions: b sample, s stream, l token, d width.

Lattice = tuple[int, ...]


def halved(lattice: Sequence[int], fit: Fit) -> list[Lattice]:
    """Tokens per axis of each level, from `lattice` down; an axis with one token keeps it.

    Raises:
        RecipeError: an axis can't be halved so often, or would have windows of less than half their edge.
    """
    for axis, size in enumerate(lattice):
        if not fit(size):
            below, above = nearest_fits(size, fit)
            raise RecipeError(
                f"a lattice of {shown(lattice)} tokens: {size} along axis {axis} don't fit {fit.halvings + 1} levels "
                f"(model.u_stages) with windows of {fit.window} (model.window_size); the nearest that do are {below} "
                f"and {above}: change model.patch_size or model.latent_tokens"
            )
    levels = [tuple(lattice)]
    for _ in range(fit.halvings):
        levels.append(tuple(max(size // 2, 1) for size in levels[-1]))
    return levels


def pattern(fine: Lattice, coarse: Lattice) -> Lattice:
    """How many tokens along each axis of one level are one of the next: 2, or 1 where there is but one."""
    return tuple(size // merged for size, merged in zip(fine, coarse, strict=True))


class Merge(nn.Module):
    """Neighbouring tokens concatenated and mapped to the width of the next level.

    `merged` is the pattern, tokens per axis; `above` and `below` are the widths before and after.
    """

    def __init__(self, merged: Lattice, above: int, below: int) -> None:
        super().__init__()
        self._merged, self._above = merged, above
        self.linear = nn.Linear(math.prod(merged) * above, below)

    def forward(self, x_bsld: Tensor, fine: Lattice) -> Tensor:
        """(B, S, L / P, below) float32 from (B, S, L, above), P tokens of the lattice `fine` being merged."""
        groups = cut(x_bsld.flatten(0, 1), fine, self._merged).flatten(2)
        return wide(self.linear(groups.to(self.linear.weight.dtype))).unflatten(0, x_bsld.shape[:2])

    def probe(self) -> Tensor:
        """A scalar that depends on the weights, through `forward` (where ZeRO-3 gathers them)."""
        tokens = torch.zeros(1, 1, math.prod(self._merged), self._above, device=self.linear.weight.device)
        return self(tokens, self._merged).sum()


class Split(nn.Module):
    """Every token mapped to the neighbours that it was merged from: the way back of `Merge`."""

    def __init__(self, merged: Lattice, below: int, above: int) -> None:
        super().__init__()
        self._merged = merged
        self.linear = nn.Linear(below, math.prod(merged) * above)

    def forward(self, x_bsld: Tensor, fine: Lattice) -> Tensor:
        """(B, S, L, above) in the weights' dtype from (B, S, L / P, below); `fine` is the lattice of the L tokens."""
        groups = self.linear(x_bsld.flatten(0, 1).to(self.linear.weight.dtype))
        tokens = uncut(groups.unflatten(2, (math.prod(self._merged), -1)), fine, self._merged)
        return tokens.unflatten(0, x_bsld.shape[:2])

    def probe(self) -> Tensor:
        """A scalar that depends on the weights, through `forward` (where ZeRO-3 gathers them)."""
        token = torch.zeros(1, 1, 1, self.linear.in_features, device=self.linear.weight.device)
        return self(token, self._merged).sum()


class ByPattern(nn.ModuleDict):
    """A `Merge` or `Split` for each of the patterns, made by `make` from the pattern."""

    def __init__(self, patterns: Iterable[Lattice], make: Callable[[Lattice], nn.Module]) -> None:
        super().__init__({shown(merged): make(merged) for merged in patterns})

    def forward(self, x_bsld: Tensor, fine: Lattice, coarse: Lattice) -> Tensor:
        """x by the weights of the pattern that makes the lattice `coarse` of `fine`.

        Raises:
            RecipeError: there are none.
        """
        key = shown(pattern(fine, coarse))
        if key not in self:
            raise RecipeError(
                f"a level of {shown(fine)} tokens merges {key} neighbours, and the operator has weights for "
                f"{', '.join(self)}: build it with this lattice among those of its families"
            )
        return self[key](x_bsld, fine) + idle_share(self, key)


class Join(nn.Module):
    """What a level gave on the way down, in its first channels, plus a linear map of it and of what comes from below:
    the level's stream goes on in float32 while the product is in the weights' dtype."""

    def __init__(self, width: int, joined: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, joined)

    def forward(self, skip_bsld: Tensor, up_bsld: Tensor) -> Tensor:
        """(B, S, L, joined) float32 from two of (B, S, L, width), joined >= width; the first is float32."""
        dtype = self.linear.weight.dtype
        both = torch.cat([up_bsld.to(dtype), skip_bsld.to(dtype)], dim=-1)
        return F.pad(skip_bsld, (0, self.linear.out_features - skip_bsld.shape[-1])) + self.linear(both)
