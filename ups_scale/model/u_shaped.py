"""The U-shaped latent operator: blocks with windowed attention at several resolutions of the lattice.

    into ─ blocks ───────────────────── join ─ blocks ─ out     level 0, the whole lattice
             └ merge ─ blocks ─ join ─ blocks ─ split ┘         level 1, 2 neighbours per axis merged
                         └ merge ─ blocks ─ split ┘             bottom

The shape is PDE-Transformer's (arXiv 2505.24717).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ups_scale.errors import RecipeError
from ups_scale.model.blocks import Block, zero_init
from ups_scale.model.embed import Linear32
from ups_scale.model.lattice import Fit
from ups_scale.model.levels import ByPattern, Join, Lattice, Merge, Split, halved, pattern
from ups_scale.model.windows import windows

# Dimensions: b sample, s stream, l token, d width.


class UShapedOperator(nn.Module):
    """Blocks at each of the resolutions `u_stages`, down to the coarsest and up again, between a projection from and
    one to the latent width. Blocks of a level alternate between plain and shifted windows.

    The finest level is on its way up as wide as the level below it, as in PDE-Transformer. Where `u_growth` is not 1,
    each width has its own linear map of the conditions.

    One level alone is windowed attention at a constant number of tokens.

    Args:
        depth: blocks in all, if `u_depths` doesn't say.
        model_dim: width of the first level and of the conditions.
        num_heads: attention heads of the first level; on wider levels there are more, of the same width.
        mlp_ratio: hidden width of the MLP over the level's width.
        qk_rmsnorm: whether queries and keys are normalised.
        drop_path: probability of leaving out a branch of the last block; rises linearly to it from 0 at the first.
        latent_dim: width of the latent tokens.
        channel_separated: whether blocks also have attention across streams.
        zero: whether the output starts at exactly 0.
        window_size: tokens a side of the windows, at most.
        u_stages: tokens per token of each level along an axis: 1, then twice the one before.
        u_depths: blocks of each level: down, bottom, up; None: see `divide`.
        u_growth: width of each level over that of the one before, at least 1.
        lattices: (tokens per axis, periodic per axis) of the families, whose neighbours there are weights to merge.

    Raises:
        RecipeError: settings that make no U, or a lattice that can't be halved so often or has no windows of this size.
    """

    def __init__(
        self,
        *,
        depth: int,
        model_dim: int,
        num_heads: int,
        mlp_ratio: float,
        qk_rmsnorm: bool,
        drop_path: float,
        latent_dim: int,
        channel_separated: bool,
        zero: bool,
        window_size: int,
        u_stages: Sequence[int],
        u_depths: Sequence[int] | None,
        u_growth: float,
        lattices: Collection[tuple[Sequence[int], Sequence[bool]]],
    ) -> None:
        super().__init__()
        _check(u_stages, u_depths, u_growth)
        bottom = len(u_stages) - 1
        self._fit = Fit(bottom, window_size)
        self._window_size = window_size
        self._levels = {tuple(lattice): halved(lattice, self._fit) for lattice, _ in lattices}

        head_dim = model_dim // num_heads
        self._num_pairs, self._model_dim = head_dim // 2, model_dim
        # The stages in the order in which they run: the level that each is as wide as, then its heads and blocks.
        wide_as = [*range(bottom + 1), *(max(level, 1) for level in reversed(range(bottom)))]
        heads = [round(num_heads * u_growth**level) for level in wide_as]
        widths = [count * head_dim for count in heads]
        numbers = list(u_depths) if u_depths is not None else divide(depth, len(u_stages))
        starts = [sum(numbers[:stage]) for stage in range(len(numbers))]
        self._widths = widths
        self._stages = [range(start, start + number) for start, number in zip(starts, numbers, strict=True)]

        self.into = Linear32(latent_dim, model_dim)
        self.conditions = nn.ModuleDict()
        for width, number in zip(widths, numbers, strict=True):
            if number and width != model_dim and str(width) not in self.conditions:
                self.conditions[str(width)] = Linear32(model_dim, width)
        self.blocks = nn.ModuleList()
        for stage, blocks in enumerate(self._stages):
            for block in blocks:
                rate = drop_path * block / max(sum(numbers) - 1, 1)
                self.blocks.append(Block(widths[stage], heads[stage], mlp_ratio, qk_rmsnorm, rate, channel_separated))
        self.merges, self.splits, self.joins = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in range(bottom):
            known = sorted({pattern(*levels[level : level + 2]) for levels in self._levels.values()})
            here, below, up = widths[level], widths[level + 1], 2 * bottom - level  # `up`: the level's second stage
            self.merges.append(ByPattern(known, partial(Merge, above=here, below=below)))
            self.splits.append(ByPattern(known, partial(Split, below=widths[up - 1], above=here)))
            self.joins.append(Join(here, widths[up]))
        self.out = Linear32(widths[-1], latent_dim)
        if zero:
            zero_init(self.out)
        # How a block is called: engine/remat.py replaces it to recompute activations in the backward pass.
        self.run_block: Callable[..., Tensor] = lambda block, *inputs: block(*inputs)

    def forward(self, z_bsld: Tensor, condition_bd: Tensor, lattice: Sequence[int], periodic: Sequence[bool]) -> Tensor:
        """(B, S, L, latent_dim) float32 from the same; `condition_bd` (B, model_dim) float32.

        Raises:
            RecipeError: the operator takes no such lattice, or has no weights to merge its neighbours.
        """
        levels = self._levels.get(tuple(lattice)) or halved(lattice, self._fit)
        bottom = self._fit.halvings
        conditions = {self._model_dim: condition_bd}
        for width, linear in self.conditions.items():
            conditions[int(width)] = F.silu(linear(condition_bd))

        x_bsld, skips = self.into(z_bsld), []
        for level in range(bottom):
            x_bsld = self._run(level, x_bsld, conditions, levels[level], periodic)
            skips.append(x_bsld)
            x_bsld = self.merges[level](x_bsld, levels[level], levels[level + 1])
        x_bsld = self._run(bottom, x_bsld, conditions, levels[bottom], periodic)
        for level in reversed(range(bottom)):
            up_bsld = self.splits[level](x_bsld, levels[level], levels[level + 1])
            x_bsld = self.joins[level](skips[level], up_bsld)
            x_bsld = self._run(2 * bottom - level, x_bsld, conditions, levels[level], periodic)
        return self.out(x_bsld)

    def _run(
        self, stage: int, x_bsld: Tensor, conditions: Mapping[int, Tensor], lattice: Lattice, periodic: Sequence[bool]
    ) -> Tensor:
        for block in self._stages[stage]:
            dealt = windows(
                lattice,
                periodic,
                window_size=self._window_size,
                shifted=(block - self._stages[stage].start) % 2 == 1,
                num_pairs=self._num_pairs,
                device=x_bsld.device,
            )
            x_bsld = self.run_block(self.blocks[block], x_bsld, conditions[self._widths[stage]], dealt)
        return x_bsld


def divide(depth: int, num_levels: int) -> list[int]:
    """Blocks down, at the bottom and up: `depth` divided evenly among them, the rest to the bottom."""
    stages = 2 * num_levels - 1
    blocks = [depth // stages] * stages
    blocks[num_levels - 1] += depth % stages
    return blocks


def _check(u_stages: Sequence[int], u_depths: Sequence[int] | None, u_growth: float) -> None:
    expected = [2**level for level in range(len(u_stages))]
    if not u_stages or list(u_stages) != expected:
        raise RecipeError(
            f"model.u_stages is {list(u_stages)}; expected 1, then each twice the one before, such as [1, 2, 4]"
        )
    if u_depths is not None and (len(u_depths) != 2 * len(u_stages) - 1 or min(u_depths) < 0):
        raise RecipeError(
            f"model.u_depths is {list(u_depths)}; expected {2 * len(u_stages) - 1} numbers of blocks for the "
            f"{len(u_stages)} levels of model.u_stages: down, bottom, up"
        )
    if u_growth < 1:
        raise RecipeError(f"model.u_growth is {u_growth}; expected 1 or more: coarser levels are never narrower")
