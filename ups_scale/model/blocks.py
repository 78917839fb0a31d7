"""The transformer block: attention and MLP, each modulated by the conditions (AdaLN-zero, arXiv 2212.09748)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_scale.model.attention import Attention
from ups_scale.model.embed import Linear32

# Dimensions: b sample, l token, d model width.


def modulate(x_bld: Tensor, shift_bd: Tensor, scale_bd: Tensor) -> Tensor:
    """Layer-normalised x (float32), scaled and shifted per sample."""
    normed = F.layer_norm(x_bld.float(), x_bld.shape[-1:], eps=1e-6)
    return normed * (1 + scale_bd[:, None]) + shift_bd[:, None]


def zero_init(linear: nn.Linear) -> nn.Linear:
    """The layer with weight and bias set to zero, so that what it feeds starts as nothing."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Block(nn.Module):
    """x + gate * attention(norm(x)), then x + gate * MLP(norm(x)); shift, scale and gate come from the conditions and
    start at zero, so that a new block is the identity. The residual stream stays in float32.

    `drop_path` is the probability per sample, in training, of leaving a branch out (arXiv 1603.09382).
    """

    def __init__(self, model_dim: int, num_heads: int, mlp_ratio: float, qk_rmsnorm: bool, drop_path: float) -> None:
        super().__init__()
        hidden = int(model_dim * mlp_ratio)
        self.modulation = zero_init(Linear32(model_dim, 6 * model_dim))
        self.attention = Attention(model_dim, num_heads, qk_rmsnorm)
        self.mlp_in = nn.Linear(model_dim, hidden)
        self.mlp_out = nn.Linear(hidden, model_dim)
        self.drop_path = drop_path

    def forward(self, x_bld: Tensor, condition_bd: Tensor, cos_lr: Tensor, sin_lr: Tensor) -> Tensor:
        """(B, L, D) float32 from the same; `condition_bd` (B, D) float32."""
        dtype = self.mlp_in.weight.dtype
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition_bd).chunk(6, dim=-1)
        branch = self.attention(modulate(x_bld, shift_a, scale_a).to(dtype), cos_lr, sin_lr)
        x_bld = x_bld + self._gate(gate_a) * branch
        branch = self.mlp_out(F.gelu(self.mlp_in(modulate(x_bld, shift_m, scale_m).to(dtype)), approximate="tanh"))
        return x_bld + self._gate(gate_m) * branch

    def _gate(self, gate_bd: Tensor) -> Tensor:
        gate_b1d = gate_bd[:, None]
        if self.training and self.drop_path > 0:
            keep = torch.rand(len(gate_bd), 1, 1, device=gate_bd.device) >= self.drop_path
            gate_b1d = gate_b1d * keep / (1 - self.drop_path)
        return gate_b1d
