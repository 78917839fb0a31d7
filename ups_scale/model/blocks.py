"""The transformer block: attention within and across streams and MLP, each modulated by the conditions (AdaLN-zero,
arXiv 2212.09748)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_scale.model.attention import Attention
from ups_scale.model.embed import Linear32, wide
from ups_scale.model.windows import Windows

# Dimensions: b sample, s stream, l token, d model width.


def modulate(x: Tensor, shift_bd: Tensor, scale_bd: Tensor) -> Tensor:
    """Layer-normalised x (B, ..., D), float32, scaled and shifted per sample."""
    normed = F.layer_norm(wide(x), x.shape[-1:], eps=1e-6)
    between = (1,) * (x.ndim - 2)
    shift, scale = (of_bd.reshape(len(of_bd), *between, -1) for of_bd in (shift_bd, scale_bd))
    return normed * (1 + scale) + shift


def zero_init(linear: nn.Linear) -> nn.Linear:
    """The layer with weight and bias set to zero, so that what it feeds starts as nothing."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Block(nn.Module):
    """x + gate * attention(norm(x)), then x + gate * MLP(norm(x)); shift, scale and gate come from the conditions and
    start at zero, so that a new block is the identity. The residual stream stays in float32.

    Attention is within each stream. `channel_separated` adds, between it and the MLP, attention across the streams at
    the same place, as in the variant of separate channels of PDE-Transformer (arXiv 2505.24717).

    `drop_path` is the probability per sample, in training, of leaving a branch out (arXiv 1603.09382).
    """

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        mlp_ratio: float,
        qk_rmsnorm: bool,
        drop_path: float,
        channel_separated: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(model_dim * mlp_ratio)
        self.modulation = zero_init(Linear32(model_dim, 6 * model_dim))
        self.attention = Attention(model_dim, num_heads, qk_rmsnorm)
        self.mlp_in = nn.Linear(model_dim, hidden)
        self.mlp_out = nn.Linear(hidden, model_dim)
        self.drop_path = drop_path
        if channel_separated:
            self.channel_modulation = zero_init(Linear32(model_dim, 3 * model_dim))
            self.channel_attention = Attention(model_dim, num_heads, qk_rmsnorm)
        self._separated = channel_separated

    def forward(self, x_bsld: Tensor, condition_bd: Tensor, windows: Windows) -> Tensor:
        """(B, S, L, D) float32 from the same; `condition_bd` (B, D) float32; `windows` say who sees whom."""
        dtype = self.mlp_in.weight.dtype
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition_bd).chunk(6, dim=-1)
        normed = modulate(x_bsld, shift_a, scale_a).to(dtype).flatten(0, 1)
        branch = self.attention(windows.deal(normed), windows.cos, windows.sin, windows.mask)
        x_bsld = x_bsld + self._gate(gate_a) * windows.collect(branch).view_as(x_bsld)
        if self._separated:
            shift_c, scale_c, gate_c = self.channel_modulation(condition_bd).chunk(3, dim=-1)
            x_blsd = modulate(x_bsld, shift_c, scale_c).to(dtype).transpose(1, 2)
            branch = self.channel_attention(x_blsd.flatten(0, 1)).view_as(x_blsd).transpose(1, 2)
            x_bsld = x_bsld + self._gate(gate_c) * branch
        branch = self.mlp_out(F.gelu(self.mlp_in(modulate(x_bsld, shift_m, scale_m).to(dtype)), approximate="tanh"))
        return x_bsld + self._gate(gate_m) * branch

    def _gate(self, gate_bd: Tensor) -> Tensor:
        gate_b11d = gate_bd[:, None, None]
        if self.training and self.drop_path > 0:
            keep = torch.rand(len(gate_bd), 1, 1, 1, device=gate_bd.device) >= self.drop_path
            gate_b11d = gate_b11d * keep / (1 - self.drop_path)
        return gate_b11d
