"""The stacked latent operator: full attention at a constant number of tokens advances the latent state by one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ups_scale.model.blocks import Block, zero_init
from ups_scale.model.embed import Linear32
from ups_scale.model.windows import windows

# Dimensions: b sample, s stream, l token, d width.


class StackedOperator(nn.Module):
    """`depth` blocks between a projection from and one to the latent width.

    Args:
        depth: number of blocks.
        model_dim: width of the blocks and of the conditions.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over `model_dim`.
        qk_rmsnorm: whether queries and keys are normalised.
        drop_path: probability of leaving out a branch of the last block; rises linearly to it from 0 at the first.
        latent_dim: width of the latent tokens.
        channel_separated: whether blocks also have attention across streams.
        zero: whether the output starts at exactly 0.
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
    ) -> None:
        super().__init__()
        self._num_pairs = model_dim // num_heads // 2
        self.into = Linear32(latent_dim, model_dim)
        self.blocks = nn.ModuleList(
            Block(
                model_dim, num_heads, mlp_ratio, qk_rmsnorm, drop_path * number / max(depth - 1, 1), channel_separated
            )
            for number in range(depth)
        )
        self.out = Linear32(model_dim, latent_dim)
        if zero:
            zero_init(self.out)
        # How a block is called: engine/remat.py replaces it to recompute activations in the backward pass.
        self.run_block: Callable[..., Tensor] = lambda block, *inputs: block(*inputs)

    def forward(self, z_bsld: Tensor, condition_bd: Tensor, lattice: Sequence[int], periodic: Sequence[bool]) -> Tensor:
        """(B, S, L, latent_dim) float32 from the same; `condition_bd` (B, model_dim) float32."""
        whole = windows(
            lattice, periodic, window_size=None, shifted=False, num_pairs=self._num_pairs, device=z_bsld.device
        )
        x_bsld = self.into(z_bsld)
        for block in self.blocks:
            x_bsld = self.run_block(block, x_bsld, condition_bd, whole)
        return self.out(x_bsld)
