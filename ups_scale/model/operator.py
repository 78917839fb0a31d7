"""The stacked latent operator: full attention at a constant number of tokens advances the latent state by one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ups_scale.model.attention import rotary_angles
from ups_scale.model.blocks import Block
from ups_scale.model.embed import Linear32

# Dimensions: b sample, l token, d width.


class StackedOperator(nn.Module):
    """`depth` blocks between a projection from and one to the latent width; stochastic depth rises linearly to
    `drop_path` at the last block."""

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
    ) -> None:
        super().__init__()
        self._num_pairs = model_dim // num_heads // 2
        self.into = Linear32(latent_dim, model_dim)
        self.blocks = nn.ModuleList(
            Block(model_dim, num_heads, mlp_ratio, qk_rmsnorm, drop_path * number / max(depth - 1, 1))
            for number in range(depth)
        )
        self.out = Linear32(model_dim, latent_dim)
        # How a block is called: engine/remat.py replaces it to recompute activations in the backward pass.
        self.run_block: Callable[..., Tensor] = lambda block, *inputs: block(*inputs)

    def forward(self, z_bld: Tensor, condition_bd: Tensor, lattice: Sequence[int], periodic: Sequence[bool]) -> Tensor:
        """(B, L, latent_dim) float32 from the same; `condition_bd` (B, model_dim) float32."""
        angles_lr = rotary_angles(lattice, periodic, self._num_pairs, z_bld.device)
        cos_lr, sin_lr = angles_lr.cos(), angles_lr.sin()
        x_bld = self.into(z_bld)
        for block in self.blocks:
            x_bld = self.run_block(block, x_bld, condition_bd, cos_lr, sin_lr)
        return self.out(x_bld)
