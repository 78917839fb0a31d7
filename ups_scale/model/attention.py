"""Self-attention over lattice tokens with normalised queries and keys and rotary positions per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_scale.model.lattice import positions

# Dimensions: b sample, h head, l token, e head width, d model width, r rotated pair.

MAX_WAVENUMBER = 16


def rotary_angles(
    lattice: Sequence[int], periodic: Sequence[bool], num_pairs: int, device: torch.device | None = None
) -> Tensor:
    """(L, R) float32 angles that rotate the pairs of queries and keys (RoFormer, arXiv 2104.09864, per axis).

    The pairs are divided among the axes. On a periodic axis the angle is 2 pi n x with whole n, so attention depends on
    the distance around the circle; elsewhere it is pi n x with n from 1/2 on, so the two ends differ. Wavenumbers go
    geometrically up to 16 whatever the lattice, so the same distance means the same at every resolution.
    """
    x_ld = positions(lattice, device)
    per_axis = num_pairs // len(lattice)
    angles = torch.zeros(len(x_ld), num_pairs, device=device)
    for axis, wraps in enumerate(periodic):
        exponent = torch.linspace(0, 1, per_axis, device=device)
        if wraps:
            wavenumber = 2 * math.pi * torch.round(MAX_WAVENUMBER**exponent)
        else:
            wavenumber = math.pi * 0.5 * (2 * MAX_WAVENUMBER) ** exponent
        angles[:, axis * per_axis : (axis + 1) * per_axis] = x_ld[:, axis : axis + 1] * wavenumber
    return angles


def rotate(x_bhle: Tensor, cos_lr: Tensor, sin_lr: Tensor) -> Tensor:
    """x with its first and second halves rotated against each other, pair by pair."""
    first, second = x_bhle.chunk(2, dim=-1)
    return torch.cat([first * cos_lr - second * sin_lr, first * sin_lr + second * cos_lr], dim=-1)


class RMSNorm32(nn.Module):
    """Root-mean-square normalisation with a gain, computed in float32 (arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), 1e-6)


class Attention(nn.Module):
    """Multi-head self-attention; all tokens see all tokens.

    `qk_rmsnorm` normalises queries and keys per head before the product, which keeps the logits bounded.
    """

    def __init__(self, model_dim: int, num_heads: int, qk_rmsnorm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(model_dim, 3 * model_dim)
        self.out = nn.Linear(model_dim, model_dim)
        self.q_norm = RMSNorm32(model_dim // num_heads) if qk_rmsnorm else nn.Identity()
        self.k_norm = RMSNorm32(model_dim // num_heads) if qk_rmsnorm else nn.Identity()

    def forward(self, x_bld: Tensor, cos_lr: Tensor, sin_lr: Tensor) -> Tensor:
        """(B, L, D) in the weights' dtype from (B, L, D) in the same; angles as cosines and sines, (L, R) float32."""
        q, k, v = self.qkv(x_bld).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q = rotate(self.q_norm(q), cos_lr, sin_lr).to(v.dtype)
        k = rotate(self.k_norm(k), cos_lr, sin_lr).to(v.dtype)
        mixed_bhle = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed_bhle.transpose(1, 2).flatten(2))
